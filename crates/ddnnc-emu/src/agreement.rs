//! What the four warps of a warpgroup must do alike: the same `wgmma` instructions in the same order (`.aligned`), with
//! the same descriptors.

use std::collections::VecDeque;

/// What a warp has executed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub pc: u32,
    /// Descriptors of a product; 0 of others.
    pub a: u64,
    pub b: u64,
}

/// The steps of a warpgroup's warps, as far as not all have made them.
#[derive(Default)]
pub(crate) struct Agreement {
    steps: VecDeque<Step>,
    /// How many steps were dropped from the front.
    gone: usize,
    /// How many steps each warp has made.
    made: [usize; 4],
}

impl Agreement {
    /// A warp's next step; the error is what the first one to make it did.
    pub fn step(&mut self, warp: u32, step: Step) -> Result<(), Step> {
        let made = &mut self.made[warp as usize % 4];
        match self.steps.get(*made - self.gone) {
            Some(first) if *first != step => return Err(*first),
            Some(_) => {}
            None => self.steps.push_back(step),
        }
        *made += 1;
        let all = self.made.into_iter().min().unwrap_or(0);
        while self.gone < all {
            self.steps.pop_front();
            self.gone += 1;
        }
        Ok(())
    }

    /// A warp (of the four) that has not made a step that another one has, and that step.
    pub fn missing(&self) -> Option<(u32, Step)> {
        let step = self.steps.front()?;
        let warp = self.made.iter().position(|made| *made == self.gone)?;
        Some((warp as u32, *step))
    }
}
