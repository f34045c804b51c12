// Matrix products: C[m][n] = sum over k of A[m][k] B[k][n] for one tile of BM x BN by one block, BK deep at a time.
//
// Given by the emitter: BM, BN, BK, STAGES, THREADS, MATH (0 exact f32, 1 tf32, 2 bf16, 3 bf16 by warpgroups), A_OUTER,
// B_OUTER (whether the depth is the operand's row), ROW_UNITS, COLUMN_UNITS (how warps lie over the tile, or threads where
// MATH is 0, or warpgroups where it is 3), and the type E of the operands.
//
// An accumulator multiplies a stage between publish(), before the barrier behind which the stage is read, and end(). IN_FLIGHT
// products may then still run: those stages are not written again yet.

// Elements of a row of the finished tile in shared memory. 8 more than BN: the float2 stores of a half warp (four rows
// of four pairs) then touch each bank once.
constexpr int TILE_PITCH = BN + 8;

#if MATH == 0

// On f32 units: each thread has BM / ROW_UNITS x BN / COLUMN_UNITS sums.
struct Accumulator {
    static constexpr int ROWS = BM / ROW_UNITS, COLUMNS = BN / COLUMN_UNITS, COUNT = ROWS * COLUMNS;
    float c[COUNT];

    static constexpr int IN_FLIGHT = 0;
    __device__ __forceinline__ void publish() {}
    __device__ __forceinline__ void begin(const float*, const float*) {}
    __device__ __forceinline__ void end(const float* a, const float* b) { multiply(a, b); }
    __device__ __forceinline__ void finish() {}

    __device__ __forceinline__ void clear() {
        #pragma unroll
        for (int i = 0; i < COUNT; i++) c[i] = 0.0f;
    }
    // Which rows a thread has: neighbouring threads have neighbouring rows, or runs of four where four lie in one chunk.
    template <bool OUTER, int UNITS> static __device__ __forceinline__ int entry(int i, int unit) {
        return OUTER ? (i / 4 * UNITS + unit) * 4 + i % 4 : i * UNITS + unit;
    }
    static __device__ __forceinline__ int row(int i) { return entry<A_OUTER, ROW_UNITS>(i, threadIdx.x / COLUMN_UNITS); }
    static __device__ __forceinline__ int column(int j) {
        return entry<B_OUTER, COLUMN_UNITS>(j, threadIdx.x % COLUMN_UNITS);
    }
    // Four depths of N entries.
    template <bool OUTER, int EXTENT, int UNITS, int N>
    static __device__ __forceinline__ void fetch(const float* tile, int k, int unit, float (&x)[4][N]) {
        if constexpr (OUTER) {
            #pragma unroll
            for (int d = 0; d < 4; d++) {
                #pragma unroll
                for (int i = 0; i < N; i += 4) {
                    const float4 q = *(const float4*)(tile + place<float, EXTENT, true>(k + d, i / 4 * UNITS + unit) * 4);
                    x[d][i] = q.x; x[d][i + 1] = q.y; x[d][i + 2] = q.z; x[d][i + 3] = q.w;
                }
            }
        } else {
            #pragma unroll
            for (int i = 0; i < N; i++) {
                const float4 q = *(const float4*)(tile + place<float, BK, false>(i * UNITS + unit, k / 4) * 4);
                x[0][i] = q.x; x[1][i] = q.y; x[2][i] = q.z; x[3][i] = q.w;
            }
        }
    }
    __device__ __forceinline__ void multiply(const float* a, const float* b) {
        #pragma unroll
        for (int k = 0; k < BK; k += 4) {
            float x[4][ROWS], y[4][COLUMNS];
            fetch<A_OUTER, BM, ROW_UNITS>(a, k, threadIdx.x / COLUMN_UNITS, x);
            fetch<B_OUTER, BN, COLUMN_UNITS>(b, k, threadIdx.x % COLUMN_UNITS, y);
            #pragma unroll
            for (int d = 0; d < 4; d++) {
                #pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    #pragma unroll
                    for (int j = 0; j < COLUMNS; j++)
                        c[i * COLUMNS + j] = __fmaf_rn(x[d][i], y[d][j], c[i * COLUMNS + j]);
                }
            }
        }
    }
    __device__ __forceinline__ void store(float* tile) const {
        #pragma unroll
        for (int i = 0; i < ROWS; i++) {
            #pragma unroll
            for (int j = 0; j < COLUMNS; j++) tile[row(i) * TILE_PITCH + column(j)] = c[i * COLUMNS + j];
        }
    }
    __device__ __forceinline__ float& at(int i) { return c[i]; }
};

#elif MATH == 3

// On matrix units, by warpgroups of four warps, from both operands in shared memory: each warpgroup has a tile of its own,
// made of products of 64 rows, of which each warp holds 16.
struct Accumulator {
    static constexpr int GROUP_ROWS = BM / ROW_UNITS, GROUP_COLUMNS = BN / COLUMN_UNITS;
    static constexpr int ROWS = GROUP_ROWS / 64, EACH = GROUP_COLUMNS / 2, COUNT = ROWS * EACH;
    static constexpr int IN_FLIGHT = 1;
    float c[ROWS][EACH];

    __device__ __forceinline__ void clear() {
        #pragma unroll
        for (int i = 0; i < COUNT; i++) at(i) = 0.0f;
    }
    static __device__ __forceinline__ int first_row() { return threadIdx.x / 128 / COLUMN_UNITS * GROUP_ROWS; }
    static __device__ __forceinline__ int first_column() { return threadIdx.x / 128 % COLUMN_UNITS * GROUP_COLUMNS; }

    // What this thread has written to shared memory can be seen by the matrix units behind the next barrier.
    __device__ __forceinline__ void publish() { publish_to_matrix_units(); }
    __device__ __forceinline__ void begin(const E* a, const E* b) {
        const ulong rows = descriptor<A_OUTER>(a, first_row()), columns = descriptor<B_OUTER>(b, first_column());
        settle();
        warpgroup_fence();
        #pragma unroll
        for (int k = 0; k < BK / 16; k++) {
            #pragma unroll
            for (int i = 0; i < ROWS; i++)
                multiply_warpgroup(c[i], rows + step<A_OUTER>(64 * i, k), columns + step<B_OUTER>(0, k));
        }
        warpgroup_commit();
    }
    __device__ __forceinline__ void end(const E*, const E*) { warpgroup_wait<1>(); }
    __device__ __forceinline__ void finish() {
        warpgroup_wait<0>();
        settle();
    }
    // What the compiler does to the sums it does before this, or behind it: not between a fence and a product, nor before a
    // wait that it follows.
    __device__ __forceinline__ void settle() {
        #pragma unroll
        for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(at(i)) :: "memory");
    }

    __device__ __forceinline__ void store(float* tile) const {
        const int lane = threadIdx.x % 32, row = first_row() + threadIdx.x / 32 % 4 * 16 + lane / 4;
        #pragma unroll
        for (int i = 0; i < ROWS; i++) {
            #pragma unroll
            for (int j = 0; j < EACH; j += 4) {
                float* to = tile + (row + i * 64) * TILE_PITCH + first_column() + j * 2 + lane % 4 * 2;
                *(float2*)to = make_float2(c[i][j], c[i][j + 1]);
                *(float2*)(to + 8 * TILE_PITCH) = make_float2(c[i][j + 2], c[i][j + 3]);
            }
        }
    }
    __device__ __forceinline__ float& at(int i) { return c[i / EACH][i % EACH]; }
};

#else

// On matrix units: each warp has a tile of its own, made of 16x8 products.
struct Accumulator {
    static constexpr int WARP_ROWS = BM / ROW_UNITS, WARP_COLUMNS = BN / COLUMN_UNITS;
    static constexpr int ROWS = WARP_ROWS / 16, COLUMNS = WARP_COLUMNS / 8, COUNT = ROWS * COLUMNS * 4;
    static constexpr int CHUNK = 16 / (int)sizeof(E);
    float c[ROWS][COLUMNS][4];

    static constexpr int IN_FLIGHT = 0;
    __device__ __forceinline__ void publish() {}
    __device__ __forceinline__ void begin(const E*, const E*) {}
    __device__ __forceinline__ void end(const E* a, const E* b) { multiply(a, b); }
    __device__ __forceinline__ void finish() {}

    __device__ __forceinline__ void clear() {
        #pragma unroll
        for (int i = 0; i < COUNT; i++) at(i) = 0.0f;
    }
    static __device__ __forceinline__ int lane() { return threadIdx.x % 32; }
    static __device__ __forceinline__ int first_row() { return threadIdx.x / 32 / COLUMN_UNITS * WARP_ROWS; }
    static __device__ __forceinline__ int first_column() { return threadIdx.x / 32 % COLUMN_UNITS * WARP_COLUMNS; }

    // 16 rows from m on and two chunks of depth from chunk kc on, as the first operand.
    static __device__ __forceinline__ void fetch_a(const E* tile, int m, int kc, uint (&x)[4]) {
        const int l = lane();
        if constexpr (!A_OUTER) {
            load_matrices(x, tile + place<E, BK, false>(m + l % 16, kc + l / 16) * CHUNK);
        } else if constexpr (MATH == 2) {
            const int k = kc * CHUNK + l % 8 + l / 16 * 8;
            load_matrices_transposed(x, tile + place<E, BM, true>(k, m / CHUNK + l / 8 % 2) * CHUNK);
        } else {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                const int k = kc * CHUNK + l % 4 + i / 2 * 4, r = m + l / 4 + i % 2 * 8;
                x[i] = ((const uint*)tile)[place<E, BM, true>(k, r / CHUNK) * CHUNK + r % CHUNK];
            }
        }
        if constexpr (MATH == 1) {
            #pragma unroll
            for (int i = 0; i < 4; i++) x[i] = to_tf32(x[i]);
        }
    }
    // 16 columns from n on, as the second operand of two products.
    static __device__ __forceinline__ void fetch_b(const E* tile, int n, int kc, uint (&x)[4]) {
        const int l = lane();
        if constexpr (!B_OUTER) {
            load_matrices(x, tile + place<E, BK, false>(n + l % 8 + l / 16 * 8, kc + l / 8 % 2) * CHUNK);
        } else if constexpr (MATH == 2) {
            const int k = kc * CHUNK + l % 16;
            load_matrices_transposed(x, tile + place<E, BN, true>(k, n / CHUNK + l / 16) * CHUNK);
        } else {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                const int k = kc * CHUNK + l % 4 + i % 2 * 4, r = n + l / 4 + i / 2 * 8;
                x[i] = ((const uint*)tile)[place<E, BN, true>(k, r / CHUNK) * CHUNK + r % CHUNK];
            }
        }
        if constexpr (MATH == 1) {
            #pragma unroll
            for (int i = 0; i < 4; i++) x[i] = to_tf32(x[i]);
        }
    }
    __device__ __forceinline__ void multiply(const E* a, const E* b) {
        const int m = first_row(), n = first_column();
        #pragma unroll
        for (int kc = 0; kc < BK / CHUNK; kc += 2) {
            uint x[ROWS][4], y[COLUMNS / 2][4];
            #pragma unroll
            for (int i = 0; i < ROWS; i++) fetch_a(a, m + i * 16, kc, x[i]);
            #pragma unroll
            for (int j = 0; j < COLUMNS / 2; j++) fetch_b(b, n + j * 16, kc, y[j]);
            #pragma unroll
            for (int i = 0; i < ROWS; i++) {
                #pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    if constexpr (MATH == 2) multiply_bf16(c[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
                    else multiply_tf32(c[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
    }
    __device__ __forceinline__ void store(float* tile) const {
        #pragma unroll
        for (int i = 0; i < ROWS; i++) {
            #pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                float* to = tile + (first_row() + i * 16 + lane() / 4) * TILE_PITCH + first_column() + j * 8 + lane() % 4 * 2;
                *(float2*)to = make_float2(c[i][j][0], c[i][j][1]);
                *(float2*)(to + 8 * TILE_PITCH) = make_float2(c[i][j][2], c[i][j][3]);
            }
        }
    }
    __device__ __forceinline__ float& at(int i) { return c[i / (COLUMNS * 4)][i / 4 % COLUMNS][i % 4]; }
};

#endif

// Adds the products of `tiles` depths of BK from tile `first` on. `shared` holds a table for A of TABLE_A floats, one for
// B, and the stages. Ends with all threads done with them.
template <int TABLE_A, int TABLE_B, class A, class B>
__device__ __forceinline__ void add_products(A& a, B& b, char* shared, int row, int column, int first, int tiles,
                                             int channel_a, int channel_b, Accumulator& sums) {
    constexpr int STAGE = A::TILE_BYTES + B::TILE_BYTES + A::RAW_BYTES + B::RAW_BYTES;
    // Copies are that many stages ahead of the products.
    constexpr int AHEAD = STAGES - 1 - Accumulator::IN_FLIGHT;
    float* table_a = (float*)shared;
    float* table_b = table_a + TABLE_A;
    char* stages = shared + (4 * (TABLE_A + TABLE_B) + TILE_ALIGN - 1) / TILE_ALIGN * TILE_ALIGN;
    a.start(row);
    b.start(column);
    auto load = [&](int t) {
        char* stage = stages + t % STAGES * STAGE;
        a.load(stage, stage + A::TILE_BYTES + B::TILE_BYTES, (first + t) * BK);
        b.load(stage + A::TILE_BYTES, stage + A::TILE_BYTES + B::TILE_BYTES + A::RAW_BYTES, (first + t) * BK);
    };
    #pragma unroll
    for (int t = 0; t < AHEAD; t++) {
        if (t < tiles) load(t);
        copy_commit();
    }
    a.fill(table_a, row, channel_a);
    b.fill(table_b, column, channel_b);
    if (TABLE_A + TABLE_B > 0) __syncthreads();
    // Sums that no product has added to do not meet here with sums whose products may be under way: ptxas would wait for
    // each product.
    if (tiles <= 0) return;
    #pragma unroll 1
    for (int t = 0; t < tiles; t++) {
        char* stage = stages + t % STAGES * STAGE;
        copy_wait<AHEAD - 1>();
        a.make(stage, stage + A::TILE_BYTES + B::TILE_BYTES, table_a, (first + t) * BK, channel_a);
        b.make(stage + A::TILE_BYTES, stage + A::TILE_BYTES + B::TILE_BYTES + A::RAW_BYTES, table_b, (first + t) * BK,
               channel_b);
        sums.publish();
        // Everybody's copies of this stage are there, and nobody reads the stage that is written next any more.
        __syncthreads();
        sums.begin((const E*)stage, (const E*)(stage + A::TILE_BYTES));
        if (t + AHEAD < tiles) load(t + AHEAD);
        copy_commit();
        sums.end((const E*)stage, (const E*)(stage + A::TILE_BYTES));
    }
    sums.finish();
    copy_wait<0>();
    __syncthreads();
}

// Writes a block's sums for the one that adds them up, in the order of its registers: neighbouring threads write
// neighbouring floats.
__device__ __forceinline__ void save_partial(Accumulator& sums, float* to) {
    #pragma unroll
    for (int i = 0; i < Accumulator::COUNT; i++) to[i * THREADS + threadIdx.x] = sums.at(i);
}

// The sum of `count` partial sums, in their order.
__device__ __forceinline__ void add_partials(Accumulator& sums, const float* from, int count) {
    sums.clear();
    #pragma unroll 1
    for (int s = 0; s < count; s++) {
        #pragma unroll
        for (int i = 0; i < Accumulator::COUNT; i++) sums.at(i) += from[i * THREADS + threadIdx.x];
        from += Accumulator::COUNT * THREADS;
    }
}

// Writes a finished tile to a value of rows of PITCH elements, VECTOR at a time: `columns` of them from `to` on, of which
// the tile's begin at `first`. row(r) is the place of the tile's row r, negative where there is none.
template <int VECTOR, typename R, class Row>
__device__ __forceinline__ void store_rows(const float* tile, R* to, int pitch, int columns, int first, Row row) {
    for (int j = threadIdx.x; j < BM * (BN / VECTOR); j += THREADS) {
        const int r = j / (BN / VECTOR), q = j % (BN / VECTOR) * VECTOR, at = row(r);
        if (at < 0 || first + q >= columns) continue;
        float x[VECTOR];
        unpack(tile + r * TILE_PITCH + q, x);
        pack(to + (ulong)at * pitch + first + q, x);
    }
}

// Writes a finished tile of a weight gradient, whose columns are (tap, c), to [O][inputs][taps].
__device__ __forceinline__ void store_weights(const float* tile, float* to, int rows, int inputs, int taps, int first_row,
                                              int first_column) {
    for (int j = threadIdx.x; j < BM * BN; j += THREADS) {
        const int o = first_row + j / BN, n = first_column + j % BN, tap = n / inputs, c = n - tap * inputs;
        if (o < rows && tap < taps) to[(ulong)(o * inputs + c) * taps + tap] = tile[j / BN * TILE_PITCH + j % BN];
    }
}
