//! Numbers and index expressions as C text.

use ddnnc_ir::{Layout, ValueType};

/// A number as a float of C that reads back as the nearest float.
pub fn float(x: f64) -> String {
    let x = x as f32;
    if x.is_nan() {
        "NAN_F".to_owned()
    } else if x.is_infinite() {
        if x > 0.0 { "INFINITY_F".to_owned() } else { "(-INFINITY_F)".to_owned() }
    } else {
        // Nine digits tell any two floats apart.
        format!("{x:.9e}f")
    }
}

/// The extents of a value in the order of memory.
pub fn extents(ty: &ValueType) -> Vec<usize> {
    let d = ty.dims();
    match ty.layout {
        Layout::ChannelsLast if d.len() == 4 => vec![d[0], d[2], d[3], d[1]],
        _ => d.to_vec(),
    }
}

/// The place in memory's order of an axis of a value.
pub fn axis(ty: &ValueType, axis: usize) -> usize {
    match ty.layout {
        Layout::ChannelsLast if ty.dims().len() == 4 => [0, 3, 1, 2].get(axis).copied().unwrap_or(axis),
        _ => axis,
    }
}

/// Axes as (extent, step of an entry in memory), outermost first.
pub type Runs = Vec<(usize, usize)>;

/// Joins neighbouring axes that are one run of memory, and drops axes of one entry.
pub fn joined(axes: &[(usize, usize)]) -> Runs {
    let mut runs: Runs = Vec::new();
    for &(extent, step) in axes.iter().filter(|a| a.0 != 1) {
        match runs.last_mut() {
            Some(last) if last.1 == extent * step => *last = (last.0 * extent, step),
            _ => runs.push((extent, step)),
        }
    }
    runs
}

/// Where entry `index` (a C expression) of these runs lies, as a C expression.
pub fn locate(runs: &[(usize, usize)], index: &str) -> String {
    let mut terms = Vec::new();
    let mut inner = 1;
    for (i, &(extent, step)) in runs.iter().enumerate().rev() {
        let mut term = index.to_owned();
        if inner > 1 {
            term = format!("{term} / {inner}");
        }
        if i > 0 {
            term = format!("{term} % {extent}");
        }
        match step {
            0 => {}
            1 => terms.push(term),
            _ => terms.push(format!("{term} * {step}")),
        }
        inner *= extent;
    }
    if terms.is_empty() { "0".to_owned() } else { format!("({})", terms.join(" + ")) }
}
