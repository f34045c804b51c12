//! Exported functions that no other driver has: what was executed, and what went wrong.

use std::sync::PoisonError;

use super::code::Code;
use super::ffi::{Host, Out, write_text};
use super::report::Report;
use super::{TEXT, driver};

/// Writes the text of the latest fault, refused module or launch, or panic, cut to `length` bytes with its zero.
/// Gives the bytes that the whole text takes with its zero; 0 where nothing went wrong so far.
#[unsafe(no_mangle)]
pub extern "C" fn ddnnc_emu_last_fault(buffer: Host, length: usize) -> usize {
    let text = TEXT.lock().unwrap_or_else(PoisonError::into_inner);
    if text.is_empty() {
        return 0;
    }
    write_text(buffer.address(), length, &text);
    text.len() + 1
}

/// Writes what was executed since the driver was initialised.
#[unsafe(no_mangle)]
pub extern "C" fn ddnnc_emu_report(report: Out<Report>) -> Code {
    driver(|d| report.check().map(|r| r.set(d.report)))
}
