//! Initial values of parameters and running statistics.

use crate::random::{self, Purpose};
use crate::weights::{Tensor, Tensors, WeightsError, check_table, read_weights};
use ddnnc_ir::{Init, Model, Shape};
use indexmap::IndexMap;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The values before the first step: parameters, then running statistics, in the order of the model's tables.
///
/// Each parameter has a random stream of its own, keyed by the seed and its public name: its values depend neither on
/// what else the model has nor on the order of its tables. What the spec loads from a file comes from there; a relative
/// path is taken from `base` (the folder of the spec).
///
/// The names in such a file may be the public names, or differ from them in the first component of the path: a teacher
/// `teacher.s1.0.conv1.weight` is found as itself, as `resnet.s1.0.conv1.weight` (how a run of the teacher's own spec
/// names it), or as `s1.0.conv1.weight`; and each of these with the mark of a sub-net, as it is exported, where only one
/// tensor of the file has that name without it. The file must hold every tensor of that network and no other.
///
/// [`WeightsError::OutOfMemory`] where they do not fit into memory all at once.
pub fn initial_values(model: &Model, seed: u64, base: &Path) -> Result<Tensors, WeightsError> {
    let shapes = model.parameters.values().map(|p| &p.shape).chain(model.states.values().map(|s| &s.shape));
    let needed = shapes.map(|shape| 4 * shape.elements()).fold(0, usize::saturating_add);
    // A vector that cannot grow ends the process.
    Vec::<u8>::new().try_reserve_exact(needed).map_err(|_| WeightsError::OutOfMemory { needed })?;
    let mut values = Tensors::new();
    let mut drawn = draw_all(model, seed);
    let mut files: IndexMap<&str, Vec<(&str, &Shape)>> = IndexMap::new();
    for (name, parameter) in &model.parameters {
        let data = match &parameter.load {
            Some(file) => {
                files.entry(file).or_default().push((name, &parameter.shape));
                Vec::new()
            }
            None => drawn.remove(name.as_str()).unwrap_or_default(),
        };
        values.insert(name.clone(), Tensor { shape: parameter.shape.clone(), data });
    }
    for (name, state) in &model.states {
        let data = match &state.load {
            Some(file) => {
                files.entry(file).or_default().push((name, &state.shape));
                Vec::new()
            }
            None => vec![state.initial as f32; state.shape.elements()],
        };
        values.insert(name.clone(), Tensor { shape: state.shape.clone(), data });
    }
    for (file, wanted) in files {
        let path = base.join(file);
        let renamed = rename(&wanted, without_marks(read_weights(&path)?.into_values()));
        check_table(wanted.iter().copied(), &renamed).map_err(|e| e.at(&path))?;
        values.extend(renamed);
    }
    Ok(values)
}

/// Fewer values than this are drawn sooner than a thread starts.
const MANY: usize = 1 << 16;

/// The values of every parameter that is not loaded, drawn by all cores: the streams do not depend on each other.
fn draw_all(model: &Model, seed: u64) -> HashMap<&str, Vec<f32>> {
    let mut wanted: Vec<_> = model.parameters.iter().filter(|(_, p)| p.load.is_none()).collect();
    // The largest first, so that no thread is left alone with one.
    wanted.sort_by_key(|(_, p)| std::cmp::Reverse(p.shape.elements()));
    let all: usize = wanted.iter().map(|(_, p)| p.shape.elements()).sum();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        while let Some((name, p)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            mine.push((name.as_str(), draw(p.init, seed, name, p.shape.elements())));
        }
        mine
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..cores.min(all / MANY)).map(|_| scope.spawn(work)).collect();
        let mut drawn: HashMap<&str, Vec<f32>> = work().into_iter().collect();
        for other in others {
            match other.join() {
                Ok(mine) => drawn.extend(mine),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        drawn
    })
}

fn draw(init: Init, seed: u64, name: &str, count: usize) -> Vec<f32> {
    let mut rng = random::stream(seed, Purpose::Parameter, random::fnv(name.as_bytes()), 0);
    match init {
        Init::Constant { value } => vec![value as f32; count],
        Init::Uniform { bound } => {
            (0..count).map(|_| ((2.0 * random::unit(&mut rng) - 1.0) * bound) as f32).collect()
        }
        Init::Normal { std } => normal(&mut rng, std, count),
    }
}

fn normal(rng: &mut ChaCha8Rng, std: f64, count: usize) -> Vec<f32> {
    match Normal::new(0.0, std) {
        Ok(distribution) => (0..count).map(|_| distribution.sample(rng) as f32).collect(),
        // Only a standard deviation that is not finite gets here; the first loss then shows it.
        Err(_) => vec![f32::NAN; count],
    }
}

/// `a.b@net.c` without the mark of the net that it belongs to.
pub fn unmarked(name: &str) -> String {
    let plain = |word: &str| word.split('@').next().unwrap_or_default().to_string();
    name.split('.').map(plain).collect::<Vec<_>>().join(".")
}

/// Tensors under their names without marks, where each then has a name of its own: those of one sub-net.
fn without_marks(tensors: Tensors) -> Tensors {
    let plain: HashSet<String> = tensors.keys().map(|name| unmarked(name)).collect();
    if plain.len() < tensors.len() {
        return tensors;
    }
    tensors.into_iter().map(|(name, tensor)| (unmarked(&name), tensor)).collect()
}

fn tail(name: &str) -> &str {
    name.split_once('.').map_or(name, |(_, rest)| rest)
}

/// Gives the tensors of a file their public names, by the way of naming that finds the most of them.
fn rename(wanted: &[(&str, &Shape)], tensors: Tensors) -> Tensors {
    // From the name in the file to the public name: exact, first component replaced, first component absent.
    let exact: IndexMap<&str, &str> = wanted.iter().map(|(n, _)| (*n, *n)).collect();
    let by_tail: IndexMap<&str, &str> = wanted.iter().map(|(n, _)| (tail(n), *n)).collect();
    let hits = |f: &dyn Fn(&str) -> bool| tensors.keys().filter(|k| f(k.as_str())).count();
    let exactly = hits(&|k| exact.contains_key(k));
    let replaced = hits(&|k| by_tail.contains_key(tail(k)));
    let stripped = hits(&|k| by_tail.contains_key(k));
    // With two first components in the table or in the file, a tail could mean two tensors; only exact names do then.
    let unique = by_tail.len() == wanted.len();
    let mut named = Tensors::new();
    for (key, tensor) in tensors {
        let public = if exactly >= replaced.max(stripped) || !unique {
            None
        } else if replaced >= stripped {
            by_tail.get(tail(&key))
        } else {
            by_tail.get(key.as_str())
        };
        let name = public.map_or(key.as_str(), |n| *n).to_string();
        if named.contains_key(&name) {
            // A second tensor of the same public name stays under its own, so that the check names it as extra.
            named.insert(key, tensor);
        } else {
            named.insert(name, tensor);
        }
    }
    named
}
