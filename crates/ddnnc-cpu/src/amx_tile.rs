//! The micro-kernel of convolutions of bf16 in the registers of AMX: up to four tiles of sums of sixteen columns of the data
//! by sixteen rows of the panel, to which each instruction adds the products of sixteen pairs of terms.
//!
//! A run's pairs are followed by zeros up to a multiple of [`PAIRS`] in the panel. Columns at equal distances are read as
//! they lie in memory; others, and the last terms of a run, are copied to a stage first, with zeros behind the run.

use crate::ahead::Pace;
use crate::amx::{LANES, ROWS, Registers, clear, load, multiply, store};
use crate::bf16_tile::{PAIRS, Sum, Walk, ask};
use std::arch::x86_64::*;

/// Terms of as many pairs.
const TERMS: usize = 2 * PAIRS;

/// Registers of sums.
const SUMS: usize = 4;

/// Sixteen columns of one step: where the first begins, and bytes from one to the next.
#[derive(Clone, Copy)]
struct Columns {
    at: *const u16,
    step: usize,
}

/// Which registers hold the sums of which columns and rows: `GROUPS` of sixteen columns by `VECTORS` of sixteen rows, those of
/// one group after the other.
trait Shape {
    const GROUPS: usize;
    const VECTORS: usize;

    /// Adds the products of one step with sixteen pairs of the panel, whose rows are `step` bytes apart.
    ///
    /// # Safety
    ///
    /// All columns and pairs are there; the thread holds the registers.
    unsafe fn add(columns: [Columns; SUMS], panel: *const u16, step: usize);
}

/// Panel vector v of a step.
#[inline(always)]
fn vector(panel: *const u16, v: usize) -> *const u16 {
    panel.wrapping_add(v * 2 * LANES)
}

/// Shapes of one group.
struct One<const VECTORS: usize>;

impl<const VECTORS: usize> Shape for One<VECTORS> {
    const GROUPS: usize = 1;
    const VECTORS: usize = VECTORS;

    #[inline(always)]
    unsafe fn add(columns: [Columns; SUMS], panel: *const u16, step: usize) {
        // SAFETY: promised.
        unsafe {
            load!(4, columns[0].at, columns[0].step);
            load!(5, panel, step);
            multiply!(0, 4, 5);
            if VECTORS > 1 {
                load!(6, vector(panel, 1), step);
                multiply!(1, 4, 6);
            }
            if VECTORS > 2 {
                load!(7, vector(panel, 2), step);
                multiply!(2, 4, 7);
            }
            if VECTORS > 3 {
                load!(5, vector(panel, 3), step);
                multiply!(3, 4, 5);
            }
        }
    }
}

/// Two groups by two vectors.
struct Two;

impl Shape for Two {
    const GROUPS: usize = 2;
    const VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn add(columns: [Columns; SUMS], panel: *const u16, step: usize) {
        // SAFETY: promised.
        unsafe {
            load!(4, columns[0].at, columns[0].step);
            load!(6, panel, step);
            multiply!(0, 4, 6);
            load!(5, columns[1].at, columns[1].step);
            multiply!(2, 5, 6);
            load!(7, vector(panel, 1), step);
            multiply!(1, 4, 7);
            multiply!(3, 5, 7);
        }
    }
}

/// Four groups by one vector.
struct Four;

impl Shape for Four {
    const GROUPS: usize = 4;
    const VECTORS: usize = 1;

    #[inline(always)]
    unsafe fn add(columns: [Columns; SUMS], panel: *const u16, step: usize) {
        // SAFETY: promised.
        unsafe {
            load!(4, panel, step);
            load!(5, columns[0].at, columns[0].step);
            multiply!(0, 5, 4);
            load!(6, columns[1].at, columns[1].step);
            multiply!(1, 6, 4);
            load!(7, columns[2].at, columns[2].step);
            multiply!(2, 7, 4);
            load!(5, columns[3].at, columns[3].step);
            multiply!(3, 5, 4);
        }
    }
}

/// Columns of one step that do not lie at equal distances, and sums on their way to places that do not.
#[repr(C, align(64))]
struct Stage {
    data: [[[u16; TERMS]; ROWS]; SUMS],
    sums: [[[f32; LANES]; ROWS]; SUMS],
}

/// As `Sum::run`, whose panel is laid out for it.
///
/// # Safety
///
/// The panel holds the walk, the data all that the columns read, the result all that they write; the processor has AMX with
/// bf16, and AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn run(s: &Sum<'_>, data_at: &[usize], out: *mut f32, out_at: &[usize]) {
    // SAFETY: promised; it is zeros, which both kinds of elements may be.
    unsafe {
        let _registers = Registers::new();
        let mut stage: Stage = std::mem::zeroed();
        match s.width / LANES {
            1 => tiles::<Four, One<1>>(s, data_at, out, out_at, &mut stage),
            2 => tiles::<Two, One<2>>(s, data_at, out, out_at, &mut stage),
            3 => tiles::<One<3>, One<3>>(s, data_at, out, out_at, &mut stage),
            _ => wide(s, data_at, out, out_at, &mut stage),
        }
    }
}

/// Tiles of S, and of L where fewer columns are left.
#[inline(always)]
unsafe fn tiles<S: Shape, L: Shape>(
    s: &Sum<'_>,
    data_at: &[usize],
    out: *mut f32,
    out_at: &[usize],
    stage: &mut Stage,
) {
    let count = S::GROUPS * ROWS;
    let mut next = data_at.chunks(count).skip(1);
    for (data_at, out_at) in data_at.chunks(count).zip(out_at.chunks(count)) {
        let next = next.next().unwrap_or_default();
        // SAFETY: promised.
        unsafe {
            if data_at.len() == count {
                tile::<S>(s, 0, data_at, out, out_at, stage, next);
                continue;
            }
            for (data_at, out_at) in data_at.chunks(ROWS).zip(out_at.chunks(ROWS)) {
                tile::<L>(s, 0, data_at, out, out_at, stage, &[]);
            }
        }
    }
}

/// Tiles of panels of four vectors: two by two where columns are read as they lie, which takes the fewest loads, else one by
/// four, so that columns are copied once.
#[inline(always)]
unsafe fn wide(s: &Sum<'_>, data_at: &[usize], out: *mut f32, out_at: &[usize], stage: &mut Stage) {
    let count = 2 * ROWS;
    let mut next = data_at.chunks(count).skip(1);
    for (data_at, out_at) in data_at.chunks(count).zip(out_at.chunks(count)) {
        let next = next.next().unwrap_or_default();
        let even = data_at.len() == count && data_at.chunks(ROWS).all(|at| evenly(at).is_some());
        // SAFETY: promised.
        unsafe {
            if even {
                tile::<Two>(s, 0, data_at, out, out_at, stage, next);
                tile::<Two>(s, 2, data_at, out, out_at, stage, &[]);
                continue;
            }
            for (data_at, out_at) in data_at.chunks(ROWS).zip(out_at.chunks(ROWS)) {
                tile::<One<4>>(s, 0, data_at, out, out_at, stage, next);
            }
        }
    }
}

/// The distance of sixteen places that lie evenly, in rising order.
#[inline(always)]
fn evenly(at: &[usize]) -> Option<usize> {
    let [first, second, ..] = *at else { return None };
    let step = second.wrapping_sub(first);
    let mut other = at.len() ^ ROWS;
    for i in 1..at.len() {
        other |= at[i].wrapping_sub(at[i - 1]) ^ step;
    }
    (other == 0 && second >= first).then_some(step)
}

/// One tile of the panel's vectors from `first` on. Asks for what is to come meanwhile, `next` the columns of the next tile.
#[inline(always)]
unsafe fn tile<S: Shape>(
    s: &Sum<'_>,
    first: usize,
    data_at: &[usize],
    out: *mut f32,
    out_at: &[usize],
    stage: &mut Stage,
    next: &[usize],
) {
    if s.far {
        ask(s, next);
    }
    let out = out.wrapping_add(first * LANES);
    let rows = s.rows.saturating_sub(first * LANES);
    let [outer, inner] = s.walk.counts;
    let (whole, rest) = (s.walk.terms / TERMS, s.walk.terms % TERMS);
    let steps = whole + usize::from(rest > 0);
    let mut pace = Pace::new(s.ahead.0.take(s.ahead.1), outer * inner * steps);
    // Bytes of a pair of the panel, and elements of a step.
    let (pair, panel_step) = (4 * s.width, TERMS * s.width);
    let (data, nowhere) = (s.data.as_ptr(), Columns { at: s.data.as_ptr(), step: 0 });
    let mut groups = [None; SUMS];
    for (group, at) in groups.iter_mut().zip(data_at.chunks(ROWS)) {
        *group = evenly(at);
    }
    let mut places = [None; SUMS];
    for (place, at) in places.iter_mut().zip(out_at.chunks(ROWS)) {
        *place = evenly(at);
    }
    let straight = rows >= S::VECTORS * LANES && places[..S::GROUPS].iter().all(|p| p.is_some());
    // Where register r's sums lie.
    let place = |r: usize| {
        let (group, v) = (r / S::VECTORS % SUMS, r % S::VECTORS);
        let at = out_at.get(group * ROWS).copied().unwrap_or(0);
        (out.wrapping_add(at + v * LANES), 4 * places[group].unwrap_or(0))
    };
    // SAFETY: promised; the stage has room for sixteen rows of every register.
    unsafe {
        if straight && s.add {
            sums::<S>(true, place);
        } else {
            clear!(0);
            clear!(1);
            clear!(2);
            clear!(3);
        }
        let mut panel = vector(s.panel.as_ptr(), first);
        for o in 0..outer {
            for i in 0..inner {
                let run = o * s.walk.steps[0] + i * s.walk.steps[1];
                for step in 0..steps {
                    pace.ask();
                    let from = run + step * TERMS;
                    let terms = if step < whole { TERMS } else { rest };
                    let mut columns = [nowhere; SUMS];
                    for (g, at) in data_at.chunks(ROWS).enumerate().take(S::GROUPS) {
                        columns[g] = match groups[g] {
                            Some(distance) if terms == TERMS => {
                                Columns { at: data.wrapping_add(at[0] + from), step: 2 * distance }
                            }
                            _ => {
                                let rows = &mut stage.data[g];
                                for (row, &at) in rows.iter_mut().zip(at) {
                                    copy(data.wrapping_add(at + from), terms, row.as_mut_ptr());
                                }
                                Columns { at: rows.as_ptr().cast(), step: 2 * TERMS }
                            }
                        };
                    }
                    S::add(columns, panel, pair);
                    panel = panel.wrapping_add(panel_step);
                }
            }
        }
        if straight {
            sums::<S>(false, place);
            return;
        }
        let staged = stage.sums.as_mut_ptr();
        sums::<S>(false, |r| (staged.wrapping_add(r).cast(), 4 * LANES));
        for (group, at) in out_at.chunks(ROWS).enumerate().take(S::GROUPS) {
            for v in 0..S::VECTORS {
                let mask = ((1u32 << rows.saturating_sub(v * LANES).min(LANES)) - 1) as u16;
                for (sums, &at) in stage.sums[group * S::VECTORS + v].iter().zip(at) {
                    let to = out.wrapping_add(at + v * LANES);
                    let mut sum = _mm512_loadu_ps(sums.as_ptr());
                    if s.add {
                        sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum);
                    }
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }
}

/// Reads the registers of sums from their places, or writes them there.
///
/// # Safety
///
/// There is room for a register at each place, with that many bytes from row to row; the thread holds the registers.
#[inline(always)]
unsafe fn sums<S: Shape>(read: bool, place: impl Fn(usize) -> (*mut f32, usize)) {
    macro_rules! each {
        ($($register:literal)*) => {$(
            if $register < S::GROUPS * S::VECTORS {
                let (at, step) = place($register);
                if read {
                    load!($register, at, step);
                } else {
                    store!($register, at, step);
                }
            }
        )*};
    }
    // SAFETY: promised.
    unsafe {
        each!(0 1 2 3);
    }
}

/// As [`bf16_tile::gather`](crate::bf16_tile::gather).
///
/// # Safety
///
/// The data and the copy hold all that is read and written; the processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn gather(walk: &Walk, data: *const u16, data_at: &[usize], to: *mut u16, pitch: usize) {
    let Walk { counts: [outer, inner], steps, terms } = *walk;
    for (j, &at) in data_at.iter().enumerate() {
        let mut to = to.wrapping_add(j * pitch);
        for o in 0..outer {
            for i in 0..inner {
                let run = data.wrapping_add(at + o * steps[0] + i * steps[1]);
                for from in (0..terms).step_by(TERMS) {
                    // SAFETY: promised.
                    unsafe { copy(run.wrapping_add(from), TERMS.min(terms - from), to) };
                    to = to.wrapping_add(TERMS);
                }
            }
        }
    }
}

/// Some terms of a run, and zeros behind them, [`TERMS`] together.
///
/// # Safety
///
/// The terms, at most as many, and room for all are there; the processor has AVX-512.
#[inline(always)]
unsafe fn copy(from: *const u16, terms: usize, to: *mut u16) {
    // SAFETY: promised.
    unsafe {
        let mask = ((1u64 << terms) - 1) as u32;
        _mm512_storeu_si512(to.cast(), _mm512_maskz_loadu_epi16(mask, from.cast()));
    }
}
