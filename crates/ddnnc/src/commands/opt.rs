//! `ddnnc opt`: a graph as text, verified, through passes, as text.

use crate::Failure;
use crate::cli::OptArgs;
use crate::output::print;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The largest graph that is read, in bytes; the largest specs come to a few megabytes.
const MAX_BYTES: u64 = 256 << 20;

/// Reads, verifies, runs passes, prints.
pub fn run(args: &OptArgs) -> Result<(), Failure> {
    let stdin = args.file == Path::new("-");
    let name = if stdin { "standard input".to_string() } else { args.file.display().to_string() };
    let text = read(&args.file, stdin, &name)?;
    let wrong = |e: ddnnc_ir::IrError| Failure::input(format!("{name}: {e}"));
    let mut graph = ddnnc_ir::parse_verified(&text).map_err(wrong)?;
    for wanted in &args.passes {
        // The command line takes no other name.
        let Some((_, pass)) = ddnnc_passes::PASSES.iter().find(|(pass, _)| pass == wanted) else { continue };
        pass(&mut graph).map_err(wrong)?;
        ddnnc_ir::verify(&graph).map_err(wrong)?;
    }
    print(&ddnnc_ir::print(&graph).map_err(wrong)?)
}

fn read(path: &Path, stdin: bool, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let got = if stdin {
        io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
    };
    got.map_err(|e| Failure::reading(path, &e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::input(format!("{name} is larger than a graph may be (256 MiB)")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::input(format!("{name} is no UTF-8 text")))
}
