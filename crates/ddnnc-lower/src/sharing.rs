//! Weights that sub-nets share have one shape: where the sub-nets ask for several, the stage that gives their values
//! different shapes at different depths.

use crate::diags::Diags;
use crate::names::Names;
use crate::naming::Named;
use crate::nets::{Net, Nets};
use crate::plan::{count, depth_span};
use crate::trace::Kind;
use ddnnc_diag::{Code, Diagnostic, Span};
use ddnnc_ir::{NetKind, Shape};
use indexmap::IndexMap;
use rustc_hash::{FxHashMap, FxHashSet};

/// The first step that uses a name, and its net.
type First<'n, 'a> = FxHashMap<&'n str, (&'n Net<'a>, usize)>;

/// Says which weights are shared by sub-nets that need them in different shapes, once for each stage that is the reason.
pub(crate) fn check_shared_shapes<'a>(
    names: &Names<'a>,
    nets: &Nets<'a>,
    named: &IndexMap<&'a str, Named>,
    diags: &mut Diags,
) {
    let mut first: First<'_, 'a> = FxHashMap::default();
    // Full nets come first, so that what they use is compared with them.
    let is_full = |net: &Net<'a>| nets.full.get(net.backbone.name.name.as_str()) == Some(&net.name);
    let mut order: Vec<&Net<'a>> = nets.nets.values().filter(|net| net.kind == NetKind::Subnet).collect();
    order.sort_by_key(|net| !is_full(net));
    for net in order {
        let Some(of_net) = named.get(net.name) else { continue };
        let mut told: FxHashSet<&str> = FxHashSet::default();
        for (i, step_names) in of_net.names.iter().enumerate() {
            let Some(step_names) = step_names else { continue };
            let weight = net.trace.steps[i].kind.weight_field().unwrap_or("weight");
            for (base, field) in [(&step_names.weights, weight), (&step_names.statistics, "running_mean")] {
                if field == "running_mean" && !matches!(net.trace.steps[i].kind, Kind::Norm { .. }) {
                    continue;
                }
                let &mut (other, j) = first.entry(base).or_insert((net, i));
                let (Some(mine), Some(theirs)) = (net.trace.weight_shape(i), other.trace.weight_shape(j))
                else {
                    continue;
                };
                if mine == theirs {
                    continue;
                }
                let reason = reason(other, net, &net.trace.steps[i].path);
                if told.insert(reason.unwrap_or("")) {
                    let d = disagreement(&format!("{base}.{field}"), (other, &theirs), (net, &mine), i);
                    diags.push(explain(d, names, reason, other, net, i));
                }
            }
        }
    }
}

/// The stage after which the values of two sub-nets have different shapes, for the part that a path begins with.
fn reason<'a>(a: &Net<'a>, b: &Net<'a>, path: &str) -> Option<&'a str> {
    let part = path.split('.').next().unwrap_or("");
    let before = b.parts.get_index_of(part)?;
    let differ = |i: usize| Some(end(a, i)?.1 != end(b, i)?.1);
    let at = (0..before).rev().take_while(|&i| differ(i) == Some(true)).last()?;
    b.parts.get_index(at).map(|(name, _)| *name)
}

/// Where the value after a part is made, and its shape.
fn end<'n>(net: &'n Net<'_>, part: usize) -> Option<(Span, &'n Shape)> {
    let value = net.parts.get_index(part)?.1.last()?;
    Some((value.span, &net.trace.steps[value.step].shape))
}

fn disagreement(
    weight: &str,
    (a, of_a): (&Net<'_>, &Shape),
    (b, of_b): (&Net<'_>, &Shape),
    step: usize,
) -> Diagnostic {
    let message = format!(
        "`{weight}` is shared by `{}` and `{}`, and cannot be {of_a} for one and {of_b} for the other",
        a.name, b.name
    );
    Diagnostic::error(Code::ShapeMismatch, message).at(b.trace.steps[step].span, "")
}

/// Adds the values that differ, the sub-net that keeps fewer blocks, and the way out.
fn explain(
    d: Diagnostic,
    names: &Names<'_>,
    reason: Option<&str>,
    a: &Net<'_>,
    b: &Net<'_>,
    step: usize,
) -> Diagnostic {
    let at = |net: &Net<'_>| {
        let stage = reason?;
        let (span, shape) = end(net, net.parts.get_index_of(stage)?)?;
        Some((net.parts.get(stage)?.len(), span, shape.clone()))
    };
    let (Some(stage), Some((kept_a, place_a, shape_a)), Some((kept_b, place_b, shape_b))) =
        (reason, at(a), at(b))
    else {
        return d.hint("sub-nets share weights of one shape; a `network` has weights of its own");
    };
    let of = |net: &Net<'_>, kept, shape| {
        format!("{shape} after {} of `{stage}`, where `{}` leaves it", count(kept, "block"), net.name)
    };
    let mut d = d.with(place_a, of(a, kept_a, shape_a));
    if place_b != place_a {
        d = d.with(place_b, of(b, kept_b, shape_b));
    }
    let (shallow, kept) = if kept_a < kept_b { (a, kept_a) } else { (b, kept_b) };
    if let Some(net) = names.nets.get(shallow.name) {
        let place = net.instance().map_or(shallow.span, depth_span);
        d = d.with(place, format!("`{}` keeps {} of `{stage}`", shallow.name, count(kept, "block")));
    }
    let step = &b.trace.steps[step];
    let own = match step.kind {
        _ if step.head => Some("head"),
        Kind::Norm { .. } => Some("norm"),
        _ => None,
    };
    let same = format!("let `{stage}` give one shape at every depth at which a sub-net leaves it");
    d.hint(match own {
        Some(key) => {
            format!("{same}, or write `share {} {{ {key} = private }}`", b.backbone.name.name)
        }
        None => same,
    })
}
