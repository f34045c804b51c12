//! Training in phases, as a user runs it.

use crate::common::{Place, save, spec, tensors, tiny_mnist};
use safetensors::Dtype;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// An epoch a phase, of 13 steps each.
const SHORT: [&str; 8] = [
    "--set",
    "train.batch=8",
    "--set",
    "phase.teaching.epochs=1",
    "--set",
    "phase.assisting.epochs=1",
    "--set",
    "phase.learning.epochs=1",
];

#[test]
fn a_chain_is_trained_in_one_run_and_goes_on_within_a_phase() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    let chain = spec("assistant_chain");
    let train =
        |more: &[&str]| place.run(&[&["train", &chain, "--data", "mnist"], &SHORT[..], more].concat());
    let newest = |run: &str| {
        let checkpoints = format!("{run}/checkpoints");
        let name = place.names(&checkpoints).pop().expect("a checkpoint");
        tensors(&place.path(&format!("{checkpoints}/{name}")))
    };
    train(&["--out", "whole"]).ok();
    // Interrupted in the second phase, and between the second and the third.
    train(&["--out", "parts", "--steps", "20"]).ok();
    let second = newest("parts");
    let said = train(&["--out", "parts", "--steps", "26", "--resume"]);
    assert!(said.stderr.contains("phase assisting (2 of 3)"), "{}", said.stderr);
    said.ok();
    let third = newest("parts");
    train(&["--out", "parts", "--resume"]).ok();
    assert!(newest("parts") == newest("whole"), "a resumed run equals an uninterrupted one");

    // A phase changes what it trains, and nothing else.
    let changed = |before: &Tensors, after: &Tensors| {
        let of = before.iter().filter(|(name, tensor)| after.get(*name).is_none_or(|t| t != *tensor));
        let nets: BTreeSet<String> =
            of.map(|(name, _)| name[..name.find('.').unwrap_or(0)].to_string()).collect();
        nets.into_iter().filter(|net| !net.starts_with("optimizer/")).collect::<Vec<_>>()
    };
    let last = newest("whole");
    assert_eq!(changed(&second, &third), ["assistant"]);
    assert_eq!(changed(&third, &last), ["hint", "student"]);
    let optimizer = |of: &Tensors| of.keys().filter(|name| name.starts_with("optimizer/")).count();
    assert_eq!(optimizer(&third), 0, "the third phase begins its optimizer anew");
    assert!(optimizer(&last) > 0 && optimizer(&second) > optimizer(&last));

    let metrics = fs::read_to_string(place.path("whole/metrics.jsonl")).expect("metrics");
    let records: Vec<Value> = metrics.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    for record in records.iter().filter(|r| r["kind"] != "test") {
        let at = record["step"].as_u64().expect("steps").div_ceil(13);
        let phase = ["teaching", "assisting", "learning"][at as usize - 1];
        assert_eq!(record["phase"], phase, "{record}");
        assert_eq!(record["loss"].get("ce.teacher").is_some(), phase == "teaching");
        assert_eq!(record["loss"].get("kl.assistant.student").is_some(), phase == "learning");
    }
    let page = fs::read_to_string(place.path("whole/report.html")).expect("a report");
    assert!(page.contains("Phase assisting: epoch 2.") && page.contains("3 of 3 epochs"));
    // What comes after training knows of no phases.
    let eval = place.run(&["eval", "whole", "--data", "mnist", "--json"]).json();
    assert_eq!(eval["subnets"].as_array().map(Vec::len), Some(3));
    place.run(&["export", "whole", "--subnet", "student", "-o", "student.onnx"]).ok();
}

#[test]
fn commands_take_a_phase_by_name() {
    let place = Place::new();
    let chain = spec("assistant_chain");
    let of = |phase: &str| place.run(&["compile", &chain, "--json", "--batch", "2", "--phase", phase]).json();
    let first = place.run(&["compile", &chain, "--json", "--batch", "2"]).json();
    assert_eq!(first["phase"], "teaching");
    assert_eq!(first["phases"], serde_json::json!(["teaching", "assisting", "learning"]));
    assert_eq!(of("teaching")["step_macs"], first["step_macs"]);
    assert_eq!(of("learning")["phase"], "learning");
    assert_eq!(of("learning")["subnets"], first["subnets"]);
    assert!(
        of("learning")["step_macs"].as_u64() < first["step_macs"].as_u64(),
        "the teacher is not computed"
    );
    let text = place.run(&["compile", &chain, "--phase", "learning"]).ok();
    assert!(text.contains("phase learning, of teaching, assisting, learning"), "{text}");

    let shown = place.run(&["inspect", &chain, "--json", "--phase", "assisting"]).json();
    let terms: Vec<&str> =
        shown["terms"].as_array().expect("terms").iter().filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(terms, ["ce.assistant", "kl.teacher.assistant"]);
    assert_eq!((&shown["phase"], &shown["phases"][2]["epochs"]), (&"assisting".into(), &6.into()));
    let bench = ["bench", &chain, "--json", "--batch", "2", "--steps", "1", "--device", "cpu"];
    assert_eq!(place.run(&[&bench[..], &["--phase", "learning"]].concat()).json()["phase"], "learning");

    place.run(&["step", &chain, "--init", "w.safetensors"]).ok();
    let image: Vec<u8> = (0..2 * 784).flat_map(|i| ((i % 11) as f32 / 7.0).to_le_bytes()).collect();
    let label: Vec<u8> = [3i64, 8].iter().flat_map(|l| l.to_le_bytes()).collect();
    save(
        &place.path("b.safetensors"),
        &[("image", Dtype::F32, vec![2, 1, 28, 28], image), ("label", Dtype::I64, vec![2], label)],
    );
    let step = ["step", &chain, "--weights", "w.safetensors", "--batch", "b.safetensors", "--out"];
    place.run(&[&step[..], &["g.safetensors", "--phase", "learning"]].concat()).ok();
    let given = tensors(&place.path("g.safetensors"));
    let names =
        |prefix: &str| given.keys().filter(|k| k.starts_with(prefix)).map(String::as_str).collect::<Vec<_>>();
    assert_eq!(names("logits."), ["logits.assistant", "logits.student"]);
    assert_eq!(
        names("loss."),
        ["loss.ce.student", "loss.hint.assistant.student.s2", "loss.kl.assistant.student", "loss.total"]
    );
    assert!(
        names("grad.").iter().all(|name| name.starts_with("grad.student.") || name.starts_with("grad.hint."))
    );
    let weights = tensors(&place.path("w.safetensors"));
    let moved = |net: &str| {
        let statistics =
            weights.iter().filter(|(name, _)| name.starts_with(net) && name.contains(".running_"));
        statistics.filter(|(name, tensor)| given[&format!("state.{name}")] != **tensor).count()
    };
    assert!(moved("student.") > 0 && moved("assistant.") == 0 && moved("teacher.") == 0);

    place.run(&["compile", &chain, "--phase", "lerning"]).fails(1, &["no phase `lerning`", "`learning`"]);
    place.run(&["inspect", &chain, "--phase", "x"]).fails(1, &["teaching, assisting, learning"]);
    let quick = spec("quickstart");
    place.run(&["bench", &quick, "--phase", "x"]).fails(1, &["its training has no phases"]);
    place.run(&["train", &chain, "--program", "p", "--out", "run"]).fails(2, &["`--program`", "3 phases"]);
    assert!(!place.path("run").exists());
}

#[test]
fn what_is_wrong_with_a_later_phase_is_told() {
    let place = Place::new();
    let text = "model m input image : f32[1, 28, 28] target label : class[10]
        backbone net { stem = conv(2, 3) stage s1 = conv(2, 3) head = global_avg_pool |> linear(classes) }
        network teacher = net network student = net
        phase a { epochs = 1 }
        phase b { epochs = 1, train = [student.head]
            supervise student { cross_entropy(weight = 0) }
            distill teacher -> student { attention(at = [s1]) } }
        train { data = mnist }";
    fs::write(place.path("m.ddnn"), text).expect("a writable folder");
    let words = ["reaches what the phase `b` trains"];
    place.run(&["check", "m.ddnn"]).fails(1, &words);
    place.run(&["train", "m.ddnn", "--data", "."]).fails(1, &words);
}

#[test]
fn a_curriculum_goes_on_where_it_was_interrupted() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    let text = fs::read_to_string(spec("assistant_chain")).expect("the spec");
    // 110 images: 13 steps of 8, then pools of 44 and 110, so 5 and 13.
    let text = text
        .replace("phase assisting {", "phase assisting {\n    order { by = difficulty(snapshot = teacher) }");
    fs::write(place.path("m.ddnn"), text).expect("a writable folder");
    let set =
        ["--set", "train.batch=8", "--set", "phase.teaching.epochs=1", "--set", "phase.assisting.epochs=2"];
    let train = |out: &str, more: &[&str]| {
        let run = ["train", "m.ddnn", "--data", "mnist", "--device", "cpu", "--out", out];
        place.run(&[&run[..], &set, more].concat())
    };
    train("whole", &["--steps", "31"]).ok();
    let said = train("parts", &["--steps", "20"]);
    assert!(said.stderr.contains("scoring 110 images by `teacher`"), "{}", said.stderr);
    said.ok();
    let said = train("parts", &["--steps", "31", "--resume"]);
    assert!(!said.stderr.contains("scoring"), "{}", said.stderr);
    said.ok();
    let last = |run: &str| tensors(&place.path(&format!("{run}/checkpoints/step-00000031.safetensors")));
    assert!(last("parts") == last("whole"), "a resumed run equals an uninterrupted one");
    let metrics = fs::read_to_string(place.path("whole/metrics.jsonl")).expect("metrics");
    let records = metrics.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let ends: Vec<u64> =
        records.filter(|r| r["kind"] == "epoch").filter_map(|r| r["step"].as_u64()).collect();
    assert_eq!(ends, [13, 18, 31]);
    // A checkpoint within the phase begins another run, without the scores.
    let parts =
        place.names("parts/checkpoints").into_iter().find(|name| name.contains("20")).expect("a checkpoint");
    train("anew", &["--steps", "1", "--weights", &format!("parts/checkpoints/{parts}")]).ok();
    place.run(&["eval", "parts", "--data", "mnist", "--json"]).json();
}
