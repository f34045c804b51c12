//! Steps that are losses or their gradients.

use crate::ctext::float;
use crate::samples::rows;
use crate::steps::{Library, Phase, Writer, not_a};
use ddnnc_ir::{Op, ValueType};

/// Elements of a term of the mean squared error.
const SLICE: usize = 4096;

/// The phases of a loss.
pub fn phases(w: &mut Writer<'_>, s: usize) -> Result<Vec<Phase>, String> {
    let group = w.group;
    let step = &group.steps[s];
    let ty = w.ty(step, 0);
    match &step.op {
        Op::MeanSquaredError => return Ok(squared_error(w, s, &ty)),
        Op::MeanSquaredErrorGrad => return Ok(squared_error_grad(w, s, &ty)),
        // Losses of rows follow.
        _ => {}
    }
    let (count, len) = rows(ty.dims());
    if len == 0 || count == 0 {
        return Ok(nothing(w, s));
    }
    let team = w.team(len);
    w.needs(Library::Losses);
    let (x, y, result) = (w.operand(step, 0), w.operand(step, 1), w.result(s, 0));
    // The gradients' last operand.
    let dl = if step.operands.len() > 2 { w.operand(step, 2) } else { String::new() };
    let read: usize = (0..step.operands.len()).map(|i| w.ty(step, i).bytes()).sum();
    let head = format!("<{team}, {count}, {len}>");
    let tail = "t, n, (float*)shared);\n";
    let threads = count * team;
    let one = |text: String| vec![Phase::new(format!("        {text}"), threads)];
    let both = |w: &mut Writer<'_>, text: String, terms: String, factor: f64| {
        w.costs(4 * count, 4 * count + 4, 10 * count);
        let sum = format!("        sum_slices({terms}, {result}, 1, {count}, {}, t, n);\n", float(factor));
        vec![Phase::new(format!("        {text}"), threads), Phase::new(sum, 32)]
    };
    let gradient = |w: &mut Writer<'_>, name: &str, temperature: f64| {
        w.costs(read, ty.bytes(), 50 * count * len);
        let numbers = format!("{}, {}", float(1.0 / temperature), float(temperature / count as f64));
        one(format!("{name}{head}({x}, {y}, {dl}, {result}, {numbers}, {tail}"))
    };
    Ok(match &step.op {
        Op::CrossEntropy { smoothing } => {
            w.costs(read, 0, 24 * count * len);
            let terms = w.partials(count);
            let call = format!("cross_entropy_terms{head}({x}, {y}, {terms}, {}, {tail}", float(*smoothing));
            both(w, call, terms, 1.0 / count as f64)
        }
        Op::CrossEntropyGrad { smoothing } => {
            w.costs(read, ty.bytes(), 20 * count * len);
            let eps = float(*smoothing);
            one(format!("cross_entropy_grad_rows{head}({x}, {y}, {dl}, {result}, {eps}, {tail}"))
        }
        Op::KlDivergence { temperature } => {
            w.costs(read, 0, 46 * count * len);
            let terms = w.partials(count);
            let call = format!("kl_terms{head}({x}, {y}, {terms}, {}, {tail}", float(1.0 / temperature));
            both(w, call, terms, temperature * temperature / count as f64)
        }
        Op::KlGradTeacher { temperature } => gradient(w, "kl_grad_teacher_rows", *temperature),
        Op::KlGradStudent { temperature } => gradient(w, "kl_grad_student_rows", *temperature),
        _ => return Err(not_a(step, "loss")),
    })
}

/// A mean over nothing is not a number; a gradient of nothing is nothing.
pub fn nothing(w: &mut Writer<'_>, s: usize) -> Vec<Phase> {
    if w.group.steps[s].results[0].elements() == 0 {
        return Vec::new();
    }
    let result = w.result(s, 0);
    w.costs(0, 4, 0);
    vec![Phase::new(format!("        if (t == 0) *{result} = NAN_F;\n"), 32)]
}

/// Mean (a − b)².
fn squared_error(w: &mut Writer<'_>, s: usize, ty: &ValueType) -> Vec<Phase> {
    let group = w.group;
    let step = &group.steps[s];
    let count = ty.elements();
    if count == 0 {
        return nothing(w, s);
    }
    w.needs(Library::Losses);
    let (a, b, result) = (w.operand(step, 0), w.operand(step, 1), w.result(s, 0));
    let slices = count.div_ceil(SLICE);
    let terms = w.partials(slices);
    w.costs(2 * ty.bytes() + 4 * slices, 4 * slices + 4, 9 * count);
    let text = format!("        squared_error_terms<{count}, {SLICE}>({a}, {b}, {terms}, t, n);\n");
    let sum =
        format!("        sum_slices({terms}, {result}, 1, {slices}, {}, t, n);\n", float(1.0 / count as f64));
    vec![Phase::new(text, 32 * slices), Phase::new(sum, 32)]
}

/// dl · 2(a − b)/n
fn squared_error_grad(w: &mut Writer<'_>, s: usize, ty: &ValueType) -> Vec<Phase> {
    let group = w.group;
    let step = &group.steps[s];
    let count = ty.elements();
    if count == 0 {
        return Vec::new();
    }
    let (a, b, dl, result) = (w.operand(step, 0), w.operand(step, 1), w.operand(step, 2), w.result(s, 0));
    w.costs(2 * ty.bytes() + 4, ty.bytes(), 2 * count);
    let text = format!(
        "        const float factor = *{dl} * {};\n        for (uint e = t; e < {count}; e += n) {result}[e] = factor * \
         ({a}[e] - {b}[e]);\n",
        float(2.0 / count as f64)
    );
    vec![Phase::new(text, count)]
}
