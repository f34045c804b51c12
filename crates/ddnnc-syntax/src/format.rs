//! The canonical form of a file (`ddnnc fmt`).

use crate::ast::*;
use crate::layout::{FACTOR, Line, Writer, start};
use crate::parse::parse;
use ddnnc_diag::Span;

/// The canonical form of `file`, which was parsed from `text`.
///
/// It keeps every comment, and one blank line where there are some. Formatting it again changes nothing, and it parses
/// to the same tree up to spans.
pub fn format(file: &SpecFile, text: &str) -> String {
    let mut canonical = layout(file, text);
    // A comment that moves out of parentheses which the tree does not need may make room on its line, so the layout
    // is settled when laying it out again changes nothing; that is the first time for all but contrived texts.
    for _ in 0..MAX_ROUNDS {
        let Ok(again) = parse(&canonical, file.span.source).map(|file| layout(&file, &canonical)) else {
            break;
        };
        if again == canonical {
            break;
        }
        canonical = again;
    }
    canonical
}

const MAX_ROUNDS: usize = 8;

fn layout(file: &SpecFile, text: &str) -> String {
    let mut w = Writer::new(text, &file.comments);
    w.line(model_start(file, text), Line::First);
    w.push(&format!("model {}", file.model.name));
    let heads = heads(&file.items, text);
    for (item, head) in file.items.iter().zip(&heads) {
        w.line(item_span(item).start as usize, Line::Further);
        write_item(&mut w, item, head);
    }
    w.finish()
}

/// Where the word `model` stands: nothing but comments and white space comes before it.
fn model_start(file: &SpecFile, text: &str) -> usize {
    let name = file.model.span.start as usize;
    let first = file.comments.iter().take_while(|c| (c.span.start as usize) < name);
    let mut at = 0;
    for comment in first {
        if text.get(at..comment.span.start as usize).is_some_and(|gap| gap.contains("model")) {
            break;
        }
        at = comment.span.end as usize;
    }
    text.get(at..name).and_then(|gap| gap.find("model")).map_or(name, |n| at + n)
}

/// The whole place of a declaration.
pub(crate) fn item_span(item: &Item) -> Span {
    match item {
        Item::Input(d) | Item::Target(d) => d.span,
        Item::Let(d) => d.span,
        Item::Block(d) => d.span,
        Item::Backbone(d) => d.span,
        Item::Subnet(d) => d.span,
        Item::Exit(d) => d.span,
        Item::Network(d) => d.span,
        Item::Share(d) => d.span,
        Item::Supervise(d) => d.span,
        Item::Distill(d) => d.span,
        Item::Train(d) | Item::Order(d) => d.span,
        Item::Phase(d) => d.span,
        Item::Task(d) => d.span,
    }
}

/// What stands before the `=` or `:` of a declaration on one line.
fn head(item: &Item) -> String {
    match item {
        Item::Input(d) => format!("input {}", d.name.name),
        Item::Target(d) => format!("target {}", d.name.name),
        Item::Let(d) => format!("let {}", d.name.name),
        Item::Subnet(d) => format!("subnet {}", d.name.name),
        Item::Exit(d) => format!("exit {}", d.name.name),
        Item::Network(d) => format!("network {}", d.name.name),
        Item::Block(_)
        | Item::Backbone(_)
        | Item::Share(_)
        | Item::Supervise(_)
        | Item::Distill(_)
        | Item::Train(_)
        | Item::Order(_)
        | Item::Phase(_)
        | Item::Task(_) => String::new(),
    }
}

/// The heads of all declarations, of one width where declarations of one kind follow each other without a blank line.
fn heads(items: &[Item], text: &str) -> Vec<String> {
    let class = |item: &Item| match item {
        Item::Input(_) | Item::Target(_) => 1,
        Item::Let(_) => 2,
        Item::Subnet(_) => 3,
        Item::Exit(_) => 4,
        Item::Network(_) => 5,
        _ => 0,
    };
    let adjoining = |a: &Item, b: &Item| {
        let gap = text.get(item_span(a).end as usize..item_span(b).start as usize).unwrap_or("");
        // The first and the last piece stand on the lines of the two declarations.
        let lines = gap.split('\n').count();
        let empty = gap.split('\n').take(lines - 1).skip(1).any(|line| line.trim().is_empty());
        class(a) == class(b) && class(a) != 0 && !empty
    };
    let mut heads = Vec::with_capacity(items.len());
    for run in items.chunk_by(adjoining) {
        let both = run.iter().any(|i| matches!(i, Item::Input(_)))
            && run.iter().any(|i| matches!(i, Item::Target(_)));
        let head = |item: &Item| {
            let head = head(item);
            if both { head.replacen("input ", "input  ", 1) } else { head }
        };
        let width = run.iter().map(|item| head(item).len()).max().unwrap_or(0);
        heads.extend(run.iter().map(|item| format!("{:width$}", head(item))));
    }
    heads
}

fn write_item(w: &mut Writer<'_>, item: &Item, head: &str) {
    match item {
        Item::Input(d) | Item::Target(d) => {
            w.push(&format!("{head} : "));
            w.put(&d.ty.kind.name, d.ty.span.start as usize);
            if !d.ty.dims.is_empty() {
                // The extents are laid out like a list, whose place is that of the whole type.
                w.expr(&Expr { kind: ExprKind::List(d.ty.dims.clone()), span: d.ty.span }, 0);
            }
        }
        Item::Let(d) => {
            w.push(&format!("{head} = "));
            w.expr(&d.value, 0);
        }
        Item::Block(d) => {
            w.push(&format!("block {}", d.name.name));
            write_params(w, &d.params);
            w.push(" ");
            match w.flat_body(&d.body) {
                Some(text) if w.fits(&text) => w.put(&text, d.body.span.start as usize),
                _ => w.body(&d.body),
            }
        }
        Item::Backbone(d) => write_backbone(w, d),
        Item::Subnet(d) => {
            w.push(&format!("{head} = "));
            write_instance(w, &d.of);
        }
        Item::Exit(d) => {
            w.push(&format!("{head} = {} after ", d.of.name));
            w.put(&d.after.name, d.after.span.start as usize);
            if let Some(block) = &d.block {
                w.push("[");
                w.expr(block, 0);
                w.push("]");
            }
            w.push(" |> ");
            w.expr(&d.head, 0);
        }
        Item::Network(d) => {
            w.push(&format!("{head} = "));
            write_instance(w, &d.of);
            if !d.settings.is_empty() {
                w.push(" ");
                write_settings(w, &d.settings, d.span);
            }
        }
        Item::Share(d) => {
            w.push(&format!("share {} ", d.backbone.name));
            write_settings(w, &d.settings, d.span);
        }
        Item::Supervise(d) => {
            w.push(&format!("supervise {} ", targets(&d.targets)));
            write_terms(w, &d.terms, d.span);
        }
        Item::Distill(d) => {
            w.push("distill ");
            w.expr(&d.teacher, 0);
            w.push(&format!(" -> {} ", targets(&d.students)));
            write_terms(w, &d.terms, d.span);
        }
        Item::Train(d) => {
            w.push("train ");
            write_settings(w, &d.settings, d.span);
        }
        Item::Order(d) => {
            w.push("order ");
            write_settings(w, &d.settings, d.span);
        }
        Item::Phase(d) => write_phase(w, d),
        Item::Task(d) => {
            w.push(&format!("task {}", d.kind.name));
            if !d.settings.is_empty() {
                w.push(" ");
                write_settings(w, &d.settings, d.span);
            }
        }
    }
}

fn write_params(w: &mut Writer<'_>, params: &[Param]) {
    if params.is_empty() {
        return;
    }
    w.push("(");
    for (i, param) in params.iter().enumerate() {
        w.push(if i == 0 { "" } else { ", " });
        w.put(&param.name.name, param.name.span.start as usize);
        if let Some(default) = &param.default {
            w.push(" = ");
            w.expr(default, 0);
        }
    }
    w.push(")");
}

fn write_backbone(w: &mut Writer<'_>, decl: &BackboneDecl) {
    w.push(&format!("backbone {}", decl.name.name));
    write_params(w, &decl.params);
    w.push(" {");
    let head = |member: &Member| match member {
        Member::Let(d) => (format!("let {}", d.name.name), d.span),
        Member::Segment(d) => (d.name.name.clone(), d.span),
        Member::Stage(d) => (format!("stage {}", d.name.name), d.span),
    };
    let width = decl.members.iter().map(|member| head(member).0.len()).max().unwrap_or(0);
    w.indented(|w| {
        for (i, member) in decl.members.iter().enumerate() {
            let (head, span) = head(member);
            w.line(span.start as usize, if i == 0 { Line::First } else { Line::Further });
            w.push(&format!("{head:width$} = "));
            match member {
                Member::Let(d) => w.expr(&d.value, 0),
                Member::Segment(d) => w.expr(&d.value, 0),
                Member::Stage(d) => write_stage(w, d),
            }
        }
    });
    w.line(decl.span.end as usize - 1, Line::Close);
    w.push("}");
}

fn write_stage(w: &mut Writer<'_>, stage: &StageDecl) {
    for (i, entry) in stage.entries.iter().enumerate() {
        if i > 0 {
            w.push(",");
            if flat_entry(w, entry).is_some_and(|text| w.fits(&format!(" {text}"))) {
                w.push(" ");
            } else {
                let at = start(entry.count.as_ref().unwrap_or(&entry.block));
                w.indented(|w| w.line(at, Line::Inside));
            }
        }
        match &entry.count {
            None => w.expr(&entry.block, 0),
            Some(count) => {
                w.expr(count, FACTOR - 1);
                w.push(" * ");
                // After a count, a pipe's first step is an operand of the product.
                match &entry.block.kind {
                    ExprKind::Pipe(steps) => w.pipe(steps, FACTOR),
                    _ => w.expr(&entry.block, FACTOR),
                }
            }
        }
    }
}

fn flat_entry(w: &Writer<'_>, entry: &StageEntry) -> Option<String> {
    if w.has_comment(entry.span) {
        return None;
    }
    let Some(count) = &entry.count else { return w.flat(&entry.block, 0) };
    let block = match &entry.block.kind {
        // The first step is an operand of the product, and its parentheses count.
        ExprKind::Pipe(steps) => {
            let first = w.flat(steps.first()?, FACTOR)?;
            let rest = w.flat(&entry.block, 0)?;
            let bare = w.flat(steps.first()?, 0)?;
            format!("{first}{}", rest.get(bare.len()..).unwrap_or(""))
        }
        _ => w.flat(&entry.block, FACTOR)?,
    };
    Some(format!("{} * {block}", w.flat(count, FACTOR - 1)?))
}

fn write_instance(w: &mut Writer<'_>, of: &Instance) {
    w.put(&of.backbone.name, of.span.start as usize);
    if let Some((last, first)) = of.args.last().zip(of.args.first()) {
        let start = first.name.as_ref().map_or(first.value.span, |name| name.span);
        match w.flat_args(&of.args) {
            Some(text) if w.fits(&text) && !w.has_comment(start.to(last.value.span)) => w.push(&text),
            _ => w.args(&of.args, last.value.span.end as usize),
        }
    }
    if let Some((depth, span)) = &of.depth {
        w.push(" depth ");
        w.expr(&Expr { kind: ExprKind::List(depth.clone()), span: *span }, 0);
    }
}

fn targets(names: &[Ident]) -> String {
    match names {
        [one] => one.name.clone(),
        _ => format!("[{}]", names.iter().map(|name| name.name.as_str()).collect::<Vec<_>>().join(", ")),
    }
}

/// `{ a = 1, b = 2 }` on one line where the user has it so, else a setting a line.
fn write_settings(w: &mut Writer<'_>, settings: &[Setting], decl: Span) {
    let Some((first, last)) = settings.first().zip(settings.last()) else {
        return write_empty(w, decl);
    };
    let flat = || {
        let one = |s: &Setting| Some(format!("{} = {}", s.key.name, w.flat(&s.value, 0)?));
        let all = settings.iter().map(one).collect::<Option<Vec<_>>>()?;
        Some(format!("{{ {} }}", all.join(", ")))
    };
    if let Some(text) = in_line(w, first.span, last.span, decl, flat()) {
        return w.push(&text);
    }
    let width = settings.iter().map(|s| s.key.name.len()).max().unwrap_or(0);
    w.push("{");
    w.indented(|w| {
        for (i, setting) in settings.iter().enumerate() {
            w.line(setting.span.start as usize, if i == 0 { Line::First } else { Line::Further });
            write_setting(w, setting, width);
        }
    });
    w.line(decl.end as usize - 1, Line::Close);
    w.push("}");
}

/// Braces without members, with the comments that stand in them.
fn write_empty(w: &mut Writer<'_>, decl: Span) {
    w.push("{");
    if w.has_comment(decl) {
        w.line(decl.end as usize - 1, Line::Close);
    }
    w.push("}");
}

fn write_setting(w: &mut Writer<'_>, setting: &Setting, width: usize) {
    w.push(&format!("{:width$} = ", setting.key.name));
    w.expr(&setting.value, 0);
}

/// The text of braces on one line, where it fits, no comment stands in them and the user has them on one line.
fn in_line(w: &Writer<'_>, first: Span, last: Span, decl: Span, text: Option<String>) -> Option<String> {
    let braces = Span { start: first.start, end: decl.end.max(last.end), ..decl };
    text.filter(|text| w.fits(text) && !w.has_comment(braces) && !w.broken_after_brace(first))
}

fn write_terms(w: &mut Writer<'_>, terms: &[Expr], decl: Span) {
    let Some((first, last)) = terms.first().zip(terms.last()) else {
        return write_empty(w, decl);
    };
    let flat = terms.iter().map(|term| w.flat(term, 0)).collect::<Option<Vec<_>>>();
    let flat = flat.map(|all| format!("{{ {} }}", all.join(", ")));
    if let Some(text) = in_line(w, first.span, last.span, decl, flat) {
        return w.push(&text);
    }
    w.push("{");
    w.indented(|w| {
        for (i, term) in terms.iter().enumerate() {
            w.line(start(term), if i == 0 { Line::First } else { Line::Further });
            w.expr(term, 0);
        }
    });
    w.line(decl.end as usize - 1, Line::Close);
    w.push("}");
}

fn write_phase(w: &mut Writer<'_>, phase: &PhaseDecl) {
    w.push(&format!("phase {} {{", phase.name.name));
    let width = phase.settings.iter().map(|s| s.key.name.len()).max().unwrap_or(0);
    let mut settings = phase.settings.iter().peekable();
    let mut items = phase.items.iter().peekable();
    let mut line = Line::First;
    w.indented(|w| {
        loop {
            // Settings and declarations are kept apart in the tree; their places give the order.
            let item_start = items.peek().map(|item| item_span(item).start);
            match settings.next_if(|s| item_start.is_none_or(|at| s.span.start < at)) {
                Some(setting) => {
                    w.line(setting.span.start as usize, line);
                    write_setting(w, setting, width);
                }
                None => {
                    let Some(item) = items.next() else { break };
                    w.line(item_span(item).start as usize, line);
                    write_item(w, item, "");
                }
            }
            line = Line::Further;
        }
    });
    w.line(phase.span.end as usize - 1, Line::Close);
    w.push("}");
}
