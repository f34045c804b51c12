//! Weights files: what is written, what is checked, what stays when writing fails.

mod common;

use ddnnc_ir::{Init, Parameter, Shape};
use ddnnc_train::{
    Tensor, Tensors, WeightsError, atomic_write, check_weights, initial_values, read_weights,
    read_weights_where, subnet_weights, write_tensors, write_weights,
};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

fn tensor(shape: &[usize], first: f32) -> Tensor {
    let shape = Shape::from(shape);
    let data = (0..shape.elements()).map(|i| first + i as f32).collect();
    Tensor { shape, data }
}

fn some() -> (Tensors, BTreeMap<String, String>) {
    let tensors = [("b.w", tensor(&[2, 3], 1.0)), ("a", tensor(&[], 9.0))];
    let tensors = tensors.map(|(n, t)| (n.to_string(), t)).into_iter().collect();
    (tensors, [("step".to_string(), "3 \"quoted\"".to_string())].into())
}

#[test]
fn a_written_file_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let (tensors, metadata) = some();
    write_weights(&path, &tensors, &metadata).unwrap();
    let back = read_weights(&path).unwrap();
    assert_eq!((back.tensors, back.metadata), (tensors, metadata));
    for cut in [0, 4, 20, fs::metadata(&path).unwrap().len() as usize - 1] {
        let bytes = fs::read(&path).unwrap();
        let short = folder.path().join("short");
        fs::write(&short, &bytes[..cut]).unwrap();
        let error = read_weights(&short).unwrap_err();
        assert!(matches!(error, WeightsError::Format { .. }), "{error}");
    }
}

#[test]
fn files_of_other_kinds_say_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    let said = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        read_weights(&path).unwrap_err().to_string()
    };
    let torch: [&[u8]; 2] =
        [b"PK\x03\x04\0\0\x08\x08\0\0", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."];
    for file in torch {
        let text = said(file);
        assert!(text.contains("w.pth") && text.contains("`safetensors.torch.save_file`"), "{text}");
    }
    let header = r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"n":{"dtype":"I64","shape":[],"data_offsets":[2,10]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes().chain([0; 10]));
    let text = said(&bytes);
    assert!(
        ["w.pth", "`a` is F16", "`n` is I64", "tensor.float()"].iter().all(|w| text.contains(w)),
        "{text}"
    );
    let other = read_weights_where(&path, |name| name == "a").unwrap_err().to_string();
    assert!(other.contains("`a`") && !other.contains("`n`"), "{other}");
    assert!(read_weights_where(&path, |_| false).unwrap().tensors.is_empty());
}

/// Takes so many bytes, then is full.
struct Full<'a> {
    out: &'a mut dyn Write,
    room: usize,
}

impl Write for Full<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room == 0 && !bytes.is_empty() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let n = self.out.write(&bytes[..bytes.len().min(self.room)])?;
        self.room -= n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[test]
fn a_disk_that_fills_at_any_byte_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let (tensors, metadata) = some();
    write_weights(&path, &tensors, &metadata).unwrap();
    let old = fs::read(&path).unwrap();
    let mut new = tensors.clone();
    new[0].data[0] = -1.0;
    for room in 0..old.len() {
        let outcome = atomic_write(&path, &mut |out| write_tensors(&mut Full { out, room }, &new, &metadata));
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::StorageFull, "after {room} bytes");
        assert_eq!(fs::read(&path).unwrap(), old, "after {room} bytes");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "a temporary file stays after {room} bytes"
        );
    }
    let room = old.len();
    atomic_write(&path, &mut |out| write_tensors(&mut Full { out, room }, &new, &metadata)).unwrap();
    assert_eq!(read_weights(&path).unwrap().tensors, new);
}

#[test]
fn what_cannot_be_written_is_an_error_of_the_environment() {
    let (tensors, metadata) = some();
    let folder = tempfile::tempdir().unwrap();
    let error = write_weights(&folder.path().join("no/such/w"), &tensors, &metadata).unwrap_err();
    assert!(error.is_environment() && error.to_string().contains("no/such/w"), "{error}");
    if let Ok(mut full) = fs::File::options().write(true).open("/dev/full") {
        let error = write_tensors(&mut full, &tensors, &metadata).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}

#[test]
fn every_wrong_tensor_is_named() {
    let model = common::model(4, 1, false);
    let good = initial_values(&model, 1, Path::new("")).unwrap();
    check_weights(&model, &good).unwrap();
    let mut bad = good.clone();
    bad.shift_remove("net.running_mean");
    bad.insert("net.w".into(), tensor(&[2, 2], 0.0));
    bad.insert("extra.bias".into(), tensor(&[7], 0.0));
    let text = check_weights(&model, &bad).unwrap_err().to_string();
    for part in [
        "`net.running_mean` [4] is missing",
        "`net.w` is [2,2], but the model needs [4]",
        "`extra.bias` [7] is not of the model",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    let picked = subnet_weights(&model, &good, "right").unwrap();
    assert_eq!(picked.keys().collect::<Vec<_>>(), ["net.w", "net.running_mean"]);
    let unknown = subnet_weights(&model, &good, "left").unwrap_err().to_string();
    assert!(unknown.contains("`left`") && unknown.contains("right, wrong"), "{unknown}");
}

#[test]
fn initial_values_depend_on_seed_and_name_alone() {
    let mut model = common::model(4, 1, false);
    let parameter = |init| Parameter { shape: Shape::from([5000]), init, frozen: false, load: None };
    model.parameters.insert("z.normal".into(), parameter(Init::Normal { std: 0.1 }));
    model.parameters.insert("z.uniform".into(), parameter(Init::Uniform { bound: 0.3 }));
    model.parameters.insert("z.constant".into(), parameter(Init::Constant { value: 1.0 }));
    let values = initial_values(&model, 5, Path::new("")).unwrap();
    assert_eq!(values["net.running_mean"].data, [0.25; 4]);
    assert!(values["z.constant"].data.iter().all(|&x| x == 1.0));
    let moments = |data: &[f32]| {
        let mean = data.iter().map(|&x| f64::from(x)).sum::<f64>() / data.len() as f64;
        (mean, (data.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / data.len() as f64).sqrt())
    };
    let (mean, std) = moments(&values["z.normal"].data);
    assert!(mean.abs() < 0.006 && (std - 0.1).abs() < 0.005, "{mean} {std}");
    let (mean, std) = moments(&values["z.uniform"].data);
    assert!(mean.abs() < 0.02 && (std - 0.3 / 3f64.sqrt()).abs() < 0.01, "{mean} {std}");
    assert!(values["z.uniform"].data.iter().all(|x| x.abs() <= 0.3));

    let mut reversed = model.clone();
    reversed.parameters.reverse();
    let again = initial_values(&reversed, 5, Path::new("")).unwrap();
    for (name, tensor) in &values {
        assert_eq!(tensor, &again[name], "{name}");
    }
    assert_ne!(values["z.normal"], initial_values(&model, 6, Path::new("")).unwrap()["z.normal"]);
}

#[test]
fn a_teacher_is_loaded_under_any_first_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = common::model(4, 1, false);
    let parameter = |n: usize| Parameter {
        shape: Shape::from([n]),
        init: Init::Constant { value: 0.0 },
        frozen: true,
        load: Some("t.safetensors".into()),
    };
    model.parameters.insert("teacher.s1.conv1.weight".into(), parameter(2));
    model.parameters.insert("teacher.head.linear1.bias".into(), parameter(3));
    let path = folder.path().join("t.safetensors");
    for prefix in ["teacher.", "resnet.", ""] {
        let named = |rest: &str| format!("{prefix}{rest}");
        let mut tensors = Tensors::new();
        tensors.insert(named("head.linear1.bias"), tensor(&[3], 5.0));
        tensors.insert(named("s1.conv1.weight"), tensor(&[2], 7.0));
        tensors.insert("optimizer/whatever".into(), tensor(&[2], 0.0));
        write_weights(&path, &tensors, &BTreeMap::new()).unwrap();
        let values = initial_values(&model, 1, folder.path()).unwrap();
        assert_eq!(values["teacher.s1.conv1.weight"].data, [7.0, 8.0], "{prefix}");
        assert_eq!(values["teacher.head.linear1.bias"].data, [5.0, 6.0, 7.0], "{prefix}");
        check_weights(&model, &values).unwrap();

        tensors.shift_remove(&named("s1.conv1.weight"));
        tensors.insert(named("s9.conv1.weight"), tensor(&[2], 7.0));
        write_weights(&path, &tensors, &BTreeMap::new()).unwrap();
        let error = initial_values(&model, 1, folder.path()).unwrap_err().to_string();
        for part in
            ["t.safetensors", "`teacher.s1.conv1.weight` [2] is missing", "s9.conv1.weight` [2] is not"]
        {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}

/// As `export` writes a sub-net that was trained with deeper ones.
#[test]
fn a_teacher_is_loaded_without_the_marks_of_its_net() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = common::model(4, 1, false);
    for (name, n) in [("teacher.s1.bn1.weight", 2), ("teacher.head.linear1.bias", 3)] {
        let load = Some("t.safetensors".into());
        let parameter =
            Parameter { shape: Shape::from([n]), init: Init::Constant { value: 0.0 }, frozen: true, load };
        model.parameters.insert(name.into(), parameter);
    }
    let mut tensors = Tensors::new();
    tensors.insert("resnet.s1.bn1@medium.weight".into(), tensor(&[2], 7.0));
    tensors.insert("resnet.head.linear1@small.bias".into(), tensor(&[3], 5.0));
    let path = folder.path().join("t.safetensors");
    write_weights(&path, &tensors, &BTreeMap::new()).unwrap();
    let values = initial_values(&model, 1, folder.path()).unwrap();
    assert_eq!(values["teacher.s1.bn1.weight"].data, [7.0, 8.0]);
    assert_eq!(values["teacher.head.linear1.bias"].data, [5.0, 6.0, 7.0]);
    check_weights(&model, &values).unwrap();

    // Of several nets, which one is meant cannot be told.
    tensors.insert("resnet.s1.bn1.weight".into(), tensor(&[2], 1.0));
    write_weights(&path, &tensors, &BTreeMap::new()).unwrap();
    let error = initial_values(&model, 1, folder.path()).unwrap_err().to_string();
    assert!(error.contains("`resnet.s1.bn1@medium.weight` [2] is not of the model"), "{error}");
}

#[test]
fn a_folder_that_is_not_there_is_said_without_the_temporary_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no/w.safetensors");
    let text = write_weights(&path, &Tensors::new(), &Default::default()).unwrap_err().to_string();
    assert!(text.contains("w.safetensors") && !text.contains(".ddnnc-"), "{text}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_devices_written_through() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |path: &Path| atomic_write(path, &mut |out| out.write_all(b"new"));
    fs::create_dir(at("there")).unwrap();
    fs::write(at("there/file"), b"old").unwrap();
    symlink("there/file", at("one")).unwrap();
    symlink(at("one"), at("two")).unwrap();
    symlink("nothing", at("dangling")).unwrap();
    write(&at("two")).unwrap();
    write(&at("dangling")).unwrap();
    assert_eq!(fs::read(at("there/file")).unwrap(), b"new");
    assert_eq!(fs::read(at("nothing")).unwrap(), b"new");
    for link in ["one", "two", "dangling"] {
        assert!(fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link} stays a link");
    }
    symlink("loop", at("loop")).unwrap();
    assert!(write(&at("loop")).is_err());

    let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
    assert!(made.success());
    let pipe = at("pipe");
    let reader = std::thread::spawn(move || fs::read(pipe));
    write(&at("pipe")).unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), b"new");
    assert!(fs::metadata(at("pipe")).unwrap().file_type().is_fifo(), "a pipe stays a pipe");
}

/// As `/dev/stdout` is where standard output goes to a file.
#[cfg(target_os = "linux")]
#[test]
fn a_link_to_an_open_file_is_written_through() {
    use std::os::fd::AsRawFd;
    let folder = tempfile::tempdir().unwrap();
    let mut open = fs::File::create(folder.path().join("out")).unwrap();
    open.write_all(b"before, ").unwrap();
    let link = folder.path().join("stdout");
    std::os::unix::fs::symlink(format!("/proc/self/fd/{}", open.as_raw_fd()), &link).unwrap();
    atomic_write(&link, &mut |out| out.write_all(b"after")).unwrap();
    assert_eq!(fs::read(folder.path().join("out")).unwrap(), b"before, after");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "the link stays");
}
