// Pooling of channels-last maps [N,H,W,C], V channels of a position at a time. A row-major map [N,C,H,W] is N·C maps of
// one channel. G holds the geometry.
// Needs channels.cuh.

template <uint N_, uint C_, int H_, int W_, int HO_, int WO_, int KH_, int KW_, int SH_, int SW_, int PH_, int PW_>
struct Geometry {
    static constexpr uint N = N_, C = C_;
    static constexpr int H = H_, W = W_, HO = HO_, WO = WO_, KH = KH_, KW = KW_, SH = SH_, SW = SW_, PH = PH_, PW = PW_;
};

// Whether a takes the place of the largest so far: not a number is larger than any.
__device__ __forceinline__ bool larger(float a, float best) { return a > best || (a != a && best == best); }

// The channel, image, row and column of pack number e of maps of HEIGHT rows of WIDTH columns.
#define PLACE(e, HEIGHT, WIDTH)                                          \
    const uint c = (e) % (G::C / V) * V, position = (e) / (G::C / V);     \
    const int column = (int)(position % (WIDTH));                        \
    const int row = (int)(position / (WIDTH) % (HEIGHT));                \
    const uint image = position / ((WIDTH) * (HEIGHT));

#define AT(image, row, column, HEIGHT, WIDTH) \
    ((((image) * (HEIGHT) + (uint)(row)) * (WIDTH) + (uint)(column)) * G::C + c)

// The positions of the window of output (row, column) that lie in the map, in row order.
#define EACH_IN_WINDOW(row, column)                                                     \
    for (int h = max((row) * G::SH - G::PH, 0); h < min((row) * G::SH - G::PH + G::KH, G::H); h++) \
        for (int w = max((column) * G::SW - G::PW, 0); w < min((column) * G::SW - G::PW + G::KW, G::W); w++)

// The outputs whose windows hold position (row, column), in row order.
#define EACH_OUTPUT(row, column)                                                                       \
    for (int ho = max((row) + G::PH - G::KH + G::SH, 0) / G::SH; ho <= min(((row) + G::PH) / G::SH, G::HO - 1); ho++) \
        for (int wo = max((column) + G::PW - G::KW + G::SW, 0) / G::SW;                                 \
             wo <= min(((column) + G::PW) / G::SW, G::WO - 1); wo++)

template <typename T, int V, typename G> __device__ void max_pool_maps(const T* x, T* y, uint t, uint n) {
    for (uint e = t; e < G::N * G::HO * G::WO * (G::C / V); e += n) {
        PLACE(e, G::HO, G::WO)
        float best[V];
        #pragma unroll
        for (int v = 0; v < V; v++) best[v] = -INFINITY_F;
        EACH_IN_WINDOW(row, column) {
            const Channels<T, V> p = *(const Channels<T, V>*)(x + AT(image, h, w, G::H, G::W));
            #pragma unroll
            for (int v = 0; v < V; v++) {
                const float a = to_float(p.v[v]);
                best[v] = larger(a, best[v]) ? a : best[v];
            }
        }
        Channels<T, V> r;
        #pragma unroll
        for (int v = 0; v < V; v++) r.v[v] = from_float<T>(best[v]);
        *(Channels<T, V>*)(y + (ulong)e * V) = r;
    }
}

// Which position of each window is the first of its largest, counted in row order from the window's corner, padding included.
template <typename T, int V, typename G, typename I>
__device__ void max_pool_places(const T* x, I* places, uint t, uint n) {
    for (uint e = t; e < G::N * G::HO * G::WO * (G::C / V); e += n) {
        PLACE(e, G::HO, G::WO)
        float best[V];
        int place[V];
        #pragma unroll
        for (int v = 0; v < V; v++) { best[v] = -INFINITY_F; place[v] = -1; }
        EACH_IN_WINDOW(row, column) {
            const Channels<T, V> p = *(const Channels<T, V>*)(x + AT(image, h, w, G::H, G::W));
            const int here = (h - row * G::SH + G::PH) * G::KW + w - column * G::SW + G::PW;
            #pragma unroll
            for (int v = 0; v < V; v++) {
                const float a = to_float(p.v[v]);
                const bool first = larger(a, best[v]) || place[v] < 0;
                best[v] = first ? a : best[v];
                place[v] = first ? here : place[v];
            }
        }
        Channels<I, V> r;
        #pragma unroll
        for (int v = 0; v < V; v++) r.v[v] = (I)place[v];
        *(Channels<I, V>*)(places + (ulong)e * V) = r;
    }
}

// The gradients of the windows that chose a position.
template <typename T, int V, typename G, typename I>
__device__ void max_pool_grad_maps(const I* places, const T* dy, T* dx, uint t, uint n) {
    for (uint e = t; e < G::N * G::H * G::W * (G::C / V); e += n) {
        PLACE(e, G::H, G::W)
        float sum[V];
        #pragma unroll
        for (int v = 0; v < V; v++) sum[v] = 0.f;
        EACH_OUTPUT(row, column) {
            const uint at = AT(image, ho, wo, G::HO, G::WO);
            const Channels<I, V> chosen = *(const Channels<I, V>*)(places + at);
            const Channels<T, V> d = *(const Channels<T, V>*)(dy + at);
            const int here = (row - ho * G::SH + G::PH) * G::KW + column - wo * G::SW + G::PW;
            #pragma unroll
            for (int v = 0; v < V; v++) sum[v] += (int)chosen.v[v] == here ? to_float(d.v[v]) : 0.f;
        }
        Channels<T, V> r;
        #pragma unroll
        for (int v = 0; v < V; v++) r.v[v] = from_float<T>(sum[v]);
        *(Channels<T, V>*)(dx + (ulong)e * V) = r;
    }
}

template <typename T, int V, typename G> __device__ void avg_pool_maps(const T* x, T* y, uint t, uint n) {
    for (uint e = t; e < G::N * G::HO * G::WO * (G::C / V); e += n) {
        PLACE(e, G::HO, G::WO)
        float sum[V];
        #pragma unroll
        for (int v = 0; v < V; v++) sum[v] = 0.f;
        EACH_IN_WINDOW(row, column) {
            const Channels<T, V> p = *(const Channels<T, V>*)(x + AT(image, h, w, G::H, G::W));
            #pragma unroll
            for (int v = 0; v < V; v++) sum[v] += to_float(p.v[v]);
        }
        Channels<T, V> r;
        #pragma unroll
        for (int v = 0; v < V; v++) r.v[v] = from_float<T>(sum[v] / (float)(G::KH * G::KW));
        *(Channels<T, V>*)(y + (ulong)e * V) = r;
    }
}

template <typename T, int V, typename G> __device__ void avg_pool_grad_maps(const T* dy, T* dx, uint t, uint n) {
    for (uint e = t; e < G::N * G::H * G::W * (G::C / V); e += n) {
        PLACE(e, G::H, G::W)
        float sum[V];
        #pragma unroll
        for (int v = 0; v < V; v++) sum[v] = 0.f;
        EACH_OUTPUT(row, column) {
            const Channels<T, V> d = *(const Channels<T, V>*)(dy + AT(image, ho, wo, G::HO, G::WO));
            #pragma unroll
            for (int v = 0; v < V; v++) sum[v] += to_float(d.v[v]);
        }
        Channels<T, V> r;
        #pragma unroll
        for (int v = 0; v < V; v++) r.v[v] = from_float<T>(sum[v] / (float)(G::KH * G::KW));
        *(Channels<T, V>*)(dx + (ulong)e * V) = r;
    }
}
