//! Kernels as NVRTC compiles them (`ptx/*.cu` beside their `ptx/*.ptx`), in all orders and over several threads.

use ddnnc_emu::{FaultKind, LaunchReport, Options, Order};

use crate::bench::{Bench, ORDERS, strict};

const TILED: &str = include_str!("ptx/tiled.ptx");
const LAST_BLOCK: &str = include_str!("ptx/last_block.ptx");
const GEMM: &str = include_str!("ptx/gemm.ptx");
const WARPGROUPS: &str = include_str!("ptx/warpgroup.ptx");

/// Small whole numbers, so that every product and sum is exact in f32 and bf16.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| ((i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 16) % 9) as f32 - 4.0)
        .collect()
}

fn product(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
    let at = |i: usize| (0..k).map(|l| a[i / n * k + l] * b[l * n + i % n]).sum();
    (0..m * n).map(at).collect()
}

fn tiled(text: &str, options: Options) -> Result<(Vec<f32>, LaunchReport), ddnnc_emu::Fault> {
    let (m, n, k) = (37, 41, 53);
    let mut bench = Bench::new(text, options);
    let (a, b) = (bench.floats(&numbers(m * k, 1)), bench.floats(&numbers(k * n, 2)));
    let c = bench.raw(m * n);
    let mut params: Vec<u8> = [a, b, c].iter().flat_map(|p| p.to_le_bytes()).collect();
    params.extend([m, n, k].iter().flat_map(|p| (*p as u32).to_le_bytes()));
    let report = bench.launch_shaped([3, 3, 1], [16, 16, 1], 0, &params)?;
    Ok((bench.read_floats(c, m * n), report))
}

#[test]
fn a_tiled_product() {
    let (m, n, k) = (37, 41, 53);
    let expected = product(&numbers(m * k, 1), &numbers(k * n, 2), m, n, k);
    for order in ORDERS {
        for threads in [1, 3] {
            let (found, report) = tiled(TILED, Options { threads, ..strict(order) }).unwrap();
            assert_eq!(found, expected, "{order:?}");
            assert_eq!(report.global_written, 4 * 37 * 41);
            assert_eq!(report.global_read, 4 * (3 * m * k + 3 * k * n) as u64);
        }
    }
}

#[test]
fn each_barrier_of_the_tiled_product_is_needed() {
    let parts: Vec<&str> = TILED.split("bar.sync \t0;").collect();
    assert_eq!(parts.len(), 3, "the kernel has two barriers");
    for missing in 0..2 {
        let text = match missing {
            0 => format!("{}{}bar.sync \t0;{}", parts[0], parts[1], parts[2]),
            _ => format!("{}bar.sync \t0;{}{}", parts[0], parts[1], parts[2]),
        };
        for order in ORDERS {
            let fault = tiled(&text, strict(order)).unwrap_err();
            assert!(matches!(fault.kind, FaultKind::Race | FaultKind::Uninitialised), "{fault}");
        }
    }
}

fn last_block(text: &str, options: Options, blocks: u32, n: usize) -> Result<(f32, u32), ddnnc_emu::Fault> {
    let mut bench = Bench::new(text, options);
    let x = bench.floats(&numbers(n, 3));
    let (partial, out, counter) = (bench.raw(blocks as usize), bench.raw(1), bench.words(&[0]));
    let mut params: Vec<u8> = [x, partial, out, counter].iter().flat_map(|p| p.to_le_bytes()).collect();
    params.extend((n as u32).to_le_bytes());
    bench.launch_shaped([blocks, 1, 1], [256, 1, 1], 0, &params)?;
    Ok((bench.read_floats(out, 1)[0], bench.read(counter, 1)[0]))
}

#[test]
fn the_last_block_sums_what_all_have_written() {
    let expected: f32 = numbers(30_000, 3).iter().sum();
    for order in ORDERS {
        for threads in [1, 2, 4] {
            for blocks in [1, 7, 64] {
                let found = last_block(LAST_BLOCK, Options { threads, ..strict(order) }, blocks, 30_000);
                assert_eq!(found.unwrap(), (expected, 0), "{order:?}, {threads} threads, {blocks} blocks");
            }
        }
    }
}

#[test]
fn a_first_block_that_sums_finds_nothing_written() {
    let wrong = LAST_BLOCK.replace("%p15, %r24, %r65;", "%p15, %r24, 0;");
    assert_ne!(wrong, LAST_BLOCK, "the rank is compared with that of the last block");
    for order in ORDERS {
        let fault = last_block(&wrong, strict(order), 7, 30_000).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Uninitialised, "{fault}");
    }
}

fn gemm(text: &str, order: Order) -> Result<(Vec<f32>, LaunchReport), ddnnc_emu::Fault> {
    let (m, n, k) = (64, 96, 80);
    let bf16 = |v: Vec<f32>| -> Vec<u32> {
        v.chunks_exact(2).map(|p| p[0].to_bits() >> 16 | p[1].to_bits() & 0xffff_0000).collect()
    };
    let mut bench = Bench::new(text, strict(order));
    let (a, b) = (bench.words(&bf16(numbers(m * k, 4))), bench.words(&bf16(numbers(k * n, 5))));
    let c = bench.raw(m * n);
    let mut params: Vec<u8> = [a, b, c].iter().flat_map(|p| p.to_le_bytes()).collect();
    params.extend([n, k].iter().flat_map(|p| (*p as u32).to_le_bytes()));
    let report = bench.launch_shaped([3, 2, 1], [128, 1, 1], 0, &params)?;
    Ok((bench.read_floats(c, m * n), report))
}

#[test]
fn a_pipelined_product_on_matrix_units() {
    let (m, n, k) = (64, 96, 80);
    let expected = product(&numbers(m * k, 4), &numbers(k * n, 5), m, n, k);
    for order in ORDERS {
        let (found, report) = gemm(GEMM, order).unwrap();
        assert_eq!(found, expected, "{order:?}");
        assert_eq!(report.matrix_instructions, (m / 16 * (n / 8) * (k / 16)) as u64);
    }
}

#[test]
fn each_wait_of_the_pipeline_is_needed() {
    let wrong = GEMM.replace("cp.async.wait_group 1;", "cp.async.wait_group 2;");
    assert_ne!(wrong, GEMM);
    for order in ORDERS {
        let fault = gemm(&wrong, order).unwrap_err();
        assert_eq!(fault.kind, FaultKind::AsyncCopy, "{fault}");
    }
    let wrong = GEMM.replace("cp.async.commit_group;", "");
    for order in ORDERS {
        assert_eq!(gemm(&wrong, order).unwrap_err().kind, FaultKind::AsyncCopy);
    }
}

/// One block of 128 × 64, six steps of 64.
fn warpgroups(text: &str, order: Order) -> Result<(Vec<f32>, LaunchReport), ddnnc_emu::Fault> {
    let (m, n, k) = (128, 64, 384);
    let bf16 = |v: Vec<f32>| -> Vec<u32> {
        v.chunks_exact(2).map(|p| p[0].to_bits() >> 16 | p[1].to_bits() & 0xffff_0000).collect()
    };
    let mut bench = Bench::new(text, strict(order));
    let (a, b) = (bench.words(&bf16(numbers(m * k, 6))), bench.words(&bf16(numbers(k * n, 7))));
    let c = bench.raw(m * n);
    let mut params: Vec<u8> = [a, b, c].iter().flat_map(|p| p.to_le_bytes()).collect();
    params.extend([n, k].iter().flat_map(|p| (*p as u32).to_le_bytes()));
    let report = bench.launch_shaped([1, 1, 1], [256, 1, 1], 4 * 24576, &params)?;
    Ok((bench.read_floats(c, m * n), report))
}

#[test]
fn a_pipelined_product_on_warpgroups() {
    let (m, n, k) = (128, 64, 384);
    let expected = product(&numbers(m * k, 6), &numbers(k * n, 7), m, n, k);
    for order in ORDERS {
        let (found, report) =
            warpgroups(WARPGROUPS, order).unwrap_or_else(|fault| panic!("{order:?}: {fault}"));
        assert_eq!(found, expected, "{order:?}");
        assert_eq!(report.matrix_instructions, (8 * (k / 16)) as u64);
    }
}

#[test]
fn each_part_of_the_protocol_of_warpgroups_is_needed() {
    use FaultKind::{AsyncCopy, AsyncProduct, ProxyFence, Race, Uninitialised};
    for (part, instead, kinds) in [
        ("cp.async.wait_group 1;", "cp.async.wait_group 2;", &[AsyncCopy][..]),
        ("cp.async.commit_group;", "", &[AsyncCopy]),
        ("fence.proxy.async.shared::cta;", "", &[ProxyFence]),
        ("bar.sync \t0;", "", &[Race, Uninitialised, AsyncCopy]),
        ("wgmma.fence.sync.aligned;", "", &[AsyncProduct]),
        ("wgmma.commit_group.sync.aligned;", "", &[AsyncProduct, Race]),
        // A stage is filled again while it may be read.
        ("wgmma.wait_group.sync.aligned 1;", "wgmma.wait_group.sync.aligned 2;", &[AsyncProduct, Race]),
        // Results are looked at too early.
        ("wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;", &[AsyncProduct]),
    ] {
        let wrong = WARPGROUPS.replace(part, instead);
        assert_ne!(wrong, WARPGROUPS, "{part}");
        for order in ORDERS {
            match warpgroups(&wrong, order) {
                Ok(_) => panic!("{order:?}: no fault without {part}"),
                Err(fault) => assert!(kinds.contains(&fault.kind), "{part}, {order:?}: {fault}"),
            }
        }
    }
}
