//! `ddnnc compile`: from a spec to a program, with a summary or any phase as text.

use crate::cli::{CompileArgs, Emit, StepMode};
use crate::device::not_compiled;
use crate::kernel_facts::Facts;
use crate::launches::Counts;
use crate::output::{apart, bytes, grouped, named_as_drawn, print, print_json, si, table, write_file};
use crate::{Failure, Spec, Ui, device, kernel_text, memory_picture};
use ddnnc_cpu::CpuDevice;
use ddnnc_ir::{Graph, IrError, Mode, Model, Op};
use ddnnc_passes::{Compiled, Goal};
use ddnnc_train::atomic_write_all;
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Phases that were asked for, as text, in the order in which they came.
#[derive(Default)]
struct Phases {
    wanted: Vec<&'static str>,
    all: bool,
    texts: Vec<(String, Result<String, IrError>)>,
    /// Operators of the step before it is laid out and fused.
    operators_after_sharing: usize,
}

impl Phases {
    fn see(&mut self, phase: &str, graph: &Graph) {
        if phase == "step" {
            let counts = |op: &Op| !op.is_source() && !op.is_sink();
            self.operators_after_sharing = graph.nodes().filter(|&id| counts(&graph.node(id).op)).count();
        }
        if self.all || self.wanted.contains(&phase) {
            self.texts.push((phase.to_string(), ddnnc_ir::print(graph)));
        }
    }

    fn text(&self, phase: &str) -> Result<&str, Failure> {
        match self.texts.iter().find(|(name, _)| name == phase) {
            Some((_, Ok(text))) => Ok(text),
            Some((_, Err(error))) => {
                Err(Failure::input(format!("the phase `{phase}` does not print: {error}")))
            }
            None => Err(Failure::input(format!("there is no phase `{phase}` in this mode"))),
        }
    }
}

/// Compiles and shows what was asked for.
pub fn run(args: &CompileArgs, ui: Ui) -> Result<(), Failure> {
    let start = Instant::now();
    let options = device::options(&args.passes)?;
    let kernels = kernel_text::is_kernels(args.emit);
    // Without a phase, `--arch` asks what is known of the kernels.
    let facts = args.emit.is_none() && args.code.arch.is_some();
    if let (false, Some(option)) = (kernels || facts, args.code.given()) {
        let hint = "it goes with `--emit cuda`, `ptx` or `sass`, or with `--arch` and no `--emit`";
        return Err(Failure::usage(format!("{option} changes nothing here")).hint(hint));
    }
    if args.emit == Some(Emit::Grad) && args.mode == StepMode::Eval {
        let hint = "`--emit ir` prints the forward graph, `--emit fused` what is run of it";
        return Err(Failure::usage("`--mode eval` has no backward pass to print").hint(hint));
    }
    if kernels || facts {
        device::lays_out(&args.passes)?;
    }
    named_as_drawn(args.memory.iter().flatten())?;
    apart([&args.spec.spec], args.output.iter().chain(args.memory.iter().flatten()))?;
    let spec = Spec::load(&args.spec.spec, &args.spec.set, ui)?;
    // Where nothing is written, nothing behind the phase needs to run; a syntax tree shows specs with errors, too.
    let printed_only = args.dump_phases.is_none() && args.output.is_none();
    if args.emit == Some(Emit::Ast) && printed_only {
        return print(&ddnnc_syntax::dump(&spec.file));
    }
    let (mode, goal) = match args.mode {
        StepMode::Train => (Mode::Train, Goal::Train),
        StepMode::Eval => (Mode::Eval, Goal::Evaluate),
    };
    let model = spec.lower_in(args.phase.phase.as_deref(), mode, args.batch)?;
    if args.emit == Some(Emit::Ir) && printed_only {
        return print(&ddnnc_ir::print(&model.graph).map_err(|e| not_compiled(&e.into()))?);
    }
    let mut phases = Phases { all: args.dump_phases.is_some(), ..Phases::default() };
    phases.wanted = match args.emit {
        Some(Emit::Ir) => vec!["forward"],
        Some(Emit::Grad) => vec!["grad"],
        Some(Emit::Fused) => vec!["fused"],
        Some(Emit::Ast | Emit::Schedule | Emit::Cuda | Emit::Ptx | Emit::Sass) | None => Vec::new(),
    };
    let compiled =
        ddnnc_passes::compile_with(&model, goal, &options, &mut |phase, graph| phases.see(phase, graph))
            .map_err(|e| not_compiled(&e))?;
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    if let Some(folder) = &args.dump_phases {
        dump(folder, &spec, &phases, &compiled)?;
    }
    if let (true, Some(emit)) = (kernels, args.emit) {
        let text = kernel_text::text(&compiled.program, emit, &args.code)?;
        let Some(path) = &args.output else { return print(&text) };
        write_file(path, text.as_bytes())?;
        ui.note(&format!("wrote the kernels to {}", path.display()));
        return Ok(());
    }
    if let Some(path) = &args.output {
        write_file(path, &compiled.program.to_bytes().map_err(|e| not_compiled(&e))?)?;
        ui.note(&format!("wrote the program to {}", path.display()));
    }
    if let Some(file) = &args.memory {
        if let Some(path) = file {
            write_file(path, memory_picture::picture(&compiled.program).as_bytes())?;
            ui.note(&format!("drew the memory plan to {}", path.display()));
        }
        return print(&memory(&compiled));
    }
    let shared = phases.operators_after_sharing;
    let known = match args.code.arch {
        Some(arch) if facts => {
            let note = |text: &str| ui.note(text);
            Some(Facts::new(&compiled.program, &args.code, arch, &note)?)
        }
        _ => None,
    };
    match args.emit {
        Some(Emit::Ast) => print(&ddnnc_syntax::dump(&spec.file)),
        Some(Emit::Schedule) => print(&compiled.program.to_string()),
        Some(_) => print(phases.text(phases.wanted[0])?),
        None if args.json => {
            let mut object = as_json(&model, &compiled, shared, elapsed);
            if let Some(known) = &known {
                object["kernels"] = known.json();
            }
            print_json(&object)
        }
        None => {
            let mut text = summary(&model, args.mode, &compiled, shared, elapsed);
            if let Some(known) = &known {
                let _ = write!(text, "\n{}", known.table(SHOWN_KERNELS));
            }
            print(&text)
        }
    }
}

/// The planned sizes, and the largest values with the launches from which to which they live.
fn memory(compiled: &Compiled) -> String {
    let program = &compiled.program;
    let mut text = String::new();
    let sizes = [
        ("peak", program.peak_bytes()),
        ("arena", program.arena_bytes),
        ("persistent", program.persistent_bytes),
    ];
    for (name, size) in sizes {
        let (size, exact) = (bytes(size as u64), grouped(size as u64));
        let _ = writeln!(text, "  {name:<10}  {size:>10}  {exact:>15} bytes");
    }
    // The plan is every device's; what the CPU takes besides depends on its threads.
    if let Ok(device) = CpuDevice::new(None)
        && let Ok(workspace) = device.workspace_bytes(program)
    {
        let (size, exact) = (bytes(workspace as u64), grouped(workspace as u64));
        let threads = device.threads();
        let _ = writeln!(
            text,
            "  {:<10}  {size:>10}  {exact:>15} bytes, besides the peak, on the CPU with {threads} threads",
            "workspace"
        );
    }
    let (header, rows) = memory_picture::table(program);
    let _ = write!(text, "\n{}", table(3, &header, &rows));
    text
}

/// Writes every phase as `NN-<phase>.<ending>`, all or none; folders that were made for that are removed again.
fn dump(folder: &Path, spec: &Spec, phases: &Phases, compiled: &Compiled) -> Result<(), Failure> {
    let tree = ddnnc_syntax::dump(&spec.file);
    let schedule = compiled.program.to_string();
    let mut files = vec![(folder.join("00-ast.txt"), tree.as_bytes())];
    for (i, (phase, _)) in phases.texts.iter().enumerate() {
        files.push((folder.join(format!("{:02}-{phase}.ir", i + 1)), phases.text(phase)?.as_bytes()));
    }
    files.push((folder.join(format!("{:02}-schedule.txt", phases.texts.len() + 1)), schedule.as_bytes()));
    let made: Vec<&Path> =
        folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    let written = fs::create_dir_all(folder)
        .map_err(|e| Failure::writing(folder, &e))
        .and_then(|()| atomic_write_all(&files).map_err(|(path, e)| Failure::writing(&path, &e)));
    if written.is_err() {
        // From the inside out; one that somebody else has put something into stays.
        made.iter().for_each(|path| drop(fs::remove_dir(path)));
    }
    written
}

fn as_json(model: &Model, compiled: &Compiled, shared: usize, elapsed: f64) -> Value {
    let report = &compiled.report;
    let counts = Counts::new(&compiled.program);
    let subnets: Vec<Value> = model
        .nets
        .iter()
        .map(|n| json!({"name": n.name, "parameters": n.parameter_count, "macs": n.macs, "depth": n.depth}))
        .collect();
    let mut object = json!({
        "model": model.name,
        "subnets": subnets,
        "operators_before_fusion": report.operators_before_fusion,
        "operators_after_sharing": shared,
        "operators_after": report.operators_after,
        "launches": report.launches,
        "step_macs": compiled.report.macs,
        "convolution_launches": counts.convolutions(),
        "groups": counts.groups(),
        "peak_bytes": report.peak_bytes,
        "arena_bytes": report.arena_bytes,
        "persistent_bytes": report.persistent_bytes,
        "value_bytes": report.value_bytes,
        "batch": model.batch,
        "precision": model.recipe.precision.as_str(),
        "compile_ms": (elapsed * 1e3).round() / 1e3,
    });
    if let Some(phase) = model.phases.get(model.phase) {
        object["phase"] = json!(phase.name);
        object["phases"] = json!(model.phases.iter().map(|p| &p.name).collect::<Vec<_>>());
    }
    object
}

/// How many launches the summary of `--arch` names.
const SHOWN_KERNELS: usize = 15;

/// How many of the largest values the summary names.
const SHOWN: usize = 5;

fn summary(model: &Model, mode: StepMode, compiled: &Compiled, shared: usize, elapsed: f64) -> String {
    let report = &compiled.report;
    let step = match mode {
        StepMode::Train => "training step",
        StepMode::Eval => "inference",
    };
    let precision = model.recipe.precision.as_str();
    let mut text = format!("{}: {step}, batch {}, {precision}\n", model.name, model.batch);
    if let Some(phase) = model.phases.get(model.phase) {
        let names: Vec<&str> = model.phases.iter().map(|p| p.name.as_str()).collect();
        let _ = writeln!(text, "phase {}, of {}", phase.name, names.join(", "));
    }
    text.push('\n');
    let mut rows: Vec<Vec<String>> = model
        .nets
        .iter()
        .map(|n| vec![n.name.clone(), grouped(n.parameter_count), si(n.macs), n.depth.to_string()])
        .collect();
    if model.nets.len() > 1 {
        let together: usize = model.parameters.values().map(|p| p.shape.elements()).sum();
        rows.push(vec!["all together".to_string(), grouped(together as u64)]);
    }
    text.push_str(&table(1, &["sub-net", "parameters", "MACs", "depth"], &rows));
    let before = report.operators_before_fusion;
    let _ = writeln!(
        text,
        "\n  operators    {} with every net on its own, {} after sharing",
        grouped(before as u64),
        grouped(shared as u64)
    );
    let _ = writeln!(text, "  launches     {}", Counts::new(&compiled.program).text());
    let _ = writeln!(
        text,
        "  peak memory  {}: arena {} (for {} of values), persistent {}",
        bytes(report.peak_bytes as u64),
        bytes(report.arena_bytes as u64),
        bytes(report.value_bytes as u64),
        bytes(report.persistent_bytes as u64),
    );
    for (i, life) in memory_picture::largest(&compiled.program, SHOWN).iter().enumerate() {
        let head = if i == 0 { "largest" } else { "" };
        let size = bytes(life.bytes as u64);
        let line = format!("  {head:<11}  {size:>10}  {}  {} {}", life.ty, life.op, life.path);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let _ = writeln!(text, "  compiled in  {elapsed:.0} ms");
    text
}
