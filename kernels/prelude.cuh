// What every kernel begins with: types, memory access, warp and grid cooperation. NVRTC has no standard headers, and
// needs none for this.

typedef unsigned short ushort_t;
typedef unsigned int uint;
typedef unsigned long long ulong;

// Threads of a block. ptxas holds a thread's registers down where that keeps more blocks on a multiprocessor, and now and
// then spills for it. A kernel that did is compiled again with ROOMY, by which one block is enough (`nvrtc.rs`).
#ifdef ROOMY
#define BLOCK_OF(threads) __launch_bounds__(threads, 1)
#else
#define BLOCK_OF(threads) __launch_bounds__(threads)
#endif

// bf16 as it lies in memory: the upper half of a float. Arithmetic is in f32.
struct bf16 { unsigned short bits; };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((uint)x.bits << 16); }

// Rounded to the nearest, ties to even; NaN stays NaN. Of two at once: the instruction for one runs at a quarter of the rate.
__device__ __forceinline__ uint pair_of(float low, float high) {
    uint r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
__device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 r;
    r.bits = (unsigned short)pair_of(x, 0.0f);
    return r;
}
template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return to_bf16(x); }

#define INFINITY_F __int_as_float(0x7f800000)
#define NAN_F __int_as_float(0x7fc00000)

__device__ __forceinline__ float warp_sum(float x) {
    #pragma unroll
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

// max that passes NaN on
__device__ __forceinline__ float max_nan(float a, float b) { return (a > b || a != a) ? a : b; }

__device__ __forceinline__ float warp_max(float x) {
    #pragma unroll
    for (int d = 16; d > 0; d >>= 1) x = max_nan(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}

// True in all threads of the block that arrives last of `blocks` at `counter`, after all that the others wrote before
// they arrived can be read. The counter is 0 again afterwards. Every thread of the block takes part.
__device__ __forceinline__ bool last_block(uint* counter, uint blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1u) == blocks - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

// One round of splitmix64, and the upper 53 random bits of an element of a dropout.
__device__ __forceinline__ ulong splitmix(ulong x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}
__device__ __forceinline__ ulong dropout_bits(const long long* rng, ulong site, ulong index) {
    return splitmix(splitmix(splitmix(splitmix((ulong)rng[0]) ^ (ulong)rng[1]) ^ site) ^ index) >> 11;
}

// N neighbouring elements (1, 2, 4 or 8), at an address that N elements divide, as floats: in one access, or two for 8
// floats.
template <int N> __device__ __forceinline__ void unpack(const float* p, float (&x)[N]) {
    if constexpr (N == 1) x[0] = *p;
    else if constexpr (N == 2) { const float2 q = *(const float2*)p; x[0] = q.x; x[1] = q.y; }
    else {
        #pragma unroll
        for (int i = 0; i < N; i += 4) {
            const float4 q = *(const float4*)(p + i);
            x[i] = q.x; x[i + 1] = q.y; x[i + 2] = q.z; x[i + 3] = q.w;
        }
    }
}
template <int N> __device__ __forceinline__ void unpack(const bf16* p, float (&x)[N]) {
    if constexpr (N == 1) x[0] = to_float(*p);
    else {
        uint q[N / 2];
        if constexpr (N == 2) q[0] = *(const uint*)p;
        else if constexpr (N == 4) { const uint2 r = *(const uint2*)p; q[0] = r.x; q[1] = r.y; }
        else { const uint4 r = *(const uint4*)p; q[0] = r.x; q[1] = r.y; q[2] = r.z; q[3] = r.w; }
        #pragma unroll
        for (int i = 0; i < N / 2; i++) {
            x[2 * i] = __uint_as_float(q[i] << 16);
            x[2 * i + 1] = __uint_as_float(q[i] & 0xffff0000u);
        }
    }
}
template <int N> __device__ __forceinline__ void pack(float* p, const float (&x)[N]) {
    if constexpr (N == 1) *p = x[0];
    else if constexpr (N == 2) *(float2*)p = make_float2(x[0], x[1]);
    else {
        #pragma unroll
        for (int i = 0; i < N; i += 4) *(float4*)(p + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
}
template <int N> __device__ __forceinline__ void pack(bf16* p, const float (&x)[N]) {
    if constexpr (N == 1) *p = to_bf16(x[0]);
    else if constexpr (N == 2) *(uint*)p = pair_of(x[0], x[1]);
    else if constexpr (N == 4) *(uint2*)p = make_uint2(pair_of(x[0], x[1]), pair_of(x[2], x[3]));
    else *(uint4*)p = make_uint4(pair_of(x[0], x[1]), pair_of(x[2], x[3]), pair_of(x[4], x[5]), pair_of(x[6], x[7]));
}
