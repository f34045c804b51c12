//! Nets as ONNX models: what `export` writes and refuses, and that nothing reads them. `tests/onnx/check.py` runs such files.

use crate::common::{Place, spec};
use std::fs;

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

#[test]
fn the_ending_asks_for_onnx() {
    let place = Place::new();
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w"]).ok();
    let export = |net: &str, name: &str| {
        let ran = place.run(&["export", &quick, "--weights", "w", "--subnet", net, "-o", name]);
        let said = ran.stderr.clone();
        ran.ok();
        assert!(said.contains(&format!("wrote `{net}` (")) && said.contains(name), "{said}");
        fs::read(place.path(name)).expect("just written")
    };
    let small = export("small", "small.onnx");
    assert!(small.starts_with(&[8, 7, 18, 5]) && holds(&small, "ddnnc"), "{:?}", &small[..16]);
    assert!(small == export("small", "again.ONNX"), "the same net gives other bytes");
    assert!(small.len() < export("full", "full.onnx").len());
    for text in [
        "logits",
        "resnet.s1.0.conv1.weight",
        "resnet.head.linear1@small.weight",
        "spec_text",
        "backbone resnet",
    ] {
        assert!(holds(&small, text), "`{text}`");
    }
    assert!(!holds(&small, "resnet.s1.1.conv1.weight"), "a tensor that the net does not need");

    // A file of one net has an ONNX model in it too.
    place.run(&["export", &quick, "--weights", "w", "--subnet", "small", "-o", "small"]).ok();
    place.run(&["export", "small", "--subnet", "small", "-o", "of_file.onnx"]).ok();
    assert!(small == fs::read(place.path("of_file.onnx")).expect("just written"));
}

#[test]
fn onnx_is_written_whole_or_not_at_all() {
    let place = Place::new();
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w"]).ok();
    fs::copy(place.path("w"), place.path("w.onnx")).expect("a writable folder");
    let export = |weights: &str, net: &str, to: &str| {
        place.run(&["export", &quick, "--weights", weights, "--subnet", net, "-o", to])
    };
    export("w.onnx", "small", "w.onnx").fails(2, &["w.onnx would be overwritten: this command reads it"]);
    assert!(fs::read(place.path("w")).expect("weights") == fs::read(place.path("w.onnx")).expect("weights"));
    export("w", "tiny", "a.onnx").fails(1, &["no net `tiny`"]);
    export("w", "small", "none/a.onnx").fails(3, &["`none/a.onnx` cannot be written"]);
    assert_eq!(place.names("."), ["w", "w.onnx"]);
}

#[test]
fn onnx_models_are_not_read() {
    let place = Place::new();
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w"]).ok();
    place.run(&["export", &quick, "--weights", "w", "--subnet", "small", "-o", "small.onnx"]).ok();
    // Known by what is in it.
    fs::copy(place.path("small.onnx"), place.path("small")).expect("a writable folder");
    for name in ["small.onnx", "small"] {
        let words = ["is an ONNX model, which `ddnnc` writes and does not read", "ONNX Runtime runs", name];
        place.run(&["eval", name]).fails(1, &words);
        place.run(&["predict", name, "digit.png"]).fails(1, &words);
        place.run(&["export", name, "--subnet", "small", "-o", "b"]).fails(1, &words);
        for command in ["check", "train", "inspect"] {
            place.run(&[command, name]).fails(1, &["is an ONNX model, and no spec"]);
        }
        let words = ["begins as an ONNX model", "not read", "`safetensors.numpy.save_file`"];
        place.run(&["import", &quick, "--weights", name, "-o", "b"]).fails(1, &words);
        place.run(&["eval", &quick, "--weights", name]).fails(1, &words);
        place.run(&["train", &quick, "--weights", name]).fails(1, &words);
    }
    assert_eq!(place.names("."), ["small", "small.onnx", "w"]);
}
