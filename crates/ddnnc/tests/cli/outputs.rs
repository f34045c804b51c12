//! Outputs that cannot be written: folders that cannot be made, a standard output that takes nothing, a disk that is full.

use crate::common::{Place, Ran, spec, tiny_mnist};
use std::fs;
use std::process::Command;

/// Runs with a limit on the size of files, in blocks of 512 bytes, which stands for a disk that is full; it needs no
/// privileges.
fn limited(place: &Place, blocks: &str, args: &[&str]) -> Ran {
    let output = Command::new("sh")
        .args(["-c", "ulimit -f $0; exec \"$@\"", blocks, env!("CARGO_BIN_EXE_ddnnc")])
        .args(args)
        .current_dir(place.dir.path())
        .output()
        .expect("there is `sh`");
    Ran::new(output)
}

/// Whichever command makes the output, and whatever stands in its way.
#[test]
fn outputs_that_cannot_be_made_have_one_status() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    let quick = spec("quickstart");
    place.run(&["step", &quick, "--init", "w"]).ok();
    fs::write(place.path("file"), "mine").expect("a writable folder");
    let train = ["train", &quick, "--data", "mnist", "--steps", "1", "--set", "train.batch=8", "--out"];
    let train = |out: &str| place.run(&[&train[..], &[out]].concat());
    for out in ["file/run", "file/a/b"] {
        train(out).fails(3, &[out, "cannot be written: Not a directory"]);
    }
    train("file").fails(3, &["`file` is a file", "needs a folder"]);
    let export = ["export", &quick, "--weights", "w", "--subnet", "full", "-o", "file/out"];
    place.run(&export).fails(3, &["file/out", "Not a directory"]);
    place.run(&["compile", &quick, "-o", "file/out"]).fails(3, &["file/out", "Not a directory"]);
    place.run(&["compile", &quick, "--dump-phases", "file/out"]).fails(3, &["file/out", "Not a directory"]);
    // A run that is to be read is input.
    place.run(&["train", &quick, "--out", "file/run", "--resume"]).fails(1, &["file/run"]);
    assert_eq!(fs::read_to_string(place.path("file")).expect("a file"), "mine");
}

/// Help and version too, which are written before any command is known.
#[cfg(target_os = "linux")]
#[test]
fn a_standard_output_that_takes_nothing_is_said() {
    let place = Place::new();
    let quick = spec("quickstart");
    for args in [
        &["--help"][..],
        &["--version"],
        &["help", "train"],
        &["train", "-h"],
        &["compile", &quick],
        &["compile", &quick, "--json"],
        &["inspect", &quick],
        &["check", &quick],
        &["fmt", "-"],
    ] {
        let run = |out: std::process::Stdio| {
            let spec = fs::File::open(&quick).expect("a spec");
            place.command(args).stdin(spec).stdout(out).output().expect("the binary runs")
        };
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let ran = Ran::new(run(full.into()));
        assert!(ran.status == 3, "{args:?}: status {}\n{}", ran.status, ran.stderr);
        ran.fails(3, &["standard output cannot be written", "No space left"]);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ran = Ran::new(run(writer.into()));
        assert_eq!(
            (ran.status, ran.stderr.as_str()),
            (0, ""),
            "{args:?}: a reader that has gone is no error"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_full_disk_at_the_start_leaves_no_run() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    let quick = spec("quickstart");
    let args = ["train", &quick, "--data", "mnist", "--out", "run", "--steps", "1", "--set", "train.batch=8"];
    // The spec cannot be written; a checkpoint cannot be written.
    for (blocks, file) in [("0", "run/spec.ddnn"), ("8", "run/checkpoints/step-00000001.safetensors")] {
        limited(&place, blocks, &args).fails(3, &[file, "too large"]);
        assert!(!place.path("run").exists(), "{blocks} blocks: {:?}", place.names("run"));
    }
    place.run(&args).ok();
}

#[cfg(unix)]
#[test]
fn a_full_disk_later_leaves_the_checkpoint_before() {
    let place = Place::new();
    tiny_mnist(&place.path("mnist"));
    let quick = spec("quickstart");
    let args = ["train", &quick, "--data", "mnist", "--out", "run", "--set", "train.batch=8"];
    place.run(&[&args[..], &["--steps", "1"]].concat()).ok();
    let checkpoints = || place.names("run/checkpoints");
    let before = checkpoints();
    assert_eq!(before, ["step-00000001.safetensors"]);
    let on = [&args[..], &["--resume", "--steps", "3"]].concat();
    limited(&place, "8", &on).fails(3, &["run/checkpoints/step-00000003.safetensors", "too large"]);
    assert_eq!(checkpoints(), before, "nothing new, nothing half-written, nothing gone");
    let eval = place.run(&["eval", "run", "--data", "mnist", "--json"]);
    assert_eq!(eval.stderr, "", "the checkpoint is whole");
    eval.ok();
    place.run(&on).ok();
    assert_eq!(checkpoints(), ["step-00000001.safetensors", "step-00000003.safetensors"]);
}
