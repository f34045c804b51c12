//! A launch: checked against the device, then its blocks one after the other, or over several threads of the host.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::{Block, Launch};
use crate::fault::{Fault, FaultKind};
use crate::machine::{LaunchReport, Properties};
use crate::program::Program;

/// Most threads of a block.
const THREADS: u64 = 1024;

/// Most threads of a block in each direction.
const BLOCK: [u32; 3] = [1024, 1024, 64];

/// Most blocks of a grid in each direction.
const GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];

/// A refusal to launch.
pub(crate) fn refused(kernel: &str, message: String) -> Fault {
    Fault {
        kind: FaultKind::Launch,
        kernel: kernel.to_owned(),
        line: 0,
        block: [0; 3],
        thread: [0; 3],
        message,
        places: Vec::new(),
    }
}

/// Why a launch cannot be, where it cannot.
pub(crate) fn check(
    program: &Program,
    properties: &Properties,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    params: u64,
) -> Result<(), String> {
    let product = |d: [u32; 3]| d.iter().map(|n| u64::from(*n)).product::<u64>();
    let within = |d: [u32; 3], most: [u32; 3]| d.iter().zip(most).all(|(n, m)| (1..=m).contains(n));
    if !within(block, BLOCK) || product(block) > THREADS {
        return Err(format!(
            "a block of {block:?} threads; at most {THREADS} are possible, {BLOCK:?} each way"
        ));
    }
    if !within(grid, GRID) {
        return Err(format!("a grid of {grid:?} blocks; at most {GRID:?} are possible"));
    }
    if let Some(most) = program.max_threads
        && product(block) > u64::from(most)
    {
        return Err(format!(
            "a block of {} threads; the kernel declares at most {most} (.maxntid)",
            product(block)
        ));
    }
    if let Some(required) = program.required_threads
        && block != required
    {
        return Err(format!("a block of {block:?} threads; the kernel declares {required:?} (.reqntid)"));
    }
    let shared = u64::from(program.static_shared) + u64::from(dynamic_shared);
    if shared > u64::from(properties.shared_per_block) {
        return Err(format!(
            "{} + {dynamic_shared} bytes of static and dynamic shared memory; a block has at most {}",
            program.static_shared, properties.shared_per_block
        ));
    }
    if params != program.param_bytes {
        return Err(format!("{params} bytes of parameters; the kernel has {}", program.param_bytes));
    }
    Ok(())
}

/// Runs all blocks. Of several faults, the one of the block that comes first in the order is reported, whatever the
/// number of threads.
pub(crate) fn run(launch: &Launch<'_>) -> Result<LaunchReport, Fault> {
    let blocks: u64 = launch.grid.iter().map(|n| u64::from(*n)).product();
    let threads = (launch.options.threads.max(1) as u64).min(blocks) as usize;
    let next = AtomicU64::new(0);
    // The position of the first fault so far: blocks behind it need not run any more.
    let stop = AtomicU64::new(blocks);
    let outcome: Mutex<(LaunchReport, Option<(u64, Fault)>)> = Mutex::default();
    let work = || {
        let mut block = Block::new(launch);
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= stop.load(Ordering::Relaxed) {
                break;
            }
            if let Err(fault) = block.run(launch.options.order.block(i, blocks)) {
                stop.fetch_min(i, Ordering::Relaxed);
                // A poisoned lock means that another worker panicked, which the scope passes on.
                let mut outcome = outcome.lock().unwrap_or_else(|e| e.into_inner());
                if outcome.1.as_ref().is_none_or(|(at, _)| i < *at) {
                    outcome.1 = Some((i, fault));
                }
                break;
            }
        }
        outcome.lock().unwrap_or_else(|e| e.into_inner()).0.add(&block.report);
    };
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    match outcome.into_inner().unwrap_or_else(|e| e.into_inner()) {
        (report, None) => Ok(report),
        (_, Some((_, fault))) => Err(fault),
    }
}
