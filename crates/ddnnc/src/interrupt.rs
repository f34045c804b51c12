//! Ctrl-C: the first asks to stop, the second ends the process.

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
