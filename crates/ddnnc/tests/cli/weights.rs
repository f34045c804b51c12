//! Weights that come from elsewhere and go elsewhere: what `import` takes in, and what is done with a file of `export` alone.

use crate::common::{Place, Ran, SMALL, save, spec, tensors, tiny_mnist};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

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
                input.extend((((value - numbers("mean")[c]) / numbers("std")[c]) as f32).to_le_bytes());
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
