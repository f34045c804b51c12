//! Wrong specs: the whole text that a user sees for each, as a snapshot. Those that are legal and draw a warning stand
//! among them.

use ddnnc_diag::{Code, SourceMap, render};
use ddnnc_ir::Mode;
use ddnnc_lower::{Options, lower};
use std::path::Path;

/// Folder of the cases, from this crate's.
const CASES: &str = "../../tests/cases/wrong/semantic";

/// What is said of a case: the errors, or the warnings of a legal spec.
fn rendered(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a case can be read");
    let name = path.file_name().and_then(|n| n.to_str()).expect("a case has a name");
    let mut sources = SourceMap::new();
    let id = sources.add(name, text.as_str());
    let file = match ddnnc_syntax::parse(&text, id) {
        Ok(file) => file,
        Err(errors) => panic!("{name} is wrong in its syntax:\n{}", render(&errors, &sources, false)),
    };
    let said = match lower(&file, &Options { mode: Mode::Train, batch: None, phase: 0 }) {
        Ok(lowered) => lowered.warnings,
        Err(errors) => errors,
    };
    assert!(!said.is_empty(), "{name}: nothing is said");
    render(&said, &sources, false)
}

#[test]
fn wrong_specs_are_explained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(CASES);
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder of cases can be listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "ddnn"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 70, "only {} cases", paths.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_snapshot_path(format!("../{CASES}/snapshots"));
    settings.set_omit_expression(true);
    settings.bind(|| {
        for path in &paths {
            let name = path.file_stem().and_then(|n| n.to_str()).expect("a case has a name");
            insta::assert_snapshot!(name, rendered(path));
        }
    });
}

/// Every code that stands in a snapshot of a folder.
fn codes_in(folder: &Path, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "snap") {
            let text = std::fs::read_to_string(&path).expect("a snapshot can be read");
            for line in text.lines() {
                let code =
                    ["error[", "warning["].iter().find_map(|p| line.strip_prefix(p)?.split(']').next());
                found.extend(code.map(String::from));
            }
        }
    }
}

#[test]
fn every_kind_of_error_has_a_case() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(CASES);
    let mut found = Vec::new();
    codes_in(&folder.join("snapshots"), &mut found);
    codes_in(&folder.join("../syntax/snapshots"), &mut found);
    let without: Vec<&str> =
        Code::ALL.iter().map(|c| c.as_str()).filter(|c| !found.iter().any(|f| f == c)).collect();
    assert!(without.is_empty(), "no case for {without:?}");
}
