//! Nets asked one after the other: what comes of it, one image, and the models of it.

use crate::common::{Place, SMALL, save, spec, tensors, tiny_mnist};
use serde_json::{Value, json};
use std::fs;

/// A folder with a run of a few steps and an image.
fn trained() -> Place {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    let args = ["train", &spec("quickstart"), "--data", "mnist", "--out", "run", "--steps", "6"];
    place.run(&[&args[..], &SMALL[..]].concat()).ok();
    let pixels = (0..28 * 28).map(|p| (p * 7 % 256) as u8).collect();
    let picture = image::GrayImage::from_raw(28, 28, pixels).expect("28 by 28");
    picture.save(place.path("digit.png")).expect("a writable folder");
    place
}

#[test]
fn a_cascade_is_evaluated() {
    let place = trained();
    let eval = |more: &[&str]| place.run(&[&["eval", "run", "--data", "mnist", "--json"], more].concat());
    let alone = eval(&[]).json();
    assert!(alone.get("cascade").is_none());
    let compiled = place.run(&["compile", &spec("quickstart"), "--json"]).json();
    let of = |json: &Value, net: &str, key: &str| {
        let nets = json["subnets"].as_array().expect("a list").clone();
        nets.iter().find(|n| n["name"] == net).expect("the net")[key].as_f64().expect("a number")
    };
    // A net that is always sure is the cascade.
    for (nets, first) in [("small,full", "small"), ("full,medium,small", "full")] {
        let json = eval(&["--cascade", nets, "--confidence", "0"]).json();
        assert_eq!(json["subnets"], alone["subnets"]);
        let point = &json["cascade"]["points"][0];
        assert_eq!((&point["shares"][0], &point["ratio"]), (&json!(1.0), &Value::Null));
        assert_eq!(point["accuracy"].as_f64(), Some(of(&alone, first, "accuracy")));
        assert_eq!(point["macs"].as_f64(), Some(of(&compiled, first, "macs")));
    }
    // One that never is costs what it computes; the stem and the first block are there already.
    let json = eval(&["--cascade", "small,full", "--entropy", "0"]).json();
    let point = &json["cascade"]["points"][0];
    let (small, full) = (of(&compiled, "small", "macs"), of(&compiled, "full", "macs"));
    assert_eq!(point["accuracy"].as_f64(), Some(of(&alone, "full", "accuracy")));
    assert!(point["macs"].as_f64().is_some_and(|macs| full < macs && macs < full + small), "{point}");

    let json = eval(&["--cascade", "small,medium,full"]).json();
    assert_eq!(json["cascade"]["nets"], json!(["small", "medium", "full"]));
    let points = json["cascade"]["points"].as_array().expect("a list");
    let last: Vec<f64> = points.iter().map(|p| p["shares"][2].as_f64().expect("a number")).collect();
    assert!(points.len() > 5 && last.is_sorted(), "the last net answers more and more: {last:?}");
    for point in points {
        let shares = point["shares"].as_array().expect("a list").iter().filter_map(Value::as_f64);
        assert!((shares.sum::<f64>() - 1.0).abs() < 1e-12, "{point}");
        assert_eq!(point["thresholds"].as_array().map(Vec::len), Some(2));
    }
    let text = place.run(&["eval", "run", "--data", "mnist", "--cascade", "small,full"]).ok();
    assert!(text.contains("cascade small -> full") && text.contains("validation images"), "{text}");
}

#[test]
fn the_first_that_is_sure_of_an_image_answers() {
    let place = trained();
    let predict = |more: &[&str]| place.run(&[&["predict", "run", "digit.png", "--json"], more].concat());
    for (threshold, net) in [(["--confidence", "0"], "small"), (["--entropy", "0"], "full")] {
        let alone = predict(&["--subnet", net]).json();
        let json = predict(&[&["--cascade", "small,medium,full"], &threshold[..]].concat()).json();
        assert_eq!(json["cascade"], json!(["small", "medium", "full"]));
        assert_eq!(json["images"][0]["subnet"], net);
        let classes = |json: &Value| json["images"][0]["classes"].as_array().expect("a list").clone();
        for (one, other) in classes(&json).iter().zip(classes(&alone)) {
            let p = |class: &Value| class["probability"].as_f64().expect("a number");
            assert!(
                one["class"] == other["class"] && (p(one) - p(&other)).abs() <= 1e-5,
                "{one}, not {other}"
            );
        }
    }
    let text =
        place.run(&["predict", "run", "digit.png", "--cascade", "small,full", "--confidence", "0"]).ok();
    assert!(text.starts_with("digit.png  answered by small\n"), "{text}");
}

#[test]
fn the_models_of_a_cascade_are_files() {
    let place = trained();
    let export = |more: &[&str]| place.run(&[&["export", "run"], more].concat());
    let done = export(&["--cascade", "small,full", "-o", "digits.onnx"]);
    assert!(
        done.stderr.contains("wrote `full`") && done.stderr.contains("digits.full.onnx"),
        "{}",
        done.stderr
    );
    done.ok();
    export(&["--subnet", "full", "-o", "full.onnx"]).ok();
    let read = |name: &str| fs::read(place.path(name)).expect("just written");
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    let (small, full) = (read("digits.small.onnx"), read("digits.full.onnx"));
    for file in [&small, &full] {
        assert!(holds(file, "kept.0") && holds(file, r#"["small","full"]"#), "one hands on to the other");
    }
    // The stem is computed once.
    assert!(holds(&small, "resnet.stem.conv1.weight") && !holds(&full, "resnet.stem.conv1.weight"));
    assert!(full.len() < read("full.onnx").len());
    let before = place.names(".");
    export(&["--cascade", "small,small", "-o", "other.onnx"]).fails(1, &["asks `small` twice"]);
    export(&["--cascade", "small,tiny", "-o", "other.onnx"]).fails(1, &["no net `tiny`"]);
    export(&["--cascade", "small,full", "-o", "other"]).fails(2, &["ONNX models", "`other.onnx`"]);
    export(&["--cascade", "small,full", "-o", "none/a.onnx"]).fails(3, &["none/a.small.onnx"]);
    export(&["-o", "other.onnx"]).fails(2, &["--subnet"]);
    assert_eq!(place.names("."), before);
}

#[test]
fn a_cascade_that_is_none_is_refused() {
    let place = trained();
    let eval = |more: &[&str]| place.run(&[&["eval", "run", "--data", "mnist"], more].concat());
    eval(&["--cascade", "small"]).fails(1, &["`small` alone", "two nets or more"]);
    eval(&["--cascade", "small,small"]).fails(1, &["`small` twice"]);
    eval(&["--cascade", "small,foll"]).fails(1, &["no net `foll`", "did you mean `full`"]);
    eval(&["--cascade", "small,full", "--split", "validation"]).fails(2, &["--split test", "--confidence"]);
    eval(&["--cascade", "small,full", "--set", "train.validation=0"])
        .fails(1, &["no images", "--confidence"]);
    eval(&["--cascade", "small,full", "--entropy", "-1"]).fails(2, &["a number from 0 on"]);
    eval(&["--confidence", "0.5"]).fails(2, &["--cascade"]);
    let predict = |more: &[&str]| place.run(&[&["predict", "run", "digit.png"], more].concat());
    predict(&["--cascade", "small,full"]).fails(2, &["--confidence", "--entropy"]);
    predict(&["--cascade", "small", "--confidence", "0.5"]).fails(1, &["`small` alone"]);
    predict(&["--cascade", "small,full", "--subnet", "full", "--confidence", "0.5"]).fails(2, &["--subnet"]);
}

#[test]
fn logits_that_are_no_numbers_are_said() {
    let place = trained();
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w"]).ok();
    let all = tensors(&place.path("w"));
    let bad = |name: &str, data: &[u8]| match name == "resnet.head.linear1.bias" {
        true => [&f32::NAN.to_le_bytes()[..], &data[4..]].concat(),
        false => data.to_vec(),
    };
    let entries =
        all.iter().map(|(name, (dtype, shape, data))| (&**name, *dtype, shape.clone(), bad(name, data)));
    save(&place.path("nan"), &entries.collect::<Vec<_>>());
    let of = ["--weights", "nan"];
    place
        .run(&[&["predict", &quick, "digit.png"], &of[..]].concat())
        .fails(1, &["`full` gives the logit NaN for digit.png"]);
    place.run(&[&["predict", &quick, "digit.png", "--subnet", "small"], &of[..]].concat()).ok();
    let eval = place.run(&[&["eval", &quick, "--data", "mnist"], &of[..]].concat());
    assert!(eval.stderr.contains("warning: `full` gives logits that are not finite"), "{}", eval.stderr);
    assert!(!eval.stderr.contains("`small`"), "{}", eval.stderr);
}
