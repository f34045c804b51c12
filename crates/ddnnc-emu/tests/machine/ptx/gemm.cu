// bf16 GEMM: c[m][n] = a[m][k] * b[k][n], block tile 32x32, k step 16, two stages of cp.async, 4 warps of 16x16.
typedef unsigned short u16; typedef unsigned u32;
extern "C" __global__ void __launch_bounds__(128) gemm(const u16* a, const u16* b, float* c, int n, int k) {
    __shared__ __align__(16) u16 sa[2][32][24];
    __shared__ __align__(16) u16 sb[2][16][40];
    int t = threadIdx.x, lane = t & 31, warp = t >> 5;
    int m0 = blockIdx.y * 32, n0 = blockIdx.x * 32;
    float d[2][4] = {};
    int steps = k / 16;
    auto issue = [&](int s, int stage) {
        if (s < steps) {
            if (t < 64) {
                u32 dst = (u32)__cvta_generic_to_shared(&sa[stage][t >> 1][(t & 1) * 8]);
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(dst), "l"(a + (m0 + (t >> 1)) * k + s * 16 + (t & 1) * 8) : "memory");
            } else {
                int u = t - 64;
                u32 dst = (u32)__cvta_generic_to_shared(&sb[stage][u >> 2][(u & 3) * 8]);
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(dst), "l"(b + (s * 16 + (u >> 2)) * n + n0 + (u & 3) * 8) : "memory");
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    issue(0, 0);
    for (int s = 0; s < steps; s++) {
        issue(s + 1, (s + 1) & 1);
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncthreads();
        int stage = s & 1;
        u32 ra[4], rb[4];
        u32 pa = (u32)__cvta_generic_to_shared(&sa[stage][(warp >> 1) * 16 + (lane & 15)][(lane >> 4) * 8]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3]) : "r"(pa));
        u32 pb = (u32)__cvta_generic_to_shared(&sb[stage][lane & 15][(warp & 1) * 16 + (lane >> 4) * 8]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(rb[0]), "=r"(rb[1]), "=r"(rb[2]), "=r"(rb[3]) : "r"(pb));
        for (int h = 0; h < 2; h++)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                : "+f"(d[h][0]), "+f"(d[h][1]), "+f"(d[h][2]), "+f"(d[h][3]) : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[2 * h]), "r"(rb[2 * h + 1]));
        __syncthreads();
    }
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 4; i++) {
            int row = m0 + (warp >> 1) * 16 + (lane >> 2) + (i >> 1) * 8, col = n0 + (warp & 1) * 16 + h * 8 + (lane & 3) * 2 + (i & 1);
            c[row * n + col] = d[h][i];
        }
}
