//! The CUDA device on the emulated driver: whole steps against the CPU device, and the order of what streams do. The
//! driver runs queued work as late as the order allows, and checks every access.

use ddnnc_cpu::CpuDevice;
use ddnnc_cuda::cache::Cache;
use ddnnc_cuda::emitted::Emitted;
use ddnnc_cuda::{CudaDevice, CudaOptions};
use ddnnc_ir::{DType, Mode, Model, Precision, ValueType};
use ddnnc_passes::{Device, DeviceError, Executable, Goal, Program};
use ddnnc_tests::harness::{
    Tensors, bits, load, mismatches, model, narrow, program, random_batch, random_weights, read_all, spec,
    specs,
};

/// Compiled kernels of these tests are kept from run to run.
fn options() -> CudaOptions {
    let kernels = concat!(env!("CARGO_TARGET_TMPDIR"), "/kernels");
    CudaOptions { cache: Some(Cache::new(kernels)), ..CudaOptions::default() }
}

/// Whether the tests run on the machine's GPU instead of the emulator: `DDNNC_TEST_GPU=1`.
fn on_gpu() -> bool {
    std::env::var_os("DDNNC_TEST_GPU").is_some_and(|v| v == "1")
}

/// The emulated device, or the machine's own.
fn device(options: CudaOptions) -> CudaDevice {
    if on_gpu() {
        let options = CudaOptions { poison: true, ..options };
        return CudaDevice::open(options).expect("DDNNC_TEST_GPU=1 needs a GPU and NVRTC");
    }
    ddnnc_emu::install().expect("the emulator's library is built with these tests");
    CudaDevice::open(options).expect("`.ci/nvrtc` installs NVRTC, and the emulator is the driver")
}

/// A net of few operators that has every kind of group.
fn small(mode: Mode) -> Model {
    model(SMALL, mode, 4)
}

const SMALL: &str = "model small
input  image : f32[1, 12, 12]
target label : class[10]
backbone net {
    stem     = conv(8, 3) |> bn |> relu
    stage s1 = 2 * wide
    head     = global_avg_pool |> linear(classes)
}
block wide { in |> conv(8, 3) |> bn |> add(in) |> relu }
subnet full = net
subnet half = net depth [1]
share net { norm = private, head = private }
distill full -> [half] { kl(temperature = 3, weight = 1.0) }
train {
    data      = mnist(path = \"mnist\")
    batch     = 4
    epochs    = 1
    optimizer = sgd(lr = 0.1, momentum = 0.9)
    schedule  = constant
}
";

/// Gives a batch. Steps are small: at the kinks of a ReLU two correct programs take different sides now and then, and
/// large steps make that difference grow.
fn feed(run: &mut dyn Executable, model: &Model, seed: u64) {
    let (image, label) = random_batch(model, seed);
    let inputs: Vec<(String, ValueType)> = {
        let program = run.program();
        program.inputs.iter().map(|(n, &id)| (n.clone(), program.buffer(id).ty.clone())).collect()
    };
    // All of them, those of dropout and of weights that follow a schedule too: what is not given again need not be there
    // any more.
    for (name, ty) in inputs {
        match name.as_str() {
            n if n == model.input.0 => run.write_f32(n, &image),
            n if n == model.target.0 => run.write_i64(n, &label),
            "lr" => run.write_f32("lr", &[0.002]),
            "rng" => run.write_i64("rng", &[7, seed as i64]),
            n => run.write_f32(n, &vec![0.5; ty.elements()]),
        }
        .expect("an input of its length");
    }
}

fn loaded(device: &dyn Device, program: &Program, model: &Model) -> Box<dyn Executable> {
    load(device, program, model, &random_weights(model, 1), &random_batch(model, 0))
}

/// Losses of `steps` steps on different batches.
fn losses(run: &mut dyn Executable, model: &Model, steps: u64) -> Vec<(String, Vec<f32>)> {
    let names: Vec<String> =
        run.program().outputs.keys().filter(|n| n.starts_with("loss.")).cloned().collect();
    let mut losses: Vec<(String, Vec<f32>)> = names.into_iter().map(|n| (n, Vec::new())).collect();
    for step in 0..steps {
        feed(run, model, step);
        run.run().expect("the step runs");
        for (name, values) in &mut losses {
            let mut value = [f32::NAN];
            run.read_f32(name, &mut value).expect("a number");
            values.push(value[0]);
        }
    }
    losses
}

/// Trains on both devices; every loss of every step agrees within `tolerance` of itself.
fn trains_as_the_cpu_does(model: &Model, steps: u64, tolerance: f32) {
    trains_on(&device(options()), model, steps, tolerance);
}

fn trains_on(cuda: &CudaDevice, model: &Model, steps: u64, tolerance: f32) {
    let program = program(model, Goal::Train);
    let cpu = CpuDevice::new(Some(2)).expect("threads start");
    let wanted = losses(loaded(&cpu, &program, model).as_mut(), model, steps);
    let found = losses(loaded(cuda, &program, model).as_mut(), model, steps);
    for ((name, wanted), (_, found)) in wanted.iter().zip(&found) {
        for (step, (w, f)) in wanted.iter().zip(found).enumerate() {
            let within = (w - f).abs() <= tolerance * w.abs().max(1e-3);
            assert!(within, "{name} at step {step}: {f} instead of {w}");
        }
    }
    let first = &wanted[0].1;
    assert!(first.iter().any(|x| *x != first[0]), "the loss changes: {first:?}");
}

#[test]
fn a_small_net_trains_as_on_the_cpu() {
    trains_as_the_cpu_does(&small(Mode::Train), 20, 1e-4);
}

/// Trains the quickstart as it is, 20 steps of the step graph. Each step begins where the CPU is: else a ReLU that takes its
/// other side once, which rounding decides, would part the two for good. Every loss is within `losses` of the CPU's,
/// parameters and states within `states` of their largest entry.
fn quickstart_trains_as_on_the_cpu(precision: Precision, losses: f32, states: Option<f32>) {
    let mut model = model(&spec("quickstart"), Mode::Train, 2);
    model.recipe.precision = precision;
    let program = program(&model, Goal::Train);
    let bf16 = program.buffers.iter().any(|b| b.ty.dtype == DType::Bf16);
    assert_eq!(bf16, precision == Precision::Bf16);
    let cpu = CpuDevice::new(Some(2)).expect("threads start");
    let mut cpu = loaded(&cpu, &program, &model);
    let mut cuda = loaded(&device(options()), &program, &model);
    let (mut compared, mut begin) = (0, read_all(cpu.as_ref()));
    for step in 0..20 {
        for run in [&mut cpu, &mut cuda] {
            feed(run.as_mut(), &model, step);
            run.run().expect("the step runs");
        }
        let (wanted, found) = (read_all(cpu.as_ref()), read_all(cuda.as_ref()));
        for (name, values) in &wanted {
            let tolerance = if name.starts_with("loss.") {
                compared += 1;
                Some(losses)
            } else if program.persistent.contains_key(name) {
                assert_ne!(bits(values), bits(&begin[name]), "{name} is as it was before step {step}");
                states
            } else {
                states
            };
            if let Some(tolerance) = tolerance {
                assert_eq!(mismatches(&found[name], values, tolerance), 0, "{name} at step {step}");
            }
        }
        for name in program.persistent.keys() {
            cuda.write_f32(name, &wanted[name]).expect("its length");
        }
        begin = wanted;
    }
    // The total, three losses of labels, and of both students the distance to the teacher in logits and in attention.
    assert_eq!(compared, 20 * 8);
}

#[test]
fn quickstart_trains_as_on_the_cpu_in_f32() {
    quickstart_trains_as_on_the_cpu(Precision::F32, 1e-4, Some(1e-3));
}

#[test]
fn quickstart_trains_as_on_the_cpu_in_bf16() {
    quickstart_trains_as_on_the_cpu(Precision::Bf16, 2e-2, None);
}

#[test]
fn resnet20_trains_as_on_the_cpu() {
    trains_as_the_cpu_does(&model(&spec("cifar10_resnet20_ekd"), Mode::Train, 2), 2, 1e-4);
}

/// Narrow networks of every spec, each step from where the CPU is. The emulator takes two of them, as it is slow,
/// and all with `DDNNC_TEST_ALL_SPECS=1`.
#[test]
fn specs_train_as_on_the_cpu() {
    let all = on_gpu() || std::env::var_os("DDNNC_TEST_ALL_SPECS").is_some_and(|v| v == "1");
    let (names, steps) = if all {
        (specs(), 3)
    } else {
        (["branchynet_alexnet", "kd_two_networks"].map(str::to_owned).into(), 2)
    };
    for name in names {
        let model = narrow(&name, Mode::Train, 4);
        let program = program(&model, Goal::Train);
        let cpu = CpuDevice::new(Some(2)).expect("threads start");
        let mut cpu = loaded(&cpu, &program, &model);
        let mut cuda = loaded(&device(options()), &program, &model);
        for step in 0..steps {
            for run in [&mut cpu, &mut cuda] {
                feed(run.as_mut(), &model, step);
                run.run().expect("the step runs");
            }
            let (wanted, found) = (read_all(cpu.as_ref()), read_all(cuda.as_ref()));
            let losses: Vec<&String> = wanted.keys().filter(|n| n.starts_with("loss.")).collect();
            assert!(!losses.is_empty());
            for loss in losses {
                assert_eq!(
                    mismatches(&found[loss], &wanted[loss], 1e-4),
                    0,
                    "{loss} of {name} at step {step}"
                );
            }
            for state in program.persistent.keys() {
                cuda.write_f32(state, &wanted[state]).expect("its length");
            }
        }
    }
}

#[test]
fn a_small_net_trains_as_on_the_cpu_in_bf16() {
    let mut model = small(Mode::Train);
    model.recipe.precision = Precision::Bf16;
    let program = program(&model, Goal::Train);
    assert!(program.buffers.iter().any(|b| b.ty.dtype == DType::Bf16), "values are in bf16");
    trains_as_the_cpu_does(&model, 20, 2e-2);
}

/// Channels that fill tiles: Hopper, which is what the emulator is, multiplies them by warpgroups, in the graph of a step.
#[test]
fn a_wide_net_trains_as_on_the_cpu_in_bf16() {
    let text = SMALL.replace("conv(8, 3)", "conv(64, 3)").replace("12, 12]", "8, 8]");
    let mut model = model(&text, Mode::Train, 4);
    model.recipe.precision = Precision::Bf16;
    let cuda = device(options());
    let emitted = Emitted::new(&program(&model, Goal::Train), cuda.target()).expect("kernels");
    let kernels = emitted.launches.iter().flat_map(|code| &code.kernels);
    let products = kernels.filter(|k| k.choice.contains("warpgroups")).count();
    assert!(products >= 6 || on_gpu(), "{products} products by warpgroups");
    trains_on(&cuda, &model, 4, 2e-2);
}

/// Blocks with more shared memory than a kernel may use without asking the driver for it.
#[test]
fn tiles_of_much_shared_memory_train_as_on_the_cpu() {
    let model = small(Mode::Train);
    let cuda = device(CudaOptions { tile: Some([128, 128, 16]), ..options() });
    let emitted = Emitted::new(&program(&model, Goal::Train), cuda.target()).expect("a legal tile");
    let shared = emitted.launches.iter().flat_map(|code| &code.kernels).map(|k| k.dynamic_shared).max();
    assert!(shared > Some(48 << 10), "{shared:?}");
    trains_on(&cuda, &model, 2, 1e-4);
}

/// Blocks whose dynamic shared memory alone is what a kernel may use without asking, and who have static shared memory
/// besides.
#[test]
fn tiles_of_exactly_the_free_shared_memory_train_as_on_the_cpu() {
    let mut model = small(Mode::Train);
    model.recipe.precision = Precision::Bf16;
    let cuda = device(CudaOptions { tile: Some([64, 32, 64]), ..options() });
    let emitted = Emitted::new(&program(&model, Goal::Train), cuda.target()).expect("a legal tile");
    let mut kernels = emitted.launches.iter().flat_map(|code| &code.kernels);
    assert!(kernels.any(|k| k.dynamic_shared == 48 << 10 && k.source.matches("last_block(").count() > 1));
    trains_on(&cuda, &model, 2, 2e-2);
}

/// Steps that nobody waits for, inputs given early and twice, a pause without new inputs: the same bits as calls one by
/// one, each waited for, whose results are read after every step.
#[test]
fn what_is_queued_ahead_comes_to_the_same_bits() {
    let model = small(Mode::Train);
    let program = program(&model, Goal::Train);
    let plain = |stepwise: bool| {
        let device = device(CudaOptions { stepwise, ..options() });
        let mut run = loaded(&device, &program, &model);
        for seed in [1, 2, 3, 4, 5, 6, 6] {
            feed(run.as_mut(), &model, seed);
            run.run().expect("the step runs");
            read_all(run.as_ref());
        }
        read_all(run.as_ref())
    };
    let device = device(options());
    let mut run = loaded(&device, &program, &model);
    feed(run.as_mut(), &model, 1);
    run.run().expect("the step runs");
    // Thrown away: only the last of what is written before a step counts.
    feed(run.as_mut(), &model, 77);
    feed(run.as_mut(), &model, 2);
    run.run().expect("the step runs");
    for seed in [3, 4] {
        feed(run.as_mut(), &model, seed);
        run.run().expect("the step runs");
    }
    let after_four = read_all(run.as_ref());
    for seed in [5, 6] {
        feed(run.as_mut(), &model, seed);
        // Inputs for the next step are no business of the last one's results.
        if seed == 5 {
            same(&after_four, &read_all(run.as_ref()));
        }
        run.run().expect("the step runs");
    }
    // An input that is not given again is as it was.
    run.run().expect("the step runs");
    let ahead = read_all(run.as_ref());
    same(&plain(false), &ahead);
    same(&plain(true), &ahead);
}

/// Steps that are timed give the bits of steps that are not, whichever comes first, and every launch its time.
#[test]
fn timed_steps_come_to_the_same_bits() {
    let model = small(Mode::Train);
    let program = program(&model, Goal::Train);
    let device = device(options());
    let (mut plain, mut timed) = (loaded(&device, &program, &model), loaded(&device, &program, &model));
    // What is there already is added to.
    let mut seconds = vec![1.0; program.launches.len()];
    for seed in 0..4 {
        for run in [&mut plain, &mut timed] {
            feed(run.as_mut(), &model, seed);
        }
        plain.run().expect("the step runs");
        if seed == 2 {
            timed.run().expect("the step runs");
        } else {
            let before = seconds.clone();
            assert!(timed.run_timed(&mut seconds).expect("the step runs"));
            let longer = before.iter().zip(&seconds).filter(|(before, after)| after > before).count();
            assert_eq!(longer, seconds.len(), "every launch takes time: {seconds:?}");
        }
        same(&read_all(plain.as_ref()), &read_all(timed.as_ref()));
    }
    let products = timed.methods().expect("tiles are told").iter().filter(|m| !m.is_empty()).count();
    assert!(products > 0 && products < seconds.len());
}

fn same(a: &Tensors, b: &Tensors) {
    assert_eq!(a.len(), b.len());
    for (name, data) in a {
        assert_eq!(bits(data), bits(&b[name]), "{name}");
    }
}

/// Persistent buffers begin as zeros and keep what is written, between steps that are still running too.
#[test]
fn what_persists_is_read_as_it_was_written() {
    let model = small(Mode::Train);
    let program = program(&model, Goal::Train);
    let device = device(options());
    let run = device.load(&program).expect("it loads");
    for name in program.persistent.keys() {
        let id = program.named(name).expect("a name of the program");
        let mut data = vec![1.0; program.buffer(id).ty.elements()];
        run.read_f32(name, &mut data).expect("its length");
        assert!(data.iter().all(|x| x.to_bits() == 0), "{name}");
    }
    let mut run = loaded(&device, &program, &model);
    run.run().expect("the step runs");
    let weights = random_weights(&model, 9);
    for (name, data) in &weights {
        run.write_f32(name, data).expect("its length");
    }
    for (name, data) in &weights {
        let mut found = vec![0.0; data.len()];
        run.read_f32(name, &mut found).expect("its length");
        assert_eq!(bits(data), bits(&found), "{name}");
    }
    assert!(matches!(run.write_f32("nobody", &[]), Err(DeviceError::UnknownName { .. })));
    assert!(matches!(run.write_f32(&model.input.0, &[1.0]), Err(DeviceError::Mismatch { .. })));
    assert!(matches!(run.write_f32(&model.target.0, &[1.0; 4]), Err(DeviceError::Mismatch { .. })));
    assert!(matches!(run.read_f32("loss.total", &mut [0.0; 2]), Err(DeviceError::Mismatch { .. })));
}

/// A program that is loaded again finds its kernels on the device, one in another process finds them on disk.
#[test]
fn kernels_are_compiled_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let own = || CudaOptions { cache: Some(Cache::new(folder.path())), ..CudaOptions::default() };
    let program = program(&small(Mode::Eval), Goal::Evaluate);
    let first = device(own());
    let report = *first.load_cuda(&program).expect("it loads").report();
    assert!(report.kernels > 1 && report.compiled == report.kernels && report.cached == 0, "{report:?}");
    assert_eq!(report.ptx, !on_gpu(), "the emulator executes no machine code");
    assert_eq!((report.launches, report.calls >= report.launches), (program.launches.len(), true));
    let again = *first.load_cuda(&program).expect("it loads").report();
    assert_eq!((again.kernels, again.compiled, again.cached), (report.kernels, 0, 0));
    let other = *device(own()).load_cuda(&program).expect("it loads").report();
    assert_eq!((other.kernels, other.compiled, other.cached), (report.kernels, 0, report.kernels));
    // Without a cache everything is compiled.
    let none = device(CudaOptions { cache: None, ..CudaOptions::default() });
    assert_eq!(none.load_cuda(&program).expect("it loads").report().compiled, report.kernels);
}

/// Outputs on both sides of what comes to the host with every step, and longer than a piece of a copy.
#[test]
fn outputs_of_every_size_are_read() {
    let text = "model wide
input  image : f32[3, 16, 16]
target label : class[4096]
backbone net {
    stem = conv(8, 3) |> relu
    head = global_avg_pool |> linear(classes)
}
subnet full = net
train {
    data      = cifar10(path = \"x\")
    batch     = 4
    epochs    = 1
    optimizer = sgd(lr = 0.1)
    schedule  = constant
}
";
    for batch in [3, 4, 5, 300] {
        let model = model(text, Mode::Eval, batch);
        let program = program(&model, Goal::Evaluate);
        let cpu = CpuDevice::new(Some(2)).expect("threads start");
        let run = |device: &dyn Device| {
            let mut run = loaded(device, &program, &model);
            run.run().expect("the step runs");
            read_all(run.as_ref())
        };
        let (wanted, found) = (run(&cpu), run(&device(options())));
        assert!(program.outputs.values().any(|&id| program.buffer(id).ty.dtype == DType::F32));
        for (name, data) in &wanted {
            assert_eq!(mismatches(&found[name], data, 1e-5), 0, "{name} at batch {batch}");
        }
    }
}
