//! A step in the steady state allocates nothing, on any thread.
//!
//! A program of its own: the test harness has a thread that allocates when a test has run for a minute.

use ddnnc_cases::cases;
use ddnnc_cases::fixed_groups::{convolution_groups, losses, overwritten, updates};
use ddnnc_cases::random_group::random_group;
use ddnnc_cpu::CpuDevice;
use ddnnc_ir::{DType, ValueType};
use ddnnc_passes::{Device, Executable, Program};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One program with the launch of every case and of groups in it.
fn everything() -> Program {
    let mut whole = ddnnc_cases::empty();
    let mut all = cases();
    for dtype in [DType::F32, DType::Bf16] {
        all.extend(convolution_groups(dtype).into_iter().map(|(_, case)| case));
    }
    all.extend([updates(), losses(), overwritten()]);
    all.extend((0..20).map(random_group));
    for (i, case) in all.iter().enumerate() {
        let mut launch =
            case.program(&[]).launches.into_iter().find(|l| l.op == case.op).expect("the launch");
        let input =
            |(k, ty): (usize, &ValueType)| ddnnc_cases::add_input(&mut whole, &format!("{i}.x{k}"), ty);
        launch.operands = case.operands.iter().enumerate().map(input).collect();
        launch.results = case.results().iter().map(|ty| ddnnc_cases::add(&mut whole, ty, None)).collect();
        let results = launch.results.clone();
        whole.launches.push(launch);
        for (k, b) in results.into_iter().enumerate() {
            ddnnc_cases::add_output(&mut whole, &format!("{i}.y{k}"), b);
        }
    }
    whole
}

fn step(executable: &mut dyn Executable, feeds: &[(String, Vec<f32>)], out: &mut [(String, Vec<f32>)]) {
    for (name, data) in feeds {
        executable.write_f32(name, data).expect("an input");
    }
    executable.run().expect("runs");
    for (name, data) in out {
        executable.read_f32(name, data).expect("an output");
    }
}

fn main() {
    let program = everything();
    let elements = |b| program.buffer(b).ty.elements();
    let floats = |b| program.buffer(b).ty.dtype == DType::F32;
    let feeds: Vec<(String, Vec<f32>)> = program
        .inputs
        .iter()
        .filter(|(_, b)| floats(**b))
        .map(|(name, b)| (name.clone(), vec![0.5; elements(*b)]))
        .collect();
    let mut out: Vec<(String, Vec<f32>)> =
        program.outputs.iter().map(|(name, b)| (name.clone(), vec![0.0; elements(*b)])).collect();
    for threads in [1, 3] {
        let device = CpuDevice::new(Some(threads)).expect("threads");
        let mut executable = device.load(&program).expect("loads");
        for _ in 0..2 {
            step(executable.as_mut(), &feeds, &mut out);
        }
        for round in 0..20 {
            let before = CALLS.load(Ordering::SeqCst);
            step(executable.as_mut(), &feeds, &mut out);
            let calls = CALLS.load(Ordering::SeqCst) - before;
            assert_eq!(calls, 0, "{threads} threads, step {round}");
        }
    }
    assert!(CALLS.load(Ordering::SeqCst) > 1000, "the counter counts");
    println!("a step allocates nothing: ok");
}
