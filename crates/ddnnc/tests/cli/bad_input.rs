//! Bad input: the status, one clear error, nothing half-written.

use crate::common::{Place, Ran, spec, tiny_mnist};
use std::fs;
use std::path::Path;

fn train(place: &Place, more: &[&str]) -> Ran {
    let quick = spec("quickstart");
    let args = ["train", &quick, "--data", "mnist", "--out", "run", "--steps", "1", "--set", "train.batch=8"];
    place.run(&[&args[..], more].concat())
}

#[test]
fn statuses_tell_whose_fault_it_is() {
    let place = Place::new();
    let quick = spec("quickstart");
    place.run(&["compile", "absent.ddnn"]).fails(1, &["absent.ddnn"]);
    place.run(&["compile", "."]).fails(1, &["folder"]);
    fs::write(place.path("latin.ddnn"), b"model x\n// \xe9\n").expect("a writable folder");
    place.run(&["check", "latin.ddnn"]).fails(1, &["UTF-8", "line 2"]);
    place.run(&["compile", "/dev/zero"]).fails(1, &["larger"]);
    for args in
        [&["compile"][..], &["nothing"], &["compile", &quick, "--emit", "wasm"], &["step", &quick], &[]]
    {
        assert_eq!(place.run(args).status, 2, "{args:?}");
    }
    place.run(&["compile", &quick, "-o", "absent/x"]).fails(3, &["absent/x"]);
    if Path::new("/dev/full").exists() {
        place.run(&["compile", &quick, "-o", "/dev/full"]).fails(3, &["/dev/full"]);
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let output = place.command(&["compile", &quick]).stdout(full).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(3));
    }
}

/// What is there and cannot be read is the environment's fault, whatever it is read as; what is not there, the user's.
#[cfg(target_os = "linux")]
#[test]
fn files_that_cannot_be_read_have_one_status() {
    let place = Place::new();
    let quick = spec("quickstart");
    tiny_mnist(&place.path("mnist"));
    fs::write(place.path("map.json"), b"\xff").expect("a writable folder");
    // Nothing is mapped at its beginning: reading it fails as a damaged disk does.
    let unreadable = "/proc/self/mem";
    let images = place.path("mnist/train-images-idx3-ubyte");
    fs::remove_file(&images).expect("just written");
    std::os::unix::fs::symlink(unreadable, &images).expect("a writable folder");
    let export =
        |weights: &str| place.run(&["export", &quick, "--weights", weights, "--subnet", "full", "-o", "out"]);
    place.run(&["check", unreadable]).fails(3, &[unreadable, "cannot be read"]);
    export(unreadable).fails(3, &[unreadable, "cannot read"]);
    place.run(&["train", &quick, "--data", "mnist"]).fails(3, &["train-images", "cannot be read"]);
    place.run(&["data", "mnist", "--dataset", "mnist"]).fails(3, &["train-images", "cannot be read"]);

    export("absent").fails(1, &["absent", "cannot read"]);
    export(".").fails(1, &["cannot read"]);
    place.run(&["import", &quick, "--weights", "absent", "-o", "out"]).fails(1, &["absent", "cannot read"]);
    place.run(&["step", &quick, "--init", "w"]).ok();
    place
        .run(&["import", &quick, "--weights", "w", "--map", "map.json", "-o", "out"])
        .fails(1, &["map.json", "UTF-8"]);
    fs::create_dir(place.path("run")).expect("a writable folder");
    fs::copy(&quick, place.path("run/spec.ddnn")).expect("a writable folder");
    place.run(&["report", "run"]).fails(1, &["metrics.jsonl"]);
    place.run(&["inspect", "run"]).fails(1, &["is a folder", "run folder, whose spec is `run/spec.ddnn`"]);
    fs::write(place.path("run/spec.ddnn"), b"\xff").expect("a writable folder");
    place.run(&["train", &quick, "--out", "run", "--resume"]).fails(1, &["run/spec.ddnn", "UTF-8"]);
    assert!(!place.path("out").exists());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = place
        .command(&["compile", &spec("quickstart"), "--emit", "fused"])
        .stdout(writer)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_wrong_override_shows_itself() {
    let place = Place::new();
    let quick = spec("quickstart");
    for (text, words) in [
        ("train.epochs=0", &["--set", "train.epochs=0", "out-of-range", "1 error"][..]),
        ("train.epoch=3", &["--set:1:7", "train.epoch=3", "did you mean `epochs`", "1 error"]),
        ("train.optimiser.lr=1", &["--set:1:7", "did you mean `optimizer`", "1 error"]),
        ("train.epochs=(", &["--set", "train.epochs=(", "1 error"]),
        ("share.resnet.norm=nobody", &["--set", "share.resnet.norm=nobody", "1 error"]),
    ] {
        place.run(&["compile", &quick, "--set", text]).fails(1, words);
    }
    let json = place.run(&["compile", &quick, "--set", "train.batch=3", "--json"]).json();
    assert_eq!(json["batch"], 3);
}

#[test]
fn diagnostics_are_counted_and_plain_in_a_pipe() {
    let place = Place::new();
    let text = fs::read_to_string(spec("quickstart")).expect("the spec");
    let wrong = text.replace("epochs     = 8", "epochs     = 0").replace("small  = resnet", "small  = resnt");
    fs::write(place.path("wrong.ddnn"), wrong).expect("a writable folder");
    let ran = place.run(&["check", "wrong.ddnn"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.ends_with("2 errors\n"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\u{1b}'), "no colour in a pipe");
    let ran = place.run(&["check", "wrong.ddnn", "--color", "always"]);
    assert!(ran.stderr.contains('\u{1b}'));
}

#[test]
fn bad_data_leaves_no_run() {
    let images = "mnist/train-images-idx3-ubyte";
    let labels = "mnist/train-labels-idx1-ubyte";
    let cut = |path: &Path| {
        let bytes = fs::read(path).expect("the images");
        fs::write(path, &bytes[..bytes.len() - 100]).expect("a writable folder");
    };
    let set = |path: &Path, at: usize, byte: u8| {
        let mut bytes = fs::read(path).expect("the file");
        bytes[at] = byte;
        fs::write(path, bytes).expect("a writable folder");
    };
    type Damage<'a> = &'a dyn Fn(&Place);
    let cases: [(&str, Damage<'_>, &[&str]); 6] = [
        ("no folder", &|p| fs::remove_dir_all(p.path("mnist")).expect("it was there"), &["mnist"]),
        (
            "no images",
            &|p| fs::remove_file(p.path(images)).expect("it was there"),
            &["train-images-idx3-ubyte"],
        ),
        ("truncated", &|p| cut(&p.path(images)), &["train-images-idx3-ubyte", "truncated"]),
        ("magic", &|p| set(&p.path(images), 3, 9), &["train-images-idx3-ubyte", "magic"]),
        ("label", &|p| set(&p.path(labels), 8 + 5, 77), &["train-labels-idx1-ubyte", "77", "out of range"]),
        ("count", &|p| set(&p.path(labels), 7, 119), &["train-labels-idx1-ubyte"]),
    ];
    for (name, damage, words) in cases {
        let place = Place::new();
        tiny_mnist(&place.path("mnist"));
        damage(&place);
        let ran = train(&place, &[]);
        assert!(!place.path("run").exists(), "{name}: {}", ran.stderr);
        ran.fails(1, words);
    }
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    train(&place, &["--set", "train.batch=4096"]).fails(1, &["4096"]);
    assert!(!place.path("run").exists());
    // The folder that the spec writes, looked for in several places.
    fs::copy(spec("quickstart"), place.path("q.ddnn")).expect("a writable folder");
    place.run(&["train", "q.ddnn"]).fails(1, &["data/mnist", "looked for", "--data"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn bad_weights_are_named() {
    use safetensors::{Dtype, tensor::TensorView};
    let place = Place::new();
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w.safetensors"]).ok();
    let whole = fs::read(place.path("w.safetensors")).expect("written");
    let header = u64::from_le_bytes(whole[..8].try_into().expect("eight bytes")) as usize;
    let text = String::from_utf8(whole[8..8 + header].to_vec()).expect("JSON");
    let rewrite = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let mut new = text.replacen(from, to, 1);
        new.truncate(new.trim_end().len());
        while !new.len().is_multiple_of(8) {
            new.push(' ');
        }
        let mut bytes = (new.len() as u64).to_le_bytes().to_vec();
        bytes.extend(new.as_bytes());
        bytes.extend(&whole[8 + header..]);
        fs::write(place.path("bad.safetensors"), bytes).expect("a writable folder");
    };
    let run = || {
        place.run(&[
            "export",
            &quick,
            "--weights",
            "bad.safetensors",
            "--subnet",
            "full",
            "-o",
            "out.safetensors",
        ])
    };
    rewrite("resnet.stem.conv1.weight", "resnet.stem.conv9.weight");
    run().fails(
        1,
        &[
            "`resnet.stem.conv1.weight`",
            "missing",
            "`resnet.stem.conv9.weight`",
            "not of the model",
            "`ddnnc import`",
        ],
    );
    rewrite("[16,1,3,3]", "[16,3,1,3]");
    run().fails(1, &["resnet.stem.conv1.weight", "[16,3,1,3]", "[16,1,3,3]"]);
    let small = ["--subnet", "small", "-o", "small.safetensors"];
    place.run(&[&["export", &quick, "--weights", "w.safetensors"], &small[..]].concat()).ok();
    // An exported net where the whole model is needed: some of what is missing, how much more, and the way out.
    place
        .run(&[
            "export",
            &quick,
            "--weights",
            "small.safetensors",
            "--subnet",
            "full",
            "-o",
            "out.safetensors",
        ])
        .fails(1, &["no net `full`", "its nets are small"]);
    crate::commands::batch(&place.path("b.safetensors"), 2, 0);
    place
        .run(&["step", &quick, "--weights", "small.safetensors", "--batch", "b.safetensors"])
        .fails(1, &["is missing", " more", "holds `small` alone", "ddnnc import"]);
    fs::write(place.path("bad.safetensors"), &whole[..whole.len() - 10]).expect("a writable folder");
    run().fails(1, &["bad.safetensors", "not a complete safetensors file"]);
    fs::write(place.path("bad.safetensors"), b"").expect("a writable folder");
    run().fails(1, &["bad.safetensors"]);
    assert!(!place.path("out.safetensors").exists());
    let load = "network.teacher.load=\"w.safetensors\"";
    place
        .run(&["step", &spec("kd_two_networks"), "--set", load, "--init", "out.safetensors"])
        .fails(1, &["w.safetensors do not fit", "the model needs", "`ddnnc export`"]);
    // What PyTorch saves of a net with norms: `tensor.float()` alone would not make it fit.
    let tracked = TensorView::new(Dtype::I64, vec![], &[0; 8]).expect("eight bytes");
    let file = place.path("torch.safetensors");
    safetensors::serialize_to_file([("bn1.num_batches_tracked", tracked)], None, &file).expect("written");
    place
        .run(&["train", &quick, "--weights", "torch.safetensors"])
        .fails(1, &["`bn1.num_batches_tracked` is I64", "`ddnnc import`"]);
    place.run(&["eval", &quick]).fails(2, &["no weights", "--weights"]);
    place.run(&["eval", "nope"]).fails(1, &["no spec and no run folder `nope`"]);
    place.run(&["check", &format!("{quick}/")]).fails(1, &["no file"]);
    let seed = "9223372036854775808";
    place.run(&["step", &quick, "--init", "w", "--seed", seed]).fails(2, &["--seed"]);
    place.run(&["eval", &quick, "--run", "absent"]).fails(1, &["absent"]);
    place.run(&["eval", &quick, "--run", "."]).fails(1, &["no run folder"]);
    place.run(&["train", &quick, "--out", "w.safetensors"]).fails(3, &["`w.safetensors` is a file"]);
    place.run(&["report", "."]).fails(1, &["spec.ddnn"]);
}

#[test]
fn negative_numbers_are_out_of_range() {
    let place = Place::new();
    let quick = spec("quickstart");
    let train = ["--seed", "--batch", "--steps", "--threads"].map(|option| ("train", option));
    let others = [("eval", "--at-least"), ("eval", "--batch"), ("bench", "--top"), ("bench", "--steps")];
    for (command, option) in train.into_iter().chain(others) {
        place.run(&[command, &quick, option, "-1"]).fails(2, &["invalid value '-1'", option]);
    }
}

/// A name that promises another format would be found out only where the file is used.
#[test]
fn a_name_promises_no_format_that_is_not_written() {
    let place = Place::new();
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w.safetensors"]).ok();
    let export = ["export", &quick, "--weights", "w.safetensors", "--subnet", "small", "-o"];
    for name in ["a.onnx", "a.pth", "a.b.PT", "a.pb"] {
        let onnx = name == "a.onnx";
        let words = ["would be a safetensors file", "name it `a.", "safetensors`"];
        if !onnx {
            let too = [&words[..], &["or `a.", ".onnx`, an ONNX model"]].concat();
            place.run(&[&export[..], &[name]].concat()).fails(2, &too);
        }
        let only =
            if onnx { "`ddnnc export` writes ONNX models" } else { "only format that this command writes" };
        let words = [&words[..], &[only]].concat();
        place.run(&["step", &quick, "--init", name]).fails(2, &words);
        place.run(&["import", &quick, "--weights", "w.safetensors", "-o", name]).fails(2, &words);
        assert!(!place.path(name).exists());
    }
    for name in ["a", "a.safetensors", "a.weights", "onnx"] {
        place.run(&[&export[..], &[name]].concat()).ok();
    }
}

/// Small weights are no text, and large ones larger than a spec may be: neither says what is wrong.
#[test]
fn weights_are_no_spec() {
    let place = Place::new();
    place.run(&["step", &spec("quickstart"), "--init", "w.safetensors"]).ok();
    for command in ["check", "inspect", "compile", "train", "bench"] {
        place.run(&[command, "w.safetensors"]).fails(1, &["w.safetensors is a weights file", "`--weights`"]);
    }
}

#[test]
fn bad_batches_are_named() {
    use safetensors::{Dtype, tensor::TensorView};
    let place = Place::new();
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w.safetensors"]).ok();
    let save = |entries: &[(&str, Dtype, Vec<usize>, Vec<u8>)]| {
        let views = entries.iter().map(|(name, dtype, shape, data)| {
            (
                name.to_string(),
                TensorView::new(*dtype, shape.clone(), data).expect("as many bytes as elements"),
            )
        });
        let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).expect("views serialize");
        fs::write(place.path("b.safetensors"), bytes).expect("a writable folder");
    };
    let run = || {
        let args = [
            "step",
            &quick,
            "--weights",
            "w.safetensors",
            "--batch",
            "b.safetensors",
            "--out",
            "g.safetensors",
        ];
        place.run(&args)
    };
    let image = |n: usize| ("image", Dtype::F32, vec![n, 1, 28, 28], vec![0u8; n * 784 * 4]);
    save(&[image(2)]);
    run().fails(1, &["`label` i64[2] is missing"]);
    save(&[image(2), ("label", Dtype::I64, vec![3], vec![0; 24])]);
    run().fails(1, &["`label` is i64[3], not i64[2]"]);
    save(&[
        ("image", Dtype::F32, vec![2, 784], vec![0; 2 * 784 * 4]),
        ("label", Dtype::F32, vec![2], vec![0; 8]),
    ]);
    run().fails(1, &["`image` is f32[2,784], not f32[2,1,28,28]", "`label` is f32[2], not i64[2]"]);
    let labels: Vec<u8> = [3i64, 10].iter().flat_map(|l| l.to_le_bytes()).collect();
    save(&[image(2), ("label", Dtype::I64, vec![2], labels), ("more", Dtype::F32, vec![], vec![0; 4])]);
    run().fails(1, &["`more`"]);
    let labels: Vec<u8> = [3i64, 10].iter().flat_map(|l| l.to_le_bytes()).collect();
    save(&[image(2), ("label", Dtype::I64, vec![2], labels)]);
    run().fails(1, &["label 10 of image 1"]);
    save(&[image(0), ("label", Dtype::I64, vec![0], vec![])]);
    run().fails(1, &["0 images"]);
    assert!(!place.path("g.safetensors").exists());
}

#[test]
fn what_is_no_image_is_said_in_plain_words() {
    let place = Place::new();
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w.safetensors"]).ok();
    for name in ["notes.txt", "notes", "notes.png"] {
        fs::write(place.path(name), "no image").expect("a writable folder");
        place
            .run(&["predict", &quick, "--weights", "w.safetensors", name])
            .fails(1, &[name, "not of a format that is read: JPEG, PNG, BMP, GIF, WebP"]);
    }
    // A device without an end is not read to its end.
    #[cfg(unix)]
    place
        .run(&["predict", &quick, "--weights", "w.safetensors", "/dev/zero"])
        .fails(1, &["/dev/zero", "PNG"]);
}

#[test]
fn an_unreadable_image_leaves_no_run_before_the_first_checkpoint() {
    let place = Place::new();
    for split in ["train", "val"] {
        for class in ["a", "b"] {
            let folder = place.path(&format!("images/{split}/{class}"));
            fs::create_dir_all(&folder).expect("a writable folder");
            for i in 0..4u8 {
                let image = image::GrayImage::from_pixel(8, 8, image::Luma([i * 50]));
                image.save(folder.join(format!("{i}.png"))).expect("a writable folder");
            }
        }
    }
    let text = "model tiny\ninput image : f32[1, 8, 8]\ntarget label : class[2]\n\
        block plain(out) { in |> conv(out, 3) |> bn |> relu }\n\
        backbone net {\n    stem = conv(2, 3)\n    stage s1 = plain(2)\n    head = global_avg_pool |> linear(classes)\n}\n\
        subnet full = net\n\
        train {\n    data = image_folder(path = \"images\")\n    batch = 2\n    epochs = 2\n    optimizer = sgd(lr = 0.01)\n}\n";
    fs::write(place.path("t.ddnn"), text).expect("a writable folder");
    place.run(&["train", "t.ddnn", "--out", "good", "--steps", "2"]).ok();

    // Classes have the names of their folders, and data with other folders are of another training.
    let shown = place.run(&["predict", "good", "images/val/a/0.png"]).ok();
    assert!(["a", "b"].iter().all(|name| shown.contains(&format!(" %  {name}\n"))), "{shown}");
    let json = place.run(&["predict", "good", "images/val/a/0.png", "--json"]).json();
    for class in json["images"][0]["classes"].as_array().expect("a list") {
        assert_eq!(class["name"], if class["class"] == 0 { "a" } else { "b" });
    }
    place.run(&["export", "good", "--subnet", "full", "-o", "full"]).ok();
    let exported = fs::read(place.path("full")).expect("just written");
    assert!(String::from_utf8_lossy(&exported).contains(r#""class_names":"[\"a\",\"b\"]""#));
    place.run(&["eval", "good"]).ok();
    for split in ["train", "val"] {
        fs::rename(place.path(&format!("images/{split}/a")), place.path(&format!("images/{split}/c")))
            .expect("a folder");
    }
    let other = ["images", "`a` only in the weights, `c` only in the data", "--data"];
    place.run(&["eval", "good"]).fails(1, &other);
    place.run(&["train", "t.ddnn", "--out", "good", "--resume"]).fails(1, &other);
    for split in ["train", "val"] {
        fs::rename(place.path(&format!("images/{split}/c")), place.path(&format!("images/{split}/a")))
            .expect("a folder");
    }
    fs::write(place.path("images/train/b/2.png"), "no image").expect("a writable folder");
    let ran = place.run(&["train", "t.ddnn", "--out", "run"]);
    assert!(!place.path("run").exists(), "{}", ran.stderr);
    ran.fails(1, &["train/b/2.png", "not a readable image"]);

    // What a run has learned before is not thrown away.
    place.run(&["train", "t.ddnn", "--out", "good", "--resume"]).fails(1, &["2.png"]);
    assert_eq!(place.names("good/checkpoints").len(), 1);
}

#[test]
fn a_checkpoint_that_is_passed_over_is_named() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    train(&place, &[]).ok();
    let good = "run/checkpoints/step-00000001.safetensors";
    image::GrayImage::new(28, 28).save(place.path("digit.png")).expect("a writable folder");
    let bytes = fs::read(place.path(good)).expect("a checkpoint");
    let old = "\"format_version\":\"1\"";
    let at = bytes.windows(old.len()).position(|w| w == old.as_bytes()).expect("a version");
    let mut later = bytes.clone();
    later[at + old.len() - 2] = b'7';
    for (newest, reason) in [
        (&bytes[..bytes.len() - 9], "not a complete"),
        (&later, "checkpoint format 7, and this version of `ddnnc` reads 1. Use the version that wrote it"),
    ] {
        fs::write(place.path("run/checkpoints/step-00000002.safetensors"), newest)
            .expect("a writable folder");
        for command in [
            &["eval", "run", "--data", "mnist", "--json"][..],
            &["export", "run", "--subnet", "small", "-o", "small.safetensors"],
            &["predict", "run", "digit.png"],
        ] {
            let ran = place.run(command);
            let warnings: Vec<&str> = ran.stderr.lines().filter(|l| l.starts_with("warning: ")).collect();
            assert_eq!(warnings.len(), 1, "{command:?}: {}", ran.stderr);
            for word in ["step-00000002.safetensors", reason, "step-00000001.safetensors is used"] {
                assert!(warnings[0].contains(word), "{command:?}: {}", ran.stderr);
            }
            ran.ok();
            let quiet = place.run(&[command, &["--quiet"]].concat());
            assert!(quiet.stderr.is_empty(), "{}", quiet.stderr);
        }
    }
}

/// Phases are for comparing: some of this compilation beside some of another would mislead.
#[cfg(unix)]
#[test]
fn phases_are_dumped_all_or_none() {
    let place = Place::new();
    let quick = spec("quickstart");
    let dump = |folder: &str| place.run(&["compile", &quick, "--dump-phases", folder, "-q"]);
    dump("good").ok();
    let names = place.names("good");
    assert!(names.len() >= 6, "{names:?}");
    // The name of one is taken by a folder, the others are files of another compilation.
    let taken = &names[3];
    fs::create_dir_all(place.path("old").join(taken)).expect("a writable folder");
    for name in names.iter().filter(|name| *name != taken) {
        fs::write(place.path("old").join(name), "old").expect("a writable folder");
    }
    dump("old").fails(3, &[&format!("old/{taken}"), "directory"]);
    assert_eq!(place.names("old"), names);
    for name in names.iter().filter(|name| *name != taken) {
        assert_eq!(fs::read_to_string(place.path("old").join(name)).expect("a file"), "old", "{name}");
    }
    // A disk that is full before the last one; the folders that were made are gone again, and no other.
    fs::create_dir(place.path("mine")).expect("a writable folder");
    let sizes = names.iter().map(|name| fs::metadata(place.path("good").join(name)).expect("a file").len());
    let blocks = (sizes.max().expect("a file") / 512 - 1).to_string();
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -f $0; exec \"$@\"", &blocks, env!("CARGO_BIN_EXE_ddnnc")])
        .args(["compile", &quick, "--dump-phases", "mine/a/b"])
        .current_dir(place.dir.path())
        .output()
        .expect("there is `sh`");
    Ran::new(output).fails(3, &["mine/a/b/", "too large"]);
    assert!(place.path("mine").exists() && place.names("mine").is_empty(), "{:?}", place.names("mine"));
    dump("mine/a/b").ok();
    assert_eq!(place.names("mine/a/b"), names);
}

#[cfg(target_os = "linux")]
#[test]
fn memory_that_cannot_be_had_is_said() {
    let place = Place::new();
    let quick = spec("quickstart");
    for device in ["cpu", "reference"] {
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -v 1500000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ddnnc")])
            .args(["bench", &quick, "--batch", "20000", "--steps", "1", "--device", device, "--threads", "1"])
            .current_dir(place.dir.path())
            .output()
            .expect("there is `sh`");
        Ran::new(output)
            .fails(3, &["the program needs", "GiB, and as much memory cannot be had", "`--batch N`"]);
    }
    // The weights alone: 20000 x 20000 x 9 of them.
    let wide = fs::read_to_string(&quick).expect("the spec").replace("basic(32)", "basic(20000)");
    fs::write(place.path("wide.ddnn"), wide.replace("basic(32,", "basic(20000,")).expect("a writable folder");
    tiny_mnist(&place.path("mnist"));
    for args in [
        &["step", "wide.ddnn", "--init", "w"][..],
        &["train", "wide.ddnn", "--data", "mnist", "--out", "run"],
    ] {
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -v 1500000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ddnnc")])
            .args(args)
            .current_dir(place.dir.path())
            .output()
            .expect("there is `sh`");
        Ran::new(output).fails(3, &["the weights need", "GiB, and as much memory cannot be had"]);
        assert!(!place.path("run").exists() && !place.path("w").exists());
    }
}

#[test]
fn a_run_that_diverges_fails() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    // The losses of the first step are those of the initial weights; the test images are the first to meet the update.
    let ran = train(&place, &["--set", "train.optimizer.lr=1e30", "--set", "train.schedule=constant"]);
    ran.fails(
        1,
        &["the test loss of `full`", "at step 1", "No checkpoint had been written yet", "learning rate"],
    );
    assert!(place.names("run/checkpoints").is_empty());
}

#[test]
fn an_accuracy_that_is_not_reached_is_a_failure() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    train(&place, &[]).ok();
    let eval = |least: &str| place.run(&["eval", "run", "--data", "mnist", "--json", "--at-least", least]);
    assert!(eval("0").json()["subnets"].is_array());
    eval("1").fails(1, &["below", "`full`", "`small`"]);
    eval("97.5").fails(2, &["a fraction from 0 to 1"]);
}
