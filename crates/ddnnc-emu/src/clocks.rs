//! What is ordered before what inside a block: a logical clock per warp.
//!
//! A warp's time grows by one with each barrier it takes part in. An access is stamped with the time of its warp; it
//! lies before a later access of another thread exactly if the later thread's warp (for lanes of one warp: the lane)
//! has learnt of that time through barriers. Shuffles, votes and fences teach nothing: they do not order memory.

use crate::registers::LANES;

/// Most warps of a block: 1024 threads.
pub(crate) const WARPS: usize = 32;

/// What the lanes of a warp know of each other beyond what the whole warp knows: `[knower][known]`.
type Pairs = [[u32; LANES]; LANES];

/// The clocks of a block's warps.
pub(crate) struct Clocks {
    time: [u32; WARPS],
    know: [[u32; WARPS]; WARPS],
    pairs: Vec<Option<Box<Pairs>>>,
    /// Of each warp the proxy fences, in the order of time: when, and of which lanes.
    fences: Vec<Vec<(u32, u32)>>,
}

/// What the arrivals at a barrier have taught it so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lesson {
    know: [u32; WARPS],
}

impl Clocks {
    /// The clocks of a block that begins.
    pub fn new() -> Clocks {
        Clocks {
            time: [1; WARPS],
            know: [[0; WARPS]; WARPS],
            pairs: vec![None; WARPS],
            fences: vec![Vec::new(); WARPS],
        }
    }

    /// Begins a new block.
    pub fn reset(&mut self) {
        self.time = [1; WARPS];
        self.know = [[0; WARPS]; WARPS];
        self.pairs.fill(None);
        self.fences.iter_mut().for_each(Vec::clear);
    }

    /// The time of a warp, from 1.
    pub fn time(&self, warp: u32) -> u32 {
        self.time[warp as usize]
    }

    /// The newest time of each warp that every lane of `warp` knows of.
    pub fn know(&self, warp: u32) -> &[u32; WARPS] {
        &self.know[warp as usize]
    }

    /// Whether a lane knows of what another lane of its warp did at a time, through a `bar.warp.sync` of some lanes.
    pub fn lane_knows(&self, warp: u32, lane: u32, other: u32, time: u32) -> bool {
        self.pairs[warp as usize].as_ref().is_some_and(|p| p[lane as usize][other as usize] >= time)
    }

    /// Whether some lanes of a warp may know more than others.
    pub fn lanes_differ(&self, warp: u32) -> bool {
        self.pairs[warp as usize].is_some()
    }

    /// A warp arrives at a barrier: its accesses so far are before the barrier's completion.
    pub fn arrive(&mut self, warp: u32, lesson: &mut Lesson) {
        let warp = warp as usize;
        for (l, k) in lesson.know.iter_mut().zip(&self.know[warp]) {
            *l = (*l).max(*k);
        }
        lesson.know[warp] = lesson.know[warp].max(self.time[warp]);
        self.time[warp] += 1;
    }

    /// A warp leaves a barrier that has completed.
    pub fn leave(&mut self, warp: u32, lesson: &Lesson) {
        for (k, l) in self.know[warp as usize].iter_mut().zip(&lesson.know) {
            *k = (*k).max(*l);
        }
    }

    /// `fence.proxy.async` of some lanes of a warp: parts what was written so far from what is written from now on.
    pub fn proxy_fence(&mut self, warp: u32, lanes: u32) {
        let time = self.time(warp);
        self.fences[warp as usize].push((time, lanes));
        self.time[warp as usize] += 1;
    }

    /// The lanes of a warp that have executed a proxy fence not before `time`, as far as it is known to whoever knows of
    /// the warp's times up to `known`.
    pub fn proxy_fenced(&self, warp: u32, time: u32, known: u32) -> u32 {
        let fences = &self.fences[warp as usize];
        let first = fences.partition_point(|(at, _)| *at < time);
        let mut fenced = 0;
        for (at, lanes) in &fences[first..] {
            if *at >= known || fenced == u32::MAX {
                break;
            }
            fenced |= lanes;
        }
        fenced
    }

    /// `bar.warp.sync` of some lanes of a warp of which `live` have not exited.
    pub fn warp_sync(&mut self, warp: u32, lanes: u32, live: u32) {
        let w = warp as usize;
        let now = self.time[w];
        self.time[w] += 1;
        if live & !lanes == 0 {
            self.know[w][w] = now;
            return;
        }
        let pairs = self.pairs[w].get_or_insert_with(|| Box::new([[0; LANES]; LANES]));
        let mut row = [0; LANES];
        for lane in (0..LANES).filter(|l| lanes >> l & 1 != 0) {
            for (r, k) in row.iter_mut().zip(&pairs[lane]) {
                *r = (*r).max(*k);
            }
        }
        for lane in (0..LANES).filter(|l| lanes >> l & 1 != 0) {
            row[lane] = now;
        }
        for lane in (0..LANES).filter(|l| lanes >> l & 1 != 0) {
            pairs[lane] = row;
        }
    }
}
