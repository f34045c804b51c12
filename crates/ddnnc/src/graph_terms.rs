//! Where the loss terms of a model's picture go: arrows for pairings, boxes at the ends of lanes for the others.

use crate::graph_layout::Layout;
use crate::graph_parts::Parts;
use ddnnc_ir::Model;

/// A pairing with its place in the picture.
pub struct Arrow {
    /// Its loss term.
    pub term: usize,
    /// The term's name.
    pub name: String,
    /// The box that teaches.
    pub teacher: usize,
    /// The box that learns.
    pub student: usize,
    /// The gap behind this column is where it runs down or up.
    pub gap: usize,
    /// Its row below the student.
    pub row: usize,
    /// Which of the gap's tracks it takes.
    pub track: usize,
}

/// A term of one net alone, at the end of its lane.
pub struct Loss {
    /// The term.
    pub term: usize,
    /// Its net.
    pub net: usize,
    /// Its column, behind those of the parts.
    pub column: usize,
}

/// Places the pairings; `ends` are the parts of teacher and student of each, where they have any.
pub fn arrows(model: &Model, layout: &Layout, ends: &[Option<(usize, usize)>]) -> Vec<Arrow> {
    let mut arrows: Vec<Arrow> = Vec::new();
    for (pairing, ends) in model.pairings.iter().zip(ends) {
        let &Some((teacher, student)) = ends else { continue };
        let (teacher, student) = (layout.node_of[teacher], layout.node_of[student]);
        let (from, to) = (&layout.nodes[teacher], &layout.nodes[student]);
        let gap = from.column.max(to.column);
        // Arrows whose lines lie below the same columns of one lane have different rows.
        let free = |row: usize| {
            !arrows.iter().any(|other| {
                let theirs = &layout.nodes[other.student];
                theirs.lanes.1 == to.lanes.1
                    && other.row == row
                    && theirs.column <= gap
                    && to.column <= other.gap
            })
        };
        let row = (0..=arrows.len()).find(|&row| free(row)).unwrap_or(arrows.len());
        let in_gap: Vec<&Arrow> = arrows.iter().filter(|other| other.gap == gap).collect();
        let same = in_gap.iter().find(|other| other.teacher == teacher).map(|other| other.track);
        let next = in_gap.iter().map(|other| other.track + 1).max().unwrap_or(0);
        let term = model.terms.iter().position(|t| t.name == pairing.term).unwrap_or(0);
        let name = pairing.term.clone();
        arrows.push(Arrow { term, name, teacher, student, gap, row, track: same.unwrap_or(next) });
    }
    arrows
}

/// The terms that are no pairings, in columns behind all others.
pub fn losses(model: &Model, parts: &Parts, columns: usize) -> Vec<Loss> {
    let mut losses: Vec<Loss> = Vec::new();
    for (term, entry) in model.terms.iter().enumerate() {
        if model.pairings.iter().any(|pairing| pairing.term == entry.name) {
            continue;
        }
        let Some(net) = parts.term_nets[term] else { continue };
        let column = columns + losses.iter().filter(|loss| loss.net == net).count();
        losses.push(Loss { term, net, column });
    }
    losses
}
