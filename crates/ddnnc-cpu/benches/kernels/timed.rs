//! A launch on a device, run alone again and again.

use crate::cases::{self, Bench};
use ddnnc_cpu::{CpuDevice, CpuExecutable};
use ddnnc_ir::DType;
use ddnnc_passes::Executable;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// f32 whose reading drives everything else out of the caches.
const EVICTING: usize = 32 << 20;

/// A launch with its memory, which is filled when it first runs.
pub struct Timed {
    run: CpuExecutable,
    launch: usize,
    filled: bool,
    /// What runs before it where its operands come from memory.
    before: Option<Box<Timed>>,
}

impl Timed {
    /// Loads it. Operands of what is compared with a copy of memory come from memory; convolutions and products find
    /// what the caches keep, as in a step, where the launch before has just written it.
    pub fn new(device: &CpuDevice, bench: &Bench) -> Timed {
        let before = bench.moves().then(|| Box::new(Timed::load(device, &cases::small(), None)));
        Timed::load(device, bench, before)
    }

    fn load(device: &CpuDevice, bench: &Bench, before: Option<Box<Timed>>) -> Timed {
        let program = bench.case.program(&bench.over);
        let launch =
            program.launches.iter().position(|l| l.path == "here").expect("the program has the launch");
        let run = device.load_cpu(&program).expect("the device runs every case");
        Timed { run, launch, filled: false, before }
    }

    /// How its convolution is computed; `-` where there is none.
    pub fn method(&self) -> &'static str {
        let methods = self.run.methods().nth(self.launch).expect("the launch has a kernel");
        methods.first().map_or("-", |(_, method)| method.name())
    }

    /// Numbers in [½, 1½): variances are positive, and no sum gets tiny.
    fn fill(&mut self) {
        let inputs: Vec<(String, DType, usize)> = {
            let program = self.run.program();
            let ty = |id| &program.buffer(id).ty;
            program.inputs.iter().map(|(n, &id)| (n.clone(), ty(id).dtype, ty(id).elements())).collect()
        };
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32 + 0.5
        };
        for (name, dtype, elements) in inputs {
            assert_eq!(dtype, DType::F32, "{name}: inputs are real");
            let values: Vec<f32> = (0..elements).map(|_| noise()).collect();
            self.run.write_f32(&name, &values).expect("an input takes its elements");
        }
        // The conversions of the inputs, and the launch for the first time.
        self.run.run().expect("the program runs");
        self.filled = true;
    }

    /// The time of one run.
    pub fn once(&mut self) -> Duration {
        if !self.filled {
            self.fill();
        }
        if let Some(before) = &mut self.before {
            evict();
            // Threads that have waited for that long sleep; in a step the launch before has just ended.
            before.once();
        }
        let start = Instant::now();
        self.run.run_launch(self.launch).expect("the launch runs");
        start.elapsed()
    }
}

/// Reads more than the caches hold: unlike writing, that leaves nothing to be written back later.
fn evict() {
    static MEMORY: OnceLock<Vec<f32>> = OnceLock::new();
    let memory = MEMORY.get_or_init(|| vec![1.0; EVICTING]);
    // One number of each line.
    black_box(memory.iter().step_by(16).sum::<f32>());
}
