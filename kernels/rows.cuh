// Rows of channels: sums over rows that blocks merge in a fixed order.

#ifndef ROWS_CUH
#define ROWS_CUH
namespace rows {

// Sums over rows for V channels: SUMS plain ones, and STATS pairs of a mean and the sum of squared distances from it,
// merged by Chan's formula (Chan, Golub & LeVeque 1979).
template <int SUMS, int STATS, int V> struct Totals {
    static constexpr int SLOTS = SUMS + 2 * STATS + (STATS > 0);
    float count;
    float sum[SUMS ? SUMS : 1][V], mean[STATS ? STATS : 1][V], square[STATS ? STATS : 1][V];

    __device__ __forceinline__ void clear() {
        count = 0.f;
        #pragma unroll
        for (int v = 0; v < V; v++) {
            #pragma unroll
            for (int i = 0; i < SUMS; i++) sum[i][v] = 0.f;
            #pragma unroll
            for (int i = 0; i < STATS; i++) mean[i][v] = square[i][v] = 0.f;
        }
    }

    // One more value of statistics `i`; `share` is 1 / count with this one.
    __device__ __forceinline__ void add(int i, int v, float x, float share) {
        const float d = x - mean[i][v];
        mean[i][v] = fmaf(d, share, mean[i][v]);
        square[i][v] = fmaf(d, x - mean[i][v], square[i][v]);
    }

    __device__ __forceinline__ void merge(const Totals& o) {
        const float all = count + o.count, share = all > 0.f ? o.count / all : 0.f;
        #pragma unroll
        for (int v = 0; v < V; v++) {
            #pragma unroll
            for (int i = 0; i < SUMS; i++) sum[i][v] += o.sum[i][v];
            #pragma unroll
            for (int i = 0; i < STATS; i++) {
                const float d = o.mean[i][v] - mean[i][v];
                mean[i][v] = fmaf(d, share, mean[i][v]);
                square[i][v] += fmaf(d * d, count * share, o.square[i][v]);
            }
        }
        count = all;
    }

    // As SLOTS runs of `stride` floats.
    __device__ __forceinline__ void put(float* to, uint stride) const {
        #pragma unroll
        for (int i = 0; i < SUMS; i++) pack<V>(to + i * stride, sum[i]);
        #pragma unroll
        for (int i = 0; i < STATS; i++) {
            pack<V>(to + (SUMS + 2 * i) * stride, mean[i]);
            pack<V>(to + (SUMS + 2 * i + 1) * stride, square[i]);
        }
        if constexpr (STATS > 0) {
            #pragma unroll
            for (int v = 0; v < V; v++) to[(SUMS + 2 * STATS) * stride + v] = count;
        }
    }

    __device__ __forceinline__ void get(const float* from, uint stride) {
        count = 0.f;
        #pragma unroll
        for (int i = 0; i < SUMS; i++) unpack<V>(from + i * stride, sum[i]);
        #pragma unroll
        for (int i = 0; i < STATS; i++) {
            unpack<V>(from + (SUMS + 2 * i) * stride, mean[i]);
            unpack<V>(from + (SUMS + 2 * i + 1) * stride, square[i]);
        }
        if constexpr (STATS > 0) count = from[(SUMS + 2 * STATS) * stride];
    }

    // Merges what GROUPS threads of LANES lanes each have, in a tree, into group 0. `shared` has room for half of the
    // groups. All threads of the block take part; threads beyond the groups have nothing.
    template <int LANES, int GROUPS> __device__ __forceinline__ void combine(float* shared, int lane, int group) {
        #pragma unroll 1
        for (int n = GROUPS; n > 1; n = (n + 1) / 2) {
            const int half = (n + 1) / 2;
            if (group >= half && group < n) {
                put(shared + ((group - half) * SLOTS * LANES + lane) * V, LANES * V);
            }
            __syncthreads();
            if (group < n - half) {
                Totals other;
                other.get(shared + (group * SLOTS * LANES + lane) * V, LANES * V);
                merge(other);
            }
            __syncthreads();
        }
    }

    // Merges `count` of what blocks left, each SLOTS runs of `stride` floats, into group 0.
    template <int LANES, int GROUPS>
    __device__ __forceinline__ void collect(
        const float* from, uint stride, uint blocks, bool in, float* shared, int lane, int group
    ) {
        clear();
        if (in) {
            for (uint b = group; b < blocks; b += GROUPS) {
                Totals other;
                other.get(from + (size_t)b * SLOTS * stride, stride);
                merge(other);
            }
        }
        combine<LANES, GROUPS>(shared, lane, group);
    }
};

// The sum over the SEGMENT neighbouring lanes that a lane stands in.
template <int SEGMENT> __device__ __forceinline__ float segment_sum(float x) {
    #pragma unroll
    for (int d = SEGMENT / 2; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

}
#endif
