//! The input gradient of a convolution of channels-last rows.
//!
//! For each phase of the stride it is a convolution of dy, with stride 1, under the taps of that phase; a task computes
//! all phases of some rows of dx, so that whole rows can be emitted.

use crate::convolution::{Emit, Geometry, Part, Weights};
use crate::correlation;
use crate::depthwise_rows;
use crate::device::Machine;
use crate::launch::Need;
use crate::plan::Plan;

/// dx of y = conv(x, w): the parts' `x` are rows of dy, `out` rows of dx.
///
/// Needs the workspace that [`grad_input_need`] says.
pub fn grad_input(
    machine: &mut Machine<'_>,
    g: &Geometry,
    w: Weights<'_>,
    parts: &mut [Part<'_>],
    emit: Option<&dyn Emit>,
) {
    if g.is_depthwise() {
        return depthwise_rows::grad_input(machine, g, w, parts, emit);
    }
    correlation::run(machine, g, true, w, parts, emit);
}

/// Workspace of [`grad_input`] for parts of so many images.
pub fn grad_input_need(g: &Geometry, images: &[usize]) -> Need {
    if g.is_depthwise() {
        return depthwise_rows::grad_input_need(g, images);
    }
    correlation::need(g, true, images)
}

/// Tasks of [`grad_input`], each of which emits its rows as one run.
pub fn grad_input_tasks(g: &Geometry, images: &[usize]) -> usize {
    if g.is_depthwise() {
        return depthwise_rows::grad_input_tasks(g, images);
    }
    images.iter().map(|&n| Plan::new(g, true, n).tasks()).sum()
}
