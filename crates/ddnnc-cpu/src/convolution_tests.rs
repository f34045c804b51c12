//! Every direction against the reference evaluator: at every level of the processor, on one, two and three threads, with
//! several parts, operands direct and computed, results kept and only emitted.

use crate::ahead::Ahead;
use crate::convolution::{Emit, Geometry, Part, Rows, Run, Weights, need, run, tasks};
use crate::convolution_weight::{GradPart, grad_weight, grad_weight_need};
use crate::device::Machine;
use crate::method::{Direction, Method};
use crate::simd::Level;
use ddnnc_ir::reference::{Tensor, evaluate_op};
use ddnnc_ir::{Conv, Op, ValueType};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Mutex;

/// Rows that lie in memory as they are, as twice the numbers, or as bf16.
enum Stored {
    Direct(usize, Vec<f32>),
    Doubled(usize, Vec<f32>),
    Bf16(usize, Vec<u16>),
}

fn to_bf16(x: f32) -> u16 {
    (x.to_bits() >> 16) as u16
}

fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

impl Rows for Stored {
    fn channels(&self) -> usize {
        match self {
            Stored::Direct(c, _) | Stored::Doubled(c, _) | Stored::Bf16(c, _) => *c,
        }
    }

    fn direct(&self) -> Option<&[f32]> {
        match self {
            Stored::Direct(_, all) => Some(all),
            _ => None,
        }
    }

    fn direct_bf16(&self) -> Option<&[u16]> {
        match self {
            Stored::Bf16(_, all) => Some(all),
            _ => None,
        }
    }

    fn list(&self, first: usize, count: usize, ahead: &mut Ahead) {
        let c = self.channels();
        let range = first * c..(first + count) * c;
        match self {
            Stored::Direct(_, all) | Stored::Doubled(_, all) => {
                ahead.list(all[range.clone()].as_ptr(), range.len());
            }
            Stored::Bf16(_, all) => ahead.list(all[range.clone()].as_ptr(), range.len()),
        }
    }

    fn load_bf16(
        &self,
        machine: &Machine<'_>,
        first: usize,
        count: usize,
        worker: usize,
        out: &mut [u16],
    ) -> bool {
        // One of the kinds, so that both ways of windows are taken.
        let Stored::Bf16(c, all) = self else { return false };
        assert!(worker < machine.pool.threads() && out.len() == count * c);
        out.copy_from_slice(&all[first * c..(first + count) * c]);
        true
    }

    fn load(&self, machine: &Machine<'_>, first: usize, count: usize, worker: usize, out: &mut [f32]) {
        assert!(worker < machine.pool.threads());
        let c = self.channels();
        assert_eq!(out.len(), count * c);
        let range = first * c..(first + count) * c;
        match self {
            Stored::Direct(_, all) => out.copy_from_slice(&all[range]),
            Stored::Doubled(_, all) => out.iter_mut().zip(&all[range]).for_each(|(o, x)| *o = 0.5 * x),
            Stored::Bf16(_, all) => out.iter_mut().zip(&all[range]).for_each(|(o, x)| *o = from_bf16(*x)),
        }
    }
}

/// An activation as a tensor `[N, C, H, W]` and as rows.
struct Activation {
    images: usize,
    tensor: Tensor,
    rows: Stored,
}

/// Numbers that bf16 holds exactly, so that every way of storing them has the same reference.
fn number(rng: &mut ChaCha8Rng) -> f32 {
    from_bf16(to_bf16(rng.random_range(-2.0f32..2.0)))
}

fn rows_of(dims: [usize; 4], nchw: &[f64]) -> Vec<f64> {
    let [n, c, h, w] = dims;
    (0..n * h * w * c)
        .map(|i| {
            let (row, channel) = (i / c, i % c);
            nchw[(row / (h * w) * c + channel) * h * w + row % (h * w)]
        })
        .collect()
}

impl Activation {
    fn draw(dims: [usize; 4], how: usize, rng: &mut ChaCha8Rng) -> Activation {
        let ty = ValueType::f32(dims);
        let data: Vec<f64> = (0..ty.elements()).map(|_| f64::from(number(rng))).collect();
        let rows: Vec<f32> = rows_of(dims, &data).iter().map(|&x| x as f32).collect();
        let rows = match how % 3 {
            0 => Stored::Direct(dims[1], rows),
            1 => Stored::Doubled(dims[1], rows.iter().map(|x| 2.0 * x).collect()),
            _ => Stored::Bf16(dims[1], rows.iter().map(|&x| to_bf16(x)).collect()),
        };
        Activation { images: dims[0], tensor: Tensor { ty, data }, rows }
    }
}

/// Keeps what is emitted, checks that each row comes once, and adds one to every element.
struct Collect {
    channels: usize,
    /// Rows by part; not yet emitted where empty.
    rows: Mutex<Vec<Vec<Vec<f32>>>>,
    tasks: Mutex<Vec<usize>>,
}

impl Emit for Collect {
    fn list(&self, _: Run, _: usize, _: &mut Ahead) {}

    fn emit(&self, machine: &Machine<'_>, run: Run, rows: &mut [f32]) {
        assert!(run.worker < machine.pool.threads());
        assert_eq!(rows.len() % self.channels, 0);
        let mut all = self.rows.lock().unwrap();
        for (i, row) in rows.chunks_exact(self.channels).enumerate() {
            let kept = &mut all[run.part][run.first + i];
            assert!(kept.is_empty(), "row {} of part {} was emitted before", run.first + i, run.part);
            kept.extend(row);
        }
        self.tasks.lock().unwrap()[run.task] += 1;
        rows.iter_mut().for_each(|x| *x += 1.0);
    }
}

const METHODS: [Method; 4] = [Method::Direct, Method::Depthwise, Method::Winograd, Method::Bf16];

/// The largest difference allowed, relative to the largest result (at least 1). Operands are exact in bf16.
fn tolerance(method: Method) -> f64 {
    match method {
        Method::Direct | Method::Depthwise | Method::Bf16 => 2e-6,
        Method::Winograd => 1e-4,
    }
}

#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "a comparison with not a number must count as wrong")]
fn compare(expected: &[f64], found: &[f32], tolerance: f64, what: &str) {
    assert_eq!(expected.len(), found.len(), "{what}");
    let scale = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    let wrong = |(e, f): (&f64, &f32)| !((e - f64::from(*f)).abs() <= tolerance * scale);
    let count = expected.iter().zip(found).filter(|&p| wrong(p)).count();
    let first = expected.iter().zip(found).position(wrong).map(|i| (i, expected[i], found[i]));
    assert_eq!(count, 0, "{what}: first wrong (index, expected, found) {first:?}");
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// A convolution, and the images of its parts.
#[derive(Clone, Debug)]
struct Case {
    g: Geometry,
    images: Vec<usize>,
}

fn case(conv: Conv, input: [usize; 2], kernel: [usize; 2], channels: [usize; 2], images: &[usize]) -> Case {
    let output = conv.output(input, kernel).expect("the kernel fits");
    let [inputs, outputs] = channels;
    Case { g: Geometry { conv, input, output, kernel, inputs, outputs }, images: images.to_vec() }
}

impl Case {
    fn weight_type(&self) -> ValueType {
        let g = &self.g;
        ValueType::f32([g.outputs, g.inputs / g.conv.groups, g.kernel[0], g.kernel[1]])
    }

    fn activations(&self, dy: bool, rng: &mut ChaCha8Rng) -> Vec<Activation> {
        let g = &self.g;
        let (c, [h, w]) = if dy { (g.outputs, g.output) } else { (g.inputs, g.input) };
        let draw = |(i, &n): (usize, &usize)| Activation::draw([n, c, h, w], i + usize::from(dy), rng);
        self.images.iter().enumerate().map(draw).collect()
    }

    fn evaluate(&self, op: Op, operands: &[&Tensor], result: ValueType) -> Tensor {
        evaluate_op(&op, operands, &[result]).expect("the reference evaluates").remove(0)
    }

    /// Forward or input gradient.
    fn rows(&self, direction: Direction, levels: &[Level], seed: u64) {
        let g = self.g;
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let w = Tensor {
            data: (0..self.weight_type().elements()).map(|_| f64::from(number(rng))).collect(),
            ty: self.weight_type(),
        };
        let floats: Vec<f32> = w.data.iter().map(|&x| x as f32).collect();
        let halves: Vec<u16> = floats.iter().map(|&x| to_bf16(x)).collect();
        let sources = self.activations(direction == Direction::InputGradient, rng);
        let (channels, [height, width]) = match direction {
            Direction::Forward => (g.outputs, g.output),
            _ => (g.inputs, g.input),
        };
        let expected: Vec<Vec<f64>> = sources
            .iter()
            .map(|source| {
                let dims = [source.images, channels, height, width];
                let op = match direction {
                    Direction::Forward => Op::Conv2d(g.conv),
                    _ => Op::Conv2dGradInput { conv: g.conv, input: g.input },
                };
                let y = self.evaluate(op, &[&source.tensor, &w], ValueType::f32(dims));
                rows_of(dims, &y.data)
            })
            .collect();
        let backward = direction == Direction::InputGradient;
        let fits = |level| move |method: &Method| method.fits(&g, direction, level, true);
        for (level, method) in
            levels.iter().flat_map(|&level| METHODS.into_iter().filter(fits(level)).map(move |m| (level, m)))
        {
            let need = need(method, &g, backward, &self.images);
            let tasks = tasks(method, &g, backward, &self.images);
            let mut first: Option<Vec<Vec<f32>>> = None;
            for threads in 1..=3 {
                // Whether a part has a place for its result changes with the part and the number of threads.
                let kept = |part: usize| (part + threads).is_multiple_of(2);
                let mut out: Vec<Vec<f32>> = expected.iter().map(|e| vec![f32::NAN; e.len()]).collect();
                let emit = Collect {
                    channels,
                    rows: Mutex::new(expected.iter().map(|e| vec![Vec::new(); e.len() / channels]).collect()),
                    tasks: Mutex::new(vec![0; tasks]),
                };
                let weights = if threads == 2 { Weights::Bf16(&halves) } else { Weights::F32(&floats) };
                let mut parts: Vec<Part<'_>> = sources
                    .iter()
                    .zip(&mut out)
                    .enumerate()
                    .map(|(i, (source, out))| Part {
                        images: source.images,
                        x: &source.rows,
                        out: kept(i).then_some(&mut out[..]),
                    })
                    .collect();
                Machine::testing(level, threads, need, |machine| {
                    run(machine, method, &g, backward, weights, &mut parts, Some(&emit));
                });
                let what =
                    format!("{direction:?} {method:?} {self:?} {level:?} {threads} threads seed {seed}");
                assert!(emit.tasks.lock().unwrap().iter().all(|&n| n == 1), "{what}: tasks that emit");
                let emitted: Vec<Vec<f32>> =
                    emit.rows.into_inner().unwrap().into_iter().map(|rows| rows.concat()).collect();
                for (i, (expected, emitted)) in expected.iter().zip(&emitted).enumerate() {
                    compare(expected, emitted, tolerance(method), &format!("{what} part {i}"));
                    if kept(i) {
                        let more: Vec<f32> = emitted.iter().map(|x| x + 1.0).collect();
                        assert!(bits(&more) == bits(&out[i]), "{what}: what emit changed is kept, part {i}");
                    }
                }
                if first.is_none() {
                    let mut parts: Vec<Part<'_>> = sources
                        .iter()
                        .zip(&mut out)
                        .map(|(source, out)| Part {
                            images: source.images,
                            x: &source.rows,
                            out: Some(&mut out[..]),
                        })
                        .collect();
                    Machine::testing(level, threads, need, |machine| {
                        run(machine, method, &g, backward, weights, &mut parts, None);
                    });
                    assert!(bits(&out.concat()) == bits(&emitted.concat()), "{what}: without emitting");
                }
                let first = first.get_or_insert_with(|| emitted.clone());
                assert!(bits(&first.concat()) == bits(&emitted.concat()), "{what}: other bits");
            }
        }
    }

    fn weight(&self, levels: &[Level], seed: u64) {
        self.weight_within(levels, seed, tolerance);
    }

    fn weight_within(&self, levels: &[Level], seed: u64, tolerance: impl Fn(Method) -> f64) {
        let g = self.g;
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let (x, dy) = (self.activations(false, rng), self.activations(true, rng));
        let mut expected = vec![0.0; self.weight_type().elements()];
        for (x, dy) in x.iter().zip(&dy) {
            let op = Op::Conv2dGradWeight { conv: g.conv, kernel: g.kernel };
            let dw = self.evaluate(op, &[&x.tensor, &dy.tensor], self.weight_type());
            expected.iter_mut().zip(dw.data).for_each(|(e, d)| *e += d);
        }
        let parts: Vec<GradPart<'_>> = x
            .iter()
            .zip(&dy)
            .map(|(x, dy)| GradPart { images: x.images, x: &x.rows, dy: &dy.rows })
            .collect();
        let fits = |level| move |method: &Method| method.fits(&g, Direction::WeightGradient, level, true);
        for (level, method) in
            levels.iter().flat_map(|&level| METHODS.into_iter().filter(fits(level)).map(move |m| (level, m)))
        {
            let mut first = None;
            for threads in 1..=3 {
                let mut dw = vec![f32::NAN; expected.len()];
                let need = grad_weight_need(method, &g, &self.images);
                Machine::testing(level, threads, need, |machine| {
                    grad_weight(machine, method, &g, &parts, &mut dw);
                });
                let what = format!("weight {method:?} {self:?} {level:?} {threads} threads seed {seed}");
                compare(&expected, &dw, tolerance(method), &what);
                let first = first.get_or_insert_with(|| dw.clone());
                assert!(bits(first) == bits(&dw), "{what}: other bits");
            }
        }
    }

    fn check(&self, levels: &[Level], seed: u64) {
        self.rows(Direction::Forward, levels, seed);
        self.rows(Direction::InputGradient, levels, seed + 1);
        self.weight(levels, seed + 2);
    }
}

fn levels() -> Vec<Level> {
    Level::available().collect()
}

fn conv(stride: usize, pad: usize) -> Conv {
    Conv { stride: [stride; 2], pad: [pad; 2], dilation: [1; 2], groups: 1 }
}

/// Extents along one axis: input, kernel, stride, padding, dilation; those where the kernel does not fit are made to.
fn axis() -> impl Strategy<Value = [usize; 5]> {
    (1usize..13, 1usize..5, 1usize..4, 0usize..5, 1usize..4).prop_map(
        |(input, kernel, stride, pad, dilation)| {
            let taps = (kernel - 1) * dilation + 1;
            [input, kernel, stride, pad.max(taps.saturating_sub(input).div_ceil(2)), dilation]
        },
    )
}

/// Groups, and channels of a group.
fn channels() -> impl Strategy<Value = [usize; 3]> {
    prop_oneof![
        (1usize..70, 1usize..70).prop_map(|(c, o)| [1, c, o]),
        (2usize..5, 1usize..20, 1usize..20).prop_map(|(g, c, o)| [g, c, o]),
        (2usize..80).prop_map(|g| [g, 1, 1]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_geometries_agree_with_the_reference(
        rows in axis(),
        columns in axis(),
        [groups, c, o] in channels(),
        images in prop::collection::vec(0usize..4, 1..4),
        seed in any::<u32>(),
    ) {
        let pair = |i: usize| [rows[i], columns[i]];
        let conv = Conv { stride: pair(2), pad: pair(3), dilation: pair(4), groups };
        case(conv, pair(0), pair(1), [groups * c, groups * o], &images).check(&levels(), u64::from(seed));
    }
}

#[test]
fn shapes_of_small_residual_networks_agree_with_the_reference() {
    for (i, (side, stride, kernel, c, o)) in [
        (32, 1, 3, 3, 16),
        (32, 1, 3, 16, 16),
        (32, 2, 3, 16, 32),
        (32, 2, 1, 16, 32),
        (16, 1, 3, 32, 32),
        (16, 2, 3, 32, 64),
        (8, 1, 3, 64, 64),
        (28, 1, 3, 1, 8),
        (28, 2, 3, 8, 24),
    ]
    .into_iter()
    .enumerate()
    {
        let conv = conv(stride, kernel / 2);
        case(conv, [side; 2], [kernel; 2], [c, o], &[2, 1, 3]).check(&levels(), 10 + 3 * i as u64);
    }
}

#[test]
fn shapes_of_large_residual_networks_agree_with_the_reference() {
    for (i, (side, stride, kernel, c, o)) in [
        (56, 2, 7, 3, 64),
        (28, 1, 1, 64, 256),
        (14, 1, 1, 256, 64),
        (14, 2, 1, 256, 512),
        (14, 2, 3, 128, 128),
        (14, 1, 3, 256, 256),
        (7, 1, 3, 512, 512),
        (4, 1, 3, 512, 512),
        (7, 1, 1, 512, 2048),
        (4, 2, 1, 1024, 2048),
    ]
    .into_iter()
    .enumerate()
    {
        let conv = conv(stride, kernel / 2);
        case(conv, [side; 2], [kernel; 2], [c, o], &[1, 2]).check(&levels()[..], 50 + 3 * i as u64);
    }
}

#[test]
fn uncommon_geometries_agree_with_the_reference() {
    let cases = [
        // A kernel larger than the map, dilation with long sums, groups with long sums, cropping in the input gradient.
        case(conv(1, 4), [3, 2], [7, 7], [5, 6], &[2, 1]),
        case(Conv { dilation: [2, 3], ..conv(1, 3) }, [12, 11], [3, 3], [300, 20], &[1, 2]),
        case(Conv { groups: 2, ..conv(1, 1) }, [6, 6], [3, 3], [600, 34], &[2]),
        case(Conv { groups: 32, ..conv(2, 1) }, [14, 14], [3, 3], [128, 128], &[2, 1]),
        case(Conv { pad: [3, 5], ..conv(1, 0) }, [6, 5], [2, 1], [8, 9], &[1, 3]),
        case(conv(5, 0), [11, 9], [2, 3], [7, 40], &[2, 2]),
        case(conv(3, 0), [2, 7], [1, 3], [7, 4], &[3]),
        // Depthwise: whole vectors of channels and the rest.
        case(Conv { groups: 70, ..conv(1, 1) }, [14, 14], [3, 3], [70, 70], &[9, 2]),
        case(Conv { groups: 96, dilation: [2, 1], ..conv(2, 2) }, [13, 10], [3, 5], [96, 96], &[3, 2]),
        case(Conv { groups: 20, ..conv(1, 4) }, [6, 13], [2, 11], [20, 20], &[3]),
        // No images in some parts, or in any.
        case(conv(1, 1), [5, 5], [3, 3], [4, 4], &[0, 2, 0]),
        case(conv(2, 1), [5, 5], [3, 3], [4, 4], &[0]),
        // More images than a task has.
        case(conv(1, 1), [4, 4], [3, 3], [24, 40], &[70, 33]),
        case(conv(2, 0), [3, 3], [3, 3], [24, 40], &[150]),
    ];
    for (i, case) in cases.iter().enumerate() {
        case.check(&levels(), 200 + 3 * i as u64);
    }
}

#[test]
fn sums_over_no_channels_are_zero() {
    for stride in [1, 2] {
        let case = case(conv(stride, 1), [4, 4], [3, 3], [0, 3], &[2]);
        case.rows(Direction::Forward, &levels(), 1);
        let case = Case { g: Geometry { inputs: 3, outputs: 0, ..case.g }, ..case };
        case.rows(Direction::InputGradient, &levels(), 2);
    }
}

#[test]
fn taps_that_share_what_they_load_agree_with_the_reference() {
    let pads = |down, across| Conv { pad: [down, across], ..conv(1, 0) };
    // Lines of one and of two tiles of columns and of too few for one; edges of every padding, of maps narrower than a row of
    // taps; vectors of channels that are full, of few and of several; odd numbers of channels and images; several chunks.
    let cases = [
        case(pads(1, 1), [5, 32], [3, 3], [16, 16], &[3, 1]),
        case(pads(1, 1), [19, 28], [3, 3], [16, 20], &[2, 0, 3]),
        case(pads(0, 2), [4, 11], [3, 3], [6, 16], &[5]),
        case(pads(2, 0), [3, 17], [3, 3], [10, 9], &[1, 2]),
        case(pads(0, 1), [2, 13], [1, 3], [7, 15], &[2]),
        case(pads(2, 2), [6, 26], [5, 3], [34, 4], &[2]),
        case(pads(1, 2), [3, 1], [3, 3], [12, 16], &[3]),
        case(pads(1, 1), [3, 2], [3, 3], [65, 40], &[2, 1]),
    ];
    for (i, case) in cases.iter().enumerate() {
        case.check(&levels(), 400 + 3 * i as u64);
    }
}

#[test]
fn winograd_patches_agree_with_the_reference() {
    // Partial patches, paddings that crop, channels that fill no vector, several blocks and chunks, no images.
    let cases = [
        case(conv(1, 1), [7, 9], [3, 3], [20, 37], &[3, 0, 1]),
        case(conv(1, 0), [6, 3], [3, 3], [33, 70], &[2, 1]),
        case(conv(1, 2), [5, 1], [3, 3], [96, 8], &[2]),
        case(Conv { pad: [0, 2], ..conv(1, 0) }, [30, 5], [3, 3], [8, 9], &[1, 2]),
        case(Conv { pad: [2, 1], ..conv(1, 0) }, [58, 61], [3, 3], [9, 16], &[2, 1]),
        case(conv(1, 1), [4, 4], [3, 3], [64, 130], &[70, 33]),
    ];
    for (i, case) in cases.iter().enumerate() {
        for direction in [Direction::Forward, Direction::InputGradient] {
            assert!(Method::Winograd.fits(&case.g, direction, Level::Portable, false));
        }
        case.check(&levels(), 300 + 3 * i as u64);
    }
}

#[test]
fn winograd_stays_near_the_reference_over_many_channels() {
    let case = case(conv(1, 1), [8, 8], [3, 3], [512, 64], &[1]);
    let rng = &mut ChaCha8Rng::seed_from_u64(7);
    // Numbers of a size as in training, of all f32.
    let mut draw = |ty: ValueType, size: f32| Tensor {
        data: (0..ty.elements()).map(|_| f64::from(rng.random_range(-size..size))).collect(),
        ty,
    };
    let (x, w) = (draw(ValueType::f32([1, 512, 8, 8]), 2.0), draw(case.weight_type(), 0.05));
    let y = case.evaluate(Op::Conv2d(case.g.conv), &[&x, &w], ValueType::f32([1, 64, 8, 8]));
    let expected = rows_of([1, 64, 8, 8], &y.data);
    let most = expected.iter().fold(0.0f64, |m, y| m.max(y.abs()));
    let rows: Vec<f32> = rows_of([1, 512, 8, 8], &x.data).iter().map(|&x| x as f32).collect();
    let (rows, w) = (Stored::Direct(512, rows), w.data.iter().map(|&w| w as f32).collect::<Vec<_>>());
    for level in levels() {
        let mut out = vec![f32::NAN; expected.len()];
        let mut parts = [Part { images: 1, x: &rows, out: Some(&mut out) }];
        Machine::testing(level, 2, need(Method::Winograd, &case.g, false, &[1]), |machine| {
            run(machine, Method::Winograd, &case.g, false, Weights::F32(&w), &mut parts, None);
        });
        let differences = expected.iter().zip(&out).map(|(e, y)| (e - f64::from(*y)).abs());
        // As `f64::max` would pass over what is not a number, a sum is checked too.
        assert!(out.iter().all(|y| y.is_finite()));
        let error = differences.fold(0.0, f64::max) / most;
        assert!(error < 1e-5, "{level:?}: {error:e} of the largest result");
    }
}

#[test]
fn winograd_weight_gradients_of_many_channels_and_images_are_close() {
    for (i, (side, channels, images)) in
        [(4, [512, 512], vec![24, 8]), (16, [64, 64], vec![30, 10]), (32, [16, 16], vec![40])]
            .into_iter()
            .enumerate()
    {
        let case = case(conv(1, 1), [side; 2], [3; 2], channels, &images);
        case.weight_within(&levels(), 300 + i as u64, |_| 1e-5);
    }
}
