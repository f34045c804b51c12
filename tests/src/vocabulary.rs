//! The words of the language that a spec uses.

use ddnnc_lower::Callable;
use ddnnc_syntax::{
    Arg, Body, DECLARATIONS, Expr, ExprKind, Instance, Item, Member, Param, Setting, SpecFile, UnaryOp,
};
use std::collections::{BTreeMap, BTreeSet};

/// Uses counted: declarations (`exit`), what is called (`conv`), parameters that are given (`conv.stride`), settings
/// (`norm = private`), forms of expressions (`if`, `%`).
pub type Uses = BTreeMap<String, usize>;

/// What a file uses.
pub fn uses(file: &SpecFile) -> Uses {
    let callables = ddnnc_lower::vocabulary().into_iter().map(|callable| (callable.name, callable)).collect();
    let mut reader = Reader { callables, uses: Uses::new() };
    file.items.iter().for_each(|item| reader.item(item));
    reader.uses
}

/// What specs can use, without what the compiler refuses as not supported yet.
pub fn everything() -> BTreeSet<String> {
    // Every spec has its `model`, and `task` stands among the settings.
    const LEFT_OUT: [&str; 2] = ["model", "task"];
    const MEMBERS: [&str; 2] = ["segment", "stage"];
    const FORMS: [&str; 30] = [
        "integer",
        "float",
        "boolean",
        "string",
        "list",
        "in.channels",
        "in.height",
        "in.width",
        "-x",
        "not",
        "or",
        "and",
        "==",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "+",
        "-",
        "*",
        "/",
        "%",
        "if",
        "|>",
        "as",
        "->",
        "parameter",
        "default",
        "named argument",
    ];
    const SETTINGS: [&str; 43] = [
        "depth",
        "exit of a block",
        "count",
        "network.frozen = true",
        "network.frozen = false",
        "network.load",
        "share.norm = private",
        "share.norm = private_everywhere",
        "share.norm = shared",
        "share.norm = recalibrated",
        "share.head = private",
        "share.head = shared",
        "train.data",
        "train.batch",
        "train.epochs",
        "train.optimizer",
        "train.schedule",
        "train.precision = f32",
        "train.precision = bf16",
        "train.seed",
        "train.validation",
        "phase.epochs",
        "phase.train",
        "phase.freeze",
        "phase.optimizer",
        "phase.schedule",
        "order.by",
        "order.pace",
        "order.pace.from",
        "order.pace.to",
        "difficulty.mode = curriculum",
        "difficulty.mode = anti_curriculum",
        "difficulty.mode = random_curriculum",
        "part of a net",
        "block of a stage",
        "attention.mode = zscore",
        "attention.mode = at",
        "hint.adapter = auto",
        "hint.adapter = conv",
        "hint.adapter = none",
        "classes",
        "several students",
        "task classification",
    ];
    let declarations = DECLARATIONS.iter().copied().filter(|word| !LEFT_OUT.contains(word));
    let mut all: BTreeSet<String> =
        declarations.chain(MEMBERS).chain(FORMS).chain(SETTINGS).map(String::from).collect();
    for callable in ddnnc_lower::vocabulary() {
        all.extend(callable.parameters.iter().map(|parameter| format!("{}.{parameter}", callable.name)));
        all.insert(callable.name.to_owned());
    }
    all
}

struct Reader {
    callables: BTreeMap<&'static str, Callable>,
    uses: Uses,
}

impl Reader {
    fn count(&mut self, word: impl Into<String>) {
        *self.uses.entry(word.into()).or_default() += 1;
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Input(input) => {
                self.count("input");
                input.ty.dims.iter().for_each(|dim| self.expr(dim));
            }
            Item::Target(target) => {
                self.count("target");
                target.ty.dims.iter().for_each(|dim| self.expr(dim));
            }
            Item::Let(decl) => {
                self.count("let");
                self.expr(&decl.value);
            }
            Item::Block(block) => {
                self.count("block");
                self.params(&block.params);
                self.body(&block.body);
            }
            Item::Backbone(backbone) => {
                self.count("backbone");
                self.params(&backbone.params);
                backbone.members.iter().for_each(|member| self.member(member));
            }
            Item::Subnet(subnet) => {
                self.count("subnet");
                self.instance(&subnet.of);
            }
            Item::Exit(exit) => {
                self.count("exit");
                if let Some(block) = &exit.block {
                    self.count("exit of a block");
                    self.expr(block);
                }
                self.expr(&exit.head);
            }
            Item::Network(network) => {
                self.count("network");
                self.instance(&network.of);
                self.settings("network", &network.settings);
            }
            Item::Share(share) => {
                self.count("share");
                self.settings("share", &share.settings);
            }
            Item::Supervise(supervise) => {
                self.count("supervise");
                supervise.terms.iter().for_each(|term| self.expr(term));
            }
            Item::Distill(distill) => {
                self.count("distill");
                if let ExprKind::Call { callee, args } = &distill.teacher.kind {
                    self.set(&callee.name, args);
                }
                if distill.students.len() > 1 {
                    self.count("several students");
                }
                distill.terms.iter().for_each(|term| self.expr(term));
            }
            Item::Train(train) => {
                self.count("train");
                self.settings("train", &train.settings);
            }
            Item::Task(task) => self.count(format!("task {}", task.kind.name)),
            Item::Phase(phase) => {
                self.count("phase");
                for setting in &phase.settings {
                    let key = setting.key.name.as_str();
                    self.count(format!("phase.{key}"));
                    match key {
                        "train" | "freeze" => self.covered(&setting.value),
                        _ => self.expr(&setting.value),
                    }
                }
                phase.items.iter().for_each(|item| self.item(item));
            }
            Item::Order(order) => {
                self.count("order");
                for setting in &order.settings {
                    let key = format!("order.{}", setting.key.name);
                    match (&setting.value.kind, setting.key.name.as_str()) {
                        // A `linear` that is no operator.
                        (ExprKind::Call { args, .. }, "pace") => {
                            for (arg, place) in args.iter().zip(["from", "to"]) {
                                let name = arg.name.as_ref().map_or(place, |name| name.name.as_str());
                                self.count(format!("{key}.{name}"));
                            }
                        }
                        (_, "pace") => {}
                        _ => self.expr(&setting.value),
                    }
                    self.count(key);
                }
            }
        }
    }

    /// What a phase trains or freezes.
    fn covered(&mut self, value: &Expr) {
        match &value.kind {
            ExprKind::List(items) => items.iter().for_each(|item| self.covered(item)),
            ExprKind::Field { base, .. } => {
                self.count("part of a net");
                self.covered(base);
            }
            ExprKind::Index { base, index } => {
                self.count("block of a stage");
                self.expr(index);
                self.covered(base);
            }
            _ => {}
        }
    }

    fn member(&mut self, member: &Member) {
        match member {
            Member::Let(decl) => {
                self.count("let");
                self.expr(&decl.value);
            }
            Member::Segment(segment) => {
                self.count("segment");
                self.expr(&segment.value);
            }
            Member::Stage(stage) => {
                self.count("stage");
                for entry in &stage.entries {
                    if let Some(count) = &entry.count {
                        self.count("count");
                        self.expr(count);
                    }
                    self.expr(&entry.block);
                }
            }
        }
    }

    fn params(&mut self, params: &[Param]) {
        for param in params {
            self.count("parameter");
            if let Some(default) = &param.default {
                self.count("default");
                self.expr(default);
            }
        }
    }

    fn body(&mut self, body: &Body) {
        for decl in &body.lets {
            self.count("let");
            self.expr(&decl.value);
        }
        self.expr(&body.result);
    }

    fn instance(&mut self, instance: &Instance) {
        instance.args.iter().for_each(|arg| self.expr(&arg.value));
        if let Some((depth, _)) = &instance.depth {
            self.count("depth");
            depth.iter().for_each(|blocks| self.expr(blocks));
        }
    }

    fn settings(&mut self, of: &str, settings: &[Setting]) {
        for setting in settings {
            let key = format!("{of}.{}", setting.key.name);
            self.word(&key, &setting.value);
            self.count(key);
            self.expr(&setting.value);
        }
    }

    /// Counts a setting or parameter with the word that it is given.
    fn word(&mut self, key: &str, value: &Expr) {
        match &value.kind {
            ExprKind::Name(word) => self.count(format!("{key} = {word}")),
            ExprKind::Bool(flag) => self.count(format!("{key} = {flag}")),
            _ => {}
        }
    }

    /// A set of teachers: its arguments without names are nets.
    fn set(&mut self, name: &str, args: &[Arg]) {
        self.count(name);
        for arg in args {
            if let Some(parameter) = &arg.name {
                self.count(format!("{name}.{}", parameter.name));
                self.count("named argument");
                self.expr(&arg.value);
            }
        }
    }

    fn call(&mut self, name: &str, args: &[Arg]) {
        if let Some(callable) = self.callables.get(name).cloned() {
            self.count(name);
            for (i, arg) in args.iter().enumerate() {
                // What follows the last parameter is more of the same.
                let in_order = callable.parameters.get(i).or(callable.parameters.last());
                let named = arg.name.as_ref().map(|name| name.name.as_str());
                let Some(parameter) = named.or(in_order.copied()) else { continue };
                let key = format!("{name}.{parameter}");
                self.word(&key, &arg.value);
                self.count(key);
            }
        }
        for arg in args {
            if arg.name.is_some() {
                self.count("named argument");
            }
            self.expr(&arg.value);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match &expr.kind {
            ExprKind::Int(_) => self.count("integer"),
            ExprKind::Float(_) => self.count("float"),
            ExprKind::Bool(_) => self.count("boolean"),
            ExprKind::Str(_) => self.count("string"),
            ExprKind::List(items) => {
                self.count("list");
                items.iter().for_each(|item| self.expr(item));
            }
            ExprKind::Name(name) if name == "classes" => self.count("classes"),
            ExprKind::Name(name) => self.call(name, &[]),
            ExprKind::Field { base, field } => {
                if matches!(&base.kind, ExprKind::Name(name) if name == "in") {
                    self.count(format!("in.{}", field.name));
                }
                self.expr(base);
            }
            ExprKind::Index { base, index } => {
                self.expr(base);
                self.expr(index);
            }
            ExprKind::Unary { op, operand } => {
                self.count(match op {
                    UnaryOp::Neg => "-x",
                    UnaryOp::Not => "not",
                });
                self.expr(operand);
            }
            ExprKind::Binary { op, lhs, rhs, .. } => {
                self.count(op.as_str());
                self.expr(lhs);
                self.expr(rhs);
            }
            ExprKind::If { condition, then, otherwise } => {
                self.count("if");
                self.expr(condition);
                self.body(then);
                self.body(otherwise);
            }
            ExprKind::Call { callee, args } => self.call(&callee.name, args),
            ExprKind::Named { step, .. } => {
                self.count("as");
                self.expr(step);
            }
            ExprKind::Pipe(steps) => {
                self.count("|>");
                steps.iter().for_each(|step| self.expr(step));
            }
            ExprKind::Arrow { from, to } => {
                self.count("->");
                self.expr(from);
                self.expr(to);
            }
        }
    }
}
