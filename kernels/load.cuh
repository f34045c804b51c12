// Operands of matrix products: where their elements lie, and how tiles of them come into shared memory.
//
// An operand is a matrix of rows u and columns v whose columns are contiguous in memory, at least GRANULE of them at a
// time. Its columns are the depth of the product (`OUTER` false), or its rows are (`OUTER` true). An index says where an
// element is: u() and v() decode a row and a column, offset() is the element's place from the start of the value, or -1
// where there is none: then it counts as 0.

// Numbers that no sum of two makes valid again.
constexpr int FAR_BELOW = -(1 << 28);
constexpr int FAR_ABOVE = 1 << 26;

// A matrix as it lies in memory.
template <int ROWS, int COLUMNS, int PITCH, int G> struct Matrix {
    static constexpr int GRANULE = G;
    int base;
    struct U { int at; };
    struct V { int at; };
    __device__ __forceinline__ U u(int r) const { return {r < ROWS ? r * PITCH : -1}; }
    __device__ __forceinline__ V v(int c) const { return {c < COLUMNS ? c : -1}; }
    __device__ __forceinline__ int offset(U u, V v) const { return (u.at | v.at) < 0 ? -1 : base + u.at + v.at; }
    __device__ __forceinline__ int channel(V v) const { return v.at; }
};

// A map seen through a convolution: row = output pixel (n, h', w'), column = (kh, kw, c) of a group of channels.
template <class C, int PIXELS, int G> struct Patches {
    static constexpr int GRANULE = G;
    int base;
    struct U { int at, h, w; };
    struct V { int h, w, c; };
    __device__ __forceinline__ U u(int p) const {
        const int w = p % C::OUT_W, t = p / C::OUT_W, h = t % C::OUT_H, n = t / C::OUT_H;
        return {base + n * (C::IN_H * C::IN_W * C::INPUTS), p < PIXELS ? h * C::STRIDE_H - C::PAD_H : FAR_BELOW,
                w * C::STRIDE_W - C::PAD_W};
    }
    __device__ __forceinline__ V v(int k) const {
        const int tap = k / C::GROUP_INPUTS, c = k - tap * C::GROUP_INPUTS;
        const int h = tap / C::KERNEL_W, w = tap - h * C::KERNEL_W;
        return {h < C::KERNEL_H ? h * C::DILATION_H : FAR_ABOVE, w * C::DILATION_W, c};
    }
    __device__ __forceinline__ int offset(U u, V v) const {
        const int h = u.h + v.h, w = u.w + v.w;
        const bool there = (uint)h < (uint)C::IN_H && (uint)w < (uint)C::IN_W;
        return there ? u.at + (h * C::IN_W + w) * C::INPUTS + v.c : -1;
    }
    __device__ __forceinline__ int channel(V v) const { return v.h < FAR_ABOVE ? v.c : -1; }
};

// What one phase of an input gradient has in common: the pixels whose rows and columns leave the same remainders by the
// strides meet the same taps, first_h + j * C::TAP_STEP_H, and see the output row i + from_h - j * C::OUT_STEP_H.
struct Phase {
    int rows, columns;      // pixels of an image that are of this phase
    int offset_h, offset_w; // the first one's row and column
    int taps_h, taps_w;     // how many taps
    int first_h, first_w;   // the first one
    int from_h, from_w;
};

// The pixel of the map that is number p of a phase; -1 behind the last.
template <class C, int IMAGES> __device__ __forceinline__ int phase_row(const Phase& q, int p) {
    const int l = p % q.columns, t = p / q.columns, i = t % q.rows, n = t / q.rows;
    const int h = q.offset_h + i * C::STRIDE_H, w = q.offset_w + l * C::STRIDE_W;
    return n < IMAGES ? (n * C::IN_H + h) * C::IN_W + w : -1;
}

// An output gradient seen from the pixels of a phase of the input: column = (tap, o).
template <class C, int IMAGES, int G> struct Gathered {
    static constexpr int GRANULE = G;
    int base;
    Phase phase;
    struct U { int at, h, w; };
    struct V { int h, w, c; };
    __device__ __forceinline__ U u(int p) const {
        const int l = p % phase.columns, t = p / phase.columns, i = t % phase.rows, n = t / phase.rows;
        return {base + n * (C::OUT_H * C::OUT_W * C::OUTPUTS), n < IMAGES ? i + phase.from_h : FAR_BELOW,
                l + phase.from_w};
    }
    __device__ __forceinline__ V v(int k) const {
        const int tap = k / C::GROUP_OUTPUTS, c = k - tap * C::GROUP_OUTPUTS;
        const int h = phase.taps_w == 1 ? tap : tap / max(phase.taps_w, 1), w = tap - h * phase.taps_w;
        return {h < phase.taps_h ? -h * C::OUT_STEP_H : FAR_ABOVE, -w * C::OUT_STEP_W, c};
    }
    __device__ __forceinline__ int offset(U u, V v) const {
        const int h = u.h + v.h, w = u.w + v.w;
        const bool there = (uint)h < (uint)C::OUT_H && (uint)w < (uint)C::OUT_W;
        return there ? u.at + (h * C::OUT_W + w) * C::OUTPUTS + v.c : -1;
    }
    __device__ __forceinline__ int channel(V v) const { return v.h < FAR_ABOVE ? v.c : -1; }
};

// Weights [O][kh][kw][PITCH] of the taps of a phase: row = (tap, o), column = c.
template <class C, int PITCH, int G> struct PhaseTaps {
    static constexpr int GRANULE = G;
    int base;
    Phase phase;
    struct U { int at; };
    struct V { int at; };
    __device__ __forceinline__ U u(int k) const {
        const int tap = k / C::GROUP_OUTPUTS, o = k - tap * C::GROUP_OUTPUTS;
        const int h = phase.taps_w == 1 ? tap : tap / max(phase.taps_w, 1), w = tap - h * phase.taps_w;
        const int at = (phase.first_h + h * C::TAP_STEP_H) * C::KERNEL_W + phase.first_w + w * C::TAP_STEP_W;
        return {h < phase.taps_h ? (o * (C::KERNEL_H * C::KERNEL_W) + at) * PITCH : -1};
    }
    __device__ __forceinline__ V v(int c) const { return {c < C::GROUP_INPUTS ? c : -1}; }
    __device__ __forceinline__ int offset(U u, V v) const { return (u.at | v.at) < 0 ? -1 : base + u.at + v.at; }
    __device__ __forceinline__ int channel(V v) const { return v.at; }
};

// Where the 16-byte chunk `c` of a row lies in a tile of COLUMNS elements of E per row. Eight rows at one chunk (ldmatrix,
// the float4 reads of a quarter warp) and eight neighbouring chunks (copies) each touch all 32 banks once, as the chunk's
// number is mixed with the row's. A tile of floats whose rows are the depth is read element by element for tf32, four rows
// and two chunks at a time: there the row counts twice, and the eight chunks differ too.
template <typename E, int COLUMNS, bool OUTER> __device__ __forceinline__ int place(int row, int c) {
    constexpr int CHUNKS = COLUMNS * (int)sizeof(E) / 16;
    constexpr int ROWS_OF_EIGHT = CHUNKS >= 8 ? 1 : 8 / CHUNKS, MASK = CHUNKS >= 8 ? 7 : CHUNKS - 1;
    constexpr int STEP = OUTER && sizeof(E) == 4 ? 2 : 1;
#if MATH == 3
    // Panels of 128 bytes a row (wgmma.cuh).
    if constexpr (OUTER) return c / 8 * (BK * 8) + row * 8 + ((c % 8) ^ (row % 8));
    static_assert(OUTER || CHUNKS == 8, "rows of 128 bytes");
#endif
    return row * CHUNKS + (c ^ ((row * STEP / ROWS_OF_EIGHT) & MASK));
}

// N neighbouring elements of a tile, read in accesses of 16 bytes at most.
template <typename T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Lump { T v[N]; };

// An operand that is read as it lies in memory.
template <typename E> struct Direct {
    static constexpr int RAW_ELEMENT = 0;
    static constexpr bool MAKES = false;
    const E* p;
    template <int G> __device__ __forceinline__ void copy(char*, E* to, int, int, int at) const {
        copy_async<G * (int)sizeof(E)>(to, p + max(at, 0), at >= 0);
    }
    __device__ void fill(float*, int, int, int) const {}
};

// One operand of a block: ROWS x COLUMNS elements of E in each stage, copied by all THREADS threads. A thread copies the
// same chunk column of several rows. FIRST is where tiles lie in a stage, RAW_FIRST where what the chain reads beside.
template <class Index, class Chain, typename E, int ROWS, int COLUMNS, bool OUTER, int THREADS, int TABLE>
struct Operand {
    static constexpr int VECTOR = 16 / (int)sizeof(E), ROW_CHUNKS = COLUMNS / VECTOR;
    static constexpr int COUNT = ROWS * ROW_CHUNKS / THREADS, ROW_STEP = THREADS / ROW_CHUNKS;
    static constexpr int G = Index::GRANULE, GRANULES = VECTOR / G, ELEMENTS = ROWS * COLUMNS;
    static constexpr int TILE_BYTES = ELEMENTS * (int)sizeof(E), RAW_BYTES = ELEMENTS * Chain::RAW_ELEMENT;
    static_assert(COUNT * THREADS == ROWS * ROW_CHUNKS && THREADS % ROW_CHUNKS == 0, "chunks do not fill the threads");
    Index index;
    Chain chain;
    typename Index::U us[OUTER ? 1 : COUNT];
    typename Index::V vs[OUTER ? GRANULES : 1];

    // Fixes the rows (or, outer, the columns) from `first` on.
    __device__ __forceinline__ void start(int first) {
        if constexpr (OUTER) {
            #pragma unroll
            for (int g = 0; g < GRANULES; g++)
                vs[g] = index.v(first + (int)threadIdx.x % ROW_CHUNKS * VECTOR + g * G);
        } else {
            #pragma unroll
            for (int i = 0; i < COUNT; i++) us[i] = index.u(first + (int)threadIdx.x / ROW_CHUNKS + i * ROW_STEP);
        }
    }

    // Fills the table of what is constant along the rows: of the tile's own columns, or of all channels. `channel` is
    // the group's first.
    __device__ __forceinline__ void fill(float* table, int first, int channel) const {
        if constexpr (TABLE > 0) {
            for (int j = threadIdx.x; j < TABLE; j += THREADS) {
                const int c = OUTER ? index.channel(index.v(first + j)) : j;
                if (c >= 0) chain.fill(table, j, TABLE, channel + c);
            }
        }
    }

    // The column of a granule of this thread's chunk, and the row of the i-th chunk, in the tile at depth k.
    __device__ __forceinline__ typename Index::V column_of(int k, int column, int g) const {
        if constexpr (OUTER) return vs[g];
        else return index.v(k + column * VECTOR + g * G);
    }
    __device__ __forceinline__ typename Index::U row_of(int k, int row0, int i) const {
        if constexpr (OUTER) return index.u(k + row0 + i * ROW_STEP);
        else return us[i];
    }

    // Starts the copies of the tile at depth k.
    __device__ __forceinline__ void load(char* tile, char* raw, int k) {
        const int column = (int)threadIdx.x % ROW_CHUNKS, row0 = (int)threadIdx.x / ROW_CHUNKS;
        #pragma unroll
        for (int g = 0; g < GRANULES; g++) {
            const typename Index::V v = column_of(k, column, g);
            #pragma unroll
            for (int i = 0; i < COUNT; i++) {
                const int row = row0 + i * ROW_STEP, at = index.offset(row_of(k, row0, i), v);
                E* to = (E*)tile + place<E, COLUMNS, OUTER>(row, column) * VECTOR + g * G;
                chain.template copy<G>(raw, to, (i * THREADS + (int)threadIdx.x) * VECTOR + g * G, ELEMENTS, at);
            }
        }
    }

    // Makes the operand of what this thread copied. Of a few rows at a time everything is read before anything is written,
    // so that they do not wait for one another; not where every row has to be decoded, which is slower so (on an H100).
    __device__ __forceinline__ void make(char* tile, const char* raw, const float* table, int k, int channel) {
        if constexpr (Chain::MAKES) {
            constexpr int BATCH = OUTER ? 1 : COUNT % 4 == 0 ? 4 : COUNT % 2 == 0 ? 2 : 1;
            const int column = (int)threadIdx.x % ROW_CHUNKS, row0 = (int)threadIdx.x / ROW_CHUNKS;
            #pragma unroll
            for (int g = 0; g < GRANULES; g++) {
                const typename Index::V v = column_of(k, column, g);
                const int c = index.channel(v);
                // Where there is no element, constants of the first entry, which is filled always.
                const typename Chain::template Constants<G> constants(
                    table, c < 0 ? 0 : OUTER ? column * VECTOR + g * G : c, TABLE);
                #pragma unroll
                for (int first = 0; first < COUNT; first += BATCH) {
                    typename Chain::template Raw<G> raws[BATCH];
                    E* to[BATCH];
                    if constexpr (!OUTER) {
                        #pragma unroll
                        for (int b = 0; b < BATCH; b++) take(raws[b], to[b], tile, raw, row0, column, first + b, g);
                    }
                    #pragma unroll
                    for (int b = 0; b < BATCH; b++) {
                        const int at = index.offset(row_of(k, row0, first + b), v);
                        float y[G] = {};
                        if constexpr (OUTER) {
                            take(raws[b], to[b], tile, raw, row0, column, first + b, g);
                            if (at >= 0) chain.template make<G>(raws[b], at, constants, channel + c, y);
                        } else {
                            chain.template make<G>(raws[b], max(at, 0), constants, channel + max(c, 0), y);
                            #pragma unroll
                            for (int e = 0; e < G; e++) y[e] = at >= 0 ? y[e] : 0.0f;
                        }
                        pack(to[b], y);
                    }
                }
            }
        }
    }

    // The i-th chunk's granule as it was copied, and its place in the tile.
    template <class Raw>
    __device__ __forceinline__ void take(Raw& r, E*& to, char* tile, const char* raw, int row0, int column, int i, int g) {
        to = (E*)tile + place<E, COLUMNS, OUTER>(row0 + i * ROW_STEP, column) * VECTOR + g * G;
        r.load(raw, (i * THREADS + (int)threadIdx.x) * VECTOR + g * G, to, ELEMENTS);
    }
};
