//! The built binary, a folder of its own for each test, and data small enough to train on in a moment.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a command came to.
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn new(output: Output) -> Ran {
        Ran {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its standard output, once it has ended well.
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stdout
    }

    /// Its standard output as the one JSON value that it is.
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Asserts that it failed with this status, one error, and all of these words.
    pub fn fails(self, status: i32, words: &[&str]) {
        let text = &self.stderr;
        assert_eq!(self.status, status, "{text}");
        assert!(!text.contains("panicked"), "{text}");
        assert_eq!(text.lines().filter(|l| l.starts_with("error")).count(), 1, "one error: {text}");
        for word in words {
            assert!(text.contains(word), "`{word}` in: {text}");
        }
    }
}

/// A folder of its own.
pub struct Place {
    pub dir: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddnnc"));
        command.args(args).current_dir(self.dir.path()).env_remove("NO_COLOR");
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::new(self.command(args).stdin(Stdio::null()).output().expect("the binary runs"))
    }

    /// Runs with text on standard input.
    pub fn pipe(&self, args: &[&str], input: &str) -> Ran {
        fs::write(self.path("stdin"), input).expect("a writable folder");
        let stdin = fs::File::open(self.path("stdin")).expect("just written");
        Ran::new(self.command(args).stdin(stdin).output().expect("the binary runs"))
    }

    pub fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs")
    }

    /// The names in a folder, sorted; none where it does not exist.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// A spec under `specs/`.
pub fn spec(name: &str) -> String {
    format!("{}/../../specs/{name}.ddnn", env!("CARGO_MANIFEST_DIR"))
}

/// Every spec under `specs/`.
pub fn specs() -> Vec<String> {
    let folder = format!("{}/../../specs", env!("CARGO_MANIFEST_DIR"));
    let entries = fs::read_dir(folder).expect("specs/ can be listed").flatten();
    let mut paths: Vec<String> = entries.map(|e| e.path().to_string_lossy().into_owned()).collect();
    paths.retain(|path| path.ends_with(".ddnn"));
    paths.sort();
    assert!(paths.len() >= 10, "{paths:?}");
    paths
}

/// MNIST's format with 12 training and 3 test images of each class: a bright bar whose place tells the class.
pub fn tiny_mnist(folder: &Path) {
    fs::create_dir_all(folder).expect("a writable folder");
    for (stem, each) in [("train", 12u32), ("t10k", 3)] {
        let count = each * 10;
        let mut images: Vec<u8> = [0x0803u32, count, 28, 28].iter().flat_map(|n| n.to_be_bytes()).collect();
        let mut labels: Vec<u8> = [0x0801u32, count].iter().flat_map(|n| n.to_be_bytes()).collect();
        for i in 0..count {
            let class = i % 10;
            labels.push(class as u8);
            images.extend((0..28 * 28u32).map(|p| match p / 28 / 2 == class + 2 {
                true => 200 + (i % 50) as u8,
                false => ((p * 7 + i * 13) % 40) as u8,
            }));
        }
        fs::write(folder.join(format!("{stem}-images-idx3-ubyte")), images).expect("a writable folder");
        fs::write(folder.join(format!("{stem}-labels-idx1-ubyte")), labels).expect("a writable folder");
    }
}

/// Waits until `done`, for a minute at most.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Arguments that make the quickstart spec quick.
pub const SMALL: [&str; 2] = ["--set", "train.batch=8"];

/// Name to (dtype, shape, bytes).
pub fn tensors(path: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).expect("the file is there");
    let file = SafeTensors::deserialize(&bytes).expect("a whole file");
    let entry =
        |(name, v): (String, TensorView<'_>)| (name, (v.dtype(), v.shape().to_vec(), v.data().to_vec()));
    file.tensors().into_iter().map(entry).collect()
}

/// Writes such a file.
pub fn save(path: &Path, entries: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = entries.iter().map(|(name, dtype, shape, data)| {
        (name.to_string(), TensorView::new(*dtype, shape.clone(), data).expect("as many bytes as elements"))
    });
    let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).expect("views serialize");
    fs::write(path, bytes).expect("a writable folder");
}
