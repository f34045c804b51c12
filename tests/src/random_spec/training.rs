//! Losses and the recipe of training.

use super::drawing::Drawing;
use super::networks::{Backbone, Net};
use std::collections::BTreeSet;

impl Drawing {
    /// Declares what is supervised otherwise than by a plain cross-entropy.
    pub(super) fn supervise(&mut self, nets: &[Net]) {
        for net in nets.iter().filter(|net| !net.frozen) {
            if !self.dice.percent(25) {
                continue;
            }
            let mut args = Vec::new();
            args.extend(self.weight());
            if self.dice.percent(50) {
                args.push(format!("label_smoothing = {}", self.dice.pick(&["0.1", "0.3"])));
            }
            let args = arguments(&args);
            let name = if self.dice.percent(30) { format!("[{}]", net.name) } else { net.name.clone() };
            self.items.push(format!("supervise {name} {{ cross_entropy{args} }}"));
        }
    }

    /// Declares teachers and students.
    pub(super) fn distill(&mut self, backbones: &[Backbone], nets: &[Net]) {
        let mut pairings = BTreeSet::new();
        for _ in 0..self.dice.pick(&[0, 1, 1, 2, 2, 3]) {
            let teacher = self.dice.between(0, nets.len() - 1);
            let mut students: Vec<usize> =
                (0..nets.len()).filter(|&i| i != teacher && !nets[i].frozen).collect();
            self.dice.shuffle(&mut students);
            students.truncate(self.dice.pick(&[1, 1, 2, 3]));
            let mut terms = Vec::new();
            let teaches = |kind: &str| {
                students.iter().map(|&student| format!("{kind} {teacher} {student}")).collect::<Vec<_>>()
            };
            if self.dice.percent(70) && !teaches("kl").iter().any(|pairing| pairings.contains(pairing)) {
                pairings.extend(teaches("kl"));
                terms.push(self.kl());
            }
            for kind in ["attention", "hint", "relation"] {
                if kind == "relation" && self.batch < 3 {
                    continue;
                }
                // A stage is paired once between two nets: what is paired anew would have a name that is taken.
                if !self.dice.percent(50) || teaches(kind).iter().any(|pairing| pairings.contains(pairing)) {
                    continue;
                }
                if let Some(term) = self.features(kind, backbones, nets, teacher, &students) {
                    pairings.extend(teaches(kind));
                    terms.push(term);
                }
            }
            if students.is_empty() || terms.is_empty() {
                continue;
            }
            let names: Vec<&str> = students.iter().map(|&i| nets[i].name.as_str()).collect();
            let names = match names.as_slice() {
                [one] if self.dice.percent(60) => (*one).to_owned(),
                all => format!("[{}]", all.join(", ")),
            };
            self.items.push(format!(
                "distill {} -> {names} {{\n    {}\n}}",
                nets[teacher].name,
                terms.join("\n    ")
            ));
        }
    }

    /// Declares sets of teachers and their students.
    pub(super) fn distill_sets(&mut self, nets: &[Net]) {
        let mut taught = BTreeSet::new();
        for _ in 0..self.dice.pick(&[0, 0, 1, 1, 2]) {
            let kind = self.dice.pick(&["mean", "gated", "adaptive"]);
            let mut teachers: Vec<usize> = (0..nets.len()).collect();
            self.dice.shuffle(&mut teachers);
            teachers.truncate(self.dice.pick(&[2, 2, 3]));
            let mut students: Vec<usize> = (0..nets.len()).filter(|&i| !nets[i].frozen).collect();
            // A gate alone may teach those that it mixes.
            students.retain(|i| kind == "gated" || !teachers.contains(i));
            self.dice.shuffle(&mut students);
            students.truncate(self.dice.pick(&[1, 1, 2]));
            let mut set = teachers.clone();
            set.sort_unstable();
            let pairings = students.iter().map(|&i| if kind == "gated" { None } else { Some(i) });
            let pairings: BTreeSet<_> = pairings.map(|student| (kind, set.clone(), student)).collect();
            if teachers.len() < 2 || students.is_empty() || !taught.is_disjoint(&pairings) {
                continue;
            }
            taught.extend(pairings);
            let name = |i: &usize| nets[*i].name.clone();
            let mut args: Vec<String> = teachers.iter().map(name).collect();
            match kind {
                "gated" if self.dice.percent(50) => {
                    args.push(format!("weight = {}", self.dice.pick(&["0.5", "2"])));
                }
                "adaptive" if self.dice.percent(60) => {
                    args.push(format!("penalty = {}", self.dice.pick(&["0", "0.01", "0.5"])));
                }
                _ => {}
            }
            let students: Vec<String> = students.iter().map(name).collect();
            let (set, kl) = (arguments(&args), self.kl());
            self.items.push(format!("distill {kind}{set} -> [{}] {{ {kl} }}", students.join(", ")));
        }
    }

    pub(super) fn kl(&mut self) -> String {
        let mut args = Vec::new();
        if self.dice.percent(60) {
            args.push(format!("temperature = {}", self.dice.pick(&["1", "2", "4.0", "0.5", "5.5"])));
        }
        args.extend(self.weight());
        args.extend(self.detach());
        format!("kl{}", arguments(&args))
    }

    /// A term between stages, whose maps are of one resolution for all students unless it compares samples; `None`
    /// where there are none.
    fn features(
        &mut self,
        kind: &str,
        backbones: &[Backbone],
        nets: &[Net],
        teacher: usize,
        students: &[usize],
    ) -> Option<String> {
        let of_student = nets[*students.first()?].backbone;
        if nets[teacher].depth.is_none()
            || students.iter().any(|&i| nets[i].depth.is_none() || nets[i].backbone != of_student)
        {
            return None;
        }
        let of_teacher = &backbones[nets[teacher].backbone];
        let mut pairs = Vec::new();
        let mut adapted = false;
        for (from, _) in of_teacher.stages() {
            for (to, _) in backbones[of_student].stages() {
                let Some(given) = nets[teacher].after(of_teacher, from) else { continue };
                let taken: Vec<[usize; 3]> =
                    students.iter().filter_map(|&i| nets[i].after(&backbones[of_student], to)).collect();
                let alike = taken.iter().all(|map| map[1..] == given[1..]);
                let fits = match kind {
                    "relation" => true,
                    "hint" => alike,
                    _ => alike && given[1] * given[2] > 1,
                };
                if fits && (from == to || self.dice.percent(40)) {
                    adapted |= taken.iter().any(|map| map[0] != given[0]);
                    pairs.push((from, to));
                }
            }
        }
        self.dice.shuffle(&mut pairs);
        pairs.truncate(self.dice.pick(&[1, 1, 2]));
        if pairs.is_empty() {
            return None;
        }
        let pairs: Vec<String> = pairs
            .iter()
            .map(|&(from, to)| if from == to { from.to_owned() } else { format!("{from} -> {to}") })
            .collect();
        let mut args = vec![format!("at = [{}]", pairs.join(", "))];
        args.extend(self.weight());
        match kind {
            "attention" => {
                if self.dice.percent(60) {
                    args.push(format!("mode = {}", self.dice.pick(&["at", "at", "zscore"])));
                }
                if self.dice.percent(20) {
                    args.push("eps = 1e-3".to_owned());
                }
            }
            "relation" => {
                args.extend(
                    self.dice
                        .pick(&["", "", "angle = 0", "distance = 0", "distance = 2, angle = 0.5"])
                        .split_terminator(", ")
                        .map(String::from),
                );
            }
            _ => {
                let unequal = ["auto", "conv"];
                let equal = ["auto", "conv", "none"];
                let adapter = if adapted { self.dice.pick(&unequal) } else { self.dice.pick(&equal) };
                if adapter != "auto" || self.dice.percent(30) {
                    args.push(format!("adapter = {adapter}"));
                }
            }
        }
        args.extend(self.detach());
        Some(format!("{kind}{}", arguments(&args)))
    }

    fn detach(&mut self) -> Option<String> {
        self.dice.percent(40).then(|| format!("detach = {}", self.dice.percent(15)))
    }

    fn weight(&mut self) -> Option<String> {
        let weight = match self.dice.between(0, 9) {
            0..3 => return None,
            3 => "ramp(from = 0.3, to = 1, epochs = 5)".to_owned(),
            4 => "ramp(to = 0.5)".to_owned(),
            5 => "ramp".to_owned(),
            _ => self.dice.pick(&["0.5", "1.0", "0.05", "3", "0.7"]).to_owned(),
        };
        Some(format!("weight = {weight}"))
    }

    /// An update rule.
    pub(super) fn optimizer(&mut self) -> &'static str {
        self.dice.pick(&[
            "sgd",
            "sgd(lr = 0.1, momentum = 0.9, weight_decay = 1e-3)",
            "sgd(lr = 0.05, momentum = 0.0)",
            "sgd(lr = 0.05, momentum = 0.8, nesterov = true, weight_decay = 0.01)",
            "adamw(lr = 1e-3, weight_decay = 0.05)",
            "adamw(lr = 1e-2, beta1 = 0.5, beta2 = 0.9, eps = 1e-4)",
        ])
    }

    /// A learning rate over time.
    pub(super) fn schedule(&mut self) -> &'static str {
        self.dice.pick(&[
            "constant",
            "constant(warmup = 1)",
            "multistep(milestones = [1, 2], gamma = 0.5, warmup = 0.5)",
            "cosine(end = 0.1, warmup = 1)",
            "one_cycle(rise = 0.4, div = 10, final_div = 1e3)",
            "one_cycle(warmup = 0)",
        ])
    }

    /// Declares how to train; without a length where phases have theirs.
    pub(super) fn train(&mut self, phased: bool) {
        let mut settings = vec![format!("data = {}", self.data()), format!("batch = {}", self.batch)];
        settings.push(format!("optimizer = {}", self.optimizer()));
        settings.push(format!("schedule = {}", self.schedule()));
        if !phased {
            settings.push("epochs = 3".to_owned());
        }
        if self.dice.percent(60) {
            settings.push(format!("precision = {}", self.dice.pick(&["f32", "bf16"])));
        }
        if self.dice.percent(50) {
            settings.push(format!("seed = {}", self.dice.between(0, 1000)));
        }
        if self.dice.percent(30) {
            settings.push("validation = 0.25".to_owned());
        }
        self.items.push(format!("train {{\n    {}\n}}", settings.join("\n    ")));
    }

    fn data(&mut self) -> String {
        let mut args = Vec::new();
        if self.dice.percent(70) {
            args.push("path = \"data\"".to_owned());
        }
        let name = self.dice.pick(&["image_folder", "image_folder", "cifar10", "cifar100", "mnist"]);
        if self.dice.percent(40) {
            let mut changes = vec!["crop(pad = 2), flip", ""];
            if name == "image_folder" {
                changes.extend(["resized_crop(scale = 0.2), flip", "resized_crop"]);
            }
            args.push(format!("augment = [{}]", self.dice.pick(&changes)));
        }
        if self.dice.percent(20) {
            let channels = self.image[0];
            let (mean, std) = (vec!["0.5"; channels].join(", "), vec!["0.25"; channels].join(", "));
            args.push(format!("normalize = normalize(mean = [{mean}], std = [{std}])"));
        }
        format!("{name}{}", arguments(&args))
    }
}

fn arguments(args: &[String]) -> String {
    if args.is_empty() { String::new() } else { format!("({})", args.join(", ")) }
}
