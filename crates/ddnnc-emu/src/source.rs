//! Places in the CUDA source, as `.file` and `.loc` tell them: from an instruction to file, line and column, through the
//! calls that were inlined, and to the line's text.

use crate::lexer::Kind;
use crate::parse::{Parser, Wrong};
use std::path::{Path, PathBuf};

/// A place in a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file's number, as `.file` has it.
    pub file: u32,
    /// From 1; 0 where the compiler knows no line.
    pub line: u32,
    /// From 1, or 0 where the compiler knows none.
    pub column: u32,
}

/// `.loc`: where the instructions behind it come from, up to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loc {
    /// The first of these instructions; the next `.loc` may have the same one.
    pub first: u32,
    /// Their place.
    pub at: Position,
    /// The call that they were inlined at. What that call was inlined at says an earlier `.loc`, whose place it is.
    pub inlined_at: Option<Position>,
}

/// `.file`: a source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The number that positions have.
    pub number: u32,
    /// Its path, or the name that the text of a `// source` comment has.
    pub name: String,
    /// The lines of such a comment; else they are looked for in the file itself.
    pub lines: Option<Vec<String>>,
}

/// A place in the CUDA source that a report names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePlace {
    /// Lines of the PTX that come from there.
    pub ptx_lines: Vec<u32>,
    /// `tile.cu:12:5`
    pub at: String,
    /// The calls that it was inlined at, from the inside out, in the same form; `a or b` at the end where PTX does not say
    /// which of several calls it is.
    pub inlined_at: Vec<String>,
    /// The line's number and its text, or those of the innermost call whose text is known, as a compiler's own headers are
    /// in no file.
    pub text: Option<(u32, String)>,
}

impl std::fmt::Display for SourcePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<String> = self.ptx_lines.iter().map(u32::to_string).collect();
        let plural = if lines.len() > 1 { "s" } else { "" };
        write!(f, "  PTX line{plural} {}: {}", lines.join(", "), self.at)?;
        for call in &self.inlined_at {
            write!(f, ", inlined at {call}")?;
        }
        match &self.text {
            Some((number, text)) => write!(f, "\n    {number} | {text}"),
            None => Ok(()),
        }
    }
}

/// Reads `.file 1 "k.cu"` after its first word; time and size of the file may follow.
pub(crate) fn file(p: &mut Parser) -> Result<SourceFile, Wrong> {
    let number = p.number32("the number of a file")?;
    let name = match p.peek() {
        Some(token) if token.kind == Kind::Text => token.text.trim_matches('"').to_owned(),
        _ => return p.unexpected("the name of a file in quotes"),
    };
    p.skip();
    while p.take(",") {
        p.number("time or size of a file")?;
    }
    Ok(SourceFile { number, name, lines: None })
}

/// Reads `.loc 1 5 3` after its first word, with `, function_name LABEL, inlined_at 1 9 5` where it follows.
pub(crate) fn loc(p: &mut Parser, first: u32) -> Result<Loc, Wrong> {
    let at = position(p, "`.loc`")?;
    let mut inlined_at = None;
    if p.take(",") {
        p.expect("function_name")?;
        p.word("the label of a function's name")?;
        if p.take("+") {
            p.number("an offset")?;
        }
        p.expect(",")?;
        p.expect("inlined_at")?;
        inlined_at = Some(position(p, "`inlined_at`")?);
    }
    Ok(Loc { first, at, inlined_at })
}

fn position(p: &mut Parser, of: &str) -> Result<Position, Wrong> {
    let file = p.number32(&format!("the file of {of}"))?;
    let line = p.number32(&format!("the line of {of}"))?;
    Ok(Position { file, line, column: p.number32(&format!("the column of {of}"))? })
}

/// The source that a PTX text has in comments: `// source 1 NAME`, then each line of file 1 behind `//|`. A program whose
/// source is in no file puts it there.
pub(crate) fn add_texts(text: &str, files: &mut [SourceFile]) {
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let head = line.strip_prefix("// source ").and_then(|rest| rest.split_once(' '));
        let Some((number, name)) = head else { continue };
        let number = number.parse().ok();
        let Some(file) = files.iter_mut().find(|file| Some(file.number) == number) else { continue };
        let mut source = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("//|")) {
            source.push(line["//|".len()..].to_owned());
        }
        name.trim().clone_into(&mut file.name);
        file.lines = Some(source);
    }
}

/// The place of an instruction, with those of the calls that it was inlined at; `None` where no `.loc` tells.
pub(crate) fn place(locs: &[Loc], files: &[SourceFile], pc: u32, ptx_line: u32) -> Option<SourcePlace> {
    let own = locs.partition_point(|loc| loc.first <= pc).checked_sub(1)?;
    let at = locs[own].at;
    if at.line == 0 {
        return None;
    }
    let calls = calls(locs, own);
    // Where several calls may be meant, none of them is the one to show.
    let certain = calls.iter().filter(|may| may.len() == 1).flatten();
    let text = std::iter::once(&at).chain(certain).find_map(|at| Some((at.line, text(files, *at)?)));
    let any = |may: &Vec<Position>| may.iter().map(|at| shown(files, *at)).collect::<Vec<_>>().join(" or ");
    Some(SourcePlace {
        ptx_lines: vec![ptx_line],
        at: shown(files, at),
        inlined_at: calls.iter().map(any).collect(),
        text,
    })
}

/// The calls that the instructions of a `.loc` were inlined at, from the inside out; at the end several that may be meant.
fn calls(locs: &[Loc], own: usize) -> Vec<Vec<Position>> {
    let mut found = Vec::new();
    // More than one where the same call, inlined several times, has instructions before this one.
    let mut inside = vec![own];
    loop {
        let mut outside: Vec<Option<Position>> = Vec::new();
        for call in inside.iter().map(|&i| locs[i].inlined_at) {
            if !outside.contains(&call) {
                outside.push(call);
            }
        }
        match outside[..] {
            [Some(call)] => {
                found.push(vec![call]);
                let mut next: Vec<usize> = inside.iter().flat_map(|&i| locs_of(locs, i, call)).collect();
                next.sort_unstable();
                next.dedup();
                if next.is_empty() {
                    return found;
                }
                inside = next;
            }
            [] | [None] => return found,
            _ => {
                found.extend(outside.into_iter().collect::<Option<Vec<Position>>>());
                return found;
            }
        }
    }
}

/// The `.loc`s before number `i` that may be those of the call that it was inlined at. A compiler writes the `.loc` of a
/// call just before the first one that names it, and not again when it comes back to that call later.
fn locs_of(locs: &[Loc], i: usize, call: Position) -> Vec<usize> {
    let matching = |j: &usize| locs[*j].at == call;
    let together = (0..i).rev().take_while(|&j| locs[j].first == locs[i].first).find(matching);
    match together {
        Some(j) => vec![j],
        None => (0..i).filter(matching).collect(),
    }
}

fn shown(files: &[SourceFile], at: Position) -> String {
    let file = files.iter().find(|file| file.number == at.file);
    let name = file.map_or_else(|| format!("file {}", at.file), short_name);
    match at.column {
        0 => format!("{name}:{}", at.line),
        column => format!("{name}:{}:{column}", at.line),
    }
}

/// A path below the working folder as seen from there: compilers make every name a whole path.
fn short_name(file: &SourceFile) -> String {
    let below = std::env::current_dir().ok().and_then(|folder| {
        let rest = Path::new(&file.name).strip_prefix(folder).ok()?;
        // The parts anew, so that a `.` among them goes.
        Some(rest.components().collect::<PathBuf>().display().to_string())
    });
    below.filter(|name| !name.is_empty()).unwrap_or_else(|| file.name.clone())
}

/// Most characters of a line that are shown.
const WIDTH: usize = 120;

/// The text of a line, if it can be had: a comment of the PTX holds it, or a file that is there.
fn text(files: &[SourceFile], at: Position) -> Option<String> {
    let file = files.iter().find(|file| file.number == at.file)?;
    let index = at.line as usize - 1;
    let line = match &file.lines {
        Some(lines) => lines.get(index)?.clone(),
        None => {
            // What is no regular file may wait for ever.
            let is_file = std::fs::metadata(&file.name).is_ok_and(|found| found.is_file());
            let bytes = is_file.then(|| std::fs::read(&file.name).ok()).flatten()?;
            let line = bytes.split(|&byte| byte == b'\n').nth(index)?;
            String::from_utf8_lossy(line).into_owned()
        }
    };
    let line = line.trim();
    let mut text: String = line.chars().take(WIDTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().nth(WIDTH).is_some() {
        text.push('…');
    }
    (!text.is_empty()).then_some(text)
}
