//! Parts of a group: what sub-nets do side by side.

use crate::code::PartMap;
use ddnnc_ir::{Group, Local};
use indexmap::IndexMap;

/// Parts that do the same on values of their own: one text, different pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// The steps of the first part, ascending.
    pub steps: Vec<usize>,
    /// What each part has in place of the first part's operands and results; the first is empty.
    pub parts: Vec<PartMap>,
}

/// Cuts a group into parts (steps that values of the group connect) and gathers parts that are alike: equal operators,
/// equal types, the same wiring, and the same operands at the same places up to a renaming that is the same everywhere in
/// the part.
pub fn classes(group: &Group) -> Vec<Class> {
    gather(group, connected(group))
}

/// As [`classes`], where an operand of more than one axis connects the steps that read it too: a result of one of them
/// may lie on it.
pub(crate) fn classes_by_operands(group: &Group) -> Vec<Class> {
    gather(group, connected_by(group, true))
}

/// Gathers parts that are alike.
fn gather(group: &Group, parts: Vec<Vec<usize>>) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    for part in parts {
        let alike = classes.iter_mut().find_map(|class| {
            let map = renaming(group, &class.steps, &part)?;
            Some((class, map))
        });
        match alike {
            Some((class, map)) => class.parts.push(map),
            None => classes.push(Class { steps: part, parts: vec![PartMap::default()] }),
        }
    }
    classes
}

/// The steps that values of the group connect, each set ascending, in the order of their first steps.
pub(crate) fn connected(group: &Group) -> Vec<Vec<usize>> {
    connected_by(group, false)
}

fn connected_by(group: &Group, operands: bool) -> Vec<Vec<usize>> {
    let mut first: Vec<usize> = (0..group.steps.len()).collect();
    fn root(first: &mut [usize], mut i: usize) -> usize {
        while first[i] != i {
            first[i] = first[first[i]];
            i = first[i];
        }
        i
    }
    let mut reader: Vec<Option<usize>> = vec![None; group.operands.len()];
    for (i, step) in group.steps.iter().enumerate() {
        for local in &step.operands {
            let other = match *local {
                Local::Step { step, .. } => Some(step as usize),
                Local::Operand(o) => {
                    let large = group.operands.get(o as usize).is_some_and(|ty| ty.shape.rank() > 1);
                    if operands && large { reader[o as usize].replace(i) } else { None }
                }
            };
            if let Some(other) = other {
                let (a, b) = (root(&mut first, i), root(&mut first, other));
                first[a.max(b)] = a.min(b);
            }
        }
    }
    let mut parts: IndexMap<usize, Vec<usize>> = IndexMap::new();
    for i in 0..group.steps.len() {
        parts.entry(root(&mut first, i)).or_default().push(i);
    }
    parts.into_values().collect()
}

/// What `part` has in place of the operands and results of `model`; `None` where they are not alike.
fn renaming(group: &Group, model: &[usize], part: &[usize]) -> Option<PartMap> {
    if model.len() != part.len() {
        return None;
    }
    let mut map = PartMap::default();
    for (&m, &p) in model.iter().zip(part) {
        let (of_model, of_part) = (&group.steps[m], &group.steps[p]);
        let same = of_model.op == of_part.op
            && of_model.results == of_part.results
            && of_model.operands.len() == of_part.operands.len();
        if !same {
            return None;
        }
        for (&a, &b) in of_model.operands.iter().zip(&of_part.operands) {
            match (a, b) {
                (Local::Operand(a), Local::Operand(b)) => {
                    let (a, b) = (a as usize, b as usize);
                    let known = *map.operands.entry(a).or_insert(b);
                    if known != b || group.operands[a] != group.operands[b] {
                        return None;
                    }
                }
                (Local::Step { step: a, result: x }, Local::Step { step: b, result: y }) => {
                    let at = |steps: &[usize], s: u32| steps.iter().position(|&i| i == s as usize);
                    if x != y || at(model, a) != at(part, b) {
                        return None;
                    }
                }
                _ => return None,
            }
        }
        for result in 0..of_model.results.len() as u32 {
            // A value may be given more than once.
            let of = |step: usize| -> Vec<usize> {
                let local = Local::Step { step: step as u32, result };
                group.results.iter().enumerate().filter(|(_, r)| **r == local).map(|(i, _)| i).collect()
            };
            let (of_model, of_part) = (of(m), of(p));
            if of_model.len() != of_part.len() {
                return None;
            }
            map.results.extend(of_model.into_iter().zip(of_part));
        }
    }
    Some(map)
}
