//! `ddnnc import`: weights under other names become a weights file of the spec.
//!
//! A tensor finds its place, in this order: by `--map`; by its exact public name; where the file is an exported sub-net
//! (`name@net.…`), by the name without the mark; by its shape and the last word of its
//! name (`weight`, `running_mean`, …), where only one tensor on either side is left that has both. Where several are
//! left, `--by-order` pairs them in the order of their names in the file (numbers by value) and of use in the model; without
//! it they are named and nothing is written. What `--except` names takes no part in this, on either side.

use crate::cli::ImportArgs;
use crate::output::{apart, print};
use crate::{Failure, Spec, Ui, weights};
use ddnnc_ir::{Mode, Model, Shape};
use ddnnc_train::{Tensors, read_weights_where, unmarked, write_weights};
use indexmap::{IndexMap, IndexSet};
use std::collections::BTreeMap;
use std::path::Path;

/// PyTorch's count of batches seen; nothing here has one.
const IGNORED: &str = "num_batches_tracked";

/// Reads foreign weights, finds a place for each, writes them, and prints the pairing.
pub fn run(args: &ImportArgs, ui: Ui) -> Result<(), Failure> {
    weights::named_as_written(&args.output)?;
    apart([&args.spec.spec, &args.weights].into_iter().chain(&args.map), [&args.output])?;
    let spec = Spec::load(&args.spec.spec, &args.spec.set, ui)?;
    let model = spec.lower(Mode::Train, None)?;
    let file = &args.weights;
    let mut foreign = read_foreign(file)?;
    let mut map = match &args.map {
        Some(path) => read_map(path)?,
        None => IndexMap::new(),
    };
    let mut matching = Matching::new(&model);
    let left_out = matching.leave_out(&mut foreign, &mut map, &args.except)?;
    let mut problems = matching.by_map(&mut foreign, &map);
    if problems.is_empty() {
        matching.by_name(&mut foreign);
        matching.by_unmarked_name(&mut foreign);
        problems = matching.by_shape(&mut foreign, args.by_order);
        problems.extend(matching.unplaced(&foreign));
    }
    if !problems.is_empty() {
        let mut failure = Failure::input(format!(
            "{} does not fit `{}`:\n  {}",
            file.display(),
            model.name,
            problems.join("\n  ")
        ))
        .hint(
            "say what belongs where with `--map FILE`, a JSON object {\"name in the file\": \"public name\"}",
        );
        if !matching.unfit.is_empty() {
            failure = failure.hint(except_hint(&matching.unfit));
        }
        return Err(failure.hint("`ddnnc inspect SPEC --parameters` lists the public names"));
    }
    let mut metadata = BTreeMap::from([("model".to_string(), model.name.clone())]);
    if !left_out.model.is_empty() {
        let seed = args.seed.unwrap_or(model.recipe.seed);
        matching.found.extend(weights::initial_of(&spec, &model, &left_out.model, seed)?);
        metadata.insert("seed".to_string(), seed.to_string());
    }
    let tensors = matching.in_order(&model);
    weights::check(&model, &tensors, file)?;
    write_weights(&args.output, &tensors, &metadata).map_err(weights::failed)?;
    weights::wrote(ui, "the weights", &args.output);
    if ui.quiet {
        return Ok(());
    }
    let pairs = matching.pairs.iter().map(|(from, to)| format!("{from}\t{to}\n"));
    let file = left_out.file.iter().map(|from| format!("{from}\tleft out\n"));
    let ours = left_out.model.iter().map(|to| format!("initial values\t{to}\n"));
    print(&pairs.chain(file).chain(ours).collect::<String>())
}

/// Whether a name is `part`, stands under it, or has it among the words of its path.
fn within(name: &str, part: &str) -> bool {
    format!(".{name}.").contains(&format!(".{part}."))
}

/// Every run of words of a path that [`within`] finds in it: what `--except` could mean.
fn parts(name: &str) -> Vec<String> {
    let words: Vec<&str> = name.split('.').take(MAX_WORDS).collect();
    let runs = |from: usize| (from..words.len()).map(move |to| (from, to));
    (0..words.len()).flat_map(runs).map(|(from, to)| words[from..=to].join(".")).collect()
}

/// No path that is meant seriously has more words.
const MAX_WORDS: usize = 16;

/// How to leave out what finds no partner: the head by that word, everything else by the operator that it belongs to.
fn except_hint(names: &IndexSet<String>) -> String {
    let mut parts: IndexSet<&str> = IndexSet::new();
    for name in names {
        if !parts.iter().any(|part| within(name, part)) {
            let operator = name.rsplit_once('.').map_or(name.as_str(), |(operator, _)| operator);
            parts.insert(if within(name, "head") { "head" } else { operator });
        }
    }
    let options = match parts.len() {
        1..=SHOWN => parts.iter().map(|part| format!("--except {part}")).collect::<Vec<_>>().join(" "),
        _ => "--except NAME".to_string(),
    };
    format!(
        "leave a part out, such as the head for another number of classes, with `{options}`: in the model it keeps initial values"
    )
}

/// How many parts a hint names.
const SHOWN: usize = 4;

/// What `--except` named.
struct LeftOut {
    /// Names in the file.
    file: Vec<String>,
    /// Public names.
    model: Vec<String>,
}

/// The tensors of a foreign file, in natural order of their names, without what has no counterpart.
fn read_foreign(path: &Path) -> Result<Tensors, Failure> {
    // Counters are integers, which the reader of weights refuses.
    let file = read_weights_where(path, |name| last(name) != IGNORED).map_err(weights::failed)?;
    Ok(sorted(file.tensors))
}

fn sorted(mut tensors: Tensors) -> Tensors {
    tensors.sort_by_cached_key(|name, _| natural(name));
    tensors
}

/// A key under which `layer2.10` comes after `layer2.9`.
fn natural(name: &str) -> Vec<(bool, u64, String)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let length = match digits {
            0 => rest.bytes().take_while(|b| !b.is_ascii_digit()).count(),
            n => n,
        };
        let (part, after) = rest.split_at(length);
        key.push((digits == 0, part.parse().unwrap_or(u64::MAX), part.to_string()));
        rest = after;
    }
    key
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn read_map(path: &Path) -> Result<IndexMap<String, String>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::reading(path, &e))?;
    serde_json::from_str(&text)
        .map_err(|e| Failure::input(format!("{} is no JSON object of names to names: {e}", path.display())))
}

/// What has found its place so far.
struct Matching {
    /// Public names without a tensor, in order of use.
    wanted: IndexMap<String, Shape>,
    found: Tensors,
    /// (name in the file, public name)
    pairs: Vec<(String, String)>,
    /// Names on either side that do not fit.
    unfit: IndexSet<String>,
}

impl Matching {
    fn new(model: &Model) -> Matching {
        let parameters = model.parameters.iter().map(|(name, p)| (name.clone(), p.shape.clone()));
        let states = model.states.iter().map(|(name, s)| (name.clone(), s.shape.clone()));
        let wanted = parameters.chain(states).collect();
        Matching { wanted, found: Tensors::new(), pairs: Vec::new(), unfit: IndexSet::new() }
    }

    /// Takes out what is named, on both sides; of a pair of the map both.
    fn leave_out(
        &mut self,
        foreign: &mut Tensors,
        map: &mut IndexMap<String, String>,
        names: &[String],
    ) -> Result<LeftOut, Failure> {
        for part in names {
            let mut all = self.wanted.keys().chain(foreign.keys());
            if !all.any(|name| within(name, part)) {
                let known: IndexSet<String> =
                    self.wanted.keys().chain(foreign.keys()).flat_map(|n| parts(n)).collect();
                let failure =
                    Failure::input(format!("`--except {part}` names nothing in the file or the model"));
                return Err(match ddnnc_diag::did_you_mean(part, known.iter().map(String::as_str)) {
                    Some(near) => failure.hint(format!("did you mean `{near}`?")),
                    None => failure.hint(
                        "it takes a name, a path that it stands under, or whole words of that; `ddnnc inspect SPEC \
                         --parameters` lists the model's names",
                    ),
                });
            }
        }
        let meant = |name: &str| names.iter().any(|part| within(name, part));
        let mut named: IndexSet<String> = IndexSet::new();
        map.retain(|from, to| {
            let out = meant(from) || meant(to);
            if out {
                named.extend([from.clone(), to.clone()]);
            }
            !out
        });
        let is_out = |name: &String| meant(name) || named.contains(name);
        let file = foreign.keys().filter(|name| is_out(name)).cloned().collect();
        let model = self.wanted.keys().filter(|name| is_out(name)).cloned().collect();
        foreign.retain(|name, _| !is_out(name));
        self.wanted.retain(|name, _| !is_out(name));
        Ok(LeftOut { file, model })
    }

    /// What has no partner; of one name on both sides, both shapes.
    fn unplaced(&mut self, foreign: &Tensors) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, shape) in &self.wanted {
            problems.push(match foreign.get(name) {
                Some(tensor) => format!("`{name}` is {} in the file, and {shape} in the model", tensor.shape),
                None => format!("`{name}` {shape} finds no tensor in the file"),
            });
            self.unfit.insert(name.clone());
        }
        for (name, tensor) in foreign.iter().filter(|(name, _)| !self.wanted.contains_key(*name)) {
            problems.push(format!("`{name}` {} finds no place in the model", tensor.shape));
            self.unfit.insert(name.clone());
        }
        problems
    }

    fn take(&mut self, foreign: &mut Tensors, from: &str, to: &str) {
        if let Some(tensor) = foreign.shift_remove(from) {
            self.wanted.shift_remove(to);
            self.found.insert(to.to_string(), tensor);
            self.pairs.push((from.to_string(), to.to_string()));
        }
    }

    fn by_map(&mut self, foreign: &mut Tensors, map: &IndexMap<String, String>) -> Vec<String> {
        let mut problems = Vec::new();
        for (from, to) in map {
            match (foreign.get(from), self.wanted.get(to)) {
                (None, _) => problems.push(format!("the map names `{from}`, which the file does not have")),
                (_, None) if self.found.contains_key(to) => {
                    problems.push(format!("the map names `{to}` twice"))
                }
                (_, None) => problems.push(format!("the map names `{to}`, which the model does not have")),
                (Some(t), Some(shape)) if t.shape != *shape => {
                    problems.push(format!("the map takes `{from}` {} to `{to}` {shape}", t.shape));
                    self.unfit.insert(to.clone());
                }
                (Some(_), Some(_)) => self.take(foreign, from, to),
            }
        }
        problems
    }

    fn by_name(&mut self, foreign: &mut Tensors) {
        let same: Vec<String> = self
            .wanted
            .iter()
            .filter(|(name, shape)| foreign.get(name.as_str()).is_some_and(|t| t.shape == **shape))
            .map(|(name, _)| name.clone())
            .collect();
        for name in same {
            self.take(foreign, &name, &name);
        }
    }

    /// Tensors of a sub-net's own, as `export` writes them, under the names that they have where the net stands alone.
    fn by_unmarked_name(&mut self, foreign: &mut Tensors) {
        let mut pairs: IndexMap<String, Vec<String>> = IndexMap::new();
        for (name, tensor) in foreign.iter() {
            let plain = unmarked(name);
            if plain != *name && self.wanted.get(&plain) == Some(&tensor.shape) {
                pairs.entry(plain).or_default().push(name.clone());
            }
        }
        for (plain, names) in pairs {
            // Where two nets have their own, which one is meant is the user's to say.
            if let [name] = names.as_slice() {
                self.take(foreign, name, &plain);
            }
        }
    }

    fn by_shape(&mut self, foreign: &mut Tensors, by_order: bool) -> Vec<String> {
        let kinds: IndexSet<(String, Shape)> =
            self.wanted.iter().map(|(name, shape)| (last(name).to_string(), shape.clone())).collect();
        let mut problems = Vec::new();
        for (kind, shape) in kinds {
            let names = |tensors: &mut dyn Iterator<Item = (&String, &Shape)>| -> Vec<String> {
                tensors
                    .filter(|(name, s)| last(name) == kind && **s == shape)
                    .map(|(name, _)| name.clone())
                    .collect()
            };
            let ours = names(&mut self.wanted.iter());
            let theirs = names(&mut foreign.iter().map(|(name, t)| (name, &t.shape)));
            if ours.len() == theirs.len() && (by_order || ours.len() == 1) {
                theirs.iter().zip(&ours).for_each(|(from, to)| self.take(foreign, from, to));
            } else if ours.len() == theirs.len() {
                problems.push(format!(
                    "{} tensors `{kind}` {shape} could be taken for each other (`--by-order` pairs them in order)",
                    ours.len()
                ));
                ours.iter().for_each(|name| drop(self.wanted.shift_remove(name)));
                theirs.iter().for_each(|name| drop(foreign.shift_remove(name)));
            }
        }
        problems
    }

    /// The tensors in the order of the model's tables.
    fn in_order(&self, model: &Model) -> Tensors {
        let names = model.parameters.keys().chain(model.states.keys());
        names.filter_map(|name| Some((name.clone(), self.found.get(name)?.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_whole_words_of_a_path() {
        let name = "net.head.linear1@small.weight";
        for part in ["net", "head", "net.head", "head.linear1@small", "weight", name] {
            assert!(within(name, part) && parts(name).iter().any(|p| p == part), "{part}");
        }
        for part in ["", "hea", "ead", "linear1", "net.linear1@small", ".", "net."] {
            assert!(!within(name, part), "{part}");
        }
        assert_eq!(parts(name).len(), 10);
    }

    #[test]
    fn a_name_loses_the_mark_of_its_net() {
        assert_eq!(unmarked("resnet.s1.0.bn1@small.gain"), "resnet.s1.0.bn1.gain");
        assert_eq!(unmarked("a.b"), "a.b");
    }

    #[test]
    fn numbers_in_names_count_by_value() {
        let mut names = ["a.10.w", "a.9.w", "b", "a.9.b"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["a.9.b", "a.9.w", "a.10.w", "b"]);
    }
}
