//! `--device cuda` where something is missing, and the kernels as text. What runs, runs on the emulator.

use crate::common::{Place, Ran, tiny_mnist};
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::SystemTime;

/// A net of few operators: its kernels compile in a moment.
const SMALL: &str = "model small
input  image : f32[1, 28, 28]
target label : class[10]
backbone net {
    stem = conv(8, 3, stride = 4) |> bn |> relu
    head = global_avg_pool |> linear(classes)
}
subnet full = net
train {
    data      = mnist(path = \"mnist\")
    batch     = 4
    epochs    = 1
    optimizer = sgd(lr = 0.1)
    schedule  = constant
}
";

/// A folder with the small spec, its data, and a cache of its own.
fn small() -> Place {
    let place = Place::new();
    fs::write(place.path("small.ddnn"), SMALL).expect("a writable folder");
    tiny_mnist(&place.path("mnist"));
    place
}

/// Runs with variables set; compiled kernels are kept in the test's own folder.
fn run(place: &Place, variables: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = place.command(args);
    command.env("DDNNC_CACHE", place.path("kernels")).envs(variables.iter().copied());
    Ran::new(command.stdin(Stdio::null()).output().expect("the binary runs"))
}

/// A folder of files that the loader takes for a library and cannot load: what is in it is missing, whatever the
/// machine has.
fn without(place: &Place, library: &str) -> String {
    let folder = place.path("not-there");
    fs::create_dir_all(&folder).expect("a writable folder");
    let versions = ["", ".1", ".9", ".10", ".11", ".12", ".13"];
    for version in versions {
        fs::write(folder.join(format!("lib{library}.so{version}")), "no library").expect("a writable folder");
    }
    folder.to_str().expect("UTF-8").to_owned()
}

#[test]
fn without_a_driver_cuda_fails_and_auto_is_the_cpu() {
    let place = small();
    let library_path = without(&place, "cuda");
    let variables = [("LD_LIBRARY_PATH", library_path.as_str())];
    for command in ["bench", "train"] {
        let ran = run(&place, &variables, &[command, "small.ddnn", "--device", "cuda"]);
        ran.fails(3, &["no CUDA driver was found", "libcuda.so.1", "--device cpu", "--emulate"]);
    }
    assert!(!place.path("runs").exists(), "a run that cannot begin leaves no folder");
    let ran = run(&place, &variables, &["bench", "small.ddnn", "--steps", "1", "--json"]);
    assert_eq!(ran.stderr, "", "who asks for no device is not told of one");
    assert_eq!(ran.json()["device"], "cpu");
    let ran = run(&place, &variables, &["bench", "small.ddnn", "--steps", "1", "--json", "--tf32"]);
    assert!(ran.stderr.contains("running on the cpu, without --tf32"), "{}", ran.stderr);
    assert_eq!(ran.json()["device"], "cpu");
    let bench = ["bench", "small.ddnn", "--steps", "1", "--json", "--device", "auto"];
    let ran = run(&place, &variables, &bench);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("running on the cpu") && ran.stderr.contains("no CUDA driver"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.json()["device"], "cpu");
}

#[test]
fn options_of_kernels_need_the_cuda_device() {
    let place = small();
    for (options, words) in [
        (&["--device", "cpu", "--tf32"][..], &["--tf32", "cpu"][..]),
        (&["--device", "reference", "--emulate"], &["--emulate", "reference"]),
        (&["--device", "cpu", "--cuda-tile", "64x64x32"], &["--cuda-tile"]),
        (&["--device", "cpu", "--no-wgmma"], &["--no-wgmma"]),
        (&["--device", "cuda", "--cuda-tile", "64x64"], &["128x64x32"]),
    ] {
        run(&place, &[], &[&["bench", "small.ddnn"], options].concat()).fails(2, words);
    }
    for options in [&["--tf32"][..], &["--tf32", "--emit", "ir"], &["--arch", "sm_90", "--emit", "ir"]] {
        let ran = run(&place, &[], &[&["compile", "small.ddnn"], options].concat());
        ran.fails(2, &[options[0], "--emit cuda"]);
    }
}

#[test]
fn threads_of_another_device_than_the_cpu_are_said_to_have_no_effect() {
    let place = small();
    let bench = |options: &[&str]| {
        run(
            &place,
            &[],
            &[&["bench", "small.ddnn", "--steps", "1", "--json", "--threads", "1"], options].concat(),
        )
    };
    let ran = bench(&["--device", "reference"]);
    assert_eq!(ran.stderr.trim_end(), "running on reference, where --threads has no effect");
    assert_eq!(ran.json()["device"], "reference");
    for quiet in [&["--device", "reference", "-q"][..], &["--device", "cpu"]] {
        assert_eq!(bench(quiet).stderr, "", "{quiet:?}");
    }
}

#[test]
fn kernels_as_text() {
    let place = small();
    let emit = |options: &[&str]| run(&place, &[], &[&["compile", "small.ddnn", "--emit"], options].concat());
    let cuda = emit(&["cuda"]).ok();
    assert_eq!(
        cuda,
        emit(&["cuda", "--arch", "sm_90"]).ok(),
        "sm_90 is the default, and the text is the same"
    );
    assert_eq!(cuda.matches("// ---- every kernel begins with").count(), 1);
    let kernels = cuda.matches("\n// ---- kernel ").count();
    assert!(kernels > 2 && cuda.contains(&format!("of {kernels} kernels, for sm_90")), "{kernels}");
    assert_eq!(cuda.matches("extern \"C\" __global__").count(), kernels);
    // Every launch is there, and in order where it first stands.
    let launches = run(&place, &[], &["compile", "small.ddnn", "--json"]).json()["launches"].as_u64();
    for i in 0..launches.expect("a number") {
        assert!(cuda.contains(&format!("\n// launch {i}, ")), "launch {i}");
    }
    let ptx = emit(&["ptx", "--arch", "sm_80"]).ok();
    assert!(ptx.contains(".target sm_80") && !ptx.contains('\0'));
    assert_eq!(ptx.matches(".visible .entry ").count(), ptx.matches("\n// ---- kernel ").count());
    let file = place.path("kernels.sass");
    emit(&["sass", "-o", file.to_str().expect("UTF-8")]).ok();
    let sass = fs::read_to_string(file).expect("it was written");
    assert!(sass.contains("EXIT") && sass.contains(".text."), "{}", &sass[..500]);
    // A spec of f32 has matrix instructions with --tf32 only.
    assert!(!sass.contains("HMMA"));
    assert!(emit(&["sass", "--tf32"]).ok().contains("HMMA"));
}

#[test]
fn what_is_known_of_kernels_and_a_tile_of_ones_own() {
    let place = small();
    let facts = |options: &[&str]| {
        let args = [&["compile", "small.ddnn", "--arch", "sm_90", "--json"], options].concat();
        let ran = run(&place, &[], &args);
        assert_eq!(ran.stderr, "");
        ran.json()["kernels"].clone()
    };
    let kernels = facts(&[]);
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or_else(|| panic!("{value} is no number"));
    let sum = &kernels["sum"];
    let launches = kernels["launches"].as_array().expect("a list");
    assert_eq!(kernels["measured"], false);
    assert_eq!(number(&sum["launches"]), launches.len() as u64);
    assert_eq!(number(&sum["spill_bytes"]), 0);
    for figure in ["bytes_read", "bytes_written", "matrix_flops", "vector_flops"] {
        let all: u64 = launches.iter().map(|l| number(&l[figure])).sum();
        assert_eq!(number(&sum[figure]), all, "{figure}");
    }
    for kernel in launches.iter().flat_map(|l| l["kernels"].as_array().expect("a list")) {
        for figure in ["registers", "blocks_per_multiprocessor", "instructions"] {
            assert!(number(&kernel[figure]) > 0, "{figure} of {kernel}");
        }
        assert_eq!((number(&kernel["spill_bytes"]), number(&kernel["local_accesses"])), (0, 0), "{kernel}");
    }
    // Where the bytes go, and the measure of them.
    let moved = number(&sum["bytes_read"]) + number(&sum["bytes_written"]);
    let kinds = kernels["kinds"].as_array().expect("a list");
    assert_eq!(kinds.iter().map(|k| number(&k["bytes"])).sum::<u64>(), moved);
    assert_eq!(kinds.iter().map(|k| number(&k["launches"])).sum::<u64>(), number(&sum["launches"]));
    assert!(kinds.iter().any(|k| k["pass"] == "backward" && k["kind"] == "weight grad"), "{kinds:?}");
    assert!(!kinds.iter().any(|k| k["pass"] == "forward" && k["kind"] == "weight grad"), "{kinds:?}");
    // The batch (4 of 28 x 28), the stem's convolution and what follows it (8 of 7 x 7 each), and a few numbers a channel.
    let (kept, maps) = (number(&sum["kept_bytes"]), 4 * 4 * (28 * 28 + 8 * 7 * 7));
    assert!((maps..maps + 4 * 4 * 8 * 7 * 7 + 2048).contains(&kept), "{kept} for maps of {maps}");
    assert_eq!(number(&sum["minimum_bytes"]), 4 * kept);
    let over = sum["over_minimum"].as_f64().expect("a number");
    assert!((over - moved as f64 / (4 * kept) as f64).abs() < 1e-9, "{over}");
    // An evaluation keeps nothing.
    let sum = facts(&["--mode", "eval"])["sum"].clone();
    assert_eq!((number(&sum["kept_bytes"]), sum["over_minimum"].is_null()), (0, true));
    // Every product has the tile that is asked for.
    let tiles = |kernels: &serde_json::Value| -> Vec<String> {
        let launches = kernels["launches"].as_array().expect("a list").iter();
        let kernels = launches.flat_map(|l| l["kernels"].as_array().expect("a list"));
        let choices = kernels.filter_map(|k| k["choice"].as_str()?.strip_prefix("tile ").map(str::to_owned));
        choices.map(|c| c.split(',').next().unwrap_or_default().to_owned()).collect()
    };
    let forced = facts(&["--cuda-tile", "128x64x16"]);
    assert!(
        tiles(&forced).len() > 2 && tiles(&forced).iter().all(|t| t == "128x64x16"),
        "{:?}",
        tiles(&forced)
    );
    assert!(tiles(&kernels).iter().any(|t| t != "128x64x16"), "{:?}", tiles(&kernels));
    let args = ["compile", "small.ddnn", "--arch", "sm_90", "--json", "--cuda-tile", "100x1x1"];
    run(&place, &[], &args).fails(2, &["100x1x1", "legal are 128x128x16"]);
}

#[test]
fn an_architecture_that_is_none_is_the_command_lines_fault() {
    let place = small();
    let emit = |arch: &str| run(&place, &[], &["compile", "small.ddnn", "--emit", "ptx", "--arch", arch]);
    emit("sm_75").fails(2, &["too old", "sm_80"]);
    emit("hopper").fails(2, &["no architecture", "sm_80", "sm_90", "sm_100", "sm_120"]);
    emit("sm_85").fails(2, &["--arch", "sm_85", "sm_86", "sm_120"]);
}

#[test]
fn without_nvrtc_kernels_are_text_only() {
    let place = small();
    let library_path = without(&place, "nvrtc");
    let nowhere = place.path("empty");
    fs::create_dir(&nowhere).expect("a writable folder");
    let variables =
        [("LD_LIBRARY_PATH", library_path.as_str()), ("DDNNC_NVRTC", nowhere.to_str().expect("UTF-8"))];
    let words = ["NVRTC was not found", "libnvrtc.so.13", "DDNNC_NVRTC", "pip install nvidia-cuda-nvrtc"];
    for emit in ["ptx", "sass"] {
        run(&place, &variables, &["compile", "small.ddnn", "--emit", emit]).fails(3, &words);
    }
    run(&place, &variables, &["compile", "small.ddnn", "--emit", "cuda"]).ok();
    run(&place, &variables, &["bench", "small.ddnn", "--emulate"]).fails(3, &words);
}

#[test]
fn without_nvdisasm_there_is_no_machine_code_to_read() {
    let place = small();
    let variables = [("PATH", ""), ("DDNNC_NVRTC", &nvrtc_alone(&place))];
    let sass = run(&place, &variables, &["compile", "small.ddnn", "--emit", "sass"]);
    sass.fails(3, &["nvdisasm was not found", "$PATH", "pip install nvidia-cuda-nvdisasm"]);
}

/// A folder with NVRTC and no `bin` beside it.
fn nvrtc_alone(place: &Place) -> String {
    let from = std::env::var_os("DDNNC_NVRTC").map(PathBuf::from).expect("`.ci/nvrtc` installs NVRTC");
    let from = from.canonicalize().expect("`.ci/nvrtc` installs NVRTC");
    let folder = place.path("alone").join("lib");
    fs::create_dir_all(&folder).expect("a writable folder");
    for entry in fs::read_dir(from).expect("NVRTC's folder").flatten() {
        std::os::unix::fs::symlink(entry.path(), folder.join(entry.file_name())).expect("a writable folder");
    }
    folder.to_str().expect("UTF-8").to_owned()
}

#[test]
fn what_the_emulated_card_lacks_is_said() {
    let place = small();
    let none = [("DDNNC_EMU_DEVICES", "0")];
    let ran = run(&place, &none, &["bench", "small.ddnn", "--emulate"]);
    ran.fails(3, &["no device", "--device cpu"]);
    for command in ["bench", "train"] {
        let ran = run(
            &place,
            &[("DDNNC_EMU_MEMORY", "512K")],
            &[command, "small.ddnn", "--emulate", "--batch", "100"],
        );
        ran.fails(3, &["the program needs", "KiB free", "a smaller batch needs less", "--batch"]);
    }
}

#[test]
fn auto_says_once_why_a_driver_is_not_used() {
    let place = small();
    let driver = place.path("driver");
    fs::create_dir(&driver).expect("a writable folder");
    let library = PathBuf::from(env!("CARGO_BIN_EXE_ddnnc")).with_file_name("deps").join("libddnnc_emu.so");
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(&library, driver.join(name)).expect("a writable folder");
    }
    let driver = driver.to_str().expect("UTF-8").to_owned();
    let bench = ["bench", "small.ddnn", "--steps", "1", "--json"];
    let ran = run(&place, &[("LD_LIBRARY_PATH", driver.as_str()), ("DDNNC_EMU_DEVICES", "0")], &bench);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("running on the cpu") && ran.stderr.contains("no device"), "{}", ran.stderr);
    assert_eq!(ran.json()["device"], "cpu");
    let ran = run(&place, &[("LD_LIBRARY_PATH", driver.as_str())], &bench);
    assert_eq!(ran.json()["device"], "cuda");
    assert_eq!(with_source(&place), 0, "what any driver gets has no lines in it");
}

/// The cache's entries with the time when each was written.
fn entries(place: &Place) -> Vec<(PathBuf, SystemTime)> {
    let files = fs::read_dir(place.path("kernels")).expect("the cache was made").flatten();
    let time = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).expect("a file");
    let mut entries: Vec<_> = files.map(|e| e.path()).map(|path| (path.clone(), time(&path))).collect();
    entries.sort();
    entries
}

/// How many of the cache's entries say what lines their instructions come from, and have these lines.
fn with_source(place: &Place) -> usize {
    let has = |content: &[u8], what: &str| content.windows(what.len()).any(|part| part == what.as_bytes());
    let content = |path: &PathBuf| fs::read(path).expect("an entry");
    let all: Vec<Vec<u8>> = entries(place).iter().map(|(path, _)| content(path)).collect();
    all.iter().filter(|c| has(c, "\t.loc\t") && has(c, "\n// source 1 ") && has(c, "\n//|")).count()
}

#[test]
fn kernels_are_compiled_once_and_again_where_they_are_damaged() {
    let place = small();
    let bench = || {
        let ran = run(&place, &[], &["bench", "small.ddnn", "--emulate", "--steps", "1"]);
        let said = ran.stderr.clone();
        ran.ok();
        said
    };
    let first = bench();
    assert!(first.contains("compiled ") && first.contains(" kernels in "), "{first}");
    let kept = entries(&place);
    assert!(kept.len() > 2, "{kept:?}");
    assert_eq!(with_source(&place), kept.len() - 1, "all but the one that shows that the driver wants PTX");
    assert_eq!(bench(), "", "nothing is compiled twice");
    assert_eq!(entries(&place), kept, "nothing is written twice");
    for (path, damage) in kept.iter().map(|(path, _)| path).zip([true, false].into_iter().cycle()) {
        let mut content = fs::read(path).expect("an entry");
        if damage {
            *content.last_mut().expect("not empty") ^= 1;
        } else {
            content.truncate(content.len() / 2);
        }
        fs::write(path, content).expect("a writable folder");
    }
    let again = bench();
    assert!(again.contains("compiled "), "{again}");
    assert_eq!(bench(), "", "they are whole again");
    // Two at once in an empty cache: both end well, and what they leave is whole.
    fs::remove_dir_all(place.path("kernels")).expect("our own folder");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| run(&place, &[], &["bench", "small.ddnn", "--emulate", "--steps", "1"]).ok());
        }
    });
    assert_eq!(bench(), "");
    assert_eq!(entries(&place).len(), kept.len());
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    let place = small();
    fs::write(place.path("kernels"), "a file, no folder").expect("a writable folder");
    let ran = run(&place, &[], &["bench", "small.ddnn", "--emulate", "--steps", "1"]);
    assert_eq!(ran.stderr.matches("warning: compiled kernels cannot be kept").count(), 1, "{}", ran.stderr);
    ran.ok();
}

#[test]
fn every_command_that_runs_programs_runs_them_on_cuda() {
    let place = small();
    let quiet = |args: &[&str]| run(&place, &[], &[args, &["--emulate"]].concat()).ok();
    quiet(&["train", "small.ddnn", "--out", "run", "--steps", "3"]);
    let eval = |device: &[&str]| {
        let json = run(&place, &[], &[&["eval", "run", "--json"], device].concat()).json();
        json["subnets"][0]["loss"].as_f64().expect("a number")
    };
    let (cuda, cpu) = (eval(&["--emulate"]), eval(&["--device", "cpu"]));
    assert!((cuda - cpu).abs() <= 1e-5 * cpu.abs(), "{cuda} {cpu}");
    quiet(&["bench", "small.ddnn", "--steps", "1", "--tf32"]);
}
