//! One spec, compiled and run in every way there is, against the f64 evaluator on its step before any pass.

use crate::harness::{Tensors, bits, read_all, try_model, try_model_in};
use crate::rounding::{Feeds, Oracle, named, near_kink, oracle, random_feeds};
use ddnnc_cpu::{CpuDevice, CpuOptions, Level};
use ddnnc_cuda::CudaDevice;
use ddnnc_diag::SourceId;
use ddnnc_ir::reference::evaluate;
use ddnnc_ir::{DType, Graph, IrError, Mode, Model, Precision};
use ddnnc_passes::{Compiled, Device, Executable, Goal, Options, PASSES, Program, compile_with};
use std::cell::OnceCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How often numbers are drawn anew so that no activation lies near a kink.
const DRAWS: u64 = 12;

/// Roundings of an f64 are 2²⁹ times smaller than those of an f32, and so are the tolerances, but for a margin.
const F64_OF_F32: f64 = 1.0 / (1u64 << 24) as f64;

/// One way in which a spec is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The canonical text means the same, and is its own canonical text.
    Formatter,
    /// Every printed graph reads back, and every program from its bytes.
    Texts,
    /// The evaluator on the step after all passes, or after those of a set (bit i is `PASSES[i]`).
    Passes {
        /// Arithmetic of the step.
        precision: Precision,
        /// The passes that run.
        set: u32,
    },
    /// The CPU device, on one thread and to the same bits on two.
    Cpu {
        /// The instructions.
        level: Level,
        /// What it does.
        step: Step,
        /// Whether convolutions may go by Winograd's algorithm.
        winograd: bool,
    },
    /// The CPU device again from the same state, with memory overwritten as soon as the plan gives it away: the same bits.
    Again {
        /// What it does.
        step: Step,
    },
    /// The CUDA device.
    Cuda {
        /// What it does.
        step: Step,
    },
}

/// What a device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// A step of training or an evaluation.
    pub goal: Goal,
    /// Arithmetic of the step.
    pub precision: Precision,
    /// Whether operators are fused.
    pub fused: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goal = if self.goal == Goal::Train { "train" } else { "evaluate" };
        let fused = if self.fused { "" } else { " unfused" };
        write!(f, "{goal} {}{fused}", self.precision.as_str())
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variant::Formatter => write!(f, "formatter"),
            Variant::Texts => write!(f, "texts"),
            Variant::Passes { precision, set } => {
                let names: Vec<&str> = passes_of(*set).collect();
                write!(f, "passes {} on the reference, {}", names.join(","), precision.as_str())
            }
            Variant::Cpu { level, step, winograd } => {
                let winograd = if *winograd { "" } else { " without Winograd" };
                write!(f, "cpu {}, {step}{winograd}", level.name())
            }
            Variant::Again { step } => write!(f, "cpu again in freed memory, {step}"),
            Variant::Cuda { step } => write!(f, "cuda, {step}"),
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// In which variant; `None` where the spec could not be compiled at all.
    pub variant: Option<Variant>,
    /// What.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.variant {
            Some(variant) => write!(f, "{variant}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// What came of a spec.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Variants that were looked at.
    pub variants: usize,
    /// Whether gradients could be compared: no activation was near a kink.
    pub gradients: bool,
    /// The largest difference in f32, of its tolerance.
    pub nearest: f64,
}

/// The devices, and what is compared on them.
pub struct Comparison {
    devices: Vec<(Level, bool, [CpuDevice; 2])>,
    cuda: Option<CudaDevice>,
}

impl Comparison {
    /// All variants of the CPU, at every level of instructions that this machine has.
    pub fn on_cpu() -> Comparison {
        let open = |level, winograd, threads| {
            let options = CpuOptions { threads: Some(threads), level: Some(level), winograd, tune: None };
            CpuDevice::open(&options).expect("the machine has this level, and threads start")
        };
        let devices = Level::available()
            .flat_map(|level| [true, false].map(|winograd| (level, winograd)))
            .map(|(level, winograd)| (level, winograd, [1, 2].map(|threads| open(level, winograd, threads))))
            .collect();
        Comparison { devices, cuda: None }
    }

    /// The CUDA device alone.
    pub fn on_cuda(device: CudaDevice) -> Comparison {
        Comparison { devices: Vec::new(), cuda: Some(device) }
    }

    /// Compares every variant of a spec, on numbers that its seed draws.
    pub fn check(&self, text: &str, seed: u64) -> Verdict {
        let mut verdict = Verdict::default();
        let case = match Case::new(text, seed) {
            Ok(case) => case,
            Err(what) => {
                verdict.findings.push(Finding { variant: None, what });
                return verdict;
            }
        };
        for variant in self.variants(&case) {
            verdict.variants += 1;
            if let Err(what) = self.guarded(&case, variant, &mut verdict.nearest) {
                verdict.findings.push(Finding { variant: Some(variant), what });
            }
        }
        verdict.gradients = case.gradients;
        verdict
    }

    /// Whether a spec fails as another did: in the same variant, or with the same words where that had none.
    pub fn fails(&self, text: &str, seed: u64, as_before: &Finding) -> bool {
        match (Case::new(text, seed), as_before.variant) {
            (Ok(case), Some(variant)) => self.guarded(&case, variant, &mut 0.0).is_err(),
            (Err(what), None) => what.lines().next() == as_before.what.lines().next(),
            (Ok(_), None) | (Err(_), Some(_)) => false,
        }
    }

    fn variants(&self, case: &Case) -> Vec<Variant> {
        let training = |precision, fused| Step { goal: Goal::Train, precision, fused };
        let mut precisions = vec![Precision::F32];
        if case.model.recipe.precision == Precision::Bf16 {
            precisions.push(Precision::Bf16);
        }
        let mut variants = Vec::new();
        if self.cuda.is_some() {
            variants.push(Variant::Cuda { step: training(Precision::F32, true) });
        }
        if self.devices.is_empty() {
            return variants;
        }
        variants.extend([Variant::Formatter, Variant::Texts]);
        // All passes, and a set that the seed draws.
        let all = u32::MAX >> (32 - PASSES.len());
        let some = (case.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
        variants.extend([all, some & all].map(|set| Variant::Passes { precision: Precision::F32, set }));
        let best = Level::detect();
        for precision in precisions {
            if precision == Precision::Bf16 {
                variants.push(Variant::Passes { precision, set: all });
            }
            for level in Level::available() {
                for fused in [true, false] {
                    variants.push(Variant::Cpu { level, step: training(precision, fused), winograd: true });
                }
                variants.push(Variant::Cpu { level, step: training(precision, true), winograd: false });
            }
            let step = Step { goal: Goal::Evaluate, precision, fused: true };
            variants.push(Variant::Cpu { level: best, step, winograd: true });
            variants.push(Variant::Again { step: training(precision, true) });
        }
        variants
    }

    fn guarded(&self, case: &Case, variant: Variant, nearest: &mut f64) -> Result<(), String> {
        without_panic(|| self.compare(case, variant, nearest))
    }

    fn compare(&self, case: &Case, variant: Variant, nearest: &mut f64) -> Result<(), String> {
        match variant {
            Variant::Formatter => formats(&case.text),
            Variant::Texts => reads_back(case),
            Variant::Passes { precision, set } => {
                let names: Vec<&str> = passes_of(set).collect();
                let options = Options::named(&names).map_err(|e| e.to_string())?;
                let compiled = compiled(&case.model, Goal::Train, precision, &options)?;
                let reference = case.reference(Goal::Train, precision)?;
                let found = evaluate(&compiled.graph, &reference.feeds).map_err(|e| e.to_string())?;
                let share = match precision {
                    Precision::F32 => F64_OF_F32,
                    // What is computed once instead of twice is rounded to bf16 once.
                    Precision::Bf16 => 1.0,
                };
                case.agree(reference, &named(found), share, &mut 0.0)
            }
            Variant::Cpu { level, step, winograd } => {
                let devices = self.devices.iter().find(|(l, w, _)| (*l, *w) == (level, winograd));
                let (.., [one, two]) = devices.ok_or("the machine lacks this level")?;
                let program = case.program(step)?;
                let reference = case.reference(step.goal, step.precision)?;
                let found = run(one, &program, &reference.feeds)?;
                let mut ignored = 0.0;
                let nearest = if step.precision == Precision::F32 { nearest } else { &mut ignored };
                case.agree(reference, &in_f64(&found), 1.0, nearest)?;
                same_bits(&found, &run(two, &program, &reference.feeds)?, "with two threads")
            }
            Variant::Again { step } => {
                let best = Level::detect();
                let devices = self.devices.iter().find(|(l, w, _)| (*l, *w) == (best, true));
                let (.., [_, two]) = devices.ok_or("the machine lacks this level")?;
                let program = case.program(step)?;
                let reference = case.reference(step.goal, step.precision)?;
                let mut loaded = two.load_cpu(&program).map_err(|e| e.to_string())?;
                give(&mut loaded, &reference.feeds)?;
                loaded.run().map_err(|e| e.to_string())?;
                let first = read_all(&loaded);
                give(&mut loaded, &reference.feeds)?;
                loaded.run_poisoned().map_err(|e| e.to_string())?;
                same_bits(&first, &read_all(&loaded), "in freed memory")
            }
            Variant::Cuda { step } => {
                let device = self.cuda.as_ref().ok_or("there is no such device")?;
                let reference = case.reference(step.goal, step.precision)?;
                let found = run(device, &case.program(step)?, &reference.feeds)?;
                case.agree(reference, &in_f64(&found), 1.0, nearest)
            }
        }
    }
}

/// What a function gives; a panic is something wrong with its words.
fn without_panic<T>(f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panics: {}", text.unwrap_or("without words")))
    })
}

/// The names of a set of passes, in the order of the pipeline.
fn passes_of(set: u32) -> impl Iterator<Item = &'static str> {
    PASSES.iter().enumerate().filter(move |(i, _)| set >> i & 1 == 1).map(|(_, (name, _))| *name)
}

/// A step on the reference, with what it reads.
struct Reference {
    feeds: Feeds,
    oracle: Oracle,
}

/// A spec with what it is compared with, evaluated where it is first asked for.
struct Case {
    text: String,
    seed: u64,
    model: Model,
    /// The seed of the numbers.
    numbers: u64,
    gradients: bool,
    references: [OnceCell<Reference>; 4],
}

impl Case {
    /// Lowers a spec, and finds numbers that keep away from kinks.
    fn new(text: &str, seed: u64) -> Result<Case, String> {
        let (model, numbers, gradients) = without_panic(|| {
            let mut model = try_model(text, Mode::Train, None)?;
            // In one of its phases, where it has several.
            let phase = seed % model.phases.len().max(1) as u64;
            if phase > 0 {
                model = try_model_in(text, Mode::Train, None, phase as usize)?;
            }
            let program = plain(&model, Goal::Train, Precision::F32)?.program;
            for numbers in 0..DRAWS {
                let numbers = seed.wrapping_mul(DRAWS).wrapping_add(numbers);
                let feeds = random_feeds(&model, &program, numbers);
                if !near_kink(&model.graph, &feeds).map_err(|e| e.to_string())? {
                    return Ok((model, numbers, true));
                }
            }
            Ok((model, seed.wrapping_mul(DRAWS), false))
        })?;
        Ok(Case { text: text.to_owned(), seed, model, numbers, gradients, references: Default::default() })
    }

    /// The exact results of a step before any pass, and how far rounding moves them.
    fn reference(&self, goal: Goal, precision: Precision) -> Result<&Reference, String> {
        let at = 2 * usize::from(goal == Goal::Train) + usize::from(precision == Precision::Bf16);
        let cell = &self.references[at];
        if cell.get().is_none() {
            let model = self.model_for(goal)?;
            let plain = plain(&model, goal, precision)?;
            let feeds = random_feeds(&model, &plain.program, self.numbers);
            let oracle = oracle(&plain.graph, &feeds).map_err(|e| e.to_string())?;
            return Ok(cell.get_or_init(|| Reference { feeds, oracle }));
        }
        cell.get().ok_or_else(|| "nothing was evaluated".to_owned())
    }

    fn model_for(&self, goal: Goal) -> Result<Model, String> {
        match goal {
            Goal::Train => Ok(self.model.clone()),
            Goal::Gradients | Goal::Statistics | Goal::Evaluate => {
                try_model_in(&self.text, Mode::Eval, None, self.model.phase)
            }
        }
    }

    fn program(&self, step: Step) -> Result<Program, String> {
        let options = if step.fused { Options::default() } else { Options::without_fusion() };
        let model = self.model_for(step.goal)?;
        compiled(&model, step.goal, step.precision, &options).map(|compiled| compiled.program)
    }

    /// Compares what a step left behind with the exact results, within `share` of their tolerances in f32.
    fn agree(
        &self,
        reference: &Reference,
        found: &indexmap::IndexMap<String, Vec<f64>>,
        share: f64,
        nearest: &mut f64,
    ) -> Result<(), String> {
        let mut worst: Option<(f64, String)> = None;
        for (name, exact) in &reference.oracle.exact {
            if !self.gradients && self.hangs_on_gradients(name) {
                continue;
            }
            let found = found.get(name).ok_or_else(|| format!("there is no `{name}`"))?;
            if found.len() != exact.len() {
                return Err(format!("`{name}` has {} elements, not {}", found.len(), exact.len()));
            }
            let tolerance = share * reference.oracle.tolerance[name];
            let pairs =
                || exact.iter().zip(found).map(|(exact, found)| (exact, found, (exact - found).abs()));
            let is_within = |apart: f64| apart <= tolerance;
            let off = pairs().filter(|&(.., apart)| !is_within(apart)).count();
            // What is not a number is the worst of all.
            let largest = pairs().max_by(|(.., a), (.., b)| a.total_cmp(b));
            let Some((exact, found, apart)) = largest else { continue };
            if off == 0 {
                *nearest = nearest.max(apart / tolerance);
            } else if worst.as_ref().is_none_or(|(least, _)| (apart / tolerance).total_cmp(least).is_gt()) {
                let of = reference.oracle.exact[name].len();
                let what = format!(
                    "`{name}` is {found:e} instead of {exact:e}, and {off} of {of} elements are off by more than {tolerance:.1e}"
                );
                worst = Some((apart / tolerance, what));
            }
        }
        if let Some((_, what)) = worst {
            return Err(what);
        }
        for (name, found) in found {
            // What the step does not store is as it was.
            if let Some(fed) = reference.feeds.get(name)
                && !reference.oracle.exact.contains_key(name)
                && fed.data != *found
            {
                return Err(format!("`{name}` is not as it was before the step"));
            }
        }
        Ok(())
    }

    /// Whether a result depends on gradients: all that a step stores but running statistics.
    fn hangs_on_gradients(&self, name: &str) -> bool {
        let forward = name.starts_with("loss.") || name.starts_with("logits.");
        !forward && !self.model.states.contains_key(name)
    }
}

/// Compiles a step with the passes that are wanted.
fn compiled(model: &Model, goal: Goal, precision: Precision, options: &Options) -> Result<Compiled, String> {
    let mut model = model.clone();
    model.recipe.precision = precision;
    compile_with(&model, goal, options, &mut |_, _| {}).map_err(|e| e.to_string())
}

/// A step before any pass.
fn plain(model: &Model, goal: Goal, precision: Precision) -> Result<Compiled, String> {
    let none: [&str; 0] = [];
    compiled(model, goal, precision, &Options::named(&none).map_err(|e| e.to_string())?)
}

fn in_f64(tensors: &Tensors) -> indexmap::IndexMap<String, Vec<f64>> {
    tensors.iter().map(|(name, data)| (name.clone(), data.iter().map(|&x| f64::from(x)).collect())).collect()
}

/// Gives a program everything that it reads.
fn give(run: &mut dyn Executable, feeds: &Feeds) -> Result<(), String> {
    let program = run.program();
    let names: Vec<String> = program.inputs.keys().chain(program.persistent.keys()).cloned().collect();
    for name in names {
        let fed = feeds.get(&name).ok_or_else(|| format!("`{name}` is read and was not drawn"))?;
        let given = match fed.ty.dtype {
            DType::I64 => run.write_i64(&name, &fed.data.iter().map(|&x| x as i64).collect::<Vec<_>>()),
            DType::F32 | DType::Bf16 => {
                run.write_f32(&name, &fed.data.iter().map(|&x| x as f32).collect::<Vec<_>>())
            }
        };
        given.map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn run(device: &dyn Device, program: &Program, feeds: &Feeds) -> Result<Tensors, String> {
    let mut loaded = device.load(program).map_err(|e| e.to_string())?;
    give(loaded.as_mut(), feeds)?;
    loaded.run().map_err(|e| e.to_string())?;
    Ok(read_all(loaded.as_ref()))
}

fn same_bits(a: &Tensors, b: &Tensors, how: &str) -> Result<(), String> {
    for (name, data) in a {
        let other = b.get(name).ok_or_else(|| format!("there is no `{name}` {how}"))?;
        if bits(data) != bits(other) {
            let off = bits(data).iter().zip(bits(other)).filter(|(a, b)| **a != *b).count();
            return Err(format!("other bits {how}: `{name}`, {off} of {} elements", data.len()));
        }
    }
    Ok(())
}

/// The canonical text is its own canonical text, and lowers to the same model.
fn formats(text: &str) -> Result<(), String> {
    let canonical = |text: &str| {
        let file = ddnnc_syntax::parse(text, SourceId::default());
        file.map(|file| ddnnc_syntax::format(&file, text)).map_err(|_| "does not parse".to_owned())
    };
    let once = canonical(text)?;
    let twice = canonical(&once).map_err(|e| format!("the canonical text {e}"))?;
    if once != twice {
        return Err("formatting twice changes the text again".to_owned());
    }
    let meaning = |text: &str| -> Result<String, String> {
        let mut whole = String::new();
        let mut phases = 1;
        for phase in 0.. {
            if phase == phases {
                break;
            }
            let model = try_model_in(text, Mode::Train, None, phase)?;
            phases = model.phases.len().max(1);
            whole += &ddnnc_ir::print(&model.graph).map_err(|e| e.to_string())?;
            whole += &format!("{:?}{:?}{:?}{:?}", model.parameters, model.states, model.terms, model.recipe);
            whole += &format!("{:?}", model.phases);
        }
        Ok(whole)
    };
    if meaning(text)? != meaning(&once)? {
        return Err("the canonical text means something else".to_owned());
    }
    Ok(())
}

/// Graphs of every phase read back from their text, and the program from its bytes.
fn reads_back(case: &Case) -> Result<(), String> {
    let mut wrong = Ok(());
    let text_of = |graph: &Graph| -> Result<String, IrError> { ddnnc_ir::print(graph) };
    let mut observe = |phase: &str, graph: &Graph| {
        let again = || -> Result<bool, IrError> {
            let text = text_of(graph)?;
            Ok(text_of(&ddnnc_ir::parse(&text)?)? == text)
        };
        match again() {
            Ok(true) => {}
            Ok(false) => wrong = Err(format!("the graph `{phase}` reads back as another one")),
            Err(error) => wrong = Err(format!("the graph `{phase}` does not read back: {error}")),
        }
    };
    let compiled = compile_with(&case.model, Goal::Train, &Options::default(), &mut observe)
        .map_err(|e| e.to_string())?;
    wrong?;
    let bytes = compiled.program.to_bytes().map_err(|e| e.to_string())?;
    let program = Program::from_bytes(&bytes).map_err(|e| format!("the program does not read back: {e}"))?;
    if program != compiled.program {
        return Err("the program reads back as another one".to_owned());
    }
    Ok(())
}
