//! A failing spec made small: pieces of its text are taken out and numbers made smaller while the failure stays.
//!
//! Where pieces begin and end is what the syntax tree says, and whether what is left is legal is what the compiler says:
//! this works on any spec, whoever wrote it.

use ddnnc_diag::{SourceId, Span};
use ddnnc_syntax::{
    Arg, Body, Expr, ExprKind, Ident, Instance, Item, Member, Setting, SpecFile, format, parse,
};
use std::ops::Range;

/// A change of the text: ranges with what stands there afterwards, in order and apart from one another.
type Edit = Vec<(Range<usize>, String)>;

/// The smallest spec found that still fails, in canonical form where that fails too; `fails` is asked at most `limit`
/// times.
pub fn reduce(text: &str, limit: usize, fails: &mut dyn FnMut(&str) -> bool) -> String {
    let mut text = text.to_owned();
    let mut asked = 0;
    let mut from = 0;
    // Changes are tried in turn, and after one that was kept the next in turn goes on, until none of them is.
    loop {
        let edits = edits(&text);
        let mut kept = false;
        for step in 0..edits.len() {
            let at = (from + step) % edits.len();
            let Some(smaller) = apply(&text, &edits[at]) else { continue };
            asked += 1;
            if fails(&smaller) {
                text = smaller;
                from = at;
                kept = true;
                break;
            }
            if asked >= limit {
                break;
            }
        }
        if !kept || asked >= limit {
            break;
        }
    }
    match canonical(&text) {
        Some(tidy) if fails(&tidy) => tidy,
        Some(_) | None => text,
    }
}

fn canonical(text: &str) -> Option<String> {
    let file = parse(text, SourceId::default()).ok()?;
    Some(format(&file, text))
}

/// The text with a change made; `None` where that changes nothing, or leaves no spec.
fn apply(text: &str, edit: &Edit) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (range, replacement) in edit {
        out += text.get(at..range.start)?;
        out += replacement;
        at = range.end;
    }
    out += text.get(at..)?;
    out = out.lines().filter(|line| !line.trim().is_empty()).map(|line| format!("{line}\n")).collect();
    (out != text && parse(&out, SourceId::default()).is_ok()).then_some(out)
}

/// Changes to try, the larger ones first.
fn edits(text: &str) -> Vec<Edit> {
    let Ok(file) = parse(text, SourceId::default()) else { return Vec::new() };
    let mut cutter = Cutter { text, edits: Vec::new(), numbers: Vec::new() };
    cutter.declarations(&file);
    cutter.stages(&file);
    file.items.iter().for_each(|item| cutter.parts(item));
    cutter.smaller_numbers();
    cutter.edits
}

fn range(span: Span) -> Range<usize> {
    span.start as usize..span.end as usize
}

struct Cutter<'t> {
    text: &'t str,
    edits: Vec<Edit>,
    /// Every whole number of the file, with its place.
    numbers: Vec<(Range<usize>, i64)>,
}

impl Cutter<'_> {
    fn cut(&mut self, range: Range<usize>) {
        self.edits.push(vec![(range, String::new())]);
    }

    fn replace(&mut self, range: Range<usize>, by: &str) {
        self.edits.push(vec![(range, by.to_owned())]);
    }

    /// The place of an entry of a list with the separator that stands after it, or before it.
    fn with_separator(&self, entry: Range<usize>, separator: &str) -> Range<usize> {
        let after = &self.text[entry.end..];
        if let Some(rest) = after.trim_start().strip_prefix(separator) {
            return entry.start..self.text.len() - rest.len();
        }
        let before = self.text[..entry.start].trim_end();
        match before.strip_suffix(separator) {
            Some(rest) => rest.len()..entry.end,
            None => entry,
        }
    }

    /// Whole declarations, and nets with all that names them.
    fn declarations(&mut self, file: &SpecFile) {
        for item in &file.items {
            match item {
                Item::Subnet(net) => self.net(file, &net.name.name),
                Item::Network(net) => self.net(file, &net.name.name),
                Item::Exit(net) => self.net(file, &net.name.name),
                Item::Input(_)
                | Item::Target(_)
                | Item::Let(_)
                | Item::Block(_)
                | Item::Backbone(_)
                | Item::Share(_)
                | Item::Supervise(_)
                | Item::Distill(_)
                | Item::Train(_)
                | Item::Phase(_)
                | Item::Order(_)
                | Item::Task(_) => {}
            }
        }
        for item in &file.items {
            self.cut(range(item_span(item)));
        }
    }

    /// Takes a net out, its exits, and its mention among teachers and students.
    fn net(&mut self, file: &SpecFile, net: &str) {
        let mut edit: Edit = Vec::new();
        for item in &file.items {
            let whole = |edit: &mut Edit| edit.push((range(item_span(item)), String::new()));
            let names = |name: &Ident| name.name == net;
            let among = |targets: &[Ident], edit: &mut Edit| match targets {
                [one] if names(one) => whole(edit),
                several => {
                    if let Some(target) = several.iter().find(|target| names(target)) {
                        edit.push((self.with_separator(range(target.span), ","), String::new()));
                    }
                }
            };
            match item {
                Item::Subnet(decl) if names(&decl.name) => whole(&mut edit),
                Item::Network(decl) if names(&decl.name) => whole(&mut edit),
                Item::Exit(decl) if names(&decl.name) || names(&decl.of) => whole(&mut edit),
                Item::Supervise(decl) => among(&decl.targets, &mut edit),
                Item::Distill(decl) => match &decl.teacher.kind {
                    ExprKind::Name(teacher) if teacher == net => whole(&mut edit),
                    ExprKind::Call { args, .. } => {
                        let nets = args.iter().filter(|arg| arg.name.is_none()).count();
                        let is_net = |arg: &&Arg| matches!(&arg.value.kind, ExprKind::Name(n) if n == net);
                        match args.iter().find(is_net) {
                            Some(_) if nets < 3 => whole(&mut edit),
                            teacher => {
                                let cut = teacher.map(|arg| self.with_separator(range(arg.value.span), ","));
                                edit.extend(cut.map(|cut| (cut, String::new())));
                                among(&decl.students, &mut edit);
                            }
                        }
                    }
                    _ => among(&decl.students, &mut edit),
                },
                _ => {}
            }
        }
        self.edits.push(edit);
    }

    /// Stages with their entries in depth lists.
    fn stages(&mut self, file: &SpecFile) {
        for item in &file.items {
            let Item::Backbone(backbone) = item else { continue };
            let stages = backbone.members.iter().filter_map(|member| match member {
                Member::Stage(stage) => Some(stage),
                Member::Let(_) | Member::Segment(_) => None,
            });
            for (i, stage) in stages.enumerate() {
                let mut edit: Edit = vec![(range(stage.span), String::new())];
                for item in &file.items {
                    let of: &Instance = match item {
                        Item::Subnet(net) => &net.of,
                        Item::Network(net) => &net.of,
                        _ => continue,
                    };
                    if of.backbone.name != backbone.name.name {
                        continue;
                    }
                    if let Some(blocks) = of.depth.as_ref().and_then(|(depth, _)| depth.get(i)) {
                        edit.push((self.with_separator(range(blocks.span), ","), String::new()));
                    }
                }
                edit.sort_by_key(|(range, _)| range.start);
                self.edits.push(edit);
            }
        }
    }

    fn parts(&mut self, item: &Item) {
        match item {
            Item::Input(input) => input.ty.dims.iter().for_each(|dim| self.expr(dim)),
            Item::Target(target) => target.ty.dims.iter().for_each(|dim| self.expr(dim)),
            Item::Let(decl) => self.expr(&decl.value),
            Item::Block(block) => self.body(&block.body),
            Item::Backbone(backbone) => backbone.members.iter().for_each(|member| self.member(member)),
            Item::Subnet(net) => self.instance(&net.of),
            Item::Network(net) => {
                self.instance(&net.of);
                self.settings(&net.settings);
            }
            Item::Exit(exit) => self.expr(&exit.head),
            Item::Share(share) => self.settings(&share.settings),
            Item::Supervise(supervise) => self.terms(&supervise.terms),
            Item::Distill(distill) => {
                if let ExprKind::Call { args, .. } = &distill.teacher.kind {
                    self.args(args);
                }
                self.terms(&distill.terms);
            }
            Item::Train(train) => self.settings(&train.settings),
            Item::Phase(_) | Item::Order(_) | Item::Task(_) => {}
        }
    }

    fn member(&mut self, member: &Member) {
        match member {
            Member::Let(decl) => {
                self.cut(range(decl.span));
                self.expr(&decl.value);
            }
            Member::Segment(segment) => {
                self.cut(range(segment.span));
                self.expr(&segment.value);
            }
            Member::Stage(stage) => {
                for entry in &stage.entries {
                    let cut = self.with_separator(range(entry.span), ",");
                    self.cut(cut);
                    if let Some(count) = &entry.count {
                        let block = range(entry.block.span).start;
                        self.cut(range(entry.span).start..block);
                        self.expr(count);
                    }
                    self.expr(&entry.block);
                }
            }
        }
    }

    fn instance(&mut self, of: &Instance) {
        if let Some((depth, list)) = &of.depth {
            let before = self.text[..list.start as usize].trim_end();
            if let Some(before) = before.strip_suffix("depth") {
                self.cut(before.len()..list.end as usize);
            }
            depth.iter().for_each(|blocks| self.expr(blocks));
        }
        self.args(&of.args);
    }

    fn settings(&mut self, settings: &[Setting]) {
        for setting in settings {
            // Without its own batch a spec has the default, which is larger than any that is drawn.
            if setting.key.name != "batch" {
                let cut = self.with_separator(range(setting.span), ",");
                self.cut(cut);
            }
            self.expr(&setting.value);
        }
    }

    fn terms(&mut self, terms: &[Expr]) {
        for term in terms {
            let cut = self.with_separator(range(term.span), ",");
            self.cut(cut);
            self.expr(term);
        }
    }

    fn body(&mut self, body: &Body) {
        for decl in &body.lets {
            self.cut(range(decl.span));
            self.expr(&decl.value);
        }
        self.expr(&body.result);
    }

    fn args(&mut self, args: &[Arg]) {
        for arg in args {
            let start = arg.name.as_ref().map_or(arg.value.span.start, |name| name.span.start) as usize;
            let cut = self.with_separator(start..arg.value.span.end as usize, ",");
            self.cut(cut);
            self.expr(&arg.value);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        let text = self.text;
        let whole = range(expr.span);
        match &expr.kind {
            ExprKind::Int(n) => self.numbers.push((whole, *n)),
            ExprKind::Float(_) | ExprKind::Bool(_) | ExprKind::Str(_) | ExprKind::Name(_) => {}
            ExprKind::List(items) => {
                for item in items {
                    let cut = self.with_separator(range(item.span), ",");
                    self.cut(cut);
                    self.expr(item);
                }
            }
            ExprKind::Field { base, .. } => self.expr(base),
            ExprKind::Index { base, index } => {
                self.expr(base);
                self.expr(index);
            }
            ExprKind::Unary { operand, .. } => self.expr(operand),
            ExprKind::Binary { lhs, rhs, .. } => {
                self.replace(whole.clone(), &text[range(lhs.span)]);
                self.replace(whole, &text[range(rhs.span)]);
                self.expr(lhs);
                self.expr(rhs);
            }
            ExprKind::If { condition, then, otherwise } => {
                for branch in [then, otherwise] {
                    self.replace(whole.clone(), &text[range(branch.result.span)]);
                    self.body(branch);
                }
                self.expr(condition);
            }
            ExprKind::Call { args, .. } => {
                self.replace(whole, "identity");
                self.args(args);
            }
            ExprKind::Named { step, .. } => {
                self.replace(whole, &text[range(step.span)]);
                self.expr(step);
            }
            ExprKind::Pipe(steps) => {
                // Halves first, so that long pipes are short soon.
                for part in [&steps[..steps.len() / 2], &steps[steps.len() / 2..]] {
                    if let (Some(first), Some(last)) = (part.first(), part.last()) {
                        let cut = self.with_separator(range(first.span.to(last.span)), "|>");
                        self.cut(cut);
                    }
                }
                for step in steps {
                    let cut = self.with_separator(range(step.span), "|>");
                    self.cut(cut);
                    self.expr(step);
                }
            }
            ExprKind::Arrow { from, to } => {
                self.expr(from);
                self.expr(to);
            }
        }
    }

    /// Smaller numbers: wherever the same number stands, and one by one.
    fn smaller_numbers(&mut self) {
        let mut numbers = std::mem::take(&mut self.numbers);
        numbers.sort_by_key(|(range, _)| range.start);
        let mut known: Vec<i64> = numbers.iter().map(|(_, n)| *n).collect();
        known.sort_unstable();
        known.dedup();
        for &n in known.iter().rev() {
            for smaller in smaller(n) {
                let all = numbers.iter().filter(|(_, m)| *m == n);
                self.edits.push(all.map(|(range, _)| (range.clone(), smaller.to_string())).collect());
            }
        }
        for (range, n) in numbers {
            for smaller in smaller(n) {
                self.edits.push(vec![(range.clone(), smaller.to_string())]);
            }
        }
    }
}

/// What to try in place of a number.
fn smaller(n: i64) -> Vec<i64> {
    let mut tried = vec![1, 2, n / 2, n - 1];
    tried.dedup();
    tried.retain(|&m| m > 0 && m < n);
    tried
}

fn item_span(item: &Item) -> Span {
    match item {
        Item::Input(decl) | Item::Target(decl) => decl.span,
        Item::Let(decl) => decl.span,
        Item::Block(decl) => decl.span,
        Item::Backbone(decl) => decl.span,
        Item::Subnet(decl) => decl.span,
        Item::Exit(decl) => decl.span,
        Item::Network(decl) => decl.span,
        Item::Share(decl) => decl.span,
        Item::Supervise(decl) => decl.span,
        Item::Distill(decl) => decl.span,
        Item::Train(decl) | Item::Order(decl) => decl.span,
        Item::Phase(decl) => decl.span,
        Item::Task(decl) => decl.span,
    }
}

#[cfg(test)]
mod tests {
    use super::reduce;
    use crate::harness::try_model;
    use crate::random_spec::random_spec;
    use ddnnc_ir::Mode;

    const SPEC: &str = "model m
input  image : f32[3, 8, 8]
target label : class[10]
block wide(out) {
    let a = in |> conv(out, 3) |> bn |> relu
    a |> if true { conv(out, 1) } else { tanh } |> add(a)
}
backbone net {
    stem     = conv(16, 3) |> bn |> relu
    stage s1 = wide(16), 2 * wide(16)
    stage s2 = 2 * wide(16)
    head     = global_avg_pool |> linear(classes)
}
subnet full = net depth [3, 2]
subnet half = net depth [1, 1]
exit early = half after s1 |> max_pool(2) |> gelu |> flatten |> linear(classes)
distill full -> [half, early] { kl(temperature = 2, weight = 0.5) }
train { data = cifar10, batch = 4 }
";

    fn fails_with(word: &'static str) -> impl FnMut(&str) -> bool {
        move |text| text.contains(word) && try_model(text, Mode::Train, None).is_ok()
    }

    #[test]
    fn what_a_failure_does_not_need_is_taken_out() {
        let small = reduce(SPEC, 10_000, &mut fails_with("gelu"));
        let wanted = "model m
input  image : f32[1, 1, 1]
target label : class[2]
backbone net {
    stage s1 = identity
    head     = global_avg_pool |> linear(classes)
}
subnet half = net
exit early = half after s1 |> gelu |> flatten |> linear(classes)
train { data = cifar10, batch = 1 }
";
        assert_eq!(small, wanted);
    }

    #[test]
    fn random_specs_get_smaller_and_stay_legal() {
        for (seed, word) in [(3, "relu"), (8, "conv"), (11, "linear")] {
            let spec = random_spec(seed);
            let mut fails = fails_with(word);
            assert!(fails(&spec.text), "seed {seed} has {word}");
            let small = reduce(&spec.text, 3_000, &mut fails);
            assert!(fails(&small) && small.lines().count() < 20, "{small}");
        }
    }
}
