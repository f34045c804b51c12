//! `train --program`: a training step from a file.

use crate::common::{Place, Ran, spec, tiny_mnist};
use serde_json::Value;
use std::fs;

const BATCH: [&str; 2] = ["--set", "train.batch=8"];

fn place() -> Place {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    place
}

fn compile(place: &Place, file: &str, more: &[&str]) {
    let quick = spec("quickstart");
    place.run(&[&["compile", &quick, "-q", "-o", file], &BATCH[..], more].concat()).ok();
}

fn train(place: &Place, run: &str, more: &[&str]) -> Ran {
    let quick = spec("quickstart");
    let args = ["train", &quick, "--data", "mnist", "--out", run, "--steps", "4"];
    place.run(&[&args[..], &BATCH, more].concat())
}

/// The records of a run without what depends on the clock.
fn metrics(place: &Place, run: &str) -> Vec<Value> {
    let text = fs::read_to_string(place.path(&format!("{run}/metrics.jsonl"))).expect("metrics");
    let record = |line: &str| {
        let mut record: Value = serde_json::from_str(line).expect("an object a line");
        for timed in ["images_per_second", "seconds"] {
            record.as_object_mut().expect("an object").remove(timed);
        }
        record
    };
    text.lines().map(record).collect()
}

fn checkpoint(place: &Place, run: &str) -> Vec<u8> {
    let folder = format!("{run}/checkpoints");
    let name = place.names(&folder).into_iter().rfind(|n| n.ends_with(".safetensors")).expect("a checkpoint");
    fs::read(place.path(&format!("{folder}/{name}"))).expect("a file")
}

#[test]
fn a_saved_program_trains_as_the_spec_does() {
    let place = place();
    compile(&place, "step.program", &[]);
    train(&place, "spec", &[]).ok();
    train(&place, "saved", &["--program", "step.program"]).ok();
    assert!(metrics(&place, "spec").len() >= 2);
    assert_eq!(metrics(&place, "spec"), metrics(&place, "saved"));
    assert!(checkpoint(&place, "spec") == checkpoint(&place, "saved"), "other weights");
    let kept = fs::read_to_string(place.path("saved/spec.ddnn")).expect("the spec");
    assert_eq!(fs::read_to_string(place.path("spec/spec.ddnn")).ok(), Some(kept));
    // What the file says runs, not what the spec would compile to.
    compile(&place, "plain.program", &["--no-fuse"]);
    train(&place, "plain", &["--no-fuse"]).ok();
    train(&place, "plain_saved", &["--program", "plain.program"]).ok();
    assert!(checkpoint(&place, "plain") == checkpoint(&place, "plain_saved"), "other weights");
    assert!(checkpoint(&place, "plain") != checkpoint(&place, "spec"), "sums of another order");
}

#[test]
fn a_program_of_another_step_is_refused() {
    let place = place();
    let text = fs::read_to_string(spec("quickstart")).expect("the spec");
    fs::write(place.path("other.ddnn"), text.replace("model quickstart", "model other")).expect("writable");
    place.run(&["compile", "other.ddnn", "-o", "other", "--batch", "8"]).ok();
    compile(&place, "fit", &[]);
    compile(&place, "batch", &["--batch", "4"]);
    compile(&place, "eval", &["--mode", "eval"]);
    compile(&place, "norm", &["--set", "share.resnet.norm=shared"]);
    compile(&place, "adamw", &["--set", "train.optimizer=adamw(lr = 1e-3)"]);
    compile(&place, "momentum", &["--set", "train.optimizer.momentum=0.5"]);
    compile(&place, "bf16", &["--set", "train.precision=bf16"]);
    let program = fs::read_to_string(place.path("fit")).expect("a program");
    let newer = program.replacen("\"version\":", "\"version\":9", 1);
    assert_ne!(program, newer);
    fs::write(place.path("newer"), newer).expect("a writable folder");
    fs::write(place.path("cut"), &program[..program.len() / 2]).expect("a writable folder");
    for (file, words) in [
        ("other", &["model `other`, not `quickstart`", "ddnnc compile"][..]),
        ("batch", &["its batch is 4, not 8", "compile again with", "-o batch"]),
        ("eval", &["it has no input `lr`", "compile again with"]),
        ("norm", &["it has no parameter `resnet.s2.0.bn1@medium.weight` f32[32]", "more", "-o norm"]),
        ("adamw", &["optimizer state `momentum.resnet.stem.conv1.weight`", "input `optimizer.step`"]),
        ("momentum", &["SGD (momentum 0.5,", "not by SGD (momentum 0.9,"]),
        ("bf16", &["in bf16, not in f32"]),
        ("newer", &["not a program", "version 91", "-o FILE"]),
        ("cut", &["not a program", "-o FILE"]),
        ("absent", &["no file `absent`"]),
        (".", &["folder"]),
    ] {
        train(&place, "run", &["--program", file]).fails(1, words);
        assert!(!place.path("run").exists(), "{file}");
    }
    let ran = train(&place, "run", &["--program", "fit", "--set", "train.batch=6"]);
    ran.fails(1, &["its batch is 8, not 6"]);
    train(&place, "run", &["--program", "fit"]).ok();
}

#[test]
fn the_refusal_reads_well() {
    let place = place();
    compile(&place, "step", &["--batch", "4"]);
    fs::copy(spec("quickstart"), place.path("q.ddnn")).expect("a writable folder");
    let ran = place.run(&["train", "q.ddnn", "--data", "mnist", "--program", "step"]);
    let expected = "error: the program in `step` is not this spec's training step:
  its batch is 4, not 64
  help: compile again with `ddnnc compile q.ddnn -o step`, and with the same `--set` and `--batch`
";
    assert_eq!((ran.status, ran.stderr.as_str()), (1, expected));
}
