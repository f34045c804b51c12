//! NVRTC: CUDA C++ to PTX and to machine code.

use crate::arch::Arch;
use crate::machine_code::resources;
use cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Why nothing was compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NvrtcError {
    /// No library.
    #[error(
        "NVRTC was not found: looked for libnvrtc.so, libnvrtc.so.13 and libnvrtc.so.12 in {looked} (`pip install nvidia-cuda-nvrtc` has it; then set DDNNC_NVRTC to the folder of libnvrtc.so.13)"
    )]
    NotFound {
        /// Where.
        looked: String,
    },
    /// A library that is too old to be called.
    #[error("NVRTC {major}.{minor} is too old; 12.0 or newer is needed")]
    TooOld {
        /// Its version.
        major: i32,
        /// Its version.
        minor: i32,
    },
    /// An architecture that this library does not know.
    #[error("NVRTC {version} does not compile for {arch}; it knows {known}")]
    Unknown {
        /// The architecture.
        arch: Arch,
        /// NVRTC's version.
        version: String,
        /// What it knows, from sm_80 on.
        known: String,
    },
    /// The kernel is wrong.
    #[error("kernel `{name}` does not compile for {arch}:\n{log}\n{source_text}")]
    Compile {
        /// The kernel.
        name: String,
        /// For which architecture.
        arch: Arch,
        /// NVRTC's log.
        log: String,
        /// The lines of the source that the log names, with those around them, numbered.
        source_text: String,
    },
    /// Something else.
    #[error("NVRTC failed: {0}")]
    Failed(String),
}

/// What a kernel is compiled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Text for the driver's compiler (and the emulator).
    Ptx,
    /// The same, which says of every instruction what line of the kernel's text it comes from, with that text behind it in
    /// comments: the emulator's reports name such lines and show them.
    PtxWithLines,
    /// Machine code.
    Cubin,
}

/// A compiled kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// PTX text or an ELF image.
    pub bytes: Vec<u8>,
    /// NVRTC's and ptxas' log: registers, shared memory, spills for a cubin.
    pub log: String,
}

/// Makes sure that NVRTC can be called, and gives its version: looks in `$DDNNC_NVRTC` (the folder that holds
/// libnvrtc.so.13), then where the loader looks. It looks once in a process.
///
/// # Errors
///
/// [`NvrtcError::NotFound`], [`NvrtcError::TooOld`].
pub fn find() -> Result<(i32, i32), NvrtcError> {
    static FOUND: OnceLock<Result<(i32, i32), NvrtcError>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let mut looked = Vec::new();
        if let Some(dir) = std::env::var_os("DDNNC_NVRTC") {
            looked.push(open_in(&PathBuf::from(dir)));
        } else {
            looked.push("$DDNNC_NVRTC (not set)".to_owned());
        }
        looked.push("the loader's paths".to_owned());
        // SAFETY: opening NVRTC runs its initialisers only.
        if !unsafe { sys::is_culib_present() } {
            return Err(NvrtcError::NotFound { looked: looked.join(", then in ") });
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: places to write to.
        let asked = unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result();
        asked.map_err(|e| NvrtcError::Failed(format!("{e:?}")))?;
        // What is called here is in every library since 12.0; cudarc panics at a missing symbol.
        if major < 12 { Err(NvrtcError::TooOld { major, minor }) } else { Ok((major, minor)) }
    });
    found.clone()
}

/// Opens the libraries of the folder that `$DDNNC_NVRTC` names, and says where that was, and what was wrong with it.
fn open_in(dir: &Path) -> String {
    let mut wrong = if dir.is_dir() { String::new() } else { ", which is no folder".to_owned() };
    // NVRTC asks for its own headers' library by name, and is not always told to look beside itself.
    for library in ["libnvrtc-builtins.so", "libnvrtc.so"] {
        if let Some(Err(why)) = library_in(dir, library).map(|path| open_globally(&path)) {
            wrong = format!(", where a library cannot be loaded: {why}");
        }
    }
    format!("{} ($DDNNC_NVRTC{wrong})", dir.display())
}

/// The last file in a folder whose name begins like this.
fn library_in(dir: &Path, begin: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(begin)))
        .collect();
    found.sort();
    found.pop()
}

/// Opens a library for the whole process, so that a later search by its SONAME finds it; or gives the loader's words.
fn open_globally(path: &Path) -> Result<(), String> {
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    unsafe extern "C" {
        fn dlopen(name: *const std::ffi::c_char, flags: i32) -> *mut std::ffi::c_void;
        fn dlerror() -> *const std::ffi::c_char;
    }
    const RTLD_NOW: i32 = 2;
    const RTLD_GLOBAL: i32 = 0x100;
    // SAFETY: a null-terminated name; the handle is kept for the life of the process.
    if !unsafe { dlopen(name.as_ptr(), RTLD_NOW | RTLD_GLOBAL) }.is_null() {
        return Ok(());
    }
    // SAFETY: the text of this thread's latest error, until its next call; null where there is none.
    let why = unsafe { dlerror() };
    if why.is_null() {
        return Err(path.display().to_string());
    }
    // SAFETY: not null, so it ends with a zero.
    Err(unsafe { CStr::from_ptr(why) }.to_string_lossy().into_owned())
}

/// The architectures that NVRTC compiles for, from sm_80 on, ascending.
///
/// # Errors
///
/// As [`find`].
pub fn architectures() -> Result<Vec<Arch>, NvrtcError> {
    find()?;
    let failed = |e: result::NvrtcError| NvrtcError::Failed(format!("{e:?}"));
    let mut count = 0;
    // SAFETY: a place to write to.
    unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) }.result().map_err(failed)?;
    let mut numbers = vec![0i32; usize::try_from(count).unwrap_or(0)];
    // SAFETY: as many places as NVRTC has said.
    unsafe { sys::nvrtcGetSupportedArchs(numbers.as_mut_ptr()) }.result().map_err(failed)?;
    let mut known: Vec<Arch> =
        numbers.into_iter().filter_map(|n| u32::try_from(n).ok()).filter(|&n| n >= 80).map(Arch).collect();
    known.sort();
    Ok(known)
}

/// Makes sure that NVRTC compiles for an architecture.
///
/// # Errors
///
/// [`NvrtcError::Unknown`] where it does not, else as [`find`].
pub fn knows(arch: Arch) -> Result<(), NvrtcError> {
    let ((major, minor), known) = (find()?, architectures()?);
    if known.contains(&arch) {
        return Ok(());
    }
    let known: Vec<String> = known.iter().map(Arch::to_string).collect();
    Err(NvrtcError::Unknown { arch, version: format!("{major}.{minor}"), known: known.join(", ") })
}

/// What NVRTC is told besides the source.
pub fn options(arch: Arch, output: Output) -> Vec<String> {
    let mut options = vec![format!("--gpu-architecture={}", arch.for_compiler()), "--std=c++17".to_owned()];
    match output {
        Output::Ptx => {}
        Output::PtxWithLines => options.push("--generate-line-info".to_owned()),
        Output::Cubin => options.push("--ptxas-options=-v".to_owned()),
    }
    options
}

/// Compiles one kernel for a real architecture; several threads may do so at once. Machine code that spills registers is
/// made again with `ROOMY` defined, which lets ptxas use all that a block may have, and that is taken where it spills less.
///
/// # Errors
///
/// [`NvrtcError`].
pub fn compile(name: &str, source: &str, arch: Arch, output: Output) -> Result<Binary, NvrtcError> {
    let options = options(arch, output);
    let first = compile_with(name, source, arch, output, &options)?;
    let spills = |binary: &Binary| resources(&binary.log).map(|r| r.spills);
    if output != Output::Cubin || spills(&first) == Some(0) {
        return Ok(first);
    }
    // Some releases of NVRTC 13.0 leave ptxas' part out of a log now and then: what is not known to be better is not taken.
    let options = [options, vec!["--define-macro=ROOMY".to_owned()]].concat();
    let roomy = compile_with(name, source, arch, output, &options)?;
    let better = match (spills(&roomy), spills(&first)) {
        (Some(roomy), Some(first)) => roomy < first,
        (roomy, _) => roomy == Some(0),
    };
    Ok(if better { roomy } else { first })
}

fn compile_with(
    name: &str,
    source: &str,
    arch: Arch,
    output: Output,
    options: &[String],
) -> Result<Binary, NvrtcError> {
    find()?;
    let failed = |e: result::NvrtcError| NvrtcError::Failed(format!("{e:?}"));
    let text = CString::new(source).map_err(|e| NvrtcError::Failed(e.to_string()))?;
    let file = CString::new(format!("{name}.cu")).map_err(|e| NvrtcError::Failed(e.to_string()))?;
    let program = result::create_program(&text, Some(&file)).map_err(failed)?;
    // SAFETY: a program that was created above, destroyed below.
    let compiled = unsafe { result::compile_program(program, options) };
    // SAFETY: as above.
    let log = unsafe { result::get_program_log(program) }
        .ok()
        .and_then(|log| {
            let bytes: Vec<u8> = log.iter().map(|&c| c as u8).collect();
            CStr::from_bytes_until_nul(&bytes).ok().map(|t| t.to_string_lossy().trim().to_owned())
        })
        .unwrap_or_default();
    let binary = match (compiled, output) {
        (Err(_), _) => {
            let source_text = excerpt(source, &log);
            Err(NvrtcError::Compile { name: name.to_owned(), arch, log, source_text })
        }
        (Ok(()), Output::Ptx | Output::PtxWithLines) => {
            // SAFETY: a compiled program.
            let ptx = unsafe { result::get_ptx(program) }.map_err(failed);
            ptx.map(|ptx| {
                let mut bytes: Vec<u8> = ptx.iter().map(|&c| c as u8).filter(|&c| c != 0).collect();
                if output == Output::PtxWithLines {
                    let comment = source_comment(name, source, &String::from_utf8_lossy(&bytes));
                    bytes.extend(comment.into_iter().flat_map(String::into_bytes));
                }
                Binary { bytes, log }
            })
        }
        (Ok(()), Output::Cubin) => cubin(program).map(|bytes| Binary { bytes, log }),
    };
    // SAFETY: not used any more.
    let _ = unsafe { result::destroy_program(program) };
    binary
}

fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>, NvrtcError> {
    let failed = |e: result::NvrtcError| NvrtcError::Failed(format!("{e:?}"));
    let mut size = 0;
    // SAFETY: a compiled program and places to write to.
    unsafe { sys::nvrtcGetCUBINSize(program, &mut size) }.result().map_err(failed)?;
    let mut bytes = vec![0u8; size];
    // SAFETY: `bytes` has the size that NVRTC asked for.
    unsafe { sys::nvrtcGetCUBIN(program, bytes.as_mut_ptr().cast()) }.result().map_err(failed)?;
    Ok(bytes)
}

/// The source of a kernel's PTX as the emulator finds it there; NVRTC numbers the file among those of its own headers.
fn source_comment(name: &str, source: &str, ptx: &str) -> Option<String> {
    let end = format!("/{name}.cu\"");
    let file = ptx.lines().filter(|line| line.ends_with(&end));
    let number =
        file.filter_map(|line| line.trim().strip_prefix(".file")?.split_whitespace().next()).next()?;
    let lines: String = source.lines().map(|line| format!("//|{line}\n")).collect();
    Some(format!("\n// source {number} {name}.cu\n{lines}"))
}

/// Source with line numbers.
pub fn numbered(source: &str) -> String {
    source.lines().enumerate().map(|(i, line)| format!("{:5} | {line}\n", i + 1)).collect()
}

/// How many places of the source are shown with a log, and how many lines before and after each.
const PLACES: usize = 5;
const AROUND: usize = 4;

/// The first lines that `log` names (`gemm.cu(123): error: …`), with those around them; all lines where it names none.
fn excerpt(source: &str, log: &str) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let mut named: Vec<usize> = Vec::new();
    for line in log.lines().filter(|line| line.contains("error")) {
        let number = line.split_once(".cu(").and_then(|(_, rest)| rest.split(')').next()?.parse().ok());
        if let Some(number) = number
            && (1..=lines.len()).contains(&number)
            && !named.contains(&number)
            && named.len() < PLACES
        {
            named.push(number);
        }
    }
    if named.is_empty() {
        return numbered(source);
    }
    named.sort_unstable();
    let (mut text, mut shown) = (String::new(), 0);
    for &number in &named {
        let first = number.saturating_sub(AROUND).max(shown + 1);
        let last = (number + AROUND).min(lines.len());
        if first > shown + 1 {
            text.push_str("      …\n");
        }
        for n in first..=last {
            let mark = if named.contains(&n) { '>' } else { ' ' };
            text.push_str(&format!("{mark}{n:5} | {}\n", lines[n - 1]));
        }
        shown = shown.max(last);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_folder_is_said() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let shown = place.path().display();
        assert_eq!(open_in(place.path()), format!("{shown} ($DDNNC_NVRTC)"));
        let library = place.path().join("libnvrtc.so.13");
        std::fs::write(&library, "no library").expect("a file");
        let said = open_in(place.path());
        assert!(
            said.starts_with(&format!("{shown} ($DDNNC_NVRTC, where a library cannot be loaded: ")),
            "{said}"
        );
        assert!(said.contains("libnvrtc.so.13: "), "{said}");
        let file = format!("{} ($DDNNC_NVRTC, which is no folder)", library.display());
        assert_eq!(open_in(&library), file);
    }

    /// What a GPU's kernels are compiled with does not change by what the emulator asks for.
    #[test]
    fn lines_are_an_option_of_their_own() {
        let of = |output| options(Arch(90), output);
        let both = ["--gpu-architecture=sm_90a", "--std=c++17"];
        assert_eq!(of(Output::Ptx), both);
        assert_eq!(of(Output::PtxWithLines), [&both[..], &["--generate-line-info"]].concat());
        assert_eq!(of(Output::Cubin), [&both[..], &["--ptxas-options=-v"]].concat());
    }

    #[test]
    fn the_source_has_the_number_that_the_kernels_file_has() {
        let ptx = "\t.loc\t2 1 5\n\t.file\t1 \"/x/builtin.h\"\n\t.file\t2 \"/x/k.cu\"\n";
        let comment = source_comment("k", "a\n\n b", ptx);
        assert_eq!(comment.as_deref(), Some("\n// source 2 k.cu\n//|a\n//|\n//| b\n"));
        assert_eq!(source_comment("other", "a", ptx), None);
    }

    #[test]
    fn an_excerpt_shows_the_lines_that_the_log_names_once_each() {
        let source: String = (1..=40).map(|n| format!("line {n}\n")).collect();
        let log = "k.cu(12): error: x\nk.cu(14): error: y\nk.cu(12): error: z\nk.cu(99): error: outside\n\
                   k.cu(30): warning: w\n";
        let text = excerpt(&source, log);
        let numbers: Vec<usize> = text
            .lines()
            .filter_map(|l| l.trim_start_matches(['>', ' ']).split(' ').next()?.parse().ok())
            .collect();
        assert_eq!(numbers, (8..=18).collect::<Vec<_>>(), "{text}");
        let marked: Vec<&str> = text.lines().filter(|l| l.starts_with('>')).collect();
        assert_eq!(marked, [">   12 | line 12", ">   14 | line 14"]);
        assert_eq!(excerpt("a\nb\n", "no line"), numbered("a\nb\n"));
    }
}
