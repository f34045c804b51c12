//! `--no-fuse`, `--no-recompute` and `--passes`, and what summaries say of launches.

use crate::common::{Place, spec, tiny_mnist};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

fn figures(place: &Place, more: &[&str]) -> Value {
    let quick = spec("quickstart");
    place.run(&[&["compile", &quick, "--json"], more].concat()).json()
}

fn number(figures: &Value, key: &str) -> u64 {
    figures[key].as_u64().unwrap_or_else(|| panic!("no {key} in {figures}"))
}

#[test]
fn the_passes_decide_what_a_launch_is() {
    let place = Place::new();
    let fused = figures(&place, &[]);
    let plain = figures(&place, &["--no-fuse"]);
    let kinds = ["convolution", "pointwise", "sequence", "update", "single"];
    for (name, figures) in [("fused", &fused), ("plain", &plain)] {
        let groups = figures["groups"].as_object().expect("an object");
        assert_eq!(groups.len(), kinds.len());
        let sum: u64 = kinds.iter().map(|kind| number(&figures["groups"], kind)).sum();
        assert_eq!(sum, number(figures, "launches"), "{name}");
        assert!(number(figures, "value_bytes") > number(figures, "arena_bytes"), "{name}");
    }
    assert_eq!(number(&plain["groups"], "single"), number(&plain, "launches"));
    assert!(kinds.iter().all(|kind| number(&fused["groups"], kind) > 0), "{fused}");
    assert_eq!(number(&fused["groups"], "update"), 1);
    assert!(3 * number(&fused, "launches") < number(&plain, "launches"));
    // Sharing comes before fusion, and counts operators.
    let shared = number(&fused, "operators_after_sharing");
    assert_eq!(shared, number(&plain, "operators_after_sharing"));
    assert!(shared < number(&fused, "operators_before_fusion") && shared > number(&fused, "launches"));
    // What was counted is what runs: the words of the graph after all passes.
    let emitted = |more: &[&str]| {
        place.run(&[&["compile", &spec("quickstart"), "--emit", "fused"], more].concat()).ok()
    };
    let text = emitted(&[]);
    let lines = |word: &str| text.lines().filter(|line| line.contains(word)).count() as u64;
    for kind in &kinds[..4] {
        let word = format!(" kind=\"{kind}\" name=");
        assert_eq!(lines(&word), number(&fused["groups"], kind), "{kind}");
    }
    let plain_text = emitted(&["--no-fuse"]);
    assert!(!plain_text.contains("fused(") && plain_text.contains("{nhwc}"));
    let convolutions = plain_text.lines().filter(|line| line.contains(" = conv2d")).count() as u64;
    assert_eq!(convolutions, number(&plain, "convolution_launches"));
    let only = emitted(&["--passes", "dead_code,share_prefixes"]);
    assert!(!only.contains("fused(") && !only.contains("{nhwc}"));
    assert!(emitted(&["--passes", "dead_code,fuse"]).contains("fused("));
}

/// Kernels work on channels-last maps.
#[test]
fn a_list_without_layouts_is_refused_where_kernels_run() {
    let place = Place::new();
    let quick = spec("quickstart");
    let bench = ["bench", &quick, "--steps", "1", "--batch", "2", "--passes"];
    let bench = |passes: &str, device: &str| place.run(&[&bench[..], &[passes, "--device", device]].concat());
    bench("dead_code,fuse", "cpu").fails(2, &["channels-last", "`--passes assign_layout,dead_code,fuse`"]);
    bench("assign_layout,dead_code,fuse", "cpu").ok();
    bench("dead_code,share_prefixes,canonical,assign_layout,fuse", "cpu").ok();
    bench("dead_code,fuse", "reference").ok();
    let args = ["compile", &quick, "--emit", "cuda", "--passes", "dead_code"];
    place.run(&args).fails(2, &["channels-last"]);
}

#[test]
fn values_are_kept_where_that_is_asked_for() {
    let place = Place::new();
    let compiled = |more: &[&str]| {
        let spec = spec("cifar10_resnet20_ekd");
        place.run(&[&["compile", &spec, "--json"], more].concat()).json()
    };
    let (made_again, kept) = (compiled(&[]), compiled(&["--no-recompute"]));
    assert!(number(&kept, "arena_bytes") > number(&made_again, "arena_bytes"));
    assert!(number(&kept, "launches") < number(&made_again, "launches"));
    let all = "dead_code,share_prefixes,canonical,assign_layout,batch_shared_weights,fuse";
    let named = compiled(&["--passes", all]);
    assert!(["arena_bytes", "launches"].iter().all(|key| kept[key] == named[key]), "{kept} {named}");
}

#[test]
fn the_summary_says_what_the_launches_are() {
    let place = Place::new();
    let figures = figures(&place, &[]);
    let text = place.run(&["compile", &spec("quickstart")]).ok();
    let line = text.lines().find(|l| l.trim_start().starts_with("launches")).expect("a line");
    let numbers: Vec<u64> = line.split([' ', ':']).filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers[0], number(&figures, "launches"), "{line}");
    assert_eq!(numbers[0], numbers[1..].iter().sum::<u64>(), "{line}");
    assert_eq!(numbers[1], number(&figures, "convolution_launches"), "{line}");
    let order = [" convolutions, ", " elementwise, ", " sequences, ", " update, ", " others"];
    let places: Vec<usize> = order.iter().map(|w| line.find(w).expect("in the line")).collect();
    assert!(places.is_sorted(), "{line}");
}

#[test]
fn wrong_passes_are_the_command_lines_fault() {
    let place = Place::new();
    let quick = spec("quickstart");
    for command in ["compile", "train", "eval", "bench"] {
        for option in ["--no-fuse", "--no-recompute"] {
            place.run(&[command, &quick, option, "--passes", "fuse"]).fails(2, &["cannot be used with"]);
        }
        let unknown = place.run(&[command, &quick, "--passes", "dead_code,fusion"]);
        unknown.fails(2, &["'fusion'", "assign_layout", "batch_shared_weights", "recompute"]);
        let order = place.run(&[command, &quick, "--passes", "fuse,assign_layout"]);
        order.fails(2, &["`assign_layout` must come before `fuse`", "the order of all passes is dead_code,"]);
    }
    place.run(&["step", &quick, "--init", "w", "--passes", "recompute,fuse"]).fails(2, &["`fuse` must"]);
    place.run(&["predict", &quick, "x.png", "--passes", "recompute,fuse"]).fails(2, &["`fuse` must"]);
    assert!(place.names(".").is_empty());
    let help = place.run(&["compile", "--help"]).ok();
    assert!(help.contains("ddnnc compile specs/quickstart.ddnn --no-fuse") && help.contains("--passes "));
}

fn floats(place: &Place, file: &str) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(place.path(file)).expect("a file");
    let tensors = SafeTensors::deserialize(&bytes).expect("a whole file");
    let values =
        |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    tensors.tensors().into_iter().map(|(name, view)| (name, values(view.data()))).collect()
}

/// The newest checkpoint of a run.
fn weights(place: &Place, run: &str) -> BTreeMap<String, Vec<f32>> {
    let folder = format!("{run}/checkpoints");
    let name = place.names(&folder).into_iter().rfind(|n| n.ends_with(".safetensors")).expect("a checkpoint");
    floats(place, &format!("{folder}/{name}"))
}

#[test]
fn a_run_goes_on_with_other_passes() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    let quick = spec("quickstart");
    let train = |run: &str, steps: &str, more: &[&str]| {
        // Winograd's algorithm rounds enough to take an activation to the other side of a kink.
        let args = ["train", &quick, "--data", "mnist", "--batch", "8", "--no-winograd", "--out", run];
        place.run(&[&args[..], &["--steps", steps], more].concat()).ok()
    };
    train("fused", "2", &[]);
    train("mixed", "1", &[]);
    train("mixed", "2", &["--resume", "--no-fuse"]);
    let passes = ["--resume", "--passes", "dead_code,share_prefixes,canonical,assign_layout"];
    train("named", "1", &["--no-fuse"]);
    train("named", "2", &passes);
    let fused = weights(&place, "fused");
    for run in ["mixed", "named"] {
        let other = weights(&place, run);
        assert_eq!(fused.len(), other.len());
        for (name, ours) in &fused {
            let scale = ours.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
            let within = |(a, b): &(&f32, &f32)| (*a - *b).abs() <= 1e-4 * scale;
            let bad = ours.iter().zip(&other[name]).filter(|pair| !within(pair)).count();
            assert_eq!(bad, 0, "{run}: {name}");
        }
    }
    // Evaluation and prediction give the same answers however they are compiled.
    let pixels: Vec<u8> =
        (0..28 * 28u32).map(|i| if i / 28 / 2 == 5 { 220 } else { (i % 40) as u8 }).collect();
    image::GrayImage::from_raw(28, 28, pixels)
        .expect("as many pixels")
        .save(place.path("digit.png"))
        .expect("a writable folder");
    let eval =
        |more: &[&str]| place.run(&[&["eval", "fused", "--data", "mnist", "--json"], more].concat()).json();
    let predict =
        |more: &[&str]| place.run(&[&["predict", "fused", "digit.png", "--json"], more].concat()).json();
    let losses = |json: &Value| -> Vec<f64> {
        json["subnets"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|n| n["loss"].as_f64().expect("loss"))
            .collect()
    };
    let likeliest = |json: &Value| {
        let class = &json["images"][0]["classes"][0];
        class["probability"].as_f64().expect("a probability")
    };
    let (whole, first) = (losses(&eval(&[])), likeliest(&predict(&[])));
    assert_eq!(whole.len(), 3);
    for more in [&["--no-fuse"][..], &["--passes", "dead_code,assign_layout"]] {
        for (a, b) in losses(&eval(more)).iter().zip(&whole) {
            assert!((a - b).abs() <= 1e-4 * b.abs(), "{more:?}: {a} {b}");
        }
        let probability = likeliest(&predict(more));
        assert!((probability - first).abs() <= 1e-4, "{more:?}: {probability} {first}");
        let bench = ["bench", &quick, "--batch", "2", "--steps", "1", "--json"];
        assert_eq!(place.run(&[&bench[..], more].concat()).json()["batch"], 2);
    }
}
