// bf16 GEMM on warpgroups: c[m][n] = a[m][k] * b[k][n], block tile 128x64, k step 64, four stages of cp.async, two warpgroups
// of 64 rows. A lies along k, B along its columns, both with a swizzle of 128 bytes. The products of one step go on while
// those of the next begin.
typedef unsigned short u16; typedef unsigned u32; typedef unsigned long long u64;
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D16(i) D4(i), D4(i + 4), D4(i + 8), D4(i + 12)
__device__ __forceinline__ void product(float (&d)[32], u64 a, u64 b, int adds) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1, 0, 1;\n}"
        : D16(0), D16(16) : "l"(a), "l"(b), "r"(adds));
}
// Keeps other accesses to the accumulators where they are.
__device__ __forceinline__ void hold(float (&d)[32]) {
#pragma unroll
    for (int i = 0; i < 32; i++) asm volatile("" : "+f"(d[i]) :: "memory");
}
__device__ __forceinline__ u64 describe(u32 at, u32 leading, u32 stride) {
    return (u64)1 << 62 | (u64)(stride >> 4) << 32 | (u64)(leading >> 4) << 16 | (at & 0x3ffff) >> 4;
}
extern "C" __global__ void __launch_bounds__(256) gemm(const u16* a, const u16* b, float* c, int n, int k) {
    extern __shared__ __align__(1024) char shared[];
    const u32 base = (u32)__cvta_generic_to_shared(shared), bytes = 128 * 128 + 64 * 128;
    int t = threadIdx.x, m0 = blockIdx.y * 128, n0 = blockIdx.x * 64, steps = k / 64;
    auto copy = [](u32 to, const u16* from) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(from) : "memory");
    };
    auto issue = [&](int s) {
        if (s < steps) {
            u32 stage = base + s % 4 * bytes;
            for (int i = t; i < 128 * 8; i += 256) {
                int row = i >> 3, unit = i & 7;
                copy(stage + row * 128 + ((unit ^ row & 7) << 4), a + (m0 + row) * k + s * 64 + unit * 8);
            }
            for (int i = t; i < 64 * 8; i += 256) {
                int row = i >> 3, unit = i & 7;
                copy(stage + 16384 + row * 128 + ((unit ^ row & 7) << 4), b + (s * 64 + row) * n + n0 + unit * 8);
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    float d[32];
#pragma unroll
    for (int i = 0; i < 32; i++) d[i] = 0.0f;
    issue(0);
    for (int s = 0; s < steps; s++) {
        issue(s + 1);
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        u32 stage = base + s % 4 * bytes, rows = stage + (t >> 7) * 8192;
        hold(d);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < 4; i++)
            product(d, describe(rows + i * 32, 16, 1024), describe(stage + 16384 + i * 2048, 8192, 1024), s + i);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(1) : "memory");
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    hold(d);
    int lane = t & 31, row = m0 + (t >> 5) * 16 + (lane >> 2);
#pragma unroll
    for (int i = 0; i < 32; i++)
        c[(row + (i & 2) * 4) * n + n0 + (i >> 2) * 8 + (lane & 3) * 2 + (i & 1)] = d[i];
}
