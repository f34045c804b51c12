// Operators that move elements. T is as many bytes as all runs are multiples of.

// `part` of every `whole` elements, from `start` on: to them from x, where every one has `part` of its own.
template <typename T, uint ROUNDS, uint WHOLE, uint START, uint PART>
__device__ void insert_runs(const T* x, T* y, uint t, uint n) {
    for (uint e = t; e < ROUNDS * PART; e += n) y[e / PART * WHOLE + START + e % PART] = x[e];
}

template <typename T, uint ROUNDS, uint WHOLE, uint START, uint PART>
__device__ void take_runs(const T* x, T* y, uint t, uint n) {
    for (uint e = t; e < ROUNDS * PART; e += n) y[e] = x[e / PART * WHOLE + START + e % PART];
}

// As insert_runs, zeros elsewhere.
template <typename T, uint ROUNDS, uint WHOLE, uint START, uint PART>
__device__ void pad_runs(const T* x, T* y, uint t, uint n) {
    for (uint e = t; e < ROUNDS * WHOLE; e += n) {
        const uint at = e % WHOLE - START;
        T r = {};
        if (at < PART) r = x[e / WHOLE * PART + at];
        y[e] = r;
    }
}

template <typename T, uint COUNT> __device__ void copy_all(const T* x, T* y, uint t, uint n) {
    for (uint e = t; e < COUNT; e += n) y[e] = x[e];
}

// y = x, matrix for matrix transposed: x holds COUNT matrices of ROWS rows of COLUMNS elements. A tile of R rows and S
// columns goes through shared memory, so that reads run along rows of x and writes along rows of y. The
// length of a row there is odd, so that the elements of a column lie in different banks.
template <typename T, int THREADS, uint COUNT, uint ROWS, uint COLUMNS, uint R, uint S>
__device__ void transpose_all(const T* x, T* y, uint t, uint n, char* shared) {
    constexpr uint STRIDE = S | 1, DOWN = (ROWS + R - 1) / R, ACROSS = (COLUMNS + S - 1) / S;
    T* tile = (T*)shared;
    const uint me = t % THREADS;
    for (uint k = t / THREADS; k < COUNT * DOWN * ACROSS; k += n / THREADS) {
        const uint matrix = k / (DOWN * ACROSS), row = k / ACROSS % DOWN * R, column = k % ACROSS * S;
        const ulong base = (ulong)matrix * ROWS * COLUMNS;
        __syncthreads();
        for (uint i = me; i < R * S; i += THREADS) {
            const uint r = i / S, s = i % S;
            if (row + r < ROWS && column + s < COLUMNS)
                tile[r * STRIDE + s] = x[base + (ulong)(row + r) * COLUMNS + column + s];
        }
        __syncthreads();
        for (uint i = me; i < R * S; i += THREADS) {
            const uint s = i / R, r = i % R;
            if (row + r < ROWS && column + s < COLUMNS)
                y[base + (ulong)(column + s) * ROWS + row + r] = tile[r * STRIDE + s];
        }
    }
}
