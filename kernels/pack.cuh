// Weights [O][inputs][taps] to [O][taps][PITCH], or (WHOLE) to [O][taps * inputs padded to PITCH]; zeros behind.
template <typename E, int OUTPUTS, int INPUTS, int TAPS, int PITCH, bool WHOLE>
__device__ __forceinline__ void pack_weights(const E* from, E* to) {
    constexpr int OF_OUTPUT = WHOLE ? PITCH : TAPS * PITCH, RUN = WHOLE ? INPUTS : PITCH;
    const int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= OUTPUTS * OF_OUTPUT) return;
    const int o = j / OF_OUTPUT, k = j % OF_OUTPUT, tap = k / RUN, c = k - tap * RUN;
    E x = from_float<E>(0.0f);
    if (tap < TAPS && c < INPUTS) x = from[(o * INPUTS + c) * TAPS + tap];
    to[j] = x;
}
