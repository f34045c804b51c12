//! Making this process use the emulator as its CUDA driver.
//!
//! The shared library is another copy of this crate, with its own state. The functions here find it, load it where
//! later `dlopen` calls for `libcuda.so.1` and `libcuda.so` find it, and ask it; they never touch the copy of the
//! driver that is linked into the program.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::driver::Report;
use crate::stub;

/// What was loaded. Never unloaded, as others may have found it meanwhile.
struct Installed {
    path: PathBuf,
    handle: Library,
    _stub: Library,
}

static INSTALLED: Mutex<Option<Installed>> = Mutex::new(None);

/// The name under which cargo builds the shared library.
const FILE: &str = "libddnnc_emu.so";

/// Names the shared library where it is not beside the program.
const VARIABLE: &str = "DDNNC_EMU_LIBRARY";

/// Loads the shared library as this process's CUDA driver, and gives its path. Must come before anything else loads a
/// driver. A second call does nothing.
///
/// It is looked for where `DDNNC_EMU_LIBRARY` says; else in `deps/` beside the running program, beside it, and in the
/// same two places one folder up: where cargo puts it for programs, tests and examples.
///
/// # Errors
///
/// A sentence that says where it was looked for, or why it cannot be loaded.
pub fn install() -> Result<PathBuf, String> {
    let mut installed = INSTALLED.lock().map_err(|_| "an earlier call panicked".to_owned())?;
    if let Some(installed) = &*installed {
        return Ok(installed.path.clone());
    }
    let path = find()?;
    let handle = open(&path)?;
    let stub = open_stub().map_err(|e| format!("{}: {e}", path.display()))?;
    *installed = Some(Installed { path: path.clone(), handle, _stub: stub });
    Ok(path)
}

fn find() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        let path = PathBuf::from(path);
        let path = if path.is_dir() { path.join(FILE) } else { path };
        return path.canonicalize().map_err(|e| format!("{VARIABLE}={}: {e}", path.display()));
    }
    let program = std::env::current_exe().map_err(|e| format!("the running program: {e}"))?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    // `deps` first: cargo builds the library there, and only `cargo build -p ddnnc-emu` links it one folder up, where it
    // stays when the other one is built anew.
    let places = ["deps", "", "../deps", ".."].map(|folder| beside.join(folder).join(FILE));
    match places.iter().find(|p| p.is_file()) {
        Some(path) => path.canonicalize().map_err(|e| format!("{}: {e}", path.display())),
        None => {
            let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
            Err(format!("the emulator's shared library is not at {}; set {VARIABLE}", places.join(", ")))
        }
    }
}

fn open(path: &Path) -> Result<Library, String> {
    // SAFETY: the library is this crate's own, whose initialisation does nothing; a file that is something else is the
    // choice of the user who put it there or named it.
    let opened = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    opened.map_err(|e| format!("{}: {e}", path.display()))
}

/// Loads a library that is called `libcuda.so` and only refers to `libcuda.so.1`: that is the name that programs try
/// first, and a machine with a driver would have one of it.
fn open_stub() -> Result<Library, String> {
    let folder = std::env::temp_dir().join(format!("ddnnc-emu-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let path = folder.join("libcuda.so");
    let opened = std::fs::write(&path, stub::image())
        .map_err(|e| format!("{}: {e}", path.display()))
        .and_then(|()| open(&path));
    // Once loaded, the file itself is needed no more.
    let _ = std::fs::remove_dir_all(&folder);
    opened
}

/// What the emulator executed in this process; `None` where it is not installed or not initialised.
pub fn report() -> Option<Report> {
    let installed = INSTALLED.lock().ok()?;
    let mut report = Report::default();
    // SAFETY: the type is that of the function in `driver/api_own.rs`, and the place is valid while it runs.
    let code = unsafe {
        let f =
            installed.as_ref()?.handle.get::<unsafe extern "C" fn(*mut Report) -> u32>(b"ddnnc_emu_report\0");
        f.ok()?(&mut report)
    };
    (code == 0).then_some(report)
}

/// The text of the latest fault, refused module or launch, or panic in this process.
pub fn last_fault() -> Option<String> {
    let installed = INSTALLED.lock().ok()?;
    type Told = unsafe extern "C" fn(*mut u8, usize) -> usize;
    let mut text = vec![0u8; 1 << 16];
    // SAFETY: the type is that of the function in `driver/api_own.rs`, and the buffer is as long as it is told.
    let bytes = unsafe {
        let f = installed.as_ref()?.handle.get::<Told>(b"ddnnc_emu_last_fault\0").ok()?;
        f(text.as_mut_ptr(), text.len())
    };
    text.truncate(bytes.min(text.len()).checked_sub(1)?);
    Some(String::from_utf8_lossy(&text).into_owned())
}
