//! `compile --arch`: what is known of each launch's kernels without a GPU, as JSON and as a table.

use crate::Failure;
use crate::device_args::CodeArgs;
use crate::kernel_text::{Silent, no_compiler, no_disassembly, no_kernel};
use crate::launches::name;
use crate::output::{bytes, grouped, si, table};
use ddnnc_cuda::analysis::{AnalysisError, Compiled, examine, floor_us, is_bf16};
use ddnnc_cuda::arch::Arch;
use ddnnc_cuda::cache::Cache;
use ddnnc_cuda::code::Cost;
use ddnnc_cuda::emitted::Emitted;
use ddnnc_cuda::limits::{CARDS, card_of};
use ddnnc_cuda::machine_code::nvdisasm;
use ddnnc_cuda::nvrtc;
use ddnnc_passes::{Program, Traffic, Work, WorkKind};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// What is known of a program's kernels.
pub struct Facts<'a> {
    program: &'a Program,
    arch: Arch,
    emitted: Emitted,
    /// For every distinct kernel; `None` where there is no NVRTC.
    compiled: Option<Vec<Compiled>>,
}

impl<'a> Facts<'a> {
    /// Emits every kernel and compiles each that differs; where NVRTC or nvdisasm is not found, what they would say is
    /// left out (`null`), and `note` is told so.
    pub fn new(
        program: &'a Program,
        args: &CodeArgs,
        arch: Arch,
        note: &dyn Fn(&str),
    ) -> Result<Self, Failure> {
        let target = args.kernels.target(arch);
        let emitted = Emitted::new(program, &target).map_err(|e| no_kernel(&e, &target))?;
        let compiled = match nvrtc::knows(arch) {
            Err(missing @ nvrtc::NvrtcError::NotFound { .. }) => {
                note(&format!("no registers, spills and instructions: {missing}"));
                None
            }
            Err(other) => return Err(no_compiler(other)),
            Ok(()) => {
                let disassembled = nvdisasm().map_err(|e| note(&format!("no instructions: {e}"))).is_ok();
                let cache = Cache::default_folder().map(Cache::new);
                let examined = examine(&emitted, arch, disassembled, cache.as_ref(), &Silent);
                Some(examined.map_err(|e| match e {
                    AnalysisError::Nvrtc(e) => no_compiler(e),
                    AnalysisError::Disassembly(e) => no_disassembly(e),
                })?)
            }
        };
        Ok(Facts { program, arch, emitted, compiled })
    }

    fn cost(&self, launch: usize) -> Cost {
        self.emitted.launches[launch].kernels.iter().map(|k| k.cost).sum()
    }

    /// The least time of a launch on every card of the table, in microseconds: kernel after kernel.
    fn floors(&self, launch: usize) -> Vec<f64> {
        let bf16 = is_bf16(self.program, &self.program.launches[launch]);
        let kernels = &self.emitted.launches[launch].kernels;
        CARDS.iter().map(|card| kernels.iter().map(|k| floor_us(&k.cost, bf16, card)).sum()).collect()
    }

    fn all_floors(&self) -> Vec<f64> {
        let mut sums = vec![0.0; CARDS.len()];
        for launch in 0..self.program.launches.len() {
            for (sum, floor) in sums.iter_mut().zip(self.floors(launch)) {
                *sum += floor;
            }
        }
        sums
    }

    /// What moves the bytes: direction, kind of work, launches and bytes, those of most bytes first.
    fn kinds(&self, traffic: &Traffic) -> Vec<(&'static str, WorkKind, usize, u64)> {
        let mut kinds: Vec<(&'static str, WorkKind, usize, u64)> = Vec::new();
        for (i, launch) in self.program.launches.iter().enumerate() {
            let direction = if i < traffic.backward { "forward" } else { "backward" };
            let kind = Work::new(self.program, launch).kind;
            let cost = self.cost(i);
            let moved = cost.bytes_read + cost.bytes_written;
            match kinds.iter_mut().find(|k| (k.0, k.1) == (direction, kind)) {
                Some(sum) => (sum.2, sum.3) = (sum.2 + 1, sum.3 + moved),
                None => kinds.push((direction, kind, 1, moved)),
            }
        }
        kinds.sort_by_key(|k| std::cmp::Reverse(k.3));
        kinds
    }

    /// Bytes of every launch's operands and results, each once.
    fn once(&self) -> u64 {
        let work = self.program.launches.iter().map(|l| Work::new(self.program, l));
        work.map(|w| w.bytes_read + w.bytes_written).sum()
    }

    /// The object `kernels` of `compile --json`.
    pub fn json(&self) -> Value {
        let launches: Vec<Value> = (0..self.program.launches.len()).map(|i| self.launch_json(i)).collect();
        let all: Cost = self.emitted.launches.iter().flat_map(|l| &l.kernels).map(|k| k.cost).sum();
        let mut sum = cost_json(&all, &self.all_floors());
        let calls: usize = self.emitted.launches.iter().map(|l| l.kernels.len()).sum();
        sum.insert("launches".to_owned(), json!(self.program.launches.len()));
        sum.insert("kernel_calls".to_owned(), json!(calls));
        sum.insert("distinct_kernels".to_owned(), json!(self.emitted.texts.len()));
        let compiled = self.compiled.as_ref();
        let spilled = compiled.map(|all| all.iter().map(|c| c.resources.spills).sum::<u32>());
        sum.insert("spill_bytes".to_owned(), json!(spilled));
        let traffic = Traffic::new(self.program);
        let (moved, minimum) = (all.bytes_read + all.bytes_written, traffic.minimum_bytes());
        sum.insert("bytes_once".to_owned(), json!(self.once()));
        sum.insert("kept_bytes".to_owned(), json!(traffic.kept_bytes));
        sum.insert("minimum_bytes".to_owned(), json!(minimum));
        sum.insert("over_minimum".to_owned(), json!((minimum > 0).then(|| moved as f64 / minimum as f64)));
        let kinds: Vec<Value> = self
            .kinds(&traffic)
            .into_iter()
            .map(|(direction, kind, launches, bytes)| {
                json!({"pass": direction, "kind": kind.as_str(), "launches": launches, "bytes": bytes})
            })
            .collect();
        let arch = self.arch.to_string();
        json!({"arch": arch, "measured": false, "sum": sum, "kinds": kinds, "launches": launches})
    }

    fn launch_json(&self, i: usize) -> Value {
        let launch = &self.program.launches[i];
        let code = &self.emitted.launches[i];
        let mut object = cost_json(&self.cost(i), &self.floors(i));
        object.insert("name".to_owned(), json!(name(&launch.op)));
        object.insert("path".to_owned(), json!(launch.path));
        let kernel = |(k, &text): (&ddnnc_cuda::code::Kernel, &usize)| {
            let compiled = self.compiled.as_ref().map(|all| &all[text]);
            let count = compiled.and_then(|c| c.instructions);
            json!({
                "name": k.name,
                "choice": k.choice,
                "grid": k.grid,
                "block": k.block,
                "registers": compiled.map(|c| c.resources.registers),
                "shared_bytes": compiled.map(|c| c.resources.shared + k.dynamic_shared),
                "spill_bytes": compiled.map(|c| c.resources.spills),
                "stack_bytes": compiled.map(|c| c.resources.stack),
                "blocks_per_multiprocessor": compiled.map(|c| c.resident_blocks),
                "occupancy": compiled.map(|c| c.occupancy),
                "matrix_instructions": count.map(|c| c.matrix),
                "async_copies": count.map(|c| c.async_copies),
                "local_accesses": count.map(|c| c.local),
                "instructions": count.map(|c| c.all),
            })
        };
        let kernels: Vec<Value> = code.kernels.iter().zip(&self.emitted.text_of[i]).map(kernel).collect();
        object.insert("kernels".to_owned(), json!(kernels));
        Value::Object(object)
    }

    /// The sums, and the launches with the highest floor on the card of the architecture.
    pub fn table(&self, shown: usize) -> String {
        let all: Cost = self.emitted.launches.iter().flat_map(|l| &l.kernels).map(|k| k.cost).sum();
        let mut text = String::new();
        let _ = writeln!(
            text,
            "  {}: {} distinct kernels; {} operations, {} moved through device memory a step",
            self.arch,
            self.emitted.texts.len(),
            si(all.matrix_flops + all.vector_flops),
            bytes(all.bytes_read + all.bytes_written),
        );
        let traffic = Traffic::new(self.program);
        let (moved, minimum) = (all.bytes_read + all.bytes_written, traffic.minimum_bytes());
        if minimum > 0 {
            let _ = writeln!(
                text,
                "  {:.2} times four passes over the {} that the backward pass reads again",
                moved as f64 / minimum as f64,
                bytes(traffic.kept_bytes),
            );
        }
        for (card, floor) in CARDS.iter().zip(self.all_floors()) {
            let _ = writeln!(
                text,
                "  at least {:>9.3} ms on {}, at its peaks (counted, not measured)",
                floor / 1e3,
                card.card
            );
        }
        let kinds: Vec<Vec<String>> = self
            .kinds(&traffic)
            .into_iter()
            .map(|(direction, kind, launches, moved)| {
                let name = format!("{}, {direction} pass", kind.as_str());
                vec![name, launches.to_string(), bytes(moved)]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(1, &["kind of work", "launches", "moved"], &kinds));
        let card = CARDS.iter().position(|c| c == card_of(self.arch)).unwrap_or(0);
        let mut order: Vec<usize> = (0..self.program.launches.len()).collect();
        order.sort_by(|&a, &b| self.floors(b)[card].total_cmp(&self.floors(a)[card]).then(a.cmp(&b)));
        let rows: Vec<Vec<String>> = order
            .iter()
            .take(shown)
            .map(|&i| {
                let cost = self.cost(i);
                let launch = &self.program.launches[i];
                let kernel = &self.emitted.launches[i].kernels;
                let last = kernel.last();
                let registers = last.and_then(|_| {
                    let text = *self.emitted.text_of[i].last()?;
                    Some(self.compiled.as_ref()?[text].resources.registers.to_string())
                });
                vec![
                    format!("{} @ {}", name(&launch.op), launch.path),
                    format!("{:.1}", self.floors(i)[card]),
                    si(cost.matrix_flops + cost.vector_flops),
                    grouped((cost.bytes_read + cost.bytes_written) / 1000),
                    registers.unwrap_or_else(|| "-".to_owned()),
                    last.map(|k| k.choice.clone()).unwrap_or_default(),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(1, &["launch", "floor µs", "operations", "kB", "registers", "cut"], &rows));
        text
    }
}

fn cost_json(cost: &Cost, floors: &[f64]) -> Map<String, Value> {
    let floors: Map<String, Value> = CARDS
        .iter()
        .zip(floors)
        .map(|(card, us)| (card.card.to_owned(), json!((us * 1e3).round() / 1e3)))
        .collect();
    let mut object = Map::new();
    object.insert("matrix_flops".to_owned(), json!(cost.matrix_flops));
    object.insert("vector_flops".to_owned(), json!(cost.vector_flops));
    object.insert("bytes_read".to_owned(), json!(cost.bytes_read));
    object.insert("bytes_written".to_owned(), json!(cost.bytes_written));
    object.insert("floor_us".to_owned(), Value::Object(floors));
    object
}
