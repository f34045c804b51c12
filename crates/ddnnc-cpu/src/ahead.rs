//! Memory that is asked for while something else is computed.
//!
//! A convolution's task reads its source, multiplies for a while, and reads what its epilogue takes: memory waits for
//! arithmetic and arithmetic for memory. So a task lists what comes next, its epilogue's operands and the source of a
//! later task, and asks for a few lines beside every tile or product that it computes. Depthwise convolutions do not.

use std::cell::Cell;

/// Bytes of a line.
const LINE: usize = 64;

/// The most runs of memory that are listed.
const RUNS: usize = 8;

/// Runs of memory, of which some lines have been asked for.
#[derive(Debug, Default)]
pub struct Ahead {
    /// Address and bytes.
    runs: [(usize, usize); RUNS],
    count: usize,
    /// The run, and how many of its bytes have been asked for.
    at: Cell<(usize, usize)>,
}

impl Ahead {
    /// Lists some memory; what there is no room for is left out.
    pub fn list<T>(&mut self, start: *const T, elements: usize) {
        let run = (start as usize, elements * size_of::<T>());
        if self.count < RUNS && !self.runs[..self.count].contains(&run) {
            self.runs[self.count] = run;
            self.count += 1;
        }
    }

    /// Lines that are listed.
    pub fn lines(&self) -> usize {
        self.runs[..self.count].iter().map(|run| run.1.div_ceil(LINE)).sum()
    }

    /// Asks for the next lines.
    #[inline]
    pub fn ask(&self, lines: usize) {
        let (mut run, mut done) = self.at.get();
        for _ in 0..lines {
            if run == self.count {
                break;
            }
            let (start, bytes) = self.runs[run];
            ask(start.wrapping_add(done));
            done += LINE;
            if done >= bytes {
                (run, done) = (run + 1, 0);
            }
        }
        self.at.set((run, done));
    }
}

/// Asks for the line at an address, into the second cache.
#[inline(always)]
fn ask(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: any address may be asked for.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(address));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::{Ahead, RUNS};

    #[test]
    fn lines_are_asked_for_run_by_run() {
        let mut ahead = Ahead::default();
        let memory = [0.0f32; 100];
        ahead.list(memory.as_ptr(), 100);
        ahead.list(memory.as_ptr(), 100);
        assert_eq!(ahead.lines(), 7, "listed once");
        ahead.list(memory.as_ptr().cast::<u16>(), 33);
        assert_eq!(ahead.lines(), 9);
        ahead.ask(3);
        assert_eq!(ahead.at.get(), (0, 192));
        ahead.ask(5);
        assert_eq!(ahead.at.get(), (1, 64));
        ahead.ask(100);
        assert_eq!(ahead.at.get(), (2, 0), "no more than all");
        for n in 1..=2 * RUNS {
            ahead.list(memory.as_ptr(), n);
        }
        assert_eq!(ahead.count, RUNS, "the rest is left out");
    }
}
