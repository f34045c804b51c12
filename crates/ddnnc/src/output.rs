//! What goes out: standard output, files written whole or not at all, tables and numbers for people.

use crate::Failure;
use ddnnc_train::atomic_write;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How a command shows what it does.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    /// Colour on standard error.
    pub color: bool,
    /// Only errors, and what was asked for.
    pub quiet: bool,
}

impl Ui {
    /// A warning in one line, as [`Ui::note`].
    pub fn warn(&self, text: &str) {
        self.note(&format!("warning: {text}"));
    }

    /// A remark on standard error, unless the user asked for quiet. A closed standard error is no reason to stop.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

/// Writes to standard output at once.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// What came of writing to standard output.
pub fn printed(written: io::Result<()>) -> Result<(), Failure> {
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Pipe,
        _ => Failure::environment(format!("standard output cannot be written: {error}")),
    })
}

/// Writes one JSON value and a line break to standard output.
pub fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}

/// Refuses outputs that would take the place of what the command reads, or of one another. An input that is a run folder
/// stands for its spec, its metrics and its checkpoints.
pub fn apart<'a>(
    inputs: impl IntoIterator<Item = &'a PathBuf>,
    outputs: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<(), Failure> {
    let read: Vec<PathBuf> =
        inputs.into_iter().flat_map(|path| files_of(path)).map(|path| place(&path)).collect();
    let mut written = Vec::new();
    for output in outputs {
        let place = place(output);
        // A device takes as much as it is given.
        if std::fs::metadata(output).is_ok_and(|m| !m.is_file()) {
            continue;
        }
        let refused = |why: &str| {
            let output = output.display();
            Err(Failure::usage(format!("{output} would be overwritten: {why}")).hint("give it another name"))
        };
        if read.contains(&place) {
            return refused("this command reads it");
        }
        if written.contains(&place) {
            return refused("another output of this command goes there");
        }
        written.push(place);
    }
    Ok(())
}

/// The file, or the files that make a folder a run.
fn files_of(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_path_buf()];
    }
    let checkpoints = std::fs::read_dir(path.join("checkpoints")).into_iter().flatten().flatten();
    let mut files = vec![path.join("spec.ddnn"), path.join("metrics.jsonl")];
    files.extend(checkpoints.map(|entry| entry.path()));
    files
}

/// The same for every name of a file, whether it is there or not.
fn place(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize();
        folder.map_or(path.to_owned(), |folder| folder.join(path.file_name().unwrap_or_default()))
    })
}

/// Writes a file whole or not at all; [`atomic_write`] says what becomes of links and devices.
pub fn write_file(path: &Path, content: &[u8]) -> Result<(), Failure> {
    atomic_write(path, &mut |out| out.write_all(content)).map_err(|error| Failure::writing(path, &error))
}

/// The ending of a name, in small letters, where it is one of these: of other formats than what is written.
pub fn other_format(path: &Path, endings: &str) -> Option<String> {
    let ending = path.extension()?.to_string_lossy().to_lowercase();
    endings.split(' ').any(|other| other == ending).then_some(ending)
}

/// Endings by which pictures of other formats are known.
const OTHER_PICTURES: &str = "bmp eps gif jpeg jpg pdf png ps svgz tif tiff webp";

/// Refuses a name that promises another picture than the SVG that is drawn.
pub fn named_as_drawn<'p>(paths: impl IntoIterator<Item = &'p PathBuf>) -> Result<(), Failure> {
    paths.into_iter().try_for_each(|path| {
        let Some(ending) = other_format(path, OTHER_PICTURES) else { return Ok(()) };
        let what =
            format!("{} would be an SVG, the only format that is drawn, and no .{ending}", path.display());
        Err(Failure::usage(what).hint(format!("name it `{}`", path.with_extension("svg").display())))
    })
}

/// Rows of cells in columns: the first `left` aligned left, the others right; two blanks before each cell.
pub fn table(left: usize, header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let heads: Vec<String> = header.iter().map(|h| h.to_string()).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let width = widths.get(i).copied().unwrap_or(0);
            // The widths of format strings end at 65,535, and a cell may be a name out of a file.
            let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
            line.push_str("  ");
            line.extend(if i < left { [cell.as_str(), &fill] } else { [&fill, cell.as_str()] });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `25,557,032`
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `4.09 G`: multiply-accumulates in thousands, millions, milliards.
pub fn si(n: u64) -> String {
    let x = n as f64;
    match n {
        0..1_000 => format!("{n}"),
        1_000..1_000_000 => format!("{:.2} K", x / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", x / 1e6),
        _ => format!("{:.2} G", x / 1e9),
    }
}

/// `12.3 MiB`
pub fn bytes(n: u64) -> String {
    let x = n as f64;
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", x / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", x / 1_048_576.0),
        _ => format!("{:.2} GiB", x / 1_073_741_824.0),
    }
}

/// `97.50 %`
pub fn percent(fraction: f64) -> String {
    format!("{:.2} %", 100.0 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let cases =
            [(0, "0"), (999, "999"), (1000, "1,000"), (25_557_032, "25,557,032"), (123_456, "123,456")];
        for (n, text) in cases {
            assert_eq!(grouped(n), text);
        }
        assert_eq!([si(7), si(1_500), si(4_089_184_256)], ["7", "1.50 K", "4.09 G"]);
        assert_eq!([bytes(3), bytes(1536), bytes(3 << 30)], ["3 B", "1.5 KiB", "3.00 GiB"]);
    }

    #[test]
    fn tables_align() {
        let rows = vec![vec!["full".to_string(), "10".to_string()], vec!["s".to_string(), "2".to_string()]];
        assert_eq!(table(1, &["net", "count"], &rows), "  net   count\n  full     10\n  s         2\n");
        let long = vec![vec!["x".repeat(70_000)]];
        assert_eq!(table(1, &["net"], &long), format!("  net\n  {}\n", "x".repeat(70_000)));
    }
}
