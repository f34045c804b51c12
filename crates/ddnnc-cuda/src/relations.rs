//! Steps that compare the relations of a batch: distances and angles between its samples (`kernels/relations.cuh`).

use crate::code::Cost;
use crate::losses::nothing;
use crate::steps::{Library, Phase, Writer, not_a};
use ddnnc_ir::Op;

/// Parts of the angles at a sample, which different warps add up.
const SLICES: usize = 8;

/// The most pairs of samples: kernels count them in 32 bits.
const MOST_PAIRS: usize = 1 << 31;

/// Bytes of a number in double.
const DOUBLE: usize = 8;

/// What a kernel counts for an operation in double: cards for computing do half as many of these as of f32 ones.
const FLOPS: usize = 2;

/// Operations of a step, in multiply-adds: entries are added up for pairs, and angles are of triples.
pub fn work(op: &Op, samples: usize, entries: usize) -> usize {
    let of_each = match op {
        Op::RelationDistance | Op::RelationDistanceGrad => entries,
        Op::RelationAngle | Op::RelationAngleGrad => entries.saturating_add(samples.saturating_mul(8)),
        _ => return 0,
    };
    samples.saturating_mul(samples).saturating_mul(of_each)
}

/// The phases of a relation loss or of its gradient.
///
/// # Errors
///
/// More pairs than kernels count.
pub fn phases(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let (ty, other) = (w.ty(step, 0), w.ty(step, 1));
    let (samples, len, len_b) = (ty.dims()[0], ty.dims()[1], other.dims()[1]);
    if samples == 0 || step.results[0].elements() == 0 {
        return Ok(nothing(w, s));
    }
    let pairs = samples.saturating_mul(samples);
    if pairs >= MOST_PAIRS {
        return Err(format!("{samples} samples have more pairs than kernels count"));
    }
    w.needs(Library::Relations);
    let (a, b, result) = (w.operand(step, 0), w.operand(step, 1), w.result(s, 0));
    let table_bytes = DOUBLE * (2 * pairs + 2 * samples);
    let table = format!("Distances<{samples}>");
    let (of_a, of_b) = (w.workspace(&table, table_bytes), w.workspace(&table, table_bytes));
    w.costs(ty.bytes() + other.bytes(), 2 * table_bytes, FLOPS * 3 * pairs / 2 * (len + len_b));
    let tabulate = format!(
        "        tabulate<{samples}, {len}>({a}, {of_a}, t, n);\n        tabulate<{samples}, {len_b}>({b}, {of_b}, t, n);\n"
    );
    let mut phases = vec![Phase::new(tabulate, 32 * pairs)];
    let sum_rows = || {
        let text = format!("        sum_rows({of_a}, t, n);\n        sum_rows({of_b}, t, n);\n");
        Phase::new(text, 32 * samples)
    };
    let cost = |read: usize, written: usize, flops: usize| Cost {
        bytes_read: read as u64,
        bytes_written: written as u64,
        vector_flops: (FLOPS * flops) as u64,
        ..Cost::default()
    };
    let late = |text: String, threads: usize, cost: Cost| Phase { text, threads, apart: Some(cost) };
    // A number in double as text.
    let double = |x: f64| format!("{x:.17e}");
    let triples = pairs.saturating_mul(samples);
    match &step.op {
        Op::RelationDistance => {
            let terms = w.workspace("double", DOUBLE * samples);
            w.costs(2 * DOUBLE * 2 * pairs, 2 * DOUBLE * 2 * samples, FLOPS * 4 * pairs);
            let text = format!("        distance_terms({of_a}, {of_b}, {terms}, t, n);\n");
            let bytes = (2 * table_bytes + DOUBLE * samples, DOUBLE * samples + 4);
            phases.extend([sum_rows(), late(text, 32 * samples, cost(bytes.0, bytes.1, 10 * pairs))]);
            phases.push(total(&terms, &result, samples, &double(1.0 / pairs as f64)));
        }
        Op::RelationAngle => {
            let slices = SLICES.min(samples);
            let count = slices * samples;
            let terms = w.workspace("double", DOUBLE * count);
            let text = format!("        angle_terms<{samples}, {slices}>({of_a}, {of_b}, {terms}, t, n);\n");
            let bytes = (2 * table_bytes + DOUBLE * count, DOUBLE * count + 4);
            phases.push(late(text, 32 * count, cost(bytes.0, bytes.1, 8 * triples)));
            phases.push(total(&terms, &result, count, &double(1.0 / triples as f64)));
        }
        Op::RelationDistanceGrad => {
            let dl = w.operand(step, 2);
            let slopes = w.workspace("double", DOUBLE * pairs);
            let along = w.workspace("double", DOUBLE * samples);
            w.costs(2 * DOUBLE * 2 * pairs, 2 * DOUBLE * 2 * samples, FLOPS * 4 * pairs);
            let text = format!("        distance_slopes({of_a}, {of_b}, {slopes}, {along}, t, n);\n");
            let written = DOUBLE * (pairs + samples);
            phases.extend([sum_rows(), late(text, 32 * samples, cost(2 * table_bytes, written, 12 * pairs))]);
            let factor = double(2.0 / pairs as f64);
            let text = format!(
                "        distance_pull<{samples}, {len}>({a}, {of_a}, {slopes}, {along}, {dl}, {result}, {factor}, t, n);\n"
            );
            let read = ty.bytes() + table_bytes / 2 + written + 4;
            phases.push(late(text, samples * len, cost(read, ty.bytes(), 5 * pairs * len)));
        }
        Op::RelationAngleGrad => {
            let dl = w.operand(step, 2);
            let slopes = w.workspace("double", DOUBLE * pairs);
            let text = format!("        angle_slopes({of_a}, {of_b}, {slopes}, t, n);\n");
            let written = DOUBLE * pairs;
            phases.push(late(text, pairs, cost(2 * table_bytes, written, triples.saturating_mul(54))));
            let factor = double(2.0 / triples as f64);
            let text = format!(
                "        angle_pull<{samples}, {len}>({a}, {slopes}, {dl}, {result}, {factor}, t, n);\n"
            );
            let read = ty.bytes() + written + 4;
            phases.push(late(text, samples * len, cost(read, ty.bytes(), 3 * pairs * len)));
        }
        _ => return Err(not_a(step, "loss of relations")),
    }
    Ok(phases)
}

/// The loss: what one warp adds up of what the phase before has left.
fn total(terms: &str, result: &str, count: usize, factor: &str) -> Phase {
    Phase::new(format!("        sum_terms<{count}>({terms}, {result}, {factor}, t, n);\n"), 32)
}
