//! Every file of `tests/cases/wrong/syntax` with the whole of what the user sees as a snapshot.

use ddnnc_diag::{SourceMap, render};
use ddnnc_syntax::{parse, rule_names};
use std::path::{Path, PathBuf};

/// The cases with their rendered diagnostics, by name.
fn cases() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/wrong/syntax");
    let entries = std::fs::read_dir(&folder).expect("the folder of cases");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "ddnn"));
    paths.sort();
    let render_case = |path: &PathBuf| {
        let text = String::from_utf8_lossy(&std::fs::read(path).expect("a readable file")).into_owned();
        let file = path.file_name().expect("a file").to_string_lossy().into_owned();
        let mut sources = SourceMap::new();
        let id = sources.add(file.as_str(), text.as_str());
        let diagnostics = match parse(&text, id) {
            Ok(_) => panic!("{file} is correct"),
            Err(diagnostics) => diagnostics,
        };
        (file.trim_end_matches(".ddnn").to_string(), render(&diagnostics, &sources, false))
    };
    paths.iter().map(render_case).collect()
}

#[test]
fn wrong_syntax_is_explained() {
    let cases = cases();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_snapshot_path("../../../tests/cases/wrong/syntax/snapshots");
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, rendered) in &cases {
            insta::assert_snapshot!(name.as_str(), rendered);
        }
    });
}

/// Names of rules that are also words of the language, or plain English that the messages use on purpose.
const WORDS: &[&str] = &[
    "model",
    "input",
    "target",
    "block",
    "backbone",
    "stage",
    "subnet",
    "exit",
    "network",
    "share",
    "supervise",
    "distill",
    "train",
    "phase",
    "order",
    "task",
    "depth",
    "and",
    "or",
    "not",
    "keyword",
    "string",
    "call",
    "file",
    "field",
    "setting",
    "settings",
    "terms",
    "prefix",
    "digits",
    "comma",
];

#[test]
fn no_rule_name_reaches_the_user() {
    let names: Vec<String> =
        rule_names().into_iter().filter(|name| !WORDS.contains(&name.as_str())).collect();
    assert!(names.iter().any(|name| name == "if_expr"));
    for (case, rendered) in cases() {
        // The lines of the source belong to the user; the rest is ours.
        let ours =
            rendered.lines().filter(|line| !line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
        for line in ours {
            let words: Vec<&str> = line.split(|c: char| !(c.is_alphanumeric() || "_-".contains(c))).collect();
            for name in &names {
                assert!(!words.contains(&name.as_str()), "{case} shows `{name}`: {line}");
            }
        }
    }
}
