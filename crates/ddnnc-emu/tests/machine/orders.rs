//! Orders of warps and blocks: a correct kernel gives the same in all of them; a wrong one shows.

use ddnnc_emu::{Options, Order};

use crate::bench::{Bench, ORDERS, kernel, strict};

/// Every warp of every block adds to a log which turn it took.
fn log_kernel() -> String {
    kernel(
        2,
        "",
        "ld.param.u64 %rd1, [p0];
         ld.param.u64 %rd2, [p1];
         mov.u32 %r1, %tid.x;
         and.b32 %r2, %r1, 31;
         setp.ne.s32 %p1, %r2, 0;
         @%p1 ret;
         atom.global.add.u32 %r3, [%rd1], 1;
         mul.wide.u32 %rd3, %r3, 4;
         add.s64 %rd4, %rd2, %rd3;
         mov.u32 %r4, %ctaid.x;
         mov.u32 %r5, %warpid;
         mad.lo.s32 %r6, %r4, 10, %r5;
         st.global.u32 [%rd4], %r6;",
    )
}

fn log(order: Order, threads: usize) -> Vec<u32> {
    let mut bench = Bench::new(&log_kernel(), Options { threads, ..strict(order) });
    let (counter, log) = (bench.words(&[0]), bench.words(&[0; 16]));
    bench.launch(4, 128, &[counter, log]).unwrap();
    assert_eq!(bench.read(counter, 1), [16]);
    bench.read(log, 16)
}

#[test]
fn blocks_and_warps_take_turns_as_asked() {
    let forward: Vec<u32> = (0..4).flat_map(|b| (0..4).map(move |w| 10 * b + w)).collect();
    let reverse: Vec<u32> = forward.iter().rev().copied().collect();
    assert_eq!(log(Order::Forward, 1), forward);
    assert_eq!(log(Order::Reverse, 1), reverse);
    let random: Vec<Vec<u32>> = (0..4).map(|seed| log(Order::Random(seed), 1)).collect();
    for (seed, found) in random.iter().enumerate() {
        assert_eq!(&log(Order::Random(seed as u64), 1), found, "a seed gives one order");
        let mut sorted = found.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, forward);
        assert!(*found != forward && *found != reverse);
    }
    assert!(random.iter().any(|r| *r != random[0]), "seeds give different orders");
    let mut spread = log(Order::Forward, 4);
    spread.sort_unstable();
    assert_eq!(spread, forward);
}

#[test]
fn a_result_that_depends_on_the_order_of_blocks_shows() {
    // The last block to write wins.
    let text = kernel(
        1,
        "",
        "ld.param.u64 %rd1, [p0];
         mov.u32 %r1, %ctaid.x;
         st.global.u32 [%rd1], %r1;",
    );
    let results: Vec<u32> = ORDERS
        .into_iter()
        .map(|order| {
            let mut bench = Bench::new(&text, strict(order));
            let out = bench.words(&[0]);
            bench.launch(8, 32, &[out]).unwrap();
            bench.read(out, 1)[0]
        })
        .collect();
    assert_eq!(results[..2], [7, 0]);
}

#[test]
fn warps_that_wait_for_each_other_through_memory_get_their_turns() {
    // Warp 0 spins until warp 1 has written, and warp 1 until warp 2 has.
    let text = kernel(
        1,
        "",
        "ld.param.u64 %rd1, [p0];
         mov.u32 %r1, %warpid;
         mul.wide.u32 %rd2, %r1, 4;
         add.s64 %rd3, %rd1, %rd2;
         setp.eq.s32 %p1, %r1, 2;
         @%p1 bra GO;
         SPIN:
         ld.volatile.global.u32 %r2, [%rd3+4];
         setp.eq.s32 %p2, %r2, 0;
         @%p2 bra SPIN;
         GO:
         st.volatile.global.u32 [%rd3], 1;",
    );
    for order in ORDERS {
        let mut bench = Bench::new(&text, Options { fuel: 1 << 24, ..strict(order) });
        let out = bench.words(&[0; 3]);
        bench.launch(1, 96, &[out]).unwrap();
        assert_eq!(bench.read(out, 3), [1; 3]);
    }
}

#[test]
fn the_first_faulty_block_is_reported_whatever_the_threads() {
    // Block 20 takes long to come to its trap, those behind it do not.
    let text = kernel(
        0,
        "",
        "mov.u32 %r1, %ctaid.x;
         setp.lt.s32 %p1, %r1, 20;
         @%p1 ret;
         setp.gt.s32 %p1, %r1, 20;
         @%p1 trap;
         mov.u32 %r2, 0;
         LOOP:
         add.s32 %r2, %r2, 1;
         setp.lt.s32 %p1, %r2, 200000;
         @%p1 bra LOOP;
         trap;",
    );
    for threads in [1, 2, 5] {
        let mut bench = Bench::new(&text, Options { threads, ..strict(Order::Forward) });
        assert_eq!(bench.launch(64, 32, &[]).unwrap_err().block, [20, 0, 0]);
    }
}
