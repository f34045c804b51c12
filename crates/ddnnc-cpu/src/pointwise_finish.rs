//! The end of a launch that gathered sums: partial sums added in the order of the tasks, and what follows on channel
//! vectors.

use crate::memory::{Memory, Plan, Slot};
use crate::pointwise_compile::{Body, Compiled};
use crate::pointwise_inst::Gather;
use crate::pointwise_sums as sums;
use crate::pointwise_tables::inverse;
use crate::simd::Level;
use ddnnc_ir::{BinaryKind, DType, Local, Op, ReduceKind};

/// A reduction over the rows.
#[derive(Clone, Debug)]
struct Reduction {
    /// The program that gathered it; tasks carry its number.
    program: usize,
    gather: Gather,
    /// Where its partial sums begin in a task's.
    partial: usize,
    channels: usize,
    /// Rows of the whole value.
    rows: usize,
    /// What the first sum is multiplied by.
    factor: f64,
    /// Variance and eps, for a gain's gradient.
    var: Option<(Slot, f64)>,
    outs: [Option<Slot>; 2],
}

/// An operator on channel vectors.
#[derive(Clone, Debug)]
struct VectorStep {
    kind: VectorKind,
    sources: [Slot; 2],
    out: Slot,
}

#[derive(Clone, Copy, Debug)]
enum VectorKind {
    Binary(BinaryKind),
    Scale(f32),
    Ema { keep: f32, take: f32 },
    Copy,
}

/// What runs when all tasks have.
#[derive(Clone, Debug, Default)]
pub struct Finish {
    reductions: Vec<Reduction>,
    vectors: Vec<VectorStep>,
    /// Where each value of the steps lies, as far as it is made here.
    places: Vec<(Local, Slot)>,
}

impl Finish {
    /// Where a value lies: at its result, or in the launch's own memory.
    fn place(
        &mut self,
        body: &Body<'_>,
        results: &[(Local, Slot)],
        local: Local,
        plan: &mut Plan,
    ) -> Result<Slot, String> {
        if let Local::Operand(i) = local {
            return Ok(body.slots[i as usize]);
        }
        if let Some(found) = self.places.iter().find(|p| p.0 == local) {
            return Ok(found.1);
        }
        let slot = match results.iter().find(|r| r.0 == local) {
            Some(result) => result.1,
            None => plan.value(body.ty(local)?),
        };
        self.places.push((local, slot));
        Ok(slot)
    }

    /// Adds the reductions of a program, by number.
    pub fn reduce(
        &mut self,
        body: &Body<'_>,
        results: &[(Local, Slot)],
        program: usize,
        compiled: &Compiled,
        plan: &mut Plan,
    ) -> Result<(), String> {
        for &(index, accumulator) in &compiled.reductions {
            let step = &body.steps[index];
            let acc = compiled.program.accumulators[accumulator];
            let domain = compiled.program.domain;
            let factor = match step.op {
                Op::Reduce { kind: ReduceKind::Mean, .. } => 1.0 / domain.rows as f64,
                _ => 1.0,
            };
            let var = match (&step.op, step.operands.get(2)) {
                (Op::NormalizeGradReduce { eps }, Some(&Local::Operand(i))) => {
                    Some((body.slots[i as usize], *eps))
                }
                (Op::NormalizeGradReduce { .. }, _) => return Err("a variance of the same group".to_owned()),
                _ => None,
            };
            let mut outs = [None; 2];
            for (r, out) in outs.iter_mut().enumerate().take(step.results.len()) {
                let local = Local::Step { step: index as u32, result: r as u32 };
                *out = Some(self.place(body, results, local, plan)?);
            }
            self.reductions.push(Reduction {
                program,
                gather: acc.gather,
                partial: acc.partial,
                channels: domain.channels,
                rows: domain.rows,
                factor,
                var,
                outs,
            });
        }
        Ok(())
    }

    /// Adds a step on channel vectors; what it takes has been added before.
    pub fn vector(
        &mut self,
        body: &Body<'_>,
        results: &[(Local, Slot)],
        index: usize,
        plan: &mut Plan,
    ) -> Result<(), String> {
        let step = &body.steps[index];
        let kind = match step.op {
            Op::Binary { kind } => VectorKind::Binary(kind),
            Op::Scale { factor } => VectorKind::Scale(factor as f32),
            Op::Ema { momentum, scale } => {
                VectorKind::Ema { keep: (1.0 - momentum) as f32, take: (momentum * scale) as f32 }
            }
            Op::StopGradient => VectorKind::Copy,
            ref op => return Err(format!("{} of a sum of the same group", op.mnemonic())),
        };
        let take = |finish: &mut Finish, i: usize, plan: &mut Plan| {
            let local = step.operands.get(i).copied().ok_or_else(|| "an operand is missing".to_owned())?;
            finish.place(body, results, local, plan)
        };
        let first = take(self, 0, plan)?;
        let second = if step.operands.len() > 1 { take(self, 1, plan)? } else { first };
        let local = Local::Step { step: index as u32, result: 0 };
        let out = self.place(body, results, local, plan)?;
        if [first, second, out].iter().any(|s| s.dtype != DType::F32) {
            return Err("a sum as bf16".to_owned());
        }
        self.vectors.push(VectorStep { kind, sources: [first, second], out });
        Ok(())
    }

    /// Results that are the same value as another result.
    pub fn copies(&mut self, results: &[(Local, Slot)]) {
        for (i, &(local, slot)) in results.iter().enumerate() {
            if let Some(first) = results[..i].iter().find(|r| r.0 == local)
                && self.places.iter().any(|p| p.0 == local)
            {
                self.vectors.push(VectorStep { kind: VectorKind::Copy, sources: [first.1; 2], out: slot });
            }
        }
    }

    /// Adds the tasks' partial sums and runs the vector steps; `stride` numbers belong to each task.
    pub fn run(&self, level: Level, memory: Memory<'_>, partials: &mut [f64], stride: usize) {
        for reduction in &self.reductions {
            reduction.run(level, memory, partials, stride);
        }
        for step in &self.vectors {
            step.run(memory);
        }
    }
}

/// The elements of a vector that is written now.
fn write(memory: Memory<'_>, slot: Option<Slot>) -> &mut [f32] {
    match slot {
        // SAFETY: results and the launch's own values lie apart from each other, and the tasks have run.
        Some(slot) => unsafe { memory.view_mut(slot) },
        None => &mut [],
    }
}

impl Reduction {
    fn run(&self, level: Level, memory: Memory<'_>, partials: &mut [f64], stride: usize) {
        let channels = self.channels;
        let mut tasks = partials
            .chunks_exact_mut(stride.max(1))
            .filter(|t| t[0] == self.program as f64 && t[1] > 0.0)
            .map(|t| {
                let (header, sums) = t.split_at_mut(self.partial);
                (header[1], &mut sums[..2 * channels])
            });
        let (first, second) = (write(memory, self.outs[0]), write(memory, self.outs[1]));
        let Some((mut rows, total)) = tasks.next() else {
            let empty = if self.gather == Gather::Moments { f32::NAN } else { (0.0 * self.factor) as f32 };
            first.fill(empty);
            second.fill(empty);
            return;
        };
        let (one, two) = total.split_at_mut(channels);
        for (count, task) in tasks {
            let (a, b) = task.split_at(channels);
            match self.gather {
                Gather::Moments => {
                    sums::merge_moments(level, [rows, count], [&mut *one, &mut *two], [a, b]);
                }
                Gather::Products => {
                    sums::add(level, one, a);
                    sums::add(level, two, b);
                }
                // Of one sum the second half of its place is not written.
                Gather::Sum => sums::add(level, one, a),
            }
            rows += count;
        }
        match self.gather {
            Gather::Moments => {
                first.iter_mut().zip(&*one).for_each(|(out, &x)| *out = x as f32);
                second.iter_mut().zip(&*two).for_each(|(out, &x)| *out = (x / self.rows as f64) as f32);
            }
            Gather::Products => {
                if let Some((var, eps)) = self.var {
                    // SAFETY: the variance is an operand, apart from all results of this launch.
                    let var: &[f32] = unsafe { memory.view(var) };
                    for (c, out) in first.iter_mut().enumerate() {
                        *out = (one[c] * inverse(var[c], eps)) as f32;
                    }
                }
                second.iter_mut().zip(&*two).for_each(|(out, &x)| *out = x as f32);
            }
            Gather::Sum => first.iter_mut().zip(&*one).for_each(|(out, &x)| *out = (x * self.factor) as f32),
        }
    }
}

impl VectorStep {
    fn run(&self, memory: Memory<'_>) {
        let n = self.out.elements;
        let out = memory.pointer::<f32>(self.out, 0, n);
        let [a, b] = self.sources.map(|s| memory.pointer::<f32>(s, 0, n));
        for i in 0..n {
            // SAFETY: all three hold n elements; a result may lie on an operand, whose element is read before.
            unsafe {
                let (a, b) = (*a.add(i), *b.add(i));
                *out.add(i) = match self.kind {
                    VectorKind::Binary(BinaryKind::Add) => a + b,
                    VectorKind::Binary(BinaryKind::Sub) => a - b,
                    VectorKind::Binary(BinaryKind::Mul) => a * b,
                    VectorKind::Scale(factor) => factor * a,
                    VectorKind::Ema { keep, take } => keep * a + take * b,
                    VectorKind::Copy => a,
                };
            }
        }
    }
}
