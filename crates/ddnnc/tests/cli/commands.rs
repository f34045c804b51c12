//! Every command on the quickstart spec, as a user runs it.

use crate::common::{Place, Ran, SMALL, save, spec, specs, tensors, tiny_mnist, wait_for};
use safetensors::Dtype;
use serde_json::Value;
use std::collections::BTreeSet;
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
        &["eval", "run", "--data", "mnist", "--json", "--cascade", "small,full"],
        &["predict", "run", "1.png", "--json"],
        &["predict", "run", "1.png", "--json", "--cascade", "small,full", "--confidence", "0.5"],
        &["inspect", &spec("kd_two_networks"), "--json"],
        &["inspect", &spec("assistant_chain"), "--json"],
        &["compile", &spec("assistant_chain"), "--json", "--batch", "2"],
        &["data", "mnist", "--dataset", "mnist", "--json"],
    ] {
        documented(&docs, &place.run(args).json(), &[]);
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn has(value: &Value, wanted: &[&str]) {
    for key in wanted {
        assert!(value.get(key).is_some_and(|v| !v.is_null()), "`{key}` in {value}");
    }
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
    let input: Vec<u8> = pixels
        .iter()
        .flat_map(|&p| (((f64::from(p) / 255.0 - 0.1307) / 0.3081) as f32).to_le_bytes())
        .collect();
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
