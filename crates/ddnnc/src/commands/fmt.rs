//! `ddnnc fmt`: the canonical form of specs.

use crate::cli::FmtArgs;
use crate::output::{print, write_file};
use crate::spec::{diagnostics, read_stdin, read_text};
use crate::{Failure, Ui};
use ddnnc_diag::SourceMap;
use std::path::Path;

/// Rewrites each spec in place, or checks it.
pub fn run(args: &FmtArgs, ui: Ui) -> Result<(), Failure> {
    // Everything is read and formatted before anything is written: a syntax error in one file leaves all as they are.
    let mut work = Vec::new();
    for path in &args.specs {
        let stdin = path == Path::new("-");
        let text = if stdin { read_stdin()? } else { read_text(path)? };
        let name = if stdin { "<standard input>".to_string() } else { path.display().to_string() };
        let formatted = canonical(&name, &text, ui)?;
        work.push((path, stdin, name, text, formatted));
    }
    let mut differ = Vec::new();
    for (path, stdin, name, text, formatted) in &work {
        let same = text == formatted;
        if args.check {
            if !same {
                differ.push(name.as_str());
            }
        } else if *stdin {
            print(formatted)?;
        } else if !same {
            write_file(path, formatted.as_bytes())?;
            ui.note(&format!("{name}: formatted"));
        }
    }
    if differ.is_empty() {
        return Ok(());
    }
    Err(Failure::input(format!("not in canonical form: {}", differ.join(", "))).hint("run `ddnnc fmt` on it"))
}

fn canonical(name: &str, text: &str, ui: Ui) -> Result<String, Failure> {
    let mut sources = SourceMap::new();
    let source = sources.add(name, text);
    match ddnnc_syntax::parse(text, source) {
        Ok(file) => Ok(ddnnc_syntax::format(&file, text)),
        Err(errors) => Err(diagnostics(&errors, &sources, ui)),
    }
}
