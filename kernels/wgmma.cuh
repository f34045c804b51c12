// Hopper's matrix products of a warpgroup (four warps), which read both operands in shared memory and run beside what the
// warps do next. The emitter adds multiply_warpgroup(c, a, b), of 64 rows, the warpgroup's columns and 16 of depth.
//
// Tiles lie in rows of 128 bytes, eight rows to 1024 bytes, the chunks of 16 bytes of each row mixed by the row's number
// (load.cuh: place). An operand whose depth is its column has one such row for each row of the product. One whose depth is
// its row has panels of 64 rows (or columns) of the product, one behind the other.

// Of a panel of an operand whose depth is its row.
constexpr int PANEL_BYTES = BK * 128;

// Where the matrix units find an operand, from row (or column) `first` on: the address, the distance of panels, that of
// groups of eight rows, each by 16 bytes, and the way the chunks are mixed.
template <bool OUTER> __device__ __forceinline__ ulong descriptor(const void* tile, int first) {
    const uint at = shared_address(tile) + (OUTER ? first / 64 * PANEL_BYTES : first * 128);
    return (ulong)(at >> 4) | (ulong)(PANEL_BYTES / 16) << 16 | (ulong)(1024 / 16) << 32 | 1ull << 62;
}

// What a descriptor grows by for row `m`, a multiple of 64, and the k-th 16 of depth.
template <bool OUTER> __device__ __forceinline__ constexpr ulong step(int m, int k) {
    return OUTER ? (m / 64 * PANEL_BYTES + k * 16 * 128) / 16 : (m * 128 + k * 32) / 16;
}

// Before the first product that reads or adds to registers which something else has written.
__device__ __forceinline__ void warpgroup_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until all but the newest GROUPS groups of products are done.
template <int GROUPS> __device__ __forceinline__ void warpgroup_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(GROUPS) : "memory");
}
__device__ __forceinline__ void publish_to_matrix_units() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
