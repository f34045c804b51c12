//! Signals. Ctrl-C: the first asks to stop, the second ends the process. A write past the limit on the size of files fails.

use crate::Failure;
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// Exit status of a process that was interrupted, as shells give it (128 + SIGINT).
const INTERRUPTED: i32 = 130;

/// From now on, the first Ctrl-C (or SIGTERM) sets the flag and the second ends the process.
pub fn watch() -> Result<&'static AtomicBool, Failure> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED);
        }
    })
    .map_err(|e| Failure::environment(format!("Ctrl-C cannot be watched for: {e}")))?;
    Ok(&STOP)
}

/// From now on, a write past the limit on the size of files fails like any other that the disk does not take, so that what
/// was half-written is removed and said; the signal would end the process there. Programs that this one starts inherit it.
#[cfg(unix)]
pub fn let_large_writes_fail() {
    // SAFETY: a signal that exists, ignored: no code runs when it comes.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// There is no such signal.
#[cfg(not(unix))]
pub fn let_large_writes_fail() {}
