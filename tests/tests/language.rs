//! Every example of `docs/language.md` is compiled; those marked `refused` get nothing but "not supported yet".

use ddnnc_diag::{Code, Diagnostic, SourceMap, render};
use ddnnc_ir::Mode;
use ddnnc_lower::{Options, lower};
use ddnnc_syntax::{Item, SpecFile, parse};

/// A fenced example: its first line in the document, the words after `ddnn`, its text.
struct Example {
    line: usize,
    refused: bool,
    text: String,
}

fn examples(document: &str) -> Vec<Example> {
    let mut found = Vec::new();
    let mut open: Option<Example> = None;
    for (i, line) in document.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) if info.split(' ').next() == Some("ddnn") => {
                open = Some(Example { line: i + 2, refused: info == "ddnn refused", text: String::new() });
            }
            (Some(_), Some("")) => found.extend(open.take()),
            (Some(example), _) => {
                example.text.push_str(line);
                example.text.push('\n');
            }
            _ => {}
        }
    }
    found
}

/// What kind of declaration an item is, and its name where there may be several of the kind.
fn key(item: &Item) -> String {
    match item {
        Item::Input(_) => "input".into(),
        Item::Target(_) => "target".into(),
        Item::Train(_) => "train".into(),
        Item::Block(b) => format!("block {}", b.name.name),
        Item::Backbone(b) => format!("backbone {}", b.name.name),
        Item::Subnet(s) => format!("net {}", s.name.name),
        Item::Network(n) => format!("net {}", n.name.name),
        Item::Share(s) => format!("share {}", s.backbone.name),
        Item::Distill(_) => "distill".into(),
        Item::Let(_)
        | Item::Exit(_)
        | Item::Supervise(_)
        | Item::Phase(_)
        | Item::Order(_)
        | Item::Task(_) => "other".into(),
    }
}

/// The example with what it lacks taken from the document's first example.
fn complete(example: &SpecFile, first: &SpecFile) -> SpecFile {
    let mut whole = example.clone();
    let has = |k: &str| example.items.iter().any(|item| key(item) == k);
    let own_nets =
        example.items.iter().any(|item| matches!(item, Item::Backbone(b) if b.name.name != "resnet"));
    let with_backbone = |item: &Item| {
        matches!(
            item,
            Item::Backbone(_) | Item::Subnet(_) | Item::Network(_) | Item::Share(_) | Item::Distill(_)
        )
    };
    for item in &first.items {
        let replaced = has(&key(item)) || (own_nets && with_backbone(item));
        if !replaced {
            whole.items.push(item.clone());
        }
    }
    whole
}

fn compile(file: &SpecFile) -> Result<(), Vec<Diagnostic>> {
    let phases = file.items.iter().filter(|item| matches!(item, Item::Phase(_))).count();
    for mode in [Mode::Train, Mode::Eval] {
        for phase in 0..phases.max(1) {
            let lowered = lower(file, &Options { mode, batch: Some(4), phase })?;
            ddnnc_ir::verify(&lowered.model.graph).expect("a lowered graph is well formed");
        }
    }
    Ok(())
}

#[test]
fn every_example_of_the_language_reference_compiles() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/language.md");
    let document = std::fs::read_to_string(path).expect("docs/language.md can be read");
    let examples = examples(&document);
    assert!(examples.len() >= 16, "only {} examples found", examples.len());
    let mut sources = SourceMap::new();
    let mut parsed = Vec::new();
    for example in &examples {
        let text = match example.text.starts_with("model ") {
            true => example.text.clone(),
            false => format!("model example {}", example.text),
        };
        let id = sources.add(format!("docs/language.md, from line {}", example.line), text.clone());
        match parse(&text, id) {
            Ok(file) => parsed.push((example, file)),
            Err(errors) => panic!("{}", render(&errors, &sources, false)),
        }
    }
    let first = parsed[0].1.clone();
    for (example, file) in &parsed {
        let whole = complete(file, &first);
        match (compile(&whole), example.refused) {
            (Ok(()), false) => {}
            (Ok(()), true) => panic!("line {}: is said to be refused and compiles", example.line),
            (Err(errors), false) => panic!("{}", render(&errors, &sources, false)),
            (Err(errors), true) => {
                let others: Vec<_> = errors.into_iter().filter(|e| e.code != Code::Unsupported).collect();
                assert!(others.is_empty(), "{}", render(&others, &sources, false));
            }
        }
    }
}
