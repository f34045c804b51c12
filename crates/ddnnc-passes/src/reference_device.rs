//! The device `reference`: programs on the f64 reference evaluator, slow and plain.
//!
//! Memory is kept by place: a launch reads what was last written at an operand's place, whole. Where a memory plan lets
//! one value overwrite part of another, the read finds nothing and the run fails.

use crate::{BufferId, Device, DeviceError, Executable, Place, Program};
use ddnnc_ir::reference::{Tensor, evaluate_op};
use ddnnc_ir::{DType, Op};
use std::collections::BTreeMap;

/// Runs programs in f64.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceDevice;

impl ReferenceDevice {
    /// As [`Device::load`], with the executable's own type.
    pub fn load_reference(&self, program: &Program) -> Result<ReferenceExecutable, DeviceError> {
        program.validate().map_err(|e| DeviceError::Failed(e.to_string()))?;
        check_memory(program)?;
        let mut executable = ReferenceExecutable {
            program: program.clone(),
            arena: BTreeMap::new(),
            persistent: BTreeMap::new(),
        };
        for b in program.persistent.values().map(|p| p.buffer).chain(program.inputs.values().copied()) {
            let zeros = vec![0.0; program.buffer(b).ty.elements()];
            executable.write(b, zeros);
        }
        Ok(executable)
    }
}

/// Fails where the memory that a run takes cannot be had: the plan's bytes, doubled as f32 becomes f64, and the operands
/// and results of the largest launch beside them.
fn check_memory(program: &Program) -> Result<(), DeviceError> {
    let elements = |b: &BufferId| program.buffer(*b).ty.elements();
    let of_launch = program.launches.iter().map(|l| l.operands.iter().chain(&l.results).map(elements).sum());
    let largest: usize = of_launch.max().unwrap_or(0);
    let kept = program.arena_bytes.saturating_add(program.persistent_bytes).saturating_mul(2);
    let needed = kept.saturating_add(largest.saturating_mul(size_of::<f64>()));
    Vec::<u8>::new().try_reserve_exact(needed).map_err(|_| DeviceError::OutOfMemory { needed })
}

impl Device for ReferenceDevice {
    fn name(&self) -> &str {
        "reference"
    }

    fn load(&self, program: &Program) -> Result<Box<dyn Executable>, DeviceError> {
        Ok(Box::new(self.load_reference(program)?))
    }
}

/// A program on the reference device.
#[derive(Clone, Debug)]
pub struct ReferenceExecutable {
    program: Program,
    /// What was last written: start to (end, elements).
    arena: BTreeMap<usize, (usize, Vec<f64>)>,
    persistent: BTreeMap<usize, (usize, Vec<f64>)>,
}

impl ReferenceExecutable {
    fn range(&self, b: BufferId) -> (usize, usize) {
        let buffer = self.program.buffer(b);
        let (Place::Arena { offset } | Place::Persistent { offset }) = buffer.place;
        (offset, offset + buffer.ty.bytes().max(1))
    }

    fn write(&mut self, b: BufferId, data: Vec<f64>) {
        let (start, end) = self.range(b);
        let region = match self.program.buffer(b).place {
            Place::Arena { .. } => &mut self.arena,
            Place::Persistent { .. } => &mut self.persistent,
        };
        while let Some((&s, _)) = region.range(..end).next_back().filter(|(_, v)| v.0 > start) {
            region.remove(&s);
        }
        region.insert(start, (end, data));
    }

    fn read(&self, b: BufferId) -> Result<&[f64], DeviceError> {
        let (start, end) = self.range(b);
        let region = match self.program.buffer(b).place {
            Place::Arena { .. } => &self.arena,
            Place::Persistent { .. } => &self.persistent,
        };
        match region.get(&start) {
            Some((e, data)) if *e == end => Ok(data),
            _ => Err(DeviceError::Failed(format!("b{} holds no whole value", b.0))),
        }
    }

    /// The buffer behind a name, if it takes `len` elements of that type.
    fn find(
        &self,
        name: &str,
        found: Option<BufferId>,
        dtype: DType,
        len: usize,
    ) -> Result<BufferId, DeviceError> {
        let b = found.ok_or_else(|| DeviceError::UnknownName { name: name.to_owned() })?;
        let ty = &self.program.buffer(b).ty;
        if ty.dtype != dtype || ty.elements() != len {
            let got = format!("{len} elements of {}", dtype.as_str());
            return Err(DeviceError::Mismatch { name: name.to_owned(), expected: ty.to_string(), got });
        }
        Ok(b)
    }

    fn writable(&self, name: &str, dtype: DType, len: usize) -> Result<BufferId, DeviceError> {
        let found = self.program.inputs.get(name).copied();
        let found = found.or_else(|| self.program.persistent.get(name).map(|p| p.buffer));
        self.find(name, found, dtype, len)
    }

    fn readable(&self, name: &str, len: usize) -> Result<BufferId, DeviceError> {
        let found = self.program.outputs.get(name).copied();
        let found = found.or_else(|| self.program.persistent.get(name).map(|p| p.buffer));
        self.find(name, found, DType::F32, len)
    }

    /// Sets an f32 input or persistent buffer without rounding.
    pub fn write_f64(&mut self, name: &str, data: &[f64]) -> Result<(), DeviceError> {
        let b = self.writable(name, DType::F32, data.len())?;
        self.write(b, data.to_vec());
        Ok(())
    }

    /// An f32 output or persistent buffer without rounding.
    pub fn read_f64(&self, name: &str) -> Result<Vec<f64>, DeviceError> {
        let found = self.program.outputs.get(name).copied();
        let found = found.or_else(|| self.program.persistent.get(name).map(|p| p.buffer));
        let b = found.ok_or_else(|| DeviceError::UnknownName { name: name.to_owned() })?;
        Ok(self.read(b)?.to_vec())
    }
}

impl Executable for ReferenceExecutable {
    fn program(&self) -> &Program {
        &self.program
    }

    fn write_f32(&mut self, name: &str, data: &[f32]) -> Result<(), DeviceError> {
        let b = self.writable(name, DType::F32, data.len())?;
        self.write(b, data.iter().map(|&x| f64::from(x)).collect());
        Ok(())
    }

    fn write_i64(&mut self, name: &str, data: &[i64]) -> Result<(), DeviceError> {
        let b = self.writable(name, DType::I64, data.len())?;
        self.write(b, data.iter().map(|&x| x as f64).collect());
        Ok(())
    }

    fn read_f32(&self, name: &str, data: &mut [f32]) -> Result<(), DeviceError> {
        let b = self.readable(name, data.len())?;
        for (to, &from) in data.iter_mut().zip(self.read(b)?) {
            *to = from as f32;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), DeviceError> {
        for i in 0..self.program.launches.len() {
            let launch = self.program.launches[i].clone();
            let mut operands = Vec::with_capacity(launch.operands.len());
            for &b in &launch.operands {
                operands.push(Tensor { ty: self.program.buffer(b).ty.clone(), data: self.read(b)?.to_vec() });
            }
            if let Op::Store { .. } = launch.op {
                if let (Some(from), Some(&to)) = (operands.pop(), launch.results.first()) {
                    self.write(to, from.data);
                }
                continue;
            }
            let types: Vec<_> = launch.results.iter().map(|&b| self.program.buffer(b).ty.clone()).collect();
            let operands: Vec<&Tensor> = operands.iter().collect();
            let results = evaluate_op(&launch.op, &operands, &types).map_err(|e| {
                DeviceError::Failed(format!("{} `{}`: {e}", launch.op.mnemonic(), launch.path))
            })?;
            for (&b, result) in launch.results.iter().zip(results) {
                self.write(b, result.data);
            }
        }
        Ok(())
    }
}
