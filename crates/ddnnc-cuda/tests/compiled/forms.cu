// Kernels of all kinds, so that NVRTC makes PTX of all forms. Those named `check_...` are executed and compared.
typedef unsigned u32;
typedef unsigned long long u64;
struct Mixed {
    float a;
    int b;
    double d;
    short s[3];
};
struct __align__(16) Four {
    float x, y, z, w;
};
__constant__ float table[16] = {1, 2, 3, 4.5f, -7};
__constant__ Mixed constants = {1.f, 2, 3.0, {1, 2, 3}};
__device__ int counter = 5;
__device__ float big[1000];

extern "C" __global__ void check_integers(u32* out, const u32* in, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    u32 u = in[i], v = in[(i + 1) % n] | 1;
    int a = (int)u, b = (int)v >> 3 | 1;
    u32* o = out + i * 16;
    o[0] = u / v + u % v;
    o[1] = (u32)(a / b + a % b);
    o[2] = u / 7u + u % 13u;
    o[3] = (u32)(a / 10 + a % 10);
    o[4] = (u32)__mulhi(a, b) ^ __umulhi(u, v);
    o[5] = __popc(u) + __clz(a) + __ffs(a) + __brev(u);
    o[6] = __byte_perm(u, v, 0x4152) ^ __byte_perm(u, 0, 0x0123);
    o[7] = __funnelshift_l(u, v, 5) ^ __funnelshift_r(u, v, v);
    u64 w = (u64)u << 32 | v;
    o[8] = (u32)(w / 1000003u) + (u32)(w % v);
    o[9] = (u32)((u64)u * 0x12345678abcdULL >> 32);
    o[10] = (u32)((w >> (v & 63)) ^ (w << (u & 63)));
    o[11] = (u >> 3 & 0x1f) | (v & 0xff) << 8 | (u32)((int)(u << 5) >> 27) << 16;
    o[12] = (u32)(min(a, b) + max(a, 3) - abs(a >> 1)) + min(u, v);
    o[13] = (u & 0xff) * (v >> 8 & 0xff) + (u >> 16 & 0xff) * (v >> 24) + i;
    short s = (short)u;
    o[14] = (u32)(s * (short)v + (s >> 2)) + (unsigned char)u;
    u32 sum = 0;
    switch (u % 9) {
        case 0: sum = u + 1; break;
        case 1: sum = u * 3; break;
        case 2: sum = u - v; break;
        case 3: sum = u ^ 77; break;
        case 4: sum = u / 3; break;
        case 5: for (u32 k = 0; k < (v & 31); k++) sum += k * u; break;
        case 6: sum = ~u; break;
        default: sum = 9;
    }
    o[15] = sum;
}

extern "C" __global__ void check_floats(float* out, const float* in, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = in[i], y = in[(i + 1) % n];
    float* o = out + i * 12;
    o[0] = x / y + sqrtf(fabsf(x));
    o[1] = __fmaf_rn(x, y, 1.f) - fminf(x, y) + fmaxf(x, 0.f);
    o[2] = floorf(x) + ceilf(y) + truncf(x) + rintf(y) + roundf(x);
    o[3] = expf(x);
    o[4] = logf(fabsf(y) + 0.5f);
    o[5] = tanhf(x);
    o[6] = powf(fabsf(x) + 0.1f, y);
    o[7] = sinf(x) + cosf(y);
    o[8] = erff(x) + rsqrtf(fabsf(y) + 1.f);
    o[9] = (float)(int)x + (float)(u32)fabsf(y) + (float)(long long)x;
    o[10] = copysignf(x, y) + (x != x ? 1.f : 0.f) + fmodf(x, 0.75f);
    float t[6];
    for (int k = 0; k < 6; k++) t[k] = in[(i + k) % n];
    o[11] = t[i % 6] + table[i & 15] + constants.s[i % 3];
}

extern "C" __global__ void more_math(float* o, const float* a, const float* b, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = a[i], y = b[i];
    int e;
    o[i] = log1pf(x) + expm1f(y) + cbrtf(x) + exp2f(x) + log2f(x) + log10f(x) + __expf(x) + __logf(y) +
           __fdividef(x, y) + __sinf(x) + __saturatef(x) + __frcp_rn(x) + __fsqrt_rz(y) + __fmaf_ru(x, y, x) +
           __fadd_rd(x, y) + (isinf(y) ? 3.f : 0.f) + (signbit(x) ? 1.f : 0.f) + ldexpf(x, n) + frexpf(y, &e) + e +
           nextafterf(x, y) + lgammaf(x) + atan2f(x, y) + acosf(x) + sinhf(y) + hypotf(x, y) + erfcf(x) + normcdff(y);
}

extern "C" __global__ void doubles(double* o, const double* a) {
    int i = threadIdx.x;
    o[i] = exp(a[i]) + sqrt(a[i]) / a[i + 1] + floor(a[i]) + fma(a[i], a[i], a[i]) + fmin(a[i], a[i + 1]) +
           (double)(float)a[i] + (int)a[i] + log(a[i]) + rsqrt(a[i]);
}

extern "C" __global__ void __launch_bounds__(1024, 1) check_block(float* o, const float* a, u32 n) {
    __shared__ float t[32][33];
    extern __shared__ __align__(16) unsigned char dynamic[];
    float* d = (float*)dynamic;
    u32 x = threadIdx.x, y = threadIdx.y;
    t[y][x] = a[y * 32 + x];
    if (y == 0) d[x] = x;
    __syncthreads();
    float s = t[x][y] + d[31 - x];
    for (int k = 16; k; k >>= 1) s += __shfl_xor_sync(~0u, s, k);
    s += __shfl_xor_sync(~0u, (float)x, 4, 16) + __shfl_down_sync(~0u, (float)x, 3) + __shfl_up_sync(~0u, (float)x, 3) +
         __shfl_sync(~0u, (float)x, 5);
    int c = __syncthreads_count(x > 3) + __syncthreads_and(x < 40) + __syncthreads_or(x > 40);
    c += __popc(__ballot_sync(~0u, x & 1)) + (__any_sync(~0u, x > 30) ? 1 : 0) + (__all_sync(~0u, x > 30) ? 100 : 0);
    c += __popc(__activemask()) + __popc(__match_any_sync(~0u, x & 3)) + __reduce_add_sync(~0u, x) +
         __reduce_max_sync(~0u, x);
    __syncwarp();
    o[y * 32 + x] = s + c;
}

extern "C" __global__ void atomics(float* f, int* i, u32* u, u64* l, double* d) {
    __shared__ int s;
    __shared__ float sf;
    if (threadIdx.x == 0) { s = 0; sf = 0; }
    __syncthreads();
    atomicAdd(f, 1.f);
    atomicAdd(&sf, 2.f);
    float old = atomicAdd(f + 1, 3.f);
    int x = atomicAdd(i, 1) + atomicSub(i, 2) + atomicExch(i, 3) + atomicMin(i, 4) + atomicMax(i, 5) +
            atomicCAS(i, 6, 7) + atomicAnd(i, 8) + atomicOr(i, 9) + atomicXor(i, 10);
    x += atomicInc(u, 11) + atomicDec(u, 12) + atomicMax(u, 3u);
    l[0] = atomicAdd(l + 1, 5ull) + atomicCAS(l + 2, 6ull, 7ull) + atomicMax(l + 3, 8ull) + atomicExch(l + 4, 3ull);
    atomicAdd(d, 2.0);
    atomicMax(&s, x);
    __threadfence();
    __threadfence_block();
    __threadfence_system();
    __syncthreads();
    f[2] = old + s + sf;
    volatile int* v = i;
    if (*v == 3) __nanosleep(20);
    i[1] = __ldg(i + 2) + __ldcg(i + 3) + __ldcs(i + 4);
    __stcs(i + 4, 3);
    __stwt(i + 5, 3);
    __stcg(i + 6, 2);
    i[9] = atomicAdd(&counter, 1) + constants.b;
    big[threadIdx.x] = old;
}

extern "C" __global__ void structs(Mixed p, Four v, Four* o, const Four* __restrict__ q, int2* z) {
    int i = threadIdx.x;
    o[i].x = q[i].x + p.a;
    o[i + 1] = v;
    float local[20];
    for (int k = 0; k < 20; k++) local[k] = ((float*)q)[k];
    o[2].y = local[p.b] + local[i];
    z[i] = make_int2(p.s[i % 3], p.d);
    ((float4*)o)[11] = ((const float4*)q)[i];
    ((signed char*)o)[100] = ((const signed char*)q)[7];
    ((unsigned short*)o)[200] = ((const unsigned short*)q)[7] + 1;
    ((bool*)o)[99] = !((const bool*)q)[9];
    ((double2*)o)[88] = ((double2*)q)[3];
}

extern "C" __global__ void strided(float* o, const float* a, int n, long long stride) {
    float s = 0;
#pragma unroll 8
    for (long long i = threadIdx.x; i < n; i += blockDim.x) s += a[i * stride];
#pragma unroll 1
    for (int i = 0; i < n; i++) s = s * a[i] + 1.f;
    o[threadIdx.x + (u64)blockIdx.y * gridDim.x] = s;
}

extern "C" __global__ void __launch_bounds__(128) tensor(float* o, const u32* a, const u32* b, int k) {
    extern __shared__ __align__(16) unsigned char dynamic[];
    u32 s = (u32)__cvta_generic_to_shared(dynamic) + threadIdx.x * 16;
    int bytes = k > 3 ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(s), "l"(a + threadIdx.x * 4) : "memory");
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(s + 2048), "l"(b + threadIdx.x * 4),
                 "r"(bytes)
                 : "memory");
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(s + 4096), "l"(b), "r"(bytes / 4) : "memory");
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group %0;" ::"n"(1));
    asm volatile("cp.async.wait_all;");
    __syncthreads();
    u32 r[4], q[2], t, h, l;
    float d[4] = {0, 0, 0, 0};
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(s));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(q[0]), "=r"(q[1])
                 : "r"(s + 2048));
    for (int i = 0; i < k; i++)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(q[0]), "r"(q[1]));
    asm("cvt.rna.tf32.f32 %0,%1;" : "=r"(t) : "f"(d[0]));
    asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(h) : "f"(d[1]), "f"(d[2]));
    asm("{ .reg .b16 x, y; mov.b32 {x, y}, %1; mov.b32 %0, {y, x}; }" : "=r"(l) : "r"(h));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(t), "r"(r[1]), "r"(h), "r"(l), "r"(q[0]), "r"(q[1]));
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.v4.f32 [%1], {%2,%3,%4,%5}; }" ::"r"(k),
                 "l"(o + threadIdx.x * 4), "f"(d[0]), "f"(d[1]), "f"(d[2]), "f"(d[3]));
    asm volatile("{ .reg .pred p; .reg .b32 t; mov.u32 t, 5; setp.gt.s32 p, t, %0;\n @!p bra L1; st.global.u32 [%1], t;\n L1: }" ::"r"(k),
                 "l"(o + 600));
    asm volatile("{ .reg .pred p; setp.gt.s32 p, %0, 7;\n @!p bra L1; st.global.u32 [%1], 3;\n L1: }" ::"r"(k), "l"(o + 601));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(o));
}

extern "C" __global__ void nothing() {}
