//! Memory that is asked for while something else is computed.
//!
//! A convolution's task reads its source, multiplies for a while, and reads what its epilogue takes: memory waits for
//! arithmetic and arithmetic for memory. So a task lists what comes next, its epilogue's operands and results and the
//! source of a later task, and asks for a few lines beside every tile that it computes, one by one between its terms: a burst
//! before each tile waits until memory can take so many.

use std::cell::Cell;

/// Bytes of a line.
pub const LINE: usize = 64;

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
        if elements > 0 && self.count < RUNS && !self.runs[..self.count].contains(&run) {
            self.runs[self.count] = run;
            self.count += 1;
        }
    }

    /// Lines that are listed.
    pub fn lines(&self) -> usize {
        self.runs[..self.count].iter().map(|run| run.1.div_ceil(LINE)).sum()
    }

    /// How many lines to [take](Ahead::take) at a time so that all are taken in so many turns.
    pub fn share(&self, turns: usize) -> usize {
        self.lines().div_ceil(turns.saturating_sub(self.count).max(1))
    }

    /// The next lines, at most so many, for the caller to ask for: where they begin, and how many follow one another.
    #[inline]
    pub fn take(&self, lines: usize) -> (usize, usize) {
        let (run, done) = self.at.get();
        if run == self.count || lines == 0 {
            return (0, 0);
        }
        let (start, bytes) = self.runs[run];
        let some = lines.min((bytes - done).div_ceil(LINE));
        let next = done + some * LINE;
        self.at.set(if next >= bytes { (run + 1, 0) } else { (run, next) });
        (start.wrapping_add(done), some)
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

/// Lines that follow one another and are asked for between the terms of a tile, some at each turn: without branches that depend
/// on what is left, so that the last of them may be asked for again.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    line: usize,
    last: usize,
    /// Lines of a turn.
    some: usize,
}

impl Pace {
    /// The lines that [`Ahead::take`] gives, over so many turns.
    #[inline(always)]
    pub fn new((line, lines): (usize, usize), turns: usize) -> Pace {
        let last = line.wrapping_add(lines.saturating_sub(1) * LINE);
        Pace { line, last, some: lines.div_ceil(turns.max(1)) }
    }

    /// Terms of a turn: `every`, or all where nothing is asked for.
    #[inline(always)]
    pub fn terms(&self, every: usize, all: usize) -> usize {
        if self.some == 0 { all.max(1) } else { every }
    }

    /// A turn.
    #[inline(always)]
    pub fn ask(&mut self) {
        for _ in 0..self.some {
            ask(self.line);
            self.line = self.line.wrapping_add(LINE).min(self.last);
        }
    }
}

/// Asks for the line at an address, into the second cache.
#[inline(always)]
pub fn ask(address: usize) {
    request::<false>(address);
}

/// Asks for the line at an address, into the first cache.
#[inline(always)]
pub fn ask_near(address: usize) {
    request::<true>(address);
}

#[inline(always)]
fn request<const NEAR: bool>(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: any address may be asked for.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let line = std::ptr::without_provenance(address);
        if NEAR { _mm_prefetch::<_MM_HINT_T0>(line) } else { _mm_prefetch::<_MM_HINT_T1>(line) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::{Ahead, LINE, Pace, RUNS};

    /// Whether all lines have been asked for.
    fn done(ahead: &Ahead) -> bool {
        ahead.at.get().0 == ahead.count
    }

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
        assert!(done(&ahead));
        for n in 1..=2 * RUNS {
            ahead.list(memory.as_ptr(), n);
        }
        assert_eq!(ahead.count, RUNS, "the rest is left out");
    }

    #[test]
    fn lines_are_taken_within_a_run() {
        let memory = [0.0f32; 100];
        let start = memory.as_ptr() as usize;
        let mut ahead = Ahead::default();
        ahead.list(memory.as_ptr(), 0);
        assert!(done(&ahead) && ahead.take(9) == (0, 0), "nothing is no run");
        ahead.list(memory.as_ptr(), 100);
        ahead.list(memory.as_ptr(), 20);
        assert_eq!(ahead.take(0), (0, 0));
        assert_eq!([ahead.take(5), ahead.take(5)], [(start, 5), (start + 320, 2)]);
        assert!(!done(&ahead));
        assert_eq!(ahead.take(2), (start, 2));
        assert!(done(&ahead) && ahead.take(1) == (0, 0));
        for turns in 1..12 {
            ahead.at.set((0, 0));
            let share = ahead.share(turns);
            (0..turns.max(3)).for_each(|_| _ = ahead.take(share));
            assert!(done(&ahead), "{turns}");
        }
    }

    #[test]
    fn a_pace_reaches_every_line_and_no_other() {
        let memory = [0.0f32; 1000];
        let start = memory.as_ptr() as usize;
        for lines in 0..40 {
            for turns in 1..50 {
                let mut pace = Pace::new((start, lines), turns);
                assert_eq!(pace.terms(8, 100), if lines == 0 { 100 } else { 8 });
                (0..turns).for_each(|_| pace.ask());
                assert!(pace.some * turns >= lines, "{lines} {turns}");
                let end = start + lines.saturating_sub(1) * LINE;
                assert!(pace.last == end && pace.line == end, "{lines} {turns}");
            }
        }
    }
}
