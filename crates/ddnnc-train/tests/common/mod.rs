//! A small model, a device without a compiler behind it, and data files made by hand.
#![allow(dead_code)] // Each test binary uses a part of it.

use ddnnc_ir::{
    Augment, Data, Dataset, Graph, Init, Mode, Model, Net, NetKind, Optimizer, Order, Parameter, Phase,
    Precision, Recipe, Schedule, ScheduleKind, Shape, State, Term, ValueType, Weight,
};
use ddnnc_passes::{
    Buffer, BufferId, Device, DeviceError, Executable, Persistent, PersistentKind, Place, Program,
};
use ddnnc_train::{DataSource, Fit};
use indexmap::IndexMap;
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub const CLASSES: usize = 10;

/// Images whose first pixel is 20·label and whose other pixels tell their number.
pub fn write_mnist(folder: &Path, stem: &str, images: usize, tag: u8) {
    let mut pixels: Vec<u8> =
        [0x803u32, images as u32, 28, 28].iter().flat_map(|w| w.to_be_bytes()).collect();
    let mut labels: Vec<u8> = [0x801u32, images as u32].iter().flat_map(|w| w.to_be_bytes()).collect();
    for i in 0..images {
        let label = (i % CLASSES) as u8;
        labels.push(label);
        let mut image = [0u8; 784];
        image[0] = 20 * label;
        image[1] = tag;
        image[2] = (i % 256) as u8;
        image[3] = (i / 256) as u8;
        image[4..].iter_mut().enumerate().for_each(|(at, p)| *p = ((i * 31 + at * 7) % 251) as u8);
        pixels.extend_from_slice(&image);
    }
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(format!("{stem}-images-idx3-ubyte")), pixels).unwrap();
    fs::write(folder.join(format!("{stem}-labels-idx1-ubyte")), labels).unwrap();
}

/// Pixels divided by 255 and nothing else.
pub fn plain_data(dataset: Dataset, augment: Vec<Augment>, channels: usize) -> Data {
    Data { dataset, path: None, augment, normalize: Some((vec![0.0; channels], vec![1.0; channels])) }
}

pub fn mnist(folder: &Path, train: usize, test: usize, validation: f64, augment: Vec<Augment>) -> DataSource {
    write_mnist(folder, "train", train, 1);
    write_mnist(folder, "t10k", test, 2);
    let input = Shape::from([1, 28, 28]);
    let fit = Fit { input: &input, classes: CLASSES, validation, seed: 7 };
    DataSource::open(&plain_data(Dataset::Mnist, augment, 1), folder, fit).unwrap()
}

/// The model in each phase of so many epochs; the rate of the second is half that of the first, and so on.
pub fn phases(batch: usize, epochs: &[usize], recalibrate: bool) -> Vec<Model> {
    let names = ["warm", "cool", "cold"];
    let all: Vec<Phase> =
        names.iter().zip(epochs).map(|(name, &epochs)| Phase { name: (*name).into(), epochs }).collect();
    let in_phase = |(phase, &epochs): (usize, &usize)| {
        let mut model = model(batch, epochs, recalibrate);
        let lr = 0.1 / (1 << phase) as f64;
        model.recipe.optimizer = Optimizer::Sgd { lr, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
        Model { phases: all.clone(), phase, ..model }
    };
    epochs.iter().enumerate().map(in_phase).collect()
}

pub fn model(batch: usize, epochs: usize, recalibrate: bool) -> Model {
    let shape = Shape::from([4]);
    let net = |name: &str| Net {
        name: name.into(),
        kind: NetKind::Subnet,
        parameters: vec!["net.w".into()],
        states: vec!["net.running_mean".into()],
        parameter_count: 4,
        macs: 40,
        depth: 1,
        frozen: false,
        stages: vec![],
    };
    Model {
        name: "tiny<1>".into(),
        mode: Mode::Train,
        batch,
        input: ("picture".into(), Shape::from([1, 28, 28])),
        target: ("digit".into(), CLASSES),
        graph: Graph::new("tiny"),
        parameters: IndexMap::from([(
            "net.w".to_string(),
            Parameter { shape: shape.clone(), init: Init::Normal { std: 0.5 }, frozen: false, load: None },
        )]),
        states: IndexMap::from([(
            "net.running_mean".to_string(),
            State { shape, initial: 0.25, load: None, recalibrate },
        )]),
        nets: vec![net("right"), net("wrong")],
        terms: vec![
            Term { name: "ce.right".into(), weight: Weight::Constant(1.0) },
            Term { name: "kl.right.wrong".into(), weight: Weight::Ramp { from: 0.0, to: 1.0, epochs: 2.0 } },
        ],
        pairings: vec![],
        recipe: Recipe {
            data: plain_data(Dataset::Mnist, vec![], 1),
            batch,
            epochs,
            optimizer: Optimizer::Sgd { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0 },
            schedule: Schedule { warmup: 0.5, kind: ScheduleKind::Cosine { end: 0.0 } },
            order: Order::Shuffle,
            precision: Precision::F32,
            seed: 7,
            validation: 0.1,
        },
        phases: vec![],
        phase: 0,
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Goal {
    Train,
    Eval,
    Calibrate,
}

/// A program of the fake device: only its table of names counts.
pub fn program(goal: Goal, batch: usize) -> Program {
    let mut p = Program {
        name: match goal {
            Goal::Train => "train",
            Goal::Eval => "eval",
            Goal::Calibrate => "calibrate",
        }
        .into(),
        buffers: vec![],
        launches: vec![],
        inputs: IndexMap::new(),
        outputs: IndexMap::new(),
        persistent: IndexMap::new(),
        arena_bytes: 0,
        persistent_bytes: 0,
    };
    let mut buffer = |ty: ValueType| {
        p.buffers.push(Buffer { ty, place: Place::Arena { offset: 0 } });
        BufferId(p.buffers.len() as u32 - 1)
    };
    p.inputs.insert("picture".into(), buffer(ValueType::f32([batch, 1, 28, 28])));
    p.persistent.insert(
        "net.w".into(),
        Persistent { kind: PersistentKind::Parameter, buffer: buffer(ValueType::f32([4])) },
    );
    p.persistent.insert(
        "net.running_mean".into(),
        Persistent { kind: PersistentKind::Statistic, buffer: buffer(ValueType::f32([4])) },
    );
    if goal == Goal::Calibrate {
        return p;
    }
    for net in ["right", "wrong"] {
        p.outputs.insert(format!("logits.{net}"), buffer(ValueType::f32([batch, CLASSES])));
    }
    if goal == Goal::Train {
        p.inputs.insert("digit".into(), buffer(ValueType::i64([batch])));
        p.inputs.insert("lr".into(), buffer(ValueType::scalar()));
        p.inputs.insert("optimizer.step".into(), buffer(ValueType::scalar()));
        p.inputs.insert("weight.kl.right.wrong".into(), buffer(ValueType::scalar()));
        p.inputs.insert("rng".into(), buffer(ValueType::i64([2])));
        for term in ["ce.right", "kl.right.wrong", "total"] {
            p.outputs.insert(format!("loss.{term}"), buffer(ValueType::scalar()));
        }
        p.persistent.insert(
            "net.w.momentum".into(),
            Persistent { kind: PersistentKind::Optimizer, buffer: buffer(ValueType::f32([4])) },
        );
    }
    p
}

/// Runs [`program`]s: a made-up update that depends on every input, and nets of which one is always right, one never.
#[derive(Default)]
pub struct FakeDevice {
    /// The step, from 1, whose `kl.right.wrong` is NaN.
    pub nan_at: Option<u64>,
    /// The step, from 1, whose update makes a weight infinite, after losses that are finite.
    pub overflow_at: Option<u64>,
    /// Inputs of the next step may be written before the results of the last are read; else writing one destroys them,
    /// as it may where inputs and outputs share memory.
    pub apart: bool,
    /// Images that came before the results of the step before were read.
    pub early: Arc<AtomicU64>,
    /// Training programs on the device, and the most that were there at once.
    pub loaded: Arc<[AtomicU64; 2]>,
    /// The labels of every step of training.
    pub seen: Arc<Mutex<Vec<Vec<i64>>>>,
}

struct FakeExecutable {
    apart: bool,
    early: Arc<AtomicU64>,
    loaded: Arc<[AtomicU64; 2]>,
    seen: Arc<Mutex<Vec<Vec<i64>>>>,
    /// A step has run, and its results were not asked for yet.
    unread: Cell<bool>,
    program: Program,
    floats: IndexMap<String, Vec<f32>>,
    integers: IndexMap<String, Vec<i64>>,
    nan_at: Option<u64>,
    overflow_at: Option<u64>,
}

impl Device for FakeDevice {
    fn name(&self) -> &str {
        "fake"
    }

    fn load(&self, program: &Program) -> Result<Box<dyn Executable>, DeviceError> {
        let names = program.inputs.keys().chain(program.outputs.keys()).chain(program.persistent.keys());
        let (mut floats, mut integers) = (IndexMap::new(), IndexMap::new());
        for name in names {
            let ty = &program.buffer(program.named(name).unwrap()).ty;
            match ty.dtype {
                ddnnc_ir::DType::F32 | ddnnc_ir::DType::Bf16 => {
                    drop(floats.insert(name.clone(), vec![0.0; ty.elements()]))
                }
                ddnnc_ir::DType::I64 => drop(integers.insert(name.clone(), vec![0; ty.elements()])),
            }
        }
        if program.name == "train" {
            let here = self.loaded[0].fetch_add(1, Ordering::Relaxed) + 1;
            self.loaded[1].fetch_max(here, Ordering::Relaxed);
        }
        Ok(Box::new(FakeExecutable {
            program: program.clone(),
            floats,
            integers,
            nan_at: self.nan_at,
            overflow_at: self.overflow_at,
            apart: self.apart,
            early: self.early.clone(),
            loaded: self.loaded.clone(),
            seen: self.seen.clone(),
            unread: Cell::new(false),
        }))
    }
}

impl Drop for FakeExecutable {
    fn drop(&mut self) {
        if self.program.name == "train" {
            self.loaded[0].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn copy<T: Copy>(name: &str, from: &[T], to: &mut [T]) -> Result<(), DeviceError> {
    if from.len() != to.len() {
        let (expected, got) = (to.len().to_string(), from.len().to_string());
        return Err(DeviceError::Mismatch { name: name.into(), expected, got });
    }
    to.copy_from_slice(from);
    Ok(())
}

impl Executable for FakeExecutable {
    fn program(&self) -> &Program {
        &self.program
    }

    fn write_f32(&mut self, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        let unknown = || DeviceError::UnknownName { name: name.into() };
        if self.program.inputs.contains_key(name) && !self.apart {
            for output in self.program.outputs.keys() {
                self.floats[output].fill(f32::NAN);
            }
        }
        if name == "picture" && self.unread.get() && self.program.name == "train" {
            self.early.fetch_add(1, Ordering::Relaxed);
        }
        copy(name, data, self.floats.get_mut(name).ok_or_else(unknown)?)
    }

    fn write_i64(&mut self, name: &str, data: &[i64]) -> Result<(), DeviceError> {
        let unknown = || DeviceError::UnknownName { name: name.into() };
        copy(name, data, self.integers.get_mut(name).ok_or_else(unknown)?)
    }

    fn read_f32(&self, name: &str, data: &mut [f32]) -> Result<(), DeviceError> {
        let unknown = || DeviceError::UnknownName { name: name.into() };
        self.unread.set(false);
        copy(name, self.floats.get(name).ok_or_else(unknown)?, data)
    }

    fn inputs_wait_apart(&self) -> bool {
        self.apart
    }

    fn run(&mut self) -> Result<(), DeviceError> {
        self.unread.set(true);
        let image = self.floats["picture"].clone();
        let samples = image.len() / 784;
        let mut gradient: [f32; 4] =
            std::array::from_fn(|j| image.iter().skip(4 + j).step_by(5).sum::<f32>() / image.len() as f32);
        if self.program.name == "train" {
            self.seen.lock().unwrap().push(self.integers["digit"].clone());
            let noise = self.integers["rng"].iter().fold(3i64, |h, &x| h.wrapping_mul(31).wrapping_add(x));
            let (lr, step) = (self.floats["lr"][0], self.floats["optimizer.step"][0]);
            let weight = self.floats["weight.kl.right.wrong"][0];
            let labels: i64 = self.integers["digit"].iter().enumerate().map(|(i, l)| i as i64 * l).sum();
            for (j, g) in gradient.iter_mut().enumerate() {
                *g += self.floats["net.w"][j] * 0.1 + (noise % 17) as f32 * 1e-3 + weight * 0.01;
                *g += labels as f32 * 1e-4 / step;
                let m = 0.9 * self.floats["net.w.momentum"][j] + *g;
                self.floats["net.w.momentum"][j] = m;
                self.floats["net.w"][j] -= lr * m;
            }
            let ce = self.floats["net.w"].iter().map(|w| w * w).sum::<f32>();
            let kl = if self.nan_at == Some(step as u64) { f32::NAN } else { weight * ce };
            if self.overflow_at == Some(step as u64) {
                self.floats["net.w"][2] = f32::INFINITY;
            }
            for (name, value) in [("ce.right", ce), ("kl.right.wrong", kl), ("total", ce + kl)] {
                self.floats[&format!("loss.{name}")][0] = value;
            }
        }
        if self.program.name != "eval" {
            // A program for statistics keeps those of its batch alone.
            let keep = if self.program.name == "calibrate" { 0.0 } else { 0.9 };
            for (s, g) in self.floats["net.running_mean"].iter_mut().zip(gradient) {
                *s = keep * *s + (1.0 - keep) * g;
            }
        }
        if self.program.name != "calibrate" {
            for i in 0..samples {
                let label = (image[i * 784] * 255.0 / 20.0).round() as usize % CLASSES;
                for (net, class) in [("right", label), ("wrong", (label + 5) % CLASSES)] {
                    // Classes in the middle are the hardest; how sure the nets are depends on the weights.
                    let sure = 1.0 + 0.01 * self.floats["net.w"][0].abs();
                    let row = &mut self.floats[&format!("logits.{net}")][i * CLASSES..][..CLASSES];
                    row.iter_mut().enumerate().for_each(|(c, x)| *x = -(c.abs_diff(class) as f32) * sure);
                }
            }
        }
        Ok(())
    }
}
