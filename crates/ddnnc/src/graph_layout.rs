//! Where the parts of a model's picture go: lanes for nets, columns for places along the network.

use crate::graph_launches::PartLaunch;
use crate::graph_parts::Parts;
use indexmap::IndexMap;
use std::collections::BTreeSet;

/// Parts in the same place of the nets that have them, drawn as one box: a part, or a run of equal ones.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its column.
    pub column: usize,
    /// Its parts, first to last.
    pub parts: Vec<usize>,
    /// The first and last lane that it covers.
    pub lanes: (usize, usize),
}

/// Lanes and columns of a picture.
#[derive(Debug)]
pub struct Layout {
    /// The lane of each net.
    pub lane: Vec<usize>,
    /// The boxes.
    pub nodes: Vec<Node>,
    /// The box that each part is in.
    pub node_of: Vec<usize>,
    /// How many columns there are.
    pub columns: usize,
}

/// A run of fewer equal columns stays as it is.
const FOLDED: usize = 2;

impl Layout {
    /// Places parts. `held` are parts that something else than the flow is tied to (pairings, logits): a run of equal
    /// blocks may end with one, and holds none inside. `launches` are those of each part: where they differ, blocks are
    /// not equal.
    pub fn new(parts: &Parts, nets: usize, held: &BTreeSet<usize>, launches: &[Vec<PartLaunch>]) -> Layout {
        let lane = lanes(parts, nets);
        let column = columns(parts);
        let count = column.iter().max().map_or(0, |c| c + 1);
        let mut by_column: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (part, &c) in column.iter().enumerate() {
            by_column[c].push(part);
        }
        for column in &mut by_column {
            column.sort_by_key(|&part| parts.parts[part].nets.iter().map(|&n| lane[n]).min());
        }
        let mut layout = Layout { lane, nodes: Vec::new(), node_of: vec![0; parts.parts.len()], columns: 0 };
        let mut start = 0;
        while start < count {
            let mut end = start + 1;
            while end < count && continues(parts, held, launches, &by_column[end - 1], &by_column[end]) {
                end += 1;
            }
            if end - start < FOLDED {
                end = start + 1;
            }
            layout.place(parts, &by_column[start..end]);
            start = end;
        }
        layout
    }

    /// Makes one column of columns that are alike.
    fn place(&mut self, parts: &Parts, run: &[Vec<usize>]) {
        let lanes_of = |part: usize| -> BTreeSet<usize> {
            parts.parts[part].nets.iter().map(|&net| self.lane[net]).collect()
        };
        let taken: Vec<(usize, BTreeSet<usize>)> =
            run[0].iter().map(|&part| (part, lanes_of(part))).collect();
        let mut nodes = Vec::new();
        for (row, (part, lanes)) in taken.iter().enumerate() {
            let first = lanes.first().copied().unwrap_or(0);
            let mut last = first;
            for lane in first..=lanes.last().copied().unwrap_or(first) {
                // A lane between that this box does not serve may be covered only where it is empty here.
                if taken.iter().any(|(other, theirs)| other != part && theirs.contains(&lane)) {
                    break;
                }
                last = if lanes.contains(&lane) { lane } else { last };
            }
            let members: Vec<usize> = run.iter().map(|column| column[row]).collect();
            nodes.push(Node { column: self.columns, parts: members, lanes: (first, last) });
        }
        for node in nodes {
            for &part in &node.parts {
                self.node_of[part] = self.nodes.len();
            }
            self.nodes.push(node);
        }
        self.columns += 1;
    }
}

/// Nets that compute parts together lie side by side, those with the most in common first.
fn lanes(parts: &Parts, nets: usize) -> Vec<usize> {
    let common = |a: usize, b: usize| {
        parts.parts.iter().filter(|p| p.nets.contains(&a) && p.nets.contains(&b)).count()
    };
    let mut order: Vec<usize> = Vec::new();
    for net in 0..nets {
        if order.contains(&net) {
            continue;
        }
        order.push(net);
        let mut near: Vec<usize> =
            (net + 1..nets).filter(|&other| !order.contains(&other) && common(net, other) > 0).collect();
        near.sort_by_key(|&other| std::cmp::Reverse(common(net, other)));
        order.extend(near);
    }
    let mut lane = vec![0; nets];
    for (i, net) in order.into_iter().enumerate() {
        lane[net] = i;
    }
    lane
}

/// The column of each part: behind all that it needs, and equal places of different nets below each other.
fn columns(parts: &Parts) -> Vec<usize> {
    let count = parts.parts.len();
    // A place that several parts of one net share (the merged and the private half of a block) has a column for each.
    let mut rank = vec![0usize; count];
    for &(from, to) in &parts.edges {
        if from < to && parts.parts[from].place == parts.parts[to].place {
            rank[to] = rank[to].max(rank[from] + 1);
        }
    }
    let mut places: IndexMap<(&str, usize), usize> = IndexMap::new();
    let together: Vec<usize> = (0..count)
        .map(|part| {
            let next = places.len();
            *places.entry((parts.parts[part].place.as_str(), rank[part])).or_insert(next)
        })
        .collect();
    let alone: Vec<usize> = (0..count).collect();
    // Where two nets have equal places in different orders, no common columns exist.
    longest_paths(parts, &together).or_else(|| longest_paths(parts, &alone)).unwrap_or(alone)
}

/// The length of the longest path to each part's group; none where groups depend on each other in a circle.
fn longest_paths(parts: &Parts, group: &[usize]) -> Option<Vec<usize>> {
    let groups = group.iter().max().map_or(0, |g| g + 1);
    let edges: BTreeSet<(usize, usize)> = parts.edges.iter().map(|&(a, b)| (group[a], group[b])).collect();
    let mut waiting = vec![0usize; groups];
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); groups];
    for &(a, b) in edges.iter().filter(|(a, b)| a != b) {
        waiting[b] += 1;
        after[a].push(b);
    }
    let mut ready: Vec<usize> = (0..groups).filter(|&g| waiting[g] == 0).collect();
    let mut length = vec![0usize; groups];
    let mut done = 0;
    while let Some(g) = ready.pop() {
        done += 1;
        for &next in &after[g] {
            length[next] = length[next].max(length[g] + 1);
            waiting[next] -= 1;
            if waiting[next] == 0 {
                ready.push(next);
            }
        }
    }
    (done == groups).then(|| group.iter().map(|&g| length[g]).collect())
}

/// Whether each part of a column goes on in exactly one like it of the next.
fn continues(
    parts: &Parts,
    held: &BTreeSet<usize>,
    launches: &[Vec<PartLaunch>],
    column: &[usize],
    next: &[usize],
) -> bool {
    let alike = |i: usize, j: usize| {
        let (a, b) = (&parts.parts[i], &parts.parts[j]);
        launches.get(i) == launches.get(j)
            && a.nets == b.nets
            && a.stage.is_some()
            && a.stage == b.stage
            && a.operators == b.operators
            && a.inputs == b.inputs
            && a.parameters == b.parameters
    };
    column.len() == next.len()
        && column.iter().zip(next).all(|(&a, &b)| {
            alike(a, b)
                && !held.contains(&a)
                && parts.edges.range((a, 0)..(a + 1, 0)).all(|&(_, to)| to == b)
                && parts.edges.contains(&(a, b))
        })
}
