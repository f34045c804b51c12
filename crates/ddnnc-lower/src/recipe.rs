//! `train { … }`: from settings to the recipe.

use crate::args::{Args, Given, Range};
use crate::eval::Evaluator;
use crate::limits;
use crate::signature::Fixed;
use ddnnc_diag::{Code, Diagnostic, Span, did_you_mean};
use ddnnc_ir::{Augment, Data, Dataset, Optimizer, Order, Precision, Recipe, Schedule, ScheduleKind, Shape};
use ddnnc_syntax::{Expr, ExprKind, Setting};

const KEYS: &[&str] =
    &["data", "batch", "epochs", "optimizer", "schedule", "precision", "seed", "validation"];

/// Data sets.
pub(crate) const DATASETS: &[(Fixed, Dataset)] = &[
    (Fixed { name: "mnist", params: DATA }, Dataset::Mnist),
    (Fixed { name: "cifar10", params: DATA }, Dataset::Cifar10),
    (Fixed { name: "cifar100", params: DATA }, Dataset::Cifar100),
    (Fixed { name: "image_folder", params: DATA }, Dataset::ImageFolder),
];
const DATA: &[&str] = &["path", "augment", "normalize"];

/// Random changes to training images.
pub(crate) const AUGMENTS: &[(Fixed, Change)] = &[
    (Fixed { name: "crop", params: &["pad!"] }, Change::Crop),
    (Fixed { name: "flip", params: &[] }, Change::Flip),
    (Fixed { name: "resized_crop", params: &["scale"] }, Change::ResizedCrop),
];

/// What an augmentation's word means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// Shifts.
    Crop,
    /// Mirrors.
    Flip,
    /// Cuts out a part and resizes it.
    ResizedCrop,
}

/// Normalisations.
pub(crate) const NORMALIZE: &[(Fixed, ())] = &[(Fixed { name: "normalize", params: &["mean!", "std!"] }, ())];

/// Update rules.
pub(crate) const OPTIMIZERS: &[(Fixed, Rule)] = &[
    (Fixed { name: "sgd", params: &["lr", "momentum", "nesterov", "weight_decay"] }, Rule::Sgd),
    (Fixed { name: "adamw", params: &["lr", "beta1", "beta2", "eps", "weight_decay"] }, Rule::Adamw),
];

/// What an optimizer's word means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// Stochastic gradient descent.
    Sgd,
    /// Adam with decoupled weight decay.
    Adamw,
}

/// Learning rates over time.
pub(crate) const SCHEDULES: &[(Fixed, Course)] = &[
    (Fixed { name: "constant", params: &["warmup"] }, Course::Constant),
    (Fixed { name: "multistep", params: &["milestones!", "gamma", "warmup"] }, Course::Multistep),
    (Fixed { name: "cosine", params: &["end", "warmup"] }, Course::Cosine),
    (Fixed { name: "one_cycle", params: &["rise", "div", "final_div", "warmup"] }, Course::OneCycle),
];

/// What a schedule's word means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Course {
    /// One rate.
    Constant,
    /// Steps down at milestones.
    Multistep,
    /// Half a wave.
    Cosine,
    /// Up and down again.
    OneCycle,
}

impl<'a> Evaluator<'a> {
    /// The recipe; `None` where there is none or something in it is wrong.
    pub(crate) fn recipe(&mut self, input: Option<&Shape>, classes: Option<usize>) -> Option<Recipe> {
        let decl = self.names.train?;
        let known = self.settings(&decl.settings, "`train`", KEYS);
        let misspelt = |s: &Setting| {
            !KEYS.contains(&s.key.name.as_str()) && did_you_mean(&s.key.name, ["data"]).is_some()
        };
        if !known.contains_key("data") && !decl.settings.iter().any(misspelt) {
            self.diags.push(
                Diagnostic::error(Code::Missing, "`train` has no `data`")
                    .at(decl.keyword, "")
                    .hint("say what to train on: `data = cifar10(path = \"data/cifar10\")`"),
            );
        }
        let get = |key: &str| known.get(key).copied();
        if let (Some(setting), Some(phase)) = (get("epochs"), self.names.phases.values().next()) {
            self.diags.push(
                Diagnostic::error(Code::Conflict, "`epochs` of `train` beside phases")
                    .at(setting.key.span, "")
                    .with(phase.name.span, "this phase has its own")
                    .hint("every phase says how long it is: leave `epochs` out of `train`"),
            );
        }
        let data = get("data").and_then(|s| self.data(&s.value, input));
        let batch = self.int(get("batch"), 128, 1, limits::BATCH);
        let epochs = self.int(get("epochs"), 1, 1, limits::EPOCHS);
        let seed = self.int(get("seed"), 0, 0, i64::MAX);
        let validation = self.fraction(get("validation"));
        let optimizer = match get("optimizer") {
            None => Some(Optimizer::Sgd { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0 }),
            Some(setting) => self.optimizer(&setting.value),
        };
        let schedule = match get("schedule") {
            None => Some(Schedule { warmup: 0.0, kind: ScheduleKind::Constant }),
            Some(setting) => self.schedule(&setting.value),
        };
        let precision = self.precision(get("precision"));
        if let (Some(data), Some(setting)) = (&data, get("data")) {
            self.warn_unlike(data.dataset, input, classes, setting.value.span);
        }
        if let (Some(schedule), Some(epochs), Some(setting)) = (&schedule, epochs, get("schedule"))
            && self.names.phases.is_empty()
        {
            self.warn_unreached(schedule, epochs, setting.value.span);
        }
        Some(Recipe {
            data: data?,
            batch: usize::try_from(batch?).ok()?,
            epochs: usize::try_from(epochs?).ok()?,
            optimizer: optimizer?,
            schedule: schedule?,
            // Stated elsewhere.
            order: Order::Shuffle,
            precision: precision?,
            seed: u64::try_from(seed?).ok()?,
            validation: validation?,
        })
    }

    /// Warns of a model that the data set's images do not fit: it can be compiled and timed, and not trained.
    fn warn_unlike(&mut self, dataset: Dataset, input: Option<&Shape>, classes: Option<usize>, data: Span) {
        let (name, shape, labels) = match dataset {
            Dataset::Mnist => ("mnist", [1, 28, 28], 10),
            Dataset::Cifar10 => ("cifar10", [3, 32, 32], 10),
            Dataset::Cifar100 => ("cifar100", [3, 32, 32], 100),
            Dataset::ImageFolder => return,
        };
        let names = self.names;
        let mut warn = |what: String, stated: Option<Span>| {
            let d = Diagnostic::warning(Code::Conflict, what).at(data, "");
            let d = stated.into_iter().fold(d, |d, span| d.with(span, "stated here"));
            self.diags.push(d.hint("the model can be compiled, and not be trained on these data"));
        };
        let shape = Shape::from(shape);
        if let Some(input) = input.filter(|input| **input != shape) {
            let what = format!("the images of `{name}` are {shape}, and the input {input}");
            warn(what, names.input.map(|input| input.ty.span));
        }
        if let Some(classes) = classes.filter(|classes| *classes != labels) {
            let what = format!("`{name}` has {labels} classes, and the target {classes}");
            warn(what, names.target.map(|target| target.ty.span));
        }
    }

    /// Warns of what a schedule plans for epochs that are never reached.
    pub(crate) fn warn_unreached(&mut self, schedule: &Schedule, epochs: i64, span: Span) {
        let are = if epochs == 1 { "is 1 epoch".to_string() } else { format!("are {epochs} epochs") };
        let are = are + &self.in_phase();
        let mut warn = |what: String, counts: &str| {
            let what = format!("{what}: there {are}");
            let hint = format!("lower it, or train for more epochs{counts}");
            self.diags.push(Diagnostic::warning(Code::Conflict, what).at(span, "").hint(hint));
        };
        if let ScheduleKind::Multistep { milestones, .. } = &schedule.kind
            && let Some(late) = milestones.iter().find(|m| **m >= epochs as f64)
        {
            warn(format!("the milestone {late} is never reached"), "; a milestone counts from 0");
        }
        if schedule.warmup > epochs as f64 {
            warn(format!("the warm-up of {} epochs does not end", schedule.warmup), "");
        }
    }

    fn given(&mut self, setting: &'a Setting) -> Given {
        let what = format!("`{}`", setting.key.name);
        Given { what, value: self.constant(&setting.value), span: setting.value.span }
    }

    pub(crate) fn int(
        &mut self,
        setting: Option<&'a Setting>,
        default: i64,
        lo: i64,
        hi: i64,
    ) -> Option<i64> {
        let Some(setting) = setting else { return Some(default) };
        let given = self.given(setting);
        given.int(lo, hi, &mut self.diags)
    }

    fn fraction(&mut self, setting: Option<&'a Setting>) -> Option<f64> {
        let Some(setting) = setting else { return Some(0.1) };
        let given = self.given(setting);
        given.number(Range::Closed(0.0, 0.5), &mut self.diags)
    }

    fn precision(&mut self, setting: Option<&'a Setting>) -> Option<Precision> {
        let Some(setting) = setting else { return Some(Precision::F32) };
        let words = [Precision::F32, Precision::Bf16].map(|precision| (precision.as_str(), precision));
        self.word(&setting.value, "precision", &words)
    }

    /// The arguments of a data set are names and calls of their own, and so are not evaluated as values.
    fn data(&mut self, expr: &'a Expr, input: Option<&Shape>) -> Option<Data> {
        let (dataset, args) = match &expr.kind {
            ExprKind::Call { callee, args } => {
                let Some((choice, dataset)) = DATASETS.iter().find(|(d, _)| d.name == callee.name) else {
                    self.choice(expr, "data set", DATASETS);
                    return None;
                };
                match choice.signature().bind(args, expr.span) {
                    Ok(bound) => (*dataset, bound.args),
                    Err(errors) => {
                        errors.into_iter().for_each(|e| self.diags.push(e));
                        return None;
                    }
                }
            }
            _ => (self.choice(expr, "data set", DATASETS)?.0, vec![None; DATA.len()]),
        };
        let [path, augment, normalize] = [0, 1, 2].map(|i| args.get(i).copied().flatten());
        let path = match path {
            None => Some(None),
            Some(e) => {
                let name = DATASETS.iter().find(|(_, d)| *d == dataset).map_or("", |(d, _)| d.name);
                let given =
                    Given { what: format!("`path` of `{name}`"), value: self.constant(e), span: e.span };
                given.text(&mut self.diags).map(Some)
            }
        };
        let augment = augment.map_or(Some(Vec::new()), |e| self.augment(e, dataset));
        let normalize = match normalize {
            None => Some(None),
            Some(e) => self.normalize(e, input).map(Some),
        };
        Some(Data { dataset, path: path?, augment: augment?, normalize: normalize? })
    }

    fn augment(&mut self, expr: &'a Expr, dataset: Dataset) -> Option<Vec<Augment>> {
        let ExprKind::List(items) = &expr.kind else {
            self.fail(
                Diagnostic::error(Code::WrongKind, "`augment` takes a list")
                    .at(expr.span, "")
                    .hint("write `augment = [crop(pad = 4), flip]`"),
            );
            return None;
        };
        let mut found = Some(Vec::new());
        for item in items {
            let one = self.choice(item, "augmentation", AUGMENTS).and_then(|(change, args)| {
                Some(match change {
                    Change::Crop => {
                        Augment::Crop { pad: args.size("pad", 0, 0, limits::BATCH, &mut self.diags)? }
                    }
                    Change::Flip => Augment::Flip,
                    Change::ResizedCrop => Augment::ResizedCrop {
                        scale: args.number("scale", 0.08, Range::Fraction, &mut self.diags)?,
                    },
                })
            });
            let one = one.filter(|one| {
                let legal = dataset == Dataset::ImageFolder || !matches!(one, Augment::ResizedCrop { .. });
                if !legal {
                    self.fail(
                        Diagnostic::error(Code::Conflict, "`resized_crop` of images that have one size")
                            .at(item.span, "it is for an `image_folder`")
                            .hint("shift them instead: `crop(pad = 4)`"),
                    );
                }
                legal
            });
            match (one, &mut found) {
                (Some(one), Some(list)) => list.push(one),
                _ => found = None,
            }
        }
        found
    }

    fn normalize(&mut self, expr: &'a Expr, input: Option<&Shape>) -> Option<(Vec<f64>, Vec<f64>)> {
        let ((), args) = self.choice(expr, "normalisation", NORMALIZE)?;
        let mean = args.get("mean")?;
        let std = args.get("std")?;
        let means = mean.numbers(Range::Closed(-1e6, 1e6), &mut self.diags);
        let stds = std.numbers(Range::Positive, &mut self.diags);
        let (means, stds) = (means?, stds?);
        let channels = input.map(|s| s.dims()[0]);
        for (given, n) in [(mean, means.len()), (std, stds.len())] {
            if let Some(channels) = channels.filter(|c| *c != n) {
                let message = format!("{} has length {n}, and the input {channels} channels", given.what);
                self.fail(
                    Diagnostic::error(Code::ShapeMismatch, message).at(given.span, "one for each channel"),
                );
                return None;
            }
        }
        Some((means, stds))
    }

    pub(crate) fn optimizer(&mut self, expr: &'a Expr) -> Option<Optimizer> {
        let (rule, args) = self.choice(expr, "optimizer", OPTIMIZERS)?;
        match rule {
            Rule::Sgd => self.sgd(&args, expr.span),
            Rule::Adamw => self.adamw(&args),
        }
    }

    fn sgd(&mut self, args: &Args, span: Span) -> Option<Optimizer> {
        let lr = args.number("lr", 0.1, Range::Positive, &mut self.diags);
        let momentum = args.number("momentum", 0.9, Range::BelowOne, &mut self.diags);
        let weight_decay = args.number("weight_decay", 0.0, Range::NotNegative, &mut self.diags);
        let nesterov = args.flag("nesterov", false, &mut self.diags);
        let (momentum, nesterov) = (momentum?, nesterov?);
        if nesterov && momentum == 0.0 {
            self.fail(
                Diagnostic::error(Code::Conflict, "`nesterov` without momentum")
                    .at(args.get("nesterov").map_or(span, |g| g.span), "")
                    .hint("set `momentum` above 0, or leave `nesterov` out"),
            );
        }
        Some(Optimizer::Sgd { lr: lr?, momentum, nesterov, weight_decay: weight_decay? })
    }

    fn adamw(&mut self, args: &Args) -> Option<Optimizer> {
        let mut number =
            |param: &str, default: f64, range: Range| args.number(param, default, range, &mut self.diags);
        let lr = number("lr", 1e-3, Range::Positive);
        let beta1 = number("beta1", 0.9, Range::BelowOne);
        let beta2 = number("beta2", 0.999, Range::BelowOne);
        let eps = number("eps", 1e-8, Range::Positive);
        let weight_decay = number("weight_decay", 0.01, Range::NotNegative);
        Some(Optimizer::Adamw {
            lr: lr?,
            beta1: beta1?,
            beta2: beta2?,
            eps: eps?,
            weight_decay: weight_decay?,
        })
    }

    pub(crate) fn schedule(&mut self, expr: &'a Expr) -> Option<Schedule> {
        let (course, args) = self.choice(expr, "schedule", SCHEDULES)?;
        let warmup = args.number("warmup", 0.0, Range::NotNegative, &mut self.diags);
        let kind = match course {
            Course::Constant => Some(ScheduleKind::Constant),
            Course::Multistep => self.multistep(&args),
            Course::Cosine => {
                let end = args.number("end", 0.0, Range::Closed(0.0, 1.0), &mut self.diags);
                end.map(|end| ScheduleKind::Cosine { end })
            }
            Course::OneCycle => {
                let rise = args.number("rise", 0.3, Range::Between, &mut self.diags);
                let div = args.number("div", 25.0, Range::Positive, &mut self.diags);
                let final_div = args.number("final_div", 1e4, Range::Positive, &mut self.diags);
                if let (Some(given), Some(w)) = (args.get("warmup"), warmup)
                    && w > 0.0
                {
                    self.fail(
                        Diagnostic::error(Code::Conflict, "`one_cycle` with a warm-up")
                            .at(given.span, "")
                            .hint("`one_cycle` begins with a rise of its own: set `rise`"),
                    );
                }
                Some(ScheduleKind::OneCycle { rise: rise?, div: div?, final_div: final_div? })
            }
        };
        Some(Schedule { warmup: warmup?, kind: kind? })
    }

    fn multistep(&mut self, args: &Args) -> Option<ScheduleKind> {
        let gamma = args.number("gamma", 0.1, Range::Positive, &mut self.diags);
        let given = args.get("milestones")?;
        let milestones = given.numbers(Range::NotNegative, &mut self.diags)?;
        if !milestones.is_sorted_by(|a, b| a < b) {
            self.fail(
                Diagnostic::error(Code::OutOfRange, "the milestones do not ascend")
                    .at(given.span, "")
                    .hint("each milestone is an epoch after the one before it"),
            );
            return None;
        }
        Some(ScheduleKind::Multistep { milestones, gamma: gamma? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ddnnc_ir::Mode;

    /// What `train` with these settings comes to.
    fn recipe(settings: &str) -> Recipe {
        let text = format!(
            "model m
            input image : f32[3, 32, 32]
            target label : class[10]
            backbone net {{ head = global_avg_pool |> linear(classes) }}
            subnet full = net
            train {{ {settings} }}"
        );
        let file = ddnnc_syntax::parse(&text, ddnnc_diag::SourceId(0)).expect("the text parses");
        let options = crate::Options { mode: Mode::Train, batch: None, phase: 0 };
        crate::lower(&file, &options).unwrap_or_else(|errors| panic!("{settings}: {errors:?}")).model.recipe
    }

    /// The word, with what it must be given.
    fn call(word: &Fixed) -> String {
        let needs = word.signature().params.into_iter().filter(|(_, required)| *required);
        let given: Vec<String> = needs
            .map(|(param, _)| format!("{param} = {}", if param == "milestones" { "[1]" } else { "1" }))
            .collect();
        if given.is_empty() { word.name.to_string() } else { format!("{}({})", word.name, given.join(", ")) }
    }

    /// The words of a table in `before` … `after` lead to recipes that all differ.
    fn differ<T>(table: &[(Fixed, T)], before: &str, after: &str) {
        let mut found: Vec<String> = Vec::new();
        for (word, _) in table {
            let recipe = format!("{:?}", recipe(&format!("{before}{}{after}", call(word))));
            assert!(!found.contains(&recipe), "`{}` means what another word does", word.name);
            found.push(recipe);
        }
    }

    #[test]
    fn every_word_has_a_meaning_of_its_own() {
        differ(DATASETS, "data = ", "");
        differ(AUGMENTS, "data = image_folder(augment = [", "])");
        differ(OPTIMIZERS, "data = cifar10, optimizer = ", "");
        differ(SCHEDULES, "data = cifar10, epochs = 2, schedule = ", "");
    }
}
