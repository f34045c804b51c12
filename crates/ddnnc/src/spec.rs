//! A spec from its file: read, changed by the command line, parsed, lowered.

use crate::overrides;
use crate::source::Patched;
use crate::{Failure, Ui};
use ddnnc_diag::{Diagnostic, SourceId, SourceMap, render};
use ddnnc_ir::{Mode, Model};
use ddnnc_lower::{Options, lower};
use ddnnc_syntax::{Item, SpecFile};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The largest spec file in bytes; the parser refuses what is larger.
const MAX_BYTES: u64 = 1 << 20;

/// A parsed spec with its text.
#[derive(Debug)]
pub struct Spec {
    /// The file, as the user named it.
    pub path: PathBuf,
    /// The syntax tree, with overrides.
    pub file: SpecFile,
    patched: Patched,
    source: SourceId,
    sources: SourceMap,
    ui: Ui,
}

impl Spec {
    /// Reads and parses a spec and applies `--set` overrides.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is no text, and every diagnostic of the parser, of the spec or of an override.
    pub fn load(path: &Path, overrides: &[String], ui: Ui) -> Result<Spec, Failure> {
        Spec::of_text(path, &read_text(path)?, overrides, ui)
    }

    /// As [`Spec::load`], of a text that stands in a file of another kind.
    ///
    /// # Errors
    ///
    /// Every diagnostic of the parser, of the spec or of an override.
    pub fn of_text(path: &Path, text: &str, overrides: &[String], ui: Ui) -> Result<Spec, Failure> {
        let mut sources = SourceMap::new();
        let source = sources.add(path.display().to_string(), text);
        let fail = |errors: &[Diagnostic], sources: &SourceMap| Err(diagnostics(errors, sources, ui));
        let mut file = match ddnnc_syntax::parse(text, source) {
            Ok(file) => file,
            Err(errors) => return fail(&errors, &sources),
        };
        let mut patched = Patched::new(text, source);
        let mut whole = source;
        for text in overrides {
            let id = sources.add("--set", text.as_str());
            if let Err(mut errors) = overrides::apply(&mut patched, &file, text, id) {
                patched.trace_back(whole, &mut errors);
                return fail(&errors, &sources);
            }
            whole = sources.add(path.display().to_string(), patched.text());
            file = match ddnnc_syntax::parse(patched.text(), whole) {
                Ok(file) => file,
                Err(mut errors) => {
                    patched.trace_back(whole, &mut errors);
                    return fail(&errors, &sources);
                }
            };
        }
        Ok(Spec { path: path.to_path_buf(), file, patched, source: whole, sources, ui })
    }

    /// The text, with overrides: what a run folder keeps.
    pub fn text(&self) -> &str {
        self.patched.text()
    }

    /// Lowers the spec, with its own batch where none is given and in its first phase where it has several, and shows its
    /// warnings.
    ///
    /// # Errors
    ///
    /// Every semantic error of the spec.
    pub fn lower(&self, mode: Mode, batch: Option<usize>) -> Result<Model, Failure> {
        let (model, warnings) = self.lower_quietly(mode, batch)?;
        self.warn(warnings);
        Ok(model)
    }

    /// As [`Spec::lower`], in the phase of that name; in the first where none is given.
    ///
    /// # Errors
    ///
    /// Every semantic error of the spec, and a name that no phase has.
    pub fn lower_in(&self, phase: Option<&str>, mode: Mode, batch: Option<usize>) -> Result<Model, Failure> {
        let (model, warnings) = self.lower_phase(mode, batch, self.place(phase)?)?;
        self.warn(warnings);
        Ok(model)
    }

    /// The place of the phase of that name; of the first where none is given.
    fn place(&self, phase: Option<&str>) -> Result<usize, Failure> {
        let Some(wanted) = phase else { return Ok(0) };
        let names: Vec<&str> = self.phases().collect();
        names.iter().position(|name| *name == wanted).ok_or_else(|| {
            let failure = Failure::input(format!("`{}` has no phase `{wanted}`", self.file.model.name));
            match ddnnc_diag::did_you_mean(wanted, names.iter().copied()) {
                Some(near) => failure.hint(format!("did you mean `{near}`?")),
                None if names.is_empty() => failure.hint("its training has no phases: leave `--phase` out"),
                None => failure.hint(format!("its phases are {}", names.join(", "))),
            }
        })
    }

    /// The phases as declared.
    fn phases(&self) -> impl Iterator<Item = &str> {
        self.file.items.iter().filter_map(|item| match item {
            Item::Phase(phase) => Some(phase.name.name.as_str()),
            _ => None,
        })
    }

    /// Lowers the spec for training in each of its phases, one at least, and shows the warnings of all.
    ///
    /// # Errors
    ///
    /// Every semantic error of the first phase that has one.
    pub fn lower_phases(&self) -> Result<Vec<Model>, Failure> {
        let (mut models, mut told): (Vec<Model>, Vec<Diagnostic>) = (Vec::new(), Vec::new());
        for phase in 0..self.phases().count().max(1) {
            let (model, warnings) = self.lower_phase(Mode::Train, None, phase)?;
            let new: Vec<Diagnostic> = warnings.into_iter().filter(|w| !told.contains(w)).collect();
            told.extend(new);
            models.push(model);
        }
        self.warn(told);
        Ok(models)
    }

    /// Lowers the spec, in its first phase where it has several, and gives its warnings.
    pub fn lower_quietly(
        &self,
        mode: Mode,
        batch: Option<usize>,
    ) -> Result<(Model, Vec<Diagnostic>), Failure> {
        self.lower_phase(mode, batch, 0)
    }

    fn lower_phase(
        &self,
        mode: Mode,
        batch: Option<usize>,
        phase: usize,
    ) -> Result<(Model, Vec<Diagnostic>), Failure> {
        match lower(&self.file, &Options { mode, batch, phase }) {
            Ok(lowered) => Ok((lowered.model, lowered.warnings)),
            Err(errors) => Err(diagnostics(&self.traced(errors), &self.sources, self.ui)),
        }
    }

    /// Shows warnings, unless the user asked for quiet.
    pub fn warn(&self, warnings: Vec<Diagnostic>) {
        if !warnings.is_empty() && !self.ui.quiet {
            let text = render(&self.traced(warnings), &self.sources, self.ui.color);
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }

    fn traced(&self, mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
        self.patched.trace_back(self.source, &mut diagnostics);
        diagnostics
    }

    /// The file or folder that a spec means by a relative path: seen from the current folder, from the spec's folder,
    /// or from the folder above it (`specs/x.ddnn` beside `data/`). Where it is nowhere: all places that were tried.
    pub fn resolve(&self, written: &str) -> Result<PathBuf, Vec<PathBuf>> {
        let written = Path::new(written);
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let mut places = vec![written.to_path_buf()];
        if written.is_relative() {
            places.push(folder.join(written));
            if let Some(above) = folder.parent() {
                places.push(above.join(written));
            } else {
                places.push(Path::new("..").join(written));
            }
        }
        let mut tried: Vec<PathBuf> = Vec::new();
        for place in places {
            if place.exists() {
                return Ok(place);
            }
            if !tried.contains(&place) {
                tried.push(place);
            }
        }
        Err(tried)
    }
}

/// Diagnostics as the end of a command: rendered, with a last line that counts the errors.
pub fn diagnostics(found: &[Diagnostic], sources: &SourceMap, ui: Ui) -> Failure {
    let errors = found.iter().filter(|d| d.is_error()).count();
    let text = render(found, sources, ui.color);
    Failure::Diagnostics(format!("{text}\n{}\n", count(errors, "error")))
}

/// `1 error`, `2 errors`
pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// The text of a spec file, never more than the parser takes.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let file = File::open(path).map_err(|e| missing_spec(path, &e))?;
    text_of(file, &path.display().to_string()).map_err(|e| match e {
        TextError::Io(e) => missing_spec(path, &e),
        TextError::Bad(failure) => failure,
    })
}

/// The text of standard input.
pub fn read_stdin() -> Result<String, Failure> {
    text_of(io::stdin().lock(), "standard input").map_err(|e| match e {
        TextError::Io(e) => Failure::environment(format!("standard input cannot be read: {e}")),
        TextError::Bad(failure) => failure,
    })
}

enum TextError {
    Io(io::Error),
    Bad(Failure),
}

fn text_of(reader: impl Read, name: &str) -> Result<String, TextError> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(TextError::Io)?;
    if holds_weights(&bytes) {
        return Err(TextError::Bad(Failure::input(format!("{name} is a weights file, and no spec")).hint(
            "give the spec, and this file with `--weights`; `eval` and `predict` take a file of `export` alone",
        )));
    }
    if ddnnc_train::begins_as_onnx(&bytes) {
        return Err(TextError::Bad(Failure::input(format!("{name} is an ONNX model, and no spec"))));
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(TextError::Bad(Failure::input(format!("{name} is larger than a spec may be (1 MiB)"))));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|&&b| b == b'\n').count();
        TextError::Bad(Failure::input(format!("{name} is no UTF-8 text: byte {good}, in line {line}")))
    })
}

/// Whether bytes begin as a safetensors file does: a length of eight bytes that a header can have, and an object.
fn holds_weights(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|&length| u64::from_le_bytes(length) < 1 << 32)
        && bytes.get(8) == Some(&b'{')
}

fn missing_spec(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::reading(path, error);
    let mut beside = path.as_os_str().to_os_string();
    beside.push(".ddnn");
    if error.kind() == io::ErrorKind::NotFound && Path::new(&beside).exists() {
        return failure.hint(format!("there is `{}`", Path::new(&beside).display()));
    }
    let run = path.join("spec.ddnn");
    if error.kind() == io::ErrorKind::IsADirectory && run.is_file() {
        return failure.hint(format!("it is a run folder, whose spec is `{}`", run.display()));
    }
    failure
}
