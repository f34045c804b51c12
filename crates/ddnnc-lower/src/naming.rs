//! Public names of weights: which sub-nets share a norm, and what the private ones are called.
//!
//! Two sub-nets share a norm where they see the same value at it. Values are numbered over all nets: two steps have one
//! number where they run the same operator, under the same weights, on operands of the same numbers. Whether a norm's
//! weights are the same follows from its operand's number, so numbers come first and names after.

use crate::nets::{Net, Nets};
use crate::trace::Kind;
use indexmap::IndexMap;
use rustc_hash::FxHashMap;

/// `norm = …`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum NormShare {
    /// Private from where the values part.
    #[default]
    Private,
    /// Private to each sub-net.
    PrivateEverywhere,
    /// One for all.
    Shared,
    /// Gains shared, statistics as in `Private`.
    Recalibrated,
}

/// What sub-nets of one backbone share besides the weights of convolutions and linear operators.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    /// Norms.
    pub(crate) norm: NormShare,
    /// One head for all.
    pub(crate) shared_head: bool,
}

/// The names of one step's weights, without `.weight`.
#[derive(Clone, Debug)]
pub(crate) struct WeightNames {
    /// Of gain and bias, or weight and bias.
    pub(crate) weights: String,
    /// Of running statistics.
    pub(crate) statistics: String,
    /// The statistics are estimated anew after training.
    pub(crate) recalibrate: bool,
}

/// Numbers and names for the steps of one net.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// The number of each step's value.
    pub(crate) numbers: Vec<u32>,
    /// Names, for steps with weights that the logits need.
    pub(crate) names: Vec<Option<WeightNames>>,
}

type Key = (String, Vec<u32>);
/// (backbone, path, number of the operand) to the sub-nets that see it.
type Groups<'a> = FxHashMap<(&'a str, &'a str, u32), Vec<&'a str>>;

/// Names all weights of all nets.
pub(crate) fn name_weights<'a>(
    nets: &'a Nets<'a>,
    shares: &IndexMap<&str, Share>,
) -> IndexMap<&'a str, Named> {
    let share = |net: &Net<'_>| shares.get(net.backbone.name.name.as_str()).copied().unwrap_or_default();
    let mut known: FxHashMap<Key, u32> = FxHashMap::default();
    let mut named: IndexMap<&'a str, Named> = IndexMap::new();
    let mut groups: Groups<'a> = FxHashMap::default();
    for net in nets.nets.values() {
        let mut numbers: Vec<u32> = Vec::with_capacity(net.trace.steps.len());
        for (i, step) in net.trace.steps.iter().enumerate() {
            let operands: Vec<u32> = step.operands.iter().map(|&o| numbers[o]).collect();
            let mut what = format!("{:?} {:?}", step.kind, step.shape);
            if step.kind.has_weights() || matches!(step.kind, Kind::Dropout { .. }) {
                let owner = private_owner(net, i, share(net)).unwrap_or("");
                what = format!("{what} {}.{} {owner}", net.prefix, step.path);
            }
            let next = known.len() as u32;
            numbers.push(*known.entry((what, operands)).or_insert(next));
            if net.kind == ddnnc_ir::NetKind::Subnet && net.live[i] && matches!(step.kind, Kind::Norm { .. })
            {
                let operand = numbers[step.operands[0]];
                groups.entry((net.prefix, &step.path, operand)).or_default().push(net.name);
            }
        }
        named.insert(net.name, Named { numbers, names: Vec::new() });
    }
    for net in nets.nets.values() {
        let Some(of_net) = named.get_mut(net.name) else { continue };
        let mut names = Vec::with_capacity(net.trace.steps.len());
        for (i, step) in net.trace.steps.iter().enumerate() {
            let wanted = net.live[i] && step.kind.has_weights();
            names.push(wanted.then(|| {
                let operand = step.operands.first().map_or(0, |&o| of_net.numbers[o]);
                let group = groups.get(&(net.prefix, &*step.path, operand));
                step_names(net, i, share(net), group, nets)
            }));
        }
        of_net.names = names;
    }
    named
}

/// The sub-net that a step belongs to: an exit's steps before its own are its parent's. Networks (whose names are what
/// their weights' names start with) and exits' own steps share nothing.
fn owner<'n>(net: &Net<'n>, step: usize) -> Option<&'n str> {
    match net.kind {
        ddnnc_ir::NetKind::Subnet => Some(net.name),
        ddnnc_ir::NetKind::Exit if step < net.own_from => net.parent.filter(|parent| *parent != net.prefix),
        ddnnc_ir::NetKind::Exit | ddnnc_ir::NetKind::Network => None,
    }
}

/// The sub-net whose private weights a step has, whatever value it sees.
fn private_owner<'n>(net: &Net<'n>, step: usize, share: Share) -> Option<&'n str> {
    let of = &net.trace.steps[step];
    let head = of.head && !share.shared_head && of.kind.has_weights();
    let norm = matches!(of.kind, Kind::Norm { .. }) && share.norm == NormShare::PrivateEverywhere;
    if head || norm { owner(net, step) } else { None }
}

fn step_names(
    net: &Net<'_>,
    i: usize,
    share: Share,
    group: Option<&Vec<&str>>,
    nets: &Nets<'_>,
) -> WeightNames {
    let step = &net.trace.steps[i];
    let base = format!("{}.{}", net.prefix, step.path);
    let full = nets.full.get(net.backbone.name.name.as_str()).copied();
    let suffix = |of: &str| if full == Some(of) { String::new() } else { format!("@{of}") };
    let is_norm = matches!(step.kind, Kind::Norm { .. });
    let mut names = WeightNames { weights: base.clone(), statistics: base, recalibrate: false };
    if owner(net, i).is_none() {
        return names;
    }
    names.recalibrate = is_norm && share.norm == NormShare::Recalibrated;
    if let Some(of) = private_owner(net, i, share) {
        names.weights += &suffix(of);
        names.statistics += &suffix(of);
    } else if is_norm && matches!(share.norm, NormShare::Private | NormShare::Recalibrated) {
        let group = group.map_or(&[][..], |g| g.as_slice());
        let end = match full {
            Some(full) if group.contains(&full) => String::new(),
            _ => deepest(group, nets).map(suffix).unwrap_or_default(),
        };
        names.statistics += &end;
        if share.norm == NormShare::Private {
            names.weights += &end;
        }
    }
    names
}

/// The deepest of some sub-nets; the first declared where several are equally deep.
fn deepest<'n>(group: &[&'n str], nets: &Nets<'_>) -> Option<&'n str> {
    let depth = |name: &str| nets.nets.get(name).map_or(0, |n| n.stages.iter().map(|s| s.1).sum::<usize>());
    let mut best: Option<&'n str> = None;
    for name in group {
        if best.is_none_or(|b| depth(name) > depth(b)) {
            best = Some(name);
        }
    }
    best
}
