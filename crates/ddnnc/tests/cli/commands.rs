//! Every command on the quickstart spec, as a user runs it.

use crate::common::{Place, Ran, spec, specs, tiny_mnist, wait_for};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Asserts that every key of a JSON value stands in `docs/cli.md`. What is under the keys of `by_name` has names of
/// terms or nets for keys.
fn documented(docs: &str, value: &Value, by_name: &[&str]) {
    for item in value.as_array().into_iter().flatten() {
        documented(docs, item, by_name);
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        assert!(docs.contains(&format!("`{key}`")), "`{key}` is documented");
        match value.as_object().filter(|_| by_name.contains(&key.as_str())) {
            Some(named) => named.values().for_each(|v| documented(docs, v, by_name)),
            None => documented(docs, value, by_name),
        }
    }
}

#[test]
fn every_key_of_json_is_documented() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
    let docs = fs::read_to_string(docs).expect("the docs");
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    let quick = spec("quickstart");
    let args = ["train", &quick, "--data", "mnist", "--out", "run", "--steps", "14"];
    place.run(&[&args[..], &SMALL].concat()).ok();
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).expect("metrics");
    let mut kinds = BTreeSet::new();
    for line in metrics.lines() {
        let record: Value = serde_json::from_str(line).expect("an object a line");
        kinds.insert(record["kind"].as_str().expect("a kind").to_string());
        documented(&docs, &record, &["loss", "train", "validation", "test"]);
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["epoch", "step", "test"]);
    image::GrayImage::new(28, 28).save(place.path("1.png")).expect("a writable folder");
    for args in [
        &["compile", "run/spec.ddnn", "--json"][..],
        &["eval", "run", "--data", "mnist", "--json"],
        &["predict", "run", "1.png", "--json"],
        &["inspect", &spec("kd_two_networks"), "--json"],
        &["data", "mnist", "--dataset", "mnist", "--json"],
    ] {
        documented(&docs, &place.run(args).json(), &[]);
    }
}

/// Arguments that make the quickstart spec quick.
const SMALL: [&str; 2] = ["--set", "train.batch=8"];

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn has(value: &Value, wanted: &[&str]) {
    for key in wanted {
        assert!(value.get(key).is_some_and(|v| !v.is_null()), "`{key}` in {value}");
    }
}

/// Name to (dtype, shape, bytes).
fn tensors(path: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).expect("the file is there");
    let file = SafeTensors::deserialize(&bytes).expect("a whole file");
    let entry =
        |(name, v): (String, TensorView<'_>)| (name, (v.dtype(), v.shape().to_vec(), v.data().to_vec()));
    file.tensors().into_iter().map(entry).collect()
}

fn save(path: &Path, entries: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = entries.iter().map(|(name, dtype, shape, data)| {
        (name.to_string(), TensorView::new(*dtype, shape.clone(), data).expect("as many bytes as elements"))
    });
    let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).expect("views serialize");
    fs::write(path, bytes).expect("a writable folder");
}

pub fn batch(path: &Path, images: usize, label: i64) {
    let pixels: Vec<u8> =
        (0..images * 784).flat_map(|i| (((i * 37) % 101) as f32 / 50.0 - 1.0).to_le_bytes()).collect();
    let labels: Vec<u8> =
        (0..images as i64).flat_map(|i| (if i == 0 { label } else { i % 10 }).to_le_bytes()).collect();
    save(
        path,
        &[
            ("image", Dtype::F32, vec![images, 1, 28, 28], pixels),
            ("label", Dtype::I64, vec![images], labels),
        ],
    );
}

#[test]
fn compile_shows_and_emits() {
    let place = Place::new();
    let quick = spec("quickstart");
    let text = place.run(&["compile", &quick]).ok();
    for word in
        ["full", "medium", "small", "parameters", "MACs", "depth", "operators", "launches", "peak memory"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    let json = place.run(&["compile", &quick, "--json", "--batch", "4"]).json();
    has(&json, &["model", "subnets", "operators_before_fusion", "launches", "peak_bytes", "compile_ms"]);
    assert_eq!(json["batch"], 4);
    for net in json["subnets"].as_array().expect("a list") {
        assert_eq!(keys(net).len(), 4);
        has(net, &["name", "parameters", "macs", "depth"]);
    }
    for emit in ["ast", "ir", "grad", "fused", "schedule"] {
        for mode in ["train", "eval"] {
            let args = ["compile", &quick, "--emit", emit, "--mode", mode, "--batch", "2"];
            if (emit, mode) == ("grad", "eval") {
                place.run(&args).fails(2, &["`--mode eval` has no backward pass to print", "--emit ir"]);
                continue;
            }
            let once = place.run(&args).ok();
            assert!(once.len() > 500, "{emit}");
            assert_eq!(once, place.run(&args).ok(), "{emit} twice");
        }
    }
    place.run(&["compile", &quick, "-o", "a.program"]).ok();
    place.run(&["compile", &quick, "-o", "b.program", "--dump-phases", "phases"]).ok();
    assert_eq!(fs::read(place.path("a.program")).ok(), fs::read(place.path("b.program")).ok());
    assert!(place.names("phases").len() >= 5, "{:?}", place.names("phases"));
    let left = place.names(".");
    assert_eq!(left, ["a.program", "b.program", "phases"], "nothing half-written");
    // A phase is printed beside what is written, not in its place.
    for emit in ["ast", "ir", "schedule"] {
        let (program, folder) = (format!("{emit}.program"), format!("{emit}.phases"));
        let alone = place.run(&["compile", &quick, "--emit", emit]).ok();
        let args = ["compile", &quick, "--emit", emit, "-o", &program, "--dump-phases", &folder];
        assert_eq!(place.run(&args).ok(), alone, "{emit}");
        assert!(fs::read(place.path(&program)).ok() == fs::read(place.path("a.program")).ok(), "{emit}");
        assert_eq!(place.names(&folder), place.names("phases"));
    }
}

#[test]
fn the_ir_of_every_spec_reads_back() {
    let place = Place::new();
    for path in specs() {
        let text = place.run(&["compile", &path, "--emit", "ir", "--batch", "2"]).ok();
        let again = place.pipe(&["opt", "-"], &text).ok();
        assert!(text == again, "{path}");
    }
    let text = place.run(&["compile", &spec("quickstart"), "--emit", "ir"]).ok();
    let shared = place.pipe(&["opt", "-", "--pass", "share_prefixes", "--pass", "dead_code"], &text).ok();
    assert!(shared.lines().count() < text.lines().count(), "prefixes are shared");
    place.pipe(&["opt", "-"], "graph {").fails(1, &["line 1"]);
    let stored = "graph \"g\" {\n  v0 = input name=\"x\" : f32[2]\n  n1 = store(v0) name=\"s\"\n}\n";
    let wanted = ["standard input: line 3, column 8", "there is no parameter or state `s`"];
    place.pipe(&["opt", "-"], stored).fails(1, &wanted);
}

#[test]
fn specs_are_canonical() {
    let paths = specs();
    let mut args = vec!["fmt", "--check"];
    args.extend(paths.iter().map(String::as_str));
    Place::new().run(&args).ok();
}

#[test]
fn specs_are_right() {
    let paths = specs();
    let mut args = vec!["check"];
    args.extend(paths.iter().map(String::as_str));
    let text = Place::new().run(&args).ok();
    assert_eq!(text.lines().filter(|l| l.ends_with(": ok")).count(), paths.len());
}

#[test]
fn fmt_rewrites_in_place() {
    let place = Place::new();
    let canonical = fs::read_to_string(spec("quickstart")).expect("the spec");
    let untidy = canonical.replace("    batch      = 64", "  batch=64");
    assert_ne!(canonical, untidy);
    fs::write(place.path("q.ddnn"), &untidy).expect("a writable folder");
    place.run(&["fmt", "--check", "q.ddnn"]).fails(1, &["q.ddnn", "ddnnc fmt"]);
    assert_eq!(fs::read_to_string(place.path("q.ddnn")).expect("the spec"), untidy);
    place.run(&["fmt", "q.ddnn"]).ok();
    assert_eq!(fs::read_to_string(place.path("q.ddnn")).expect("the spec"), canonical);
    assert_eq!(place.names("."), ["q.ddnn"]);
    assert_eq!(place.pipe(&["fmt", "-"], &untidy).ok(), canonical);
}

#[test]
fn inspect_lists_what_weights_hold() {
    let place = Place::new();
    let quick = spec("quickstart");
    let text = place.run(&["inspect", &quick]).ok();
    for word in ["kl.full.small", "attention.full.medium.s2", "s1:3", "teacher"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let listed = place.run(&["inspect", &quick, "--parameters"]).ok();
    place.run(&["step", &quick, "--init", "w.safetensors"]).ok();
    let weights = tensors(&place.path("w.safetensors"));
    assert_eq!(listed.lines().count(), weights.len());
    for line in listed.lines() {
        let cells: Vec<&str> = line.split('\t').collect();
        let (dtype, shape, _) = &weights[cells[0]];
        assert_eq!((*dtype, cells[1]), (Dtype::F32, "f32"));
        let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
        assert_eq!(cells[2], format!("[{}]", dims.join(",")));
        assert_eq!(cells[3] == "running statistic", cells[0].contains(".running_"), "{line}");
    }
    let json = place.run(&["inspect", &quick, "--json"]).json();
    assert_eq!(json["parameters"].as_array().map(Vec::len), Some(weights.len()));
}

/// What shapes a loss term stands beside its weight, line by line.
#[test]
fn inspect_shows_the_settings_of_losses() {
    let place = Place::new();
    let text = fs::read_to_string(spec("kd_two_networks")).expect("a spec")
        + "\nsupervise [student] { cross_entropy(weight = 0.5, label_smoothing = 0.1) }\n";
    fs::write(place.path("smooth.ddnn"), text).expect("a writable folder");
    let table = |spec: &str| {
        let text = place.run(&["inspect", spec]).ok();
        let lines = text.lines().skip_while(|line| !line.starts_with("  loss term")).map(str::to_string);
        lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(
        table("smooth.ddnn"),
        [
            "  loss term                     weight                     setting",
            "  ce.student                    0.5                        label_smoothing = 0.1",
            "  kl.teacher.student            0.1 to 0.9 over 10 epochs  temperature = 4",
            "  attention.teacher.student.s3  1000",
            "  hint.teacher.student.s2       0.1",
        ]
    );
    let plain = table(&spec("quickstart"));
    assert_eq!(plain[1], "  ce.full                   1");
    assert_eq!(plain[4], "  kl.full.medium            1       temperature = 3");
    let terms = place.run(&["inspect", "smooth.ddnn", "--json"]).json()["terms"].clone();
    let ramp = serde_json::json!({"from": 0.1, "to": 0.9, "epochs": 10.0});
    let wanted = serde_json::json!([
        {"name": "ce.student", "weight": 0.5, "label_smoothing": 0.1},
        {"name": "kl.teacher.student", "weight": ramp, "temperature": 4.0},
        {"name": "attention.teacher.student.s3", "weight": 1000.0},
        {"name": "hint.teacher.student.s2", "weight": 0.1},
    ]);
    assert_eq!(terms, wanted);
    let plain = place.run(&["inspect", &spec("quickstart"), "--json"]).json();
    assert_eq!(
        plain["terms"][0],
        serde_json::json!({"name": "ce.full", "weight": 1.0, "label_smoothing": 0.0})
    );
}

#[test]
fn a_step_obeys_its_contract() {
    let place = Place::new();
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w.safetensors", "--seed", "3"]).ok();
    place.run(&["step", &quick, "--init", "same.safetensors", "--seed", "3"]).ok();
    place.run(&["step", &quick, "--init", "other.safetensors", "--seed", "4"]).ok();
    let read = |name: &str| fs::read(place.path(name)).expect("written");
    assert_eq!(read("w.safetensors"), read("same.safetensors"));
    assert_ne!(read("w.safetensors"), read("other.safetensors"));
    batch(&place.path("b.safetensors"), 6, 0);
    let args = ["step", &quick, "--weights", "w.safetensors", "--batch", "b.safetensors", "--out"];
    let step = |out: &str, more: &[&str]| {
        place.run(&[&args[..], &[out], more].concat()).ok();
        tensors(&place.path(out))
    };
    let train = step("train.safetensors", &[]);
    let weights = tensors(&place.path("w.safetensors"));
    for (name, (_, shape, data)) in &weights {
        let running = name.contains(".running_");
        let key = format!("{}.{name}", if running { "state" } else { "grad" });
        assert_eq!(train[&key].1, *shape, "{key}");
        assert!(!running || train[&key].2 != *data, "{key} moves in training");
    }
    for net in ["full", "medium", "small"] {
        assert_eq!(train[&format!("logits.{net}")].1, [6, 10]);
        assert!(train[&format!("loss.ce.{net}")].1.is_empty(), "a loss is a scalar");
    }
    let total = f32::from_le_bytes(train["loss.total"].2[..4].try_into().expect("four bytes"));
    assert!(total.is_finite() && total > 0.0, "{total}");
    let known = ["logits.", "loss.", "grad.", "state."];
    assert!(train.keys().all(|name| known.iter().any(|k| name.starts_with(k))));
    let eval = step("eval.safetensors", &["--eval"]);
    assert_eq!(eval.keys().collect::<Vec<_>>(), train.keys().collect::<Vec<_>>());
    for (name, (_, _, data)) in weights.iter().filter(|(name, _)| name.contains(".running_")) {
        assert_eq!(eval[&format!("state.{name}")].2, *data, "{name} stays in inference");
    }
    // The slow device gives the same numbers, and the number of threads none other.
    let reference = step("reference.safetensors", &["--device", "reference"]);
    let floats = |data: &[u8]| -> Vec<f32> {
        data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    for (name, (_, _, data)) in &train {
        let (ours, theirs) = (floats(data), floats(&reference[name].2));
        let scale = theirs.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
        let within = |(a, b): &(&f32, &f32)| (*a - *b).abs() <= 1e-4 * scale;
        let bad = ours.iter().zip(&theirs).filter(|pair| !within(pair)).count();
        assert_eq!(bad, 0, "{name}");
    }
    assert_eq!(step("one.safetensors", &["--threads", "1"]), train);
}

#[test]
fn train_then_everything_after_it() {
    let place = Place::new();
    tiny_mnist(&place.path("data/mnist"));
    let quick = spec("quickstart");
    fs::create_dir_all(place.path("specs")).expect("a writable folder");
    fs::copy(&quick, place.path("specs/quickstart.ddnn")).expect("a writable folder");
    let train = |more: &[&str]| {
        place.run(&[&["train", "specs/quickstart.ddnn", "--data", "data/mnist"], &SMALL[..], more].concat())
    };
    // Six steps at once, and three and three: the same weights.
    let text = train(&["--out", "whole", "--steps", "6"]).ok();
    for word in ["full", "medium", "small", "test", "ddnnc eval whole"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    train(&["--out", "parts", "--steps", "3"]).ok();
    train(&["--out", "parts", "--steps", "6", "--resume"]).ok();
    let newest = |run: &str| {
        let checkpoints = format!("{run}/checkpoints");
        let name = place.names(&checkpoints).pop().expect("a checkpoint");
        place.path(&format!("{checkpoints}/{name}"))
    };
    assert!(
        tensors(&newest("whole")) == tensors(&newest("parts")),
        "a resumed run equals an uninterrupted one"
    );
    assert_eq!(place.names("whole"), ["checkpoints", "metrics.jsonl", "report.html", "spec.ddnn"]);
    // Two steps into the second epoch, the held-out images were seen by the weights of the first.
    let text = train(&["--out", "further", "--steps", "15"]).ok();
    let page = fs::read_to_string(place.path("further/report.html")).expect("a report");
    for text in [text, page] {
        assert!(text.contains("validation, epoch 1"), "{text}");
    }
    let metrics = fs::read_to_string(place.path("whole/metrics.jsonl")).expect("metrics");
    for line in metrics.lines() {
        has(&serde_json::from_str(line).expect("an object a line"), &["kind", "step"]);
    }
    let kept = fs::read_to_string(place.path("whole/spec.ddnn")).expect("the spec");
    assert!(kept.contains("batch      = 8\n"), "the run's spec has what was set: {kept}");
    // An existing run is refused, and stays as it is.
    train(&["--out", "whole"]).fails(1, &["whole", "--resume", "--out"]);
    assert_eq!(fs::read_to_string(place.path("whole/metrics.jsonl")).ok(), Some(metrics));
    train(&["--out", "nothing", "--resume"]).fails(1, &["nothing"]);
    assert!(!place.path("nothing").exists());

    let by_run = place.run(&["eval", "whole", "--json"]).json();
    let weights = newest("whole").to_string_lossy().into_owned();
    let by_file = place
        .run(&["eval", "specs/quickstart.ddnn", "--weights", &weights, "--data", "data/mnist", "--json"])
        .json();
    assert_eq!(by_run["subnets"], by_file["subnets"]);
    for net in by_run["subnets"].as_array().expect("a list") {
        has(net, &["name", "accuracy", "top5", "loss", "images"]);
        assert_eq!(net["images"], 30);
        let accuracy = net["accuracy"].as_f64().expect("a number");
        assert!((0.0..=1.0).contains(&accuracy), "a fraction: {net}");
    }
    let held = place.run(&["eval", "whole", "--split", "validation"]).ok();
    assert!(held.contains("validation images"), "{held}");

    place.run(&["export", "whole", "--subnet", "small", "-o", "small.safetensors"]).ok();
    let (small, all) = (tensors(&place.path("small.safetensors")), tensors(&newest("whole")));
    assert!(small.len() < all.len() && small.iter().all(|(name, t)| all.get(name) == Some(t)));
    place
        .run(&["export", "whole", "--subnet", "smal", "-o", "x.safetensors"])
        .fails(1, &["did you mean `small`"]);
    assert!(!place.path("x.safetensors").exists());

    fs::remove_file(place.path("whole/report.html")).expect("it was there");
    place.run(&["report", "whole"]).ok();
    assert!(fs::read_to_string(place.path("whole/report.html")).expect("written anew").contains("<svg"));
    let data = place.run(&["data", "data/mnist", "--dataset", "mnist", "--json"]).json();
    assert_eq!((&data["train"], &data["test"]), (&120.into(), &30.into()));

    // A picture of a test image gets the probabilities that its logits give.
    let images = fs::read(place.path("data/mnist/t10k-images-idx3-ubyte")).expect("the images");
    let pixels = images[16..16 + 784].to_vec();
    let picture = image::GrayImage::from_raw(28, 28, pixels.clone()).expect("28 by 28");
    picture.save(place.path("digit.png")).expect("a writable folder");
    let json =
        place.run(&["predict", "whole", "digit.png", "--subnet", "small", "--top", "3", "--json"]).json();
    let classes = json["images"][0]["classes"].as_array().expect("a list").clone();
    assert_eq!(classes.len(), 3);
    let input: Vec<u8> =
        pixels.iter().flat_map(|&p| ((f64::from(p) / 255.0 - 0.1307) / 0.3081).to_le_f32()).collect();
    save(
        &place.path("one.safetensors"),
        &[
            ("image", Dtype::F32, vec![1, 1, 28, 28], input),
            ("label", Dtype::I64, vec![1], 0i64.to_le_bytes().to_vec()),
        ],
    );
    let step =
        ["step", "specs/quickstart.ddnn", "--weights", &weights, "--batch", "one.safetensors", "--eval"];
    place.run(&[&step[..], &["--out", "one.out"]].concat()).ok();
    let logits = tensors(&place.path("one.out"))["logits.small"].2.clone();
    let logits: Vec<f64> =
        logits.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect();
    let sum: f64 = logits.iter().map(|x| x.exp()).sum();
    for class in classes {
        let index = class["class"].as_u64().expect("a number") as usize;
        let expected = logits[index].exp() / sum;
        let got = class["probability"].as_f64().expect("a number");
        assert!((got - expected).abs() <= 1e-5, "{class}: {expected}");
    }
    let text = place.run(&["predict", "whole", "digit.png"]).ok();
    assert_eq!(text.lines().count(), 6, "{text}");
}

trait ToLeF32 {
    fn to_le_f32(self) -> [u8; 4];
}

impl ToLeF32 for f64 {
    fn to_le_f32(self) -> [u8; 4] {
        (self as f32).to_le_bytes()
    }
}

#[test]
fn a_signal_leaves_a_readable_checkpoint() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    let quick = spec("quickstart");
    let train = |run: &str| {
        let args = [
            "train",
            &quick,
            "--data",
            "mnist",
            "--out",
            run,
            "--threads",
            "1",
            "--set",
            "train.epochs=100000",
        ];
        let child = place.start(&[&args[..], &SMALL[..]].concat());
        let checkpoints = format!("{run}/checkpoints");
        wait_for("a checkpoint", || place.names(&checkpoints).iter().any(|n| n.ends_with(".safetensors")));
        child
    };
    let mut interrupted = train("interrupted");
    let id = interrupted.id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &id]).status().expect("there is `kill`");
    assert!(sent.success());
    let status = interrupted.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "Ctrl-C ends a run well");
    let mut killed = train("killed");
    killed.kill().expect("it runs");
    killed.wait().expect("it ends");
    for run in ["interrupted", "killed"] {
        let json = place.run(&["eval", run, "--data", "mnist", "--json"]).json();
        assert_eq!(json["subnets"].as_array().map(Vec::len), Some(3), "{run}");
    }
}

#[test]
fn a_run_folder_has_one_trainer() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    let quick = spec("quickstart");
    let args = ["train", &quick, "--data", "mnist", "--out", "run", "--threads", "1"];
    let args = [&args[..], &SMALL[..], &["--set", "train.epochs=100000"]].concat();
    let resume = [&args[..], &["--resume", "--steps", "1"]].concat();
    let mut first = place.start(&args);
    wait_for("a checkpoint", || place.names("run/checkpoints").iter().any(|n| n.ends_with(".safetensors")));
    let second = place.run(&resume);
    let goes_on = first.try_wait().expect("our own process").is_none();
    first.kill().expect("it runs");
    first.wait().expect("it ends");
    second.fails(1, &["another process is training in run", "--out"]);
    assert!(goes_on, "the first is not disturbed");
    // The lock ended with the process, and no file of it stays.
    place.run(&resume).ok();
    assert_eq!(place.names("run"), ["checkpoints", "metrics.jsonl", "report.html", "spec.ddnn"]);
}

#[test]
fn a_run_goes_on_without_the_files_that_its_spec_loads() {
    let place = Place::new();
    tiny_mnist(&place.path("data/mnist"));
    let text = fs::read_to_string(spec("kd_two_networks")).expect("the spec");
    let text = text
        .replace("f32[3, 32, 32]", "f32[1, 28, 28]")
        .replace("class[100]", "class[10]")
        .replace("width = 16, blocks = 3", "width = 2, blocks = 1")
        .replace("width = 32, blocks = 9", "width = 4, blocks = 1")
        .replace(
            "cifar100(path = \"data/cifar100\", augment = [crop(pad = 4), flip])",
            "mnist(path = \"data/mnist\")",
        );
    fs::write(place.path("kd.ddnn"), &text).expect("a writable folder");
    fs::write(place.path("fresh.ddnn"), text.replace(", load = \"teacher.safetensors\"", ""))
        .expect("a writable folder");
    place.run(&["step", "fresh.ddnn", "--init", "fresh.safetensors", "--seed", "5"]).ok();
    let fresh = ["export", "fresh.ddnn", "--weights", "fresh.safetensors", "--subnet", "teacher"];
    place.run(&[&fresh[..], &["-o", "teacher.safetensors"]].concat()).ok();
    // What a spec loads is read as well.
    place.run(&["step", "kd.ddnn", "--init", "teacher.safetensors"]).fails(2, &["this command reads it"]);
    let train = |run: &str, more: &[&str]| {
        place.run(&[&["train", "kd.ddnn", "--out", run], &SMALL[..], more].concat())
    };
    train("whole", &["--steps", "4"]).ok();
    train("parts", &["--steps", "2"]).ok();
    fs::remove_file(place.path("teacher.safetensors")).expect("it was there");
    train("another", &["--steps", "2"]).fails(1, &["teacher.safetensors", "no such file"]);
    train("parts", &["--steps", "4", "--resume"]).ok();
    let last = |run: &str| tensors(&place.path(&format!("{run}/checkpoints/step-00000004.safetensors")));
    assert!(last("parts") == last("whole"));
}

#[cfg(unix)]
#[test]
fn the_commands_that_train_prints_work() {
    let place = Place::new();
    tiny_mnist(&place.path("a b/data/mnist"));
    let text = fs::read_to_string(spec("quickstart")).expect("the spec");
    fs::write(place.path("a b/q.ddnn"), text).expect("a writable folder");
    fs::create_dir_all(place.path("elsewhere")).expect("a writable folder");
    let ddnnc = env!("CARGO_BIN_EXE_ddnnc");
    // Data beside the spec; data in the current folder; data that are named.
    for (from, spec, run, data) in [
        ("elsewhere", "../a b/q.ddnn", "runs of mine/1", None),
        ("a b", "q.ddnn", "../2", None),
        ("elsewhere", "../a b/q.ddnn", "3", Some("../a b/data/mnist")),
    ] {
        let mut args = vec!["train", spec, "--out", run, "--steps", "1", "--set", "train.batch=8"];
        args.extend(data.iter().flat_map(|data| ["--data", data]));
        let output = place.command(&args).current_dir(place.path(from)).output().expect("the binary runs");
        let text = Ran::new(output).ok();
        assert!(text.contains("after 1 step, "), "{text}");
        let lines = text.lines().filter_map(|line| line.find("ddnnc ").map(|at| &line[at + 6..]));
        let lines: Vec<&str> = lines.collect();
        assert_eq!(lines.len(), 2, "eval and export: {text}");
        for line in lines {
            let mut shell = std::process::Command::new("sh");
            let output = shell.args(["-c", &format!("\"$0\" {line}"), ddnnc]).current_dir(place.path(from));
            let ran = Ran::new(output.output().expect("there is `sh`"));
            assert_eq!(ran.status, 0, "{line}: {}", ran.stderr);
        }
        assert!(place.path(from).join("small.safetensors").exists());
    }
}

#[test]
fn import_finds_a_place_for_each_tensor() {
    let place = Place::new();
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w.safetensors"]).ok();
    let ours = tensors(&place.path("w.safetensors"));
    // Names as another framework could have them, with a counter that nothing here has.
    let mut foreign: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = ours
        .iter()
        .map(|(name, (dtype, shape, data))| {
            (name.replace("resnet.", "net.m."), *dtype, shape.clone(), data.clone())
        })
        .collect();
    foreign.push(("net.m.stem.bn1.num_batches_tracked".to_string(), Dtype::I64, vec![], vec![0; 8]));
    let entries: Vec<_> = foreign.iter().map(|(n, d, s, b)| (n.as_str(), *d, s.clone(), b.clone())).collect();
    save(&place.path("foreign.safetensors"), &entries);
    let args = ["import", &quick, "--weights", "foreign.safetensors", "-o", "in.safetensors"];
    place.run(&args).fails(1, &["could be taken for each other", "--map"]);
    assert!(!place.path("in.safetensors").exists());
    let map: BTreeMap<String, &String> = ours.keys().map(|n| (n.replace("resnet.", "net.m."), n)).collect();
    fs::write(place.path("map.json"), serde_json::to_string(&map).expect("names"))
        .expect("a writable folder");
    place.run(&[&args[..], &["--map", "map.json"]].concat()).ok();
    assert!(tensors(&place.path("in.safetensors")) == ours);
    place.run(&["import", &quick, "--weights", "w.safetensors", "-o", "again.safetensors"]).ok();
    assert!(tensors(&place.path("again.safetensors")) == ours);
}

/// A sub-net in a spec of its own is the exported one, to the bit, though its norms bore the net's mark.
#[test]
fn an_exported_net_is_imported_where_it_stands_alone() {
    let place = Place::new();
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w.safetensors"]).ok();
    let args =
        ["export", &quick, "--weights", "w.safetensors", "--subnet", "small", "-o", "small.safetensors"];
    place.run(&args).ok();
    let text = fs::read_to_string(&quick).expect("a spec");
    let alone: String = text.split("\nsubnet ").next().expect("the backbone").to_string()
        + "\nsubnet small = resnet depth [1, 1]\ntrain { data = mnist }\n";
    fs::write(place.path("small.ddnn"), alone).expect("a writable folder");
    let args = ["import", "small.ddnn", "--weights", "small.safetensors", "-o", "alone.safetensors"];
    let pairs = place.run(&args).ok();
    assert!(pairs.contains("@small") && pairs.lines().count() > 10, "{pairs}");
    for pair in pairs.lines() {
        let (from, to) = pair.split_once('\t').expect("a pair");
        assert_eq!(from.replace("@small", ""), to);
    }
    let (theirs, ours) =
        (tensors(&place.path("small.safetensors")), tensors(&place.path("alone.safetensors")));
    assert_eq!(theirs.len(), ours.len());
    for (name, tensor) in theirs {
        assert!(ours[&name.replace("@small", "")] == tensor, "{name}");
    }
}

/// Weights of a net with another number of classes: everything but the head is taken over, and training begins with it.
#[test]
fn import_leaves_out_a_head_of_other_classes() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    let quick = spec("quickstart");
    let text = fs::read_to_string(&quick).expect("a spec").replace("class[10]", "class[12]");
    fs::write(place.path("twelve.ddnn"), text).expect("a writable folder");
    place.run(&["step", "twelve.ddnn", "--init", "twelve", "--seed", "3"]).ok();
    place.run(&["step", &quick, "--init", "fresh", "--seed", "4"]).ok();
    let (twelve, fresh) = (tensors(&place.path("twelve")), tensors(&place.path("fresh")));

    let import = |weights: &str, more: &[&str]| {
        place.run(&[&["import", &quick, "--weights", weights, "-o", "in"], more].concat())
    };
    let head = "`resnet.head.linear1.weight` is [12,32] in the file, and [10,32] in the model";
    import("twelve", &[]).fails(1, &[head, "`--except head`", "initial values"]);
    import("twelve", &["--except", "haed"]).fails(1, &["--except haed", "did you mean `head`"]);
    import("twelve", &["--except", "head", "--except", "decoder"])
        .fails(1, &["--except decoder", "whole words"]);
    // One sub-net's head is not every head.
    let one = import("twelve", &["--except", "linear1@small"]);
    assert!(one.stderr.contains(head) && !one.stderr.contains("@small"), "{}", one.stderr);
    assert!(!place.path("in").exists());

    let listed = import("twelve", &["--except", "head", "--seed", "4"]).ok();
    let taken = tensors(&place.path("in"));
    assert_eq!(taken.keys().collect::<Vec<_>>(), fresh.keys().collect::<Vec<_>>());
    let mut kept = 0;
    for (name, tensor) in &taken {
        let from = if name.contains(".head.") { &fresh } else { &twelve };
        assert!(from[name] == *tensor, "{name}");
        kept += usize::from(name.contains(".head."));
        let line = if name.contains(".head.") {
            format!("initial values\t{name}\n")
        } else {
            format!("{name}\t{name}\n")
        };
        assert!(listed.contains(&line), "{line}: {listed}");
    }
    assert_eq!(kept, 6, "weight and bias of three heads");
    assert_eq!(listed.matches("\tleft out\n").count(), 6, "{listed}");

    // Under other names, as another framework has them: named on both sides, or by the map.
    let mut foreign: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut map = BTreeMap::new();
    for (name, (dtype, shape, data)) in &twelve {
        let other = match name.strip_prefix("resnet.head.linear1.") {
            Some(rest) => format!("fc.{rest}"),
            None => name.clone(),
        };
        if !name.contains("linear1@") {
            foreign.push((other.clone(), *dtype, shape.clone(), data.clone()));
            map.insert(other, name.clone());
        }
    }
    let entries: Vec<_> = foreign.iter().map(|(n, d, s, b)| (n.as_str(), *d, s.clone(), b.clone())).collect();
    save(&place.path("foreign"), &entries);
    fs::write(place.path("map"), serde_json::to_string(&map).expect("names")).expect("a writable folder");
    import("foreign", &[]).fails(1, &["`fc.weight` [12,32] finds no place", "`--except head --except fc`"]);
    import("foreign", &["--map", "map"]).fails(1, &["the map takes `fc.weight` [12,32]", "`--except head`"]);
    for more in [&["--except", "head", "--except", "fc"][..], &["--except", "head", "--map", "map"]] {
        fs::remove_file(place.path("in")).expect("written before");
        let listed = import("foreign", &[&["--seed", "4"], more].concat()).ok();
        assert!(tensors(&place.path("in")) == taken, "{more:?}");
        assert!(listed.contains("fc.weight\tleft out\n"), "{listed}");
    }

    // A step too small to see shows where training began.
    let train = |run: &str, more: &[&str]| {
        let tiny = ["--set", "train.optimizer.lr=1e-30", "--data", "mnist", "--steps", "1", "--out", run];
        place.run(&[&["train", &quick], &SMALL[..], &tiny, more].concat())
    };
    train("run", &["--weights", "in"]).ok();
    let checkpoint = tensors(&place.path("run/checkpoints").join(&place.names("run/checkpoints")[0]));
    for (name, (_, _, data)) in taken.iter().filter(|(name, _)| name.ends_with(".weight")) {
        assert!(checkpoint[name].2 == *data, "{name}");
    }
    train("bad", &["--weights", "twelve"]).fails(1, &["twelve", "[12,32], but the model needs [10,32]"]);
    train("bad", &["--weights", "absent"]).fails(1, &["absent"]);
    assert!(!place.path("bad").exists());
    // A run that goes on needs the file no more.
    fs::remove_file(place.path("in")).expect("written before");
    let tiny = ["--weights", "in", "--resume"];
    train("run", &tiny).ok();
}

/// Two nested nets on colour images that are wider than high.
const WIDE: &str = "model wide
input image : f32[3, 21, 28]
target label : class[2]
block plain(out) { in |> conv(out, 3) |> bn |> relu }
backbone net {
    stem = conv(4, 3, stride = 2) |> bn |> relu
    stage s1 = 2 * plain(4)
    head = global_avg_pool |> linear(classes)
}
subnet full = net
subnet small = net depth [1]
train {
    data = image_folder(path = \"images\", normalize = normalize(mean = [0.1, 0.2, 0.3], std = [0.4, 0.5, 0.6]))
    batch = 4
}
";

/// Whoever has an exported file and nothing else can prepare an image for it, and run it.
#[test]
fn an_exported_file_is_enough() {
    let place = Place::new();
    fs::write(place.path("wide.ddnn"), WIDE).expect("a writable folder");
    for split in ["train", "val"] {
        for (seed, class) in ["a", "b"].into_iter().enumerate() {
            let folder = place.path(&format!("images/{split}/{class}"));
            fs::create_dir_all(&folder).expect("a writable folder");
            for i in 0..3 {
                noise(32, 24, 10 * i + seed as u32)
                    .save(folder.join(format!("{i}.png")))
                    .expect("a writable folder");
            }
        }
    }
    place.run(&["step", "wide.ddnn", "--init", "w"]).ok();
    place.run(&["export", "wide.ddnn", "--weights", "w", "--subnet", "small", "-o", "small"]).ok();
    let bytes = fs::read(place.path("small")).expect("just written");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a whole file");
    let metadata = header.metadata().clone().expect("metadata");
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
    let docs = fs::read_to_string(docs).expect("the docs");
    metadata.keys().for_each(|key| assert!(docs.contains(&format!("`{key}`")), "`{key}` is documented"));
    let numbers =
        |key: &str| -> Vec<f64> { serde_json::from_str(&metadata[key]).expect("a list of numbers") };
    let wanted =
        [("mean", "[0.1,0.2,0.3]"), ("std", "[0.4,0.5,0.6]"), ("resize", "[24,32]"), ("crop", "[21,28]")];
    for (key, value) in
        wanted.into_iter().chain([("channels", "rgb"), ("subnet", "small"), ("spec_text", WIDE)])
    {
        assert_eq!(metadata[key], value, "{key}");
    }

    // An image of the size that is to be covered, prepared by the keys.
    let image = noise(32, 24, 5);
    image.save(place.path("image.png")).expect("a writable folder");
    let (resize, crop) = (numbers("resize"), numbers("crop"));
    let [top, left] = [0, 1].map(|i| ((resize[i] - crop[i]) / 2.0) as u32);
    let mut input = Vec::new();
    for c in 0..3 {
        for y in 0..crop[0] as u32 {
            for x in 0..crop[1] as u32 {
                let value = f64::from(image.get_pixel(left + x, top + y)[c]) / 255.0;
                input.extend(((value - numbers("mean")[c]) / numbers("std")[c]).to_le_f32());
            }
        }
    }
    let label = ("label", Dtype::I64, vec![1], vec![0; 8]);
    save(&place.path("b"), &[("image", Dtype::F32, vec![1, 3, 21, 28], input), label]);
    place.run(&["step", "wide.ddnn", "--weights", "w", "--batch", "b", "--eval", "--out", "o"]).ok();
    let logits = tensors(&place.path("o"))["logits.small"].2.clone();
    let floats = logits.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    let powers: Vec<f64> = floats.map(f64::exp).collect();
    let json = place.run(&["predict", "small", "image.png", "--json"]).json();
    assert_eq!(json["subnet"], "small");
    for class in json["images"][0]["classes"].as_array().expect("a list") {
        let expected =
            powers[class["class"].as_u64().expect("a number") as usize] / powers.iter().sum::<f64>();
        let got = class["probability"].as_f64().expect("a number");
        assert!((got - expected).abs() <= 1e-5, "{class}: {expected}");
    }

    #[cfg(unix)]
    {
        let mut shell = std::process::Command::new("sh");
        shell.args([
            "-c",
            "cat image.png | \"$0\" predict small /dev/stdin --json",
            env!("CARGO_BIN_EXE_ddnnc"),
        ]);
        let piped = Ran::new(shell.current_dir(place.dir.path()).output().expect("there is `sh`")).json();
        assert_eq!(piped["images"][0]["classes"], json["images"][0]["classes"]);
    }

    // Alone, and with the spec of the whole model, it does what it does inside that.
    let whole = place.run(&["eval", "wide.ddnn", "--weights", "w", "--json"]).json();
    for args in [&["eval", "small", "--json"][..], &["eval", "wide.ddnn", "--weights", "small", "--json"]] {
        let alone = place.run(args).json();
        let nets = alone["subnets"].as_array().expect("a list");
        assert_eq!(nets.len(), 1);
        assert_eq!((&nets[0]["name"], &nets[0]["images"]), (&"small".into(), &6.into()));
        let loss = |net: &Value| net["loss"].as_f64().expect("a number");
        assert!((loss(&nets[0]) - loss(&whole["subnets"][1])).abs() <= 1e-5, "{alone} {whole}");
    }
    place.run(&["eval", "small", "--passes", "assign_layout"]).ok();
    place.run(&["predict", "small", "image.png", "--subnet", "full"]).fails(1, &["no net `full`", "small"]);
    place.run(&["export", "small", "--subnet", "small", "-o", "again"]).ok();
    assert!(
        fs::read(place.path("again")).expect("just written") == bytes,
        "an export of an export is the same"
    );
    // Weights that know no spec.
    place.run(&["eval", "w"]).fails(1, &["`w`", "without a spec", "--weights w"]);

    // Grey images that are not cut, normalised as the data set says.
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "q"]).ok();
    place.run(&["export", &quick, "--weights", "q", "--subnet", "small", "-o", "grey"]).ok();
    let bytes = fs::read(place.path("grey")).expect("just written");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a whole file");
    let metadata = header.metadata().clone().expect("metadata");
    let wanted = [("mean", "[0.1307]"), ("std", "[0.3081]"), ("resize", "[28,28]"), ("crop", "[28,28]")];
    for (key, value) in wanted.into_iter().chain([("channels", "grey")]) {
        assert_eq!(metadata[key], value, "{key}");
    }
}

/// An image of noise.
fn noise(width: u32, height: u32, seed: u32) -> image::RgbImage {
    let mut state = seed;
    image::RgbImage::from_fn(width, height, |_, _| {
        image::Rgb([(); 3].map(|()| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        }))
    })
}

#[test]
fn what_is_read_is_not_overwritten() {
    let place = Place::new();
    let text = fs::read_to_string(spec("quickstart")).expect("a spec");
    fs::create_dir(place.path("in")).expect("a writable folder");
    fs::write(place.path("in/q.ddnn"), &text).expect("a writable folder");
    place.run(&["step", "in/q.ddnn", "--init", "w"]).ok();
    let weights = fs::read(place.path("w")).expect("weights");
    let read = "this command reads it";
    place.run(&["compile", "in/q.ddnn", "-o", "in/../in/q.ddnn"]).fails(2, &[read, "another name"]);
    place.run(&["compile", "in/q.ddnn", "--memory", "in/q.ddnn"]).fails(2, &[read]);
    place.run(&["compile", "in/q.ddnn", "-o", "new", "--memory", "./new"]).fails(2, &["another output"]);
    place.run(&["inspect", "in/q.ddnn", "--graph", "in/q.ddnn"]).fails(2, &[read]);
    place.run(&["bench", "in/q.ddnn", "--profile-svg", "in/q.ddnn"]).fails(2, &[read]);
    place.run(&["step", "in/q.ddnn", "--init", "in/q.ddnn"]).fails(2, &[read]);
    place.run(&["step", "in/q.ddnn", "--weights", "w", "--batch", "b", "--out", "w"]).fails(2, &[read]);
    place.run(&["export", "in/q.ddnn", "--weights", "w", "--subnet", "small", "-o", "w"]).fails(2, &[read]);
    place.run(&["import", "in/q.ddnn", "--weights", "w", "-o", "./w"]).fails(2, &[read]);
    // Of a run: its spec, its metrics and its checkpoints; another file in its folder is free.
    tiny_mnist(&place.path("mnist"));
    let batch = ["--batch", "8", "--steps", "1", "--data", "mnist"];
    place.run(&[&["train", "in/q.ddnn", "--out", "run"], &batch[..]].concat()).ok();
    let checkpoint = format!("run/checkpoints/{}", place.names("run/checkpoints")[0]);
    let kept = |name: &str| fs::read(place.path(name)).expect("a file of the run");
    for file in ["run/spec.ddnn", "run/metrics.jsonl", &checkpoint] {
        let before = kept(file);
        place.run(&["export", "run", "--subnet", "small", "-o", file]).fails(2, &[read]);
        let args = ["export", "in/q.ddnn", "--run", "run", "--subnet", "small", "-o", file];
        place.run(&args).fails(2, &[read]);
        assert!(before == kept(file), "{file}");
    }
    place.run(&["export", "run", "--subnet", "small", "-o", "run/small.safetensors"]).ok();
    assert_eq!(fs::read_to_string(place.path("in/q.ddnn")).expect("the spec"), text);
    assert_eq!(fs::read(place.path("w")).expect("weights"), weights);
    assert!(!place.path("new").exists());
    place.run(&["compile", "in/q.ddnn", "-o", "/dev/null", "--memory", "/dev/null"]).ok();
}

#[cfg(unix)]
#[test]
fn a_formatted_file_stays_what_it_was() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let place = Place::new();
    let text = fs::read_to_string(spec("quickstart")).expect("a spec");
    fs::write(place.path("q.ddnn"), text.clone() + "\n\n").expect("a writable folder");
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(place.path("q.ddnn"), mode(0o600)).expect("our own file");
    symlink("q.ddnn", place.path("link.ddnn")).expect("a writable folder");
    place.run(&["fmt", "link.ddnn"]).ok();
    assert_eq!(fs::read_to_string(place.path("q.ddnn")).expect("the spec"), text);
    assert!(fs::symlink_metadata(place.path("link.ddnn")).expect("the link").is_symlink());
    let found = fs::metadata(place.path("q.ddnn")).expect("the spec").permissions().mode();
    assert_eq!(found & 0o777, 0o600);
}

#[test]
fn the_precision_is_the_specs() {
    let place = Place::new();
    let args = ["compile", &spec("quickstart"), "--set", "train.precision=bf16"];
    assert_eq!(place.run(&[&args[..], &["--json"]].concat()).json()["precision"], "bf16");
    assert_eq!(place.run(&["compile", &spec("quickstart"), "--json"]).json()["precision"], "f32");
    let graph = place.run(&[&args[..], &["--emit", "fused"]].concat()).ok();
    assert!(graph.contains("cast(") && graph.contains("bf16["));
    let bench =
        ["bench", &spec("quickstart"), "--batch", "2", "--steps", "1", "--set", "train.precision=bf16"];
    let json = place.run(&[&bench[..], &["--device", "reference", "--json"]].concat()).json();
    assert_eq!(json["precision"], "bf16");
}

#[test]
fn bench_measures() {
    let place = Place::new();
    let json = place.run(&["bench", &spec("quickstart"), "--batch", "4", "--steps", "2", "--json"]).json();
    has(
        &json,
        &["images_per_second", "step_ms", "batch", "device", "precision", "peak_rss_bytes", "first_step_ms"],
    );
    assert!(json["images_per_second"].as_f64().expect("a number") > 0.0);
    assert_eq!(json["batch"], 4);
}

#[test]
fn every_command_has_help_with_an_example() {
    let place = Place::new();
    let commands = [
        "compile", "train", "eval", "predict", "export", "import", "step", "inspect", "bench", "fmt",
        "check", "opt", "data", "report",
    ];
    for command in commands {
        let text = place.run(&[command, "--help"]).ok();
        assert!(text.contains(&format!("ddnnc {command} ")) && text.contains("Example"), "{command}: {text}");
    }
    place.run(&["--version"]).ok();
}
