//! `wgmma`: matrix products of four warps, made while the warps go on.
//!
//! The rows of a product belong to the warps one by one, so each warp makes its own 16 of the 64. It makes them as late as
//! it may: factors are read, and sums written, when the warp waits for the product's group. What the kernel forgot to wait
//! for is then not there, and what it overwrote too early is gone, in every run.
//!
//! A product reads shared memory at some time between its issue and its end. What it reads must have been written, and be
//! ordered, before its issue; accesses of others must be ordered behind its end.

use std::collections::VecDeque;

use crate::agreement::Step;
use crate::block::Scene;
use crate::clocks::WARPS;
use crate::descriptor::{Descriptor, UNIT};
use crate::fault::{FaultKind, Problem, problem, problem_with};
use crate::inst::{FirstFactor, Op, Src, Wgmma};
use crate::registers::LANES;
use crate::shared::{Conflict, Stamp};
use crate::tile::{Tile, Unit, depth, unit_elements};
use crate::warp::Warp;

/// Warps of a warpgroup.
const GROUP: u32 = 4;

/// A product under way.
struct Product {
    /// Its instruction.
    pc: u32,
    /// The number of its group.
    group: u32,
    a: Option<Descriptor>,
    b: Descriptor,
    /// Whether sums begin with what the accumulator holds.
    adds: bool,
    /// What the warp knew of others when it issued the product.
    know: [u32; WARPS],
    /// How many writes shared memory had seen.
    writes: u64,
}

/// A warp's products under way.
#[derive(Default)]
pub(crate) struct Products {
    under_way: VecDeque<Product>,
    /// How many groups have been committed: the number of the group that is open.
    committed: u32,
    tile: Option<Box<Tile>>,
    /// Where the units of a product's factors lie.
    units: Vec<u32>,
    /// What they hold.
    words: Vec<Unit>,
}

impl Products {
    /// Forgets everything.
    pub fn reset(&mut self) {
        self.under_way.clear();
        self.committed = 0;
    }

    /// `wgmma.commit_group`
    pub fn commit(&mut self) {
        self.committed += 1;
    }
}

impl Warp<'_> {
    /// Checks that the warp's warpgroup exists and that its warps do the same, with the same descriptors.
    pub fn in_warpgroup(&self, scene: &mut Scene<'_>, a: u64, b: u64) -> Result<(), Box<Problem>> {
        let (first, threads) = (self.index / GROUP * GROUP, scene.launch.threads());
        if threads < (first + GROUP) * LANES as u32 {
            let message = format!(
                "an instruction of four whole warps, {first} to {}, in a thread block of {threads} threads",
                first + GROUP - 1
            );
            return problem(FaultKind::Divergence, 0, message);
        }
        let agreement = &mut scene.agreements[(self.index / GROUP) as usize];
        let Err(other) = agreement.step(self.index, Step { pc: self.pc, a, b }) else { return Ok(()) };
        let message = if other.pc == self.pc {
            format!(
                "warps of one warpgroup give the descriptors {:#x}, {:#x} and {a:#x}, {b:#x} of A and B",
                other.a, other.b
            )
        } else {
            let line = scene.launch.program.line(other.pc);
            format!("another warp of its warpgroup executes the wgmma instruction of PTX line {line} instead")
        };
        problem_with(FaultKind::Divergence, 0, message, other.pc)
    }

    /// The descriptor that all lanes give, as it is and taken apart.
    fn descriptor(&self, src: &Src, name: &str) -> Result<(u64, Descriptor), Box<Problem>> {
        let values = self.registers.source64(src, &self.context);
        if let Some(lane) = (1..LANES).find(|lane| values[*lane] != values[0]) {
            let message = format!(
                "lanes of one warp give the descriptors {:#x} and {:#x} of {name}",
                values[0], values[lane]
            );
            return problem(FaultKind::Divergence, lane as u32, message);
        }
        match Descriptor::new(values[0]) {
            Ok(descriptor) => Ok((values[0], descriptor)),
            Err(why) => {
                problem(FaultKind::Descriptor, 0, format!("the descriptor {:#x} of {name} {why}", values[0]))
            }
        }
    }

    /// `wgmma.mma_async`
    pub fn issue(&mut self, scene: &mut Scene<'_>, product: &Wgmma) -> Result<(), Box<Problem>> {
        scene.report.matrix_instructions += 1;
        let a = match &product.a {
            FirstFactor::Descriptor(src) => Some(self.descriptor(src, "A")?),
            FirstFactor::Registers(_) => None,
        };
        let b = self.descriptor(&product.b, "B")?;
        self.in_warpgroup(scene, a.map_or(0, |(bits, _)| bits), b.0)?;
        self.take_registers(scene, product)?;
        let adds = self.registers.condition(&product.scale_d.0, product.scale_d.1);
        if adds != 0 && adds != u32::MAX {
            let message = format!("scale-d holds in lanes {adds:#010x} only");
            return problem(FaultKind::Divergence, adds.trailing_ones(), message);
        }
        let under_way = Product {
            pc: self.pc,
            group: self.products.committed,
            a: a.map(|(_, descriptor)| descriptor),
            b: b.1,
            adds: adds != 0,
            know: *scene.clocks.know(self.index),
            writes: scene.shared.writes_seen(),
        };
        self.place_units(product, &under_way);
        self.check_units(scene, &under_way, false)?;
        self.products.under_way.push_back(under_way);
        Ok(())
    }

    /// `wgmma.wait_group`
    pub fn products_wait(&mut self, scene: &mut Scene<'_>, pending: u32) -> Result<(), Box<Problem>> {
        let below = self.products.committed.saturating_sub(pending);
        while self.products.under_way.front().is_some_and(|p| p.group < below) {
            if let Some(product) = self.products.under_way.pop_front() {
                self.finish(scene, &product)?;
            }
        }
        Ok(())
    }

    /// Lists where the factors' units lie: those of the warp's rows of A, then those of B.
    fn place_units(&mut self, product: &Wgmma, under_way: &Product) {
        let units = &mut self.products.units;
        units.clear();
        let (k, per) = (depth(product.factor) as u32, unit_elements(product.factor) as u32);
        let mut place = |descriptor: &Descriptor, trans: bool, first: u32, rows: u32| {
            if trans {
                let numbers = first / per..(first + rows) / per;
                numbers.for_each(|u| units.extend((0..k).map(|k| descriptor.along_rows(u, k))));
            } else {
                let rows = first..first + rows;
                rows.for_each(|row| units.extend((0..k / per).map(|u| descriptor.along_k(row, u))));
            }
        };
        if let Some(a) = &under_way.a {
            place(a, product.trans_a, 16 * (self.index % GROUP), 16);
        }
        place(&under_way.b, product.trans_b, 0, product.columns);
    }

    /// Checks the units that were listed; `issued` says whether the product was issued before.
    fn check_units(&self, scene: &Scene<'_>, product: &Product, issued: bool) -> Result<(), Box<Problem>> {
        let size = scene.shared.bytes();
        let outside = |at: &&u32| **at > size || size - **at < UNIT;
        if let Some(at) = self.products.units.iter().find(outside) {
            let message = format!("wgmma reads {UNIT} bytes at {at:#x} of {size} bytes of shared memory");
            return problem(FaultKind::OutOfBounds, 0, message);
        }
        let found = scene.shared.matrix_units(&self.products.units, &product.know, scene.clocks);
        found.map_err(|(at, conflict)| {
            let at = u64::from(at);
            match conflict {
                // All was well when it was issued.
                Conflict::Copying { thread, pc }
                | Conflict::Unfenced { thread, pc }
                | Conflict::Race { thread, pc, .. }
                    if issued =>
                {
                    let line = scene.launch.program.line(product.pc);
                    let what = format!("the wgmma of PTX line {line} reads");
                    let overwritten = Conflict::Overwritten { thread, pc };
                    let mut problem = self.conflict(scene, &what, at, UNIT, 0, overwritten);
                    problem.others.insert(0, product.pc);
                    problem
                }
                conflict => self.conflict(scene, "wgmma reads", at, UNIT, 0, conflict),
            }
        })
    }

    /// Makes a product.
    fn finish(&mut self, scene: &mut Scene<'_>, under_way: &Product) -> Result<(), Box<Problem>> {
        let launch = scene.launch;
        let Op::Wgmma(product) = &launch.program.code[under_way.pc as usize].op else { return Ok(()) };
        self.place_units(product, under_way);
        if scene.shared.writes_seen() != under_way.writes {
            self.check_units(scene, under_way, true)?;
        }
        let me = Stamp::new(scene.clocks.time(self.index), self.thread(0), under_way.pc);
        scene.shared.matrix_read(&self.products.units, me, scene.clocks);

        let products = &mut self.products;
        let tile = products.tile.get_or_insert_with(Tile::new);
        let factor = product.factor;
        products.words.clear();
        products.words.extend(products.units.iter().map(|at| scene.shared.unit(*at)));
        match &product.a {
            FirstFactor::Registers(a) => {
                tile.left_registers(factor, &self.registers, a);
                tile.right(factor, product.trans_b, &products.words);
            }
            FirstFactor::Descriptor(_) => {
                let (left, right) = products.words.split_at(16 * depth(factor) / unit_elements(factor));
                tile.left(factor, product.trans_a, left);
                tile.right(factor, product.trans_b, right);
            }
        }
        if product.negate {
            tile.negate();
        }
        if under_way.adds {
            tile.begin(&self.registers, &product.d);
        } else {
            tile.clear();
        }
        tile.multiply(factor, product.columns as usize);
        tile.end(&mut self.registers, &product.d);
        self.give_registers(scene, product);
        Ok(())
    }
}
