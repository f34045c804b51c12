// Sums that carry their rounding errors along, and sums and maxima of teams of threads. A team is a warp (TEAM 32) or all
// TEAM threads of the block.

struct Sum { float hi, lo; };

__device__ __forceinline__ Sum no_sum() { Sum s = { 0.f, 0.f }; return s; }

// Knuth's two-sum: hi + lo gains x without loss but in lo's own rounding.
__device__ __forceinline__ void add(Sum& s, float x) {
    const float t = __fadd_rn(s.hi, x);
    const float b = __fsub_rn(t, s.hi);
    s.lo += __fsub_rn(s.hi, __fsub_rn(t, b)) + __fsub_rn(x, b);
    s.hi = t;
}

// An infinite sum has an error that is not a number.
__device__ __forceinline__ float total(Sum s) { return s.lo == s.lo ? s.hi + s.lo : s.hi; }

// The sum over a warp, the same in all lanes.
__device__ __forceinline__ float warp_total(Sum s) {
    #pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
        const float hi = __shfl_down_sync(0xffffffffu, s.hi, d), lo = __shfl_down_sync(0xffffffffu, s.lo, d);
        add(s, hi);
        s.lo += lo;
    }
    return __shfl_sync(0xffffffffu, total(s), 0);
}

// The sum over a team, the same in all of its threads; `shared` has a float for each warp.
template <int TEAM> __device__ __forceinline__ float team_total(Sum s, float* shared) {
    const float x = warp_total(s);
    if (TEAM == 32) return x;
    __syncthreads();
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
    __syncthreads();
    Sum all = no_sum();
    for (int i = 0; i < TEAM / 32; i++) add(all, shared[i]);
    return total(all);
}

template <int TEAM> __device__ __forceinline__ float team_max(float x, float* shared) {
    x = warp_max(x);
    if (TEAM == 32) return x;
    __syncthreads();
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
    __syncthreads();
    for (int i = 0; i < TEAM / 32; i++) x = max_nan(x, shared[i]);
    return x;
}

// out[o] = factor · the sum of its `slices` terms, for `count` results, a warp each.
__device__ __forceinline__ void sum_slices(
    const float* terms, float* out, uint count, uint slices, float factor, uint t, uint n
) {
    for (uint o = t / 32; o < count; o += n / 32) {
        Sum s = no_sum();
        for (uint i = t & 31; i < slices; i += 32) add(s, terms[o * slices + i]);
        const float x = warp_total(s);
        if ((t & 31) == 0) out[o] = x * factor;
    }
}
