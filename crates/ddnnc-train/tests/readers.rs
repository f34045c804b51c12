//! Every data format, read from files made by hand, and every way in which such files can be wrong.

mod common;

use common::{plain_data, write_mnist};
use ddnnc_ir::{Augment, Data, Dataset, Shape};
use ddnnc_train::{DataError, DataSource, Fit, read_image};
use std::fs;
use std::io::Write;
use std::path::Path;

fn open(dataset: Dataset, folder: &Path, input: [usize; 3], classes: usize) -> Result<DataSource, DataError> {
    open_with(&plain_data(dataset, vec![], input[0]), folder, input, classes)
}

fn open_with(data: &Data, folder: &Path, input: [usize; 3], classes: usize) -> Result<DataSource, DataError> {
    let input = Shape::from(input);
    DataSource::open(data, folder, Fit { input: &input, classes, validation: 0.0, seed: 1 })
}

/// The error's text after `change` has spoilt a good MNIST folder.
fn spoilt_mnist(change: impl Fn(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    write_mnist(folder.path(), "train", 20, 1);
    write_mnist(folder.path(), "t10k", 10, 2);
    change(folder.path());
    open(Dataset::Mnist, folder.path(), [1, 28, 28], 10).unwrap_err().to_string()
}

fn edit(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

fn pack(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    fs::write(
        path.with_file_name(format!("{}.gz", path.file_name().unwrap().to_str().unwrap())),
        encoder.finish().unwrap(),
    )
    .unwrap();
    fs::remove_file(path).unwrap();
}

#[test]
fn mnist_reads_plain_and_packed_alike() {
    let folder = tempfile::tempdir().unwrap();
    write_mnist(folder.path(), "train", 20, 1);
    write_mnist(folder.path(), "t10k", 10, 2);
    let first = |d: &DataSource| d.test(10, 1).next_batch().unwrap().unwrap();
    let plain = first(&open(Dataset::Mnist, folder.path(), [1, 28, 28], 10).unwrap());
    for entry in fs::read_dir(folder.path()).unwrap() {
        pack(&entry.unwrap().path());
    }
    let packed = open(Dataset::Mnist, folder.path(), [1, 28, 28], 10).unwrap();
    assert_eq!((packed.train_len(), packed.test_len()), (20, 10));
    assert_eq!(plain, first(&packed));
    assert_eq!(plain.labels, (0..10).collect::<Vec<i64>>());
    assert_eq!(plain.images[784], 20.0 / 255.0);
}

#[test]
fn mnist_failures_say_what_is_wrong() {
    let images = "train-images-idx3-ubyte";
    let labels = "train-labels-idx1-ubyte";
    says(
        &spoilt_mnist(|d| fs::remove_file(d.join(images)).unwrap()),
        &["looked for train-images-idx3-ubyte, train-images-idx3-ubyte.gz", "--data DIR"],
    );
    says(
        &spoilt_mnist(|d| edit(&d.join(images), |b| b.truncate(b.len() - 100))),
        &[images, "15596 bytes, but 15696 are expected", "truncated"],
    );
    says(&spoilt_mnist(|d| edit(&d.join(images), |b| b.push(0))), &["15697 bytes"]);
    says(&spoilt_mnist(|d| edit(&d.join(labels), |b| b.truncate(6))), &[labels, "6 bytes"]);
    says(
        &spoilt_mnist(|d| edit(&d.join(images), |b| b[3] = 1)),
        &["magic number at offset 0 is 0x00000801", "0x00000803"],
    );
    says(
        &spoilt_mnist(|d| edit(&d.join(labels), |b| b[8 + 13] = 10)),
        &[labels, "label 10 of image 13 (offset 21)", "0 to 9"],
    );
    says(
        &spoilt_mnist(|d| {
            edit(&d.join(labels), |b| {
                b[7] = 19;
                b.pop();
            });
        }),
        &["20 images", "19 labels", images, labels],
    );
    says(&spoilt_mnist(|d| edit(&d.join(images), |b| b[11] = 32)), &["1×32×28", "1×28×28"]);
    says(
        &spoilt_mnist(|d| {
            pack(&d.join(images));
            edit(&d.join(format!("{images}.gz")), |b| b.truncate(b.len() / 2));
        }),
        &["gzip stream breaks after", ".gz"],
    );
    // A header that promises more than any memory has.
    says(
        &spoilt_mnist(|d| edit(&d.join(images), |b| b[4..8].copy_from_slice(&[255; 4]))),
        &["4294967295 images"],
    );
    let missing = open(Dataset::Mnist, Path::new("no/such/folder"), [1, 28, 28], 10).unwrap_err().to_string();
    says(&missing, &["no/such/folder", "does not exist", "--data"]);
}

#[test]
fn the_data_must_fit_the_model() {
    let folder = tempfile::tempdir().unwrap();
    write_mnist(folder.path(), "train", 20, 1);
    write_mnist(folder.path(), "t10k", 10, 2);
    let shape = open(Dataset::Mnist, folder.path(), [3, 32, 32], 10).unwrap_err().to_string();
    says(&shape, &["MNIST", "1×28×28", "3×32×32"]);
    let classes = open(Dataset::Mnist, folder.path(), [1, 28, 28], 100).unwrap_err().to_string();
    says(&classes, &["MNIST has 10 classes", "target has 100"]);
    let small =
        open(Dataset::Mnist, folder.path(), [1, 28, 28], 10).unwrap().steps_per_epoch(21).unwrap_err();
    says(&small.to_string(), &["20 training images", "one batch of 21"]);
    let mut data = plain_data(Dataset::Mnist, vec![], 3);
    let channels = open_with(&data, folder.path(), [1, 28, 28], 10).unwrap_err().to_string();
    says(&channels, &["3 means", "1 channel"]);
    data = plain_data(Dataset::Mnist, vec![Augment::ResizedCrop { scale: 0.5 }], 1);
    says(&open_with(&data, folder.path(), [1, 28, 28], 10).unwrap_err().to_string(), &["resized_crop"]);
}

fn cifar_record(labels: &[u8], fill: u8) -> Vec<u8> {
    let mut record = labels.to_vec();
    record.extend((0..3072usize).map(|i| (i / 1024 * 50) as u8 + fill));
    record
}

#[test]
fn cifar10_takes_the_batches_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let none = open(Dataset::Cifar10, folder.path(), [3, 32, 32], 10).unwrap_err().to_string();
    says(&none, &["data_batch_1.bin", "data_batch_5.bin.gz"]);
    fs::write(at("data_batch_1.bin"), [cifar_record(&[3], 0), cifar_record(&[9], 1)].concat()).unwrap();
    fs::write(at("data_batch_4.bin"), cifar_record(&[0], 2)).unwrap();
    fs::write(at("test_batch.bin"), cifar_record(&[7], 5)).unwrap();
    pack(&at("test_batch.bin"));
    let data = open(Dataset::Cifar10, folder.path(), [3, 32, 32], 10).unwrap();
    assert_eq!((data.train_len(), data.test_len()), (3, 1));
    let batch = data.test(1, 1).next_batch().unwrap().unwrap();
    assert_eq!(batch.labels, [7]);
    assert_eq!(
        [batch.images[0], batch.images[1024], batch.images[2048]],
        [5.0, 55.0, 105.0].map(|x: f32| x / 255.0)
    );

    edit(&at("data_batch_4.bin"), |b| b[0] = 10);
    let label = open(Dataset::Cifar10, folder.path(), [3, 32, 32], 10).unwrap_err().to_string();
    says(&label, &["data_batch_4.bin", "label 10 of image 0 (offset 0)"]);
    edit(&at("data_batch_1.bin"), |b| b.truncate(5000));
    let cut = open(Dataset::Cifar10, folder.path(), [3, 32, 32], 10).unwrap_err().to_string();
    says(&cut, &["data_batch_1.bin", "5000 bytes, but 6146", "begins at 3073"]);
    fs::write(at("data_batch_1.bin"), []).unwrap();
    says(&open(Dataset::Cifar10, folder.path(), [3, 32, 32], 10).unwrap_err().to_string(), &["no image"]);
}

#[test]
fn cifar100_takes_the_fine_label() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("train.bin.xz"), [0]).unwrap();
    let packed = open(Dataset::Cifar100, folder.path(), [3, 32, 32], 100).unwrap_err().to_string();
    says(&packed, &["unxz train.bin.xz"]);
    fs::write(folder.path().join("train.bin"), cifar_record(&[19, 99], 0)).unwrap();
    fs::write(folder.path().join("test.bin"), cifar_record(&[200, 42], 0)).unwrap();
    let data = open(Dataset::Cifar100, folder.path(), [3, 32, 32], 100).unwrap();
    assert_eq!(data.test(1, 1).next_batch().unwrap().unwrap().labels, [42]);
    edit(&folder.path().join("test.bin"), |b| b[1] = 100);
    let label = open(Dataset::Cifar100, folder.path(), [3, 32, 32], 100).unwrap_err().to_string();
    says(&label, &["label 100 of image 0 (offset 1)"]);
}

fn write_image(path: &Path, size: u32, gray: bool, value: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if gray {
        image::GrayImage::from_pixel(size, size + 4, image::Luma([value])).save(path).unwrap();
    } else {
        image::RgbImage::from_pixel(size, size + 4, image::Rgb([value, 0, 255])).save(path).unwrap();
    }
}

#[test]
fn image_folders_are_decoded_resized_and_numbered_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for split in ["train", "val"] {
        write_image(&folder.path().join(split).join("b_rgb/1.png"), 20, false, 100);
        write_image(&folder.path().join(split).join("a_gray/1.PNG"), 9, true, 50);
        for name in ["notes.txt", "._1.PNG"] {
            fs::write(folder.path().join(split).join("a_gray").join(name), "no image").unwrap();
        }
    }
    let crop = plain_data(Dataset::ImageFolder, vec![Augment::ResizedCrop { scale: 0.3 }, Augment::Flip], 3);
    let data = open_with(&crop, folder.path(), [3, 8, 8], 2).unwrap();
    assert_eq!(data.class_names(), ["a_gray", "b_rgb"]);
    for mut loader in [data.test(2, 1), data.training(2, 0, 1, 1).unwrap()] {
        let batch = loader.next_batch().unwrap().unwrap();
        for (image, &label) in batch.images.chunks(192).zip(&batch.labels) {
            let wanted = if label == 0 { [50.0, 50.0, 50.0] } else { [100.0, 0.0, 255.0] };
            for (plane, value) in image.chunks(64).zip(wanted) {
                assert!(plane.iter().all(|&x| x == value / 255.0), "{plane:?} is not {value}");
            }
        }
    }
    says(
        &open_with(&crop, folder.path(), [3, 8, 8], 3).unwrap_err().to_string(),
        &["2 classes", "target has 3"],
    );

    // An unreadable image is found when its batch is made.
    fs::write(folder.path().join("val/b_rgb/1.png"), b"\x89PNG\r\n\x1a\nrubbish").unwrap();
    let data = open_with(&crop, folder.path(), [3, 8, 8], 2).unwrap();
    let error = data.test(2, 2).next_batch().unwrap().unwrap_err().to_string();
    says(&error, &["1.png", "not a readable image"]);

    fs::rename(folder.path().join("val/b_rgb"), folder.path().join("val/c")).unwrap();
    let other = open_with(&crop, folder.path(), [3, 8, 8], 2).unwrap_err().to_string();
    says(&other, &["`b_rgb` only in train", "`c` only in test"]);
    fs::remove_dir_all(folder.path().join("train/b_rgb")).unwrap();
    let one = open_with(&crop, folder.path(), [3, 8, 8], 2).unwrap_err().to_string();
    says(&one, &["1 class folder(s) (a_gray)", "at least 2"]);
    fs::remove_dir_all(folder.path().join("train")).unwrap();
    let none = open_with(&crop, folder.path(), [3, 8, 8], 2).unwrap_err().to_string();
    let begin = |rest: &str| format!("{}: {rest}", folder.path().display());
    assert!(
        none.starts_with(&begin("there is no train/ in it. Lay the images out as train/<class>/")),
        "{none}"
    );
    says(&none, &["--data DIR"]);
    // What is there is not what is the matter.
    for class in ["a_gray", "c"] {
        fs::create_dir_all(folder.path().join("train").join(class)).unwrap();
        fs::copy(folder.path().join("val/c/1.png"), folder.path().join("train").join(class).join("1.png"))
            .unwrap();
    }
    fs::remove_dir_all(folder.path().join("val")).unwrap();
    let none = open_with(&crop, folder.path(), [3, 8, 8], 2).unwrap_err().to_string();
    let begin = begin("there is neither val/ nor test/ in it, beside train/. Move some images of each class");
    assert!(none.starts_with(&begin), "{none}");
    says(&none, &["val/<class>/<image>.jpg"]);
}

/// Without the marker of its end a JPEG has all its pixels, and is read; with a byte less it has not.
#[test]
fn a_jpeg_that_breaks_off_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.jpg");
    let colour = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 5) as u8, (y * 7) as u8, 9]));
    let plain = image::RgbImage::from_pixel(40, 30, image::Rgb([200, 90, 40]));
    let grey = image::GrayImage::from_fn(33, 17, |x, y| image::Luma([(x * y * 11) as u8]));
    let data = plain_data(Dataset::ImageFolder, vec![], 3);
    let read = || read_image(&data, &Shape::from([3, 16, 16]), &path).map_err(|e| e.to_string());
    for quality in [20, 75, 100] {
        for image in [colour.clone().into(), plain.clone().into(), image::DynamicImage::from(grey.clone())] {
            let mut whole = Vec::new();
            image
                .write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut whole, quality))
                .unwrap();
            let put = |bytes: &[u8]| fs::write(&path, bytes).unwrap();
            put(&whole);
            let wanted = read().unwrap();
            let pixels = whole.len() - 2;
            assert_eq!(whole[pixels..], [0xFF, 0xD9]);
            for length in (3..pixels).filter(|n| n % 23 == 0 || n + 40 > pixels) {
                put(&whole[..length]);
                says(&read().unwrap_err(), &["1.jpg", "not a readable image"]);
                // What a broken transfer leaves of a file whose size was known.
                put(&[&whole[..length], &[0; 4096][..]].concat());
                says(&read().unwrap_err(), &["1.jpg", "not a readable image"]);
            }
            put(&whole[..pixels - 40]);
            says(&read().unwrap_err(), &["breaks off before its end"]);
            for tail in [&[][..], &[0xFF], &[0], &[0; 4096]] {
                put(&[&whole[..pixels], tail].concat());
                assert_eq!(read().unwrap(), wanted, "{quality} {tail:?}");
            }
            // What cameras append is passed over.
            put(&[&whole[..], b"more"].concat());
            assert_eq!(read().unwrap(), wanted);
            // With restart intervals, were they longer than the image, no marker means that pixels may be missing.
            let restarts = [&whole[..2], &[0xFF, 0xDD, 0, 4, 0xFF, 0xFF], &whole[2..]].concat();
            put(&restarts);
            assert_eq!(read().unwrap(), wanted);
            put(&restarts[..restarts.len() - 2]);
            says(&read().unwrap_err(), &["breaks off before its end"]);
        }
    }
}

#[test]
fn very_long_images_need_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    for split in ["train", "val"] {
        for class in ["a", "b"] {
            let path = folder.path().join(split).join(class);
            fs::create_dir_all(&path).unwrap();
            image::GrayImage::from_pixel(1, 60_000, image::Luma([9])).save(path.join("1.png")).unwrap();
        }
    }
    let data = open(Dataset::ImageFolder, folder.path(), [1, 224, 224], 2).unwrap();
    let batch = data.test(2, 1).next_batch().unwrap().unwrap();
    assert!(batch.images.iter().all(|&x| x == 9.0 / 255.0));
}

/// Images that silently are not there would be missed only in the accuracy, if at all.
#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (split, class) in [("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")] {
        let path = folder.path().join(split).join(class);
        fs::create_dir_all(&path).unwrap();
        write_image(&path.join("1.png"), 8, true, 9);
    }
    let read = || open(Dataset::ImageFolder, folder.path(), [1, 8, 8], 2);
    let link = |target: &str, name: &str| {
        let path = folder.path().join(name);
        std::os::unix::fs::symlink(target, &path).unwrap();
        path
    };
    link("1.png", "train/a/2.png");
    link("nowhere", "train/a/notes");
    link("nowhere", "train/.c");
    assert_eq!(read().unwrap().train_len(), 3);
    for (name, shown) in [("train/b/2.jpg", "b/2.jpg"), ("train/c", "train/c")] {
        let path = link("nowhere", name);
        let error = read().unwrap_err();
        says(&error.to_string(), &[shown, "cannot be read", "Check that it is there"]);
        assert!(!error.is_environment());
        fs::remove_file(path).unwrap();
    }
}

/// Checkpoints and exported files have the names of classes as text.
#[cfg(target_os = "linux")]
#[test]
fn names_of_classes_are_text() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    for class in [&b"a"[..], b"b\xff"] {
        fs::create_dir_all(folder.path().join("train").join(std::ffi::OsStr::from_bytes(class))).unwrap();
    }
    let error = open(Dataset::ImageFolder, folder.path(), [1, 8, 8], 2).unwrap_err();
    says(&error.to_string(), &["train/b", "no UTF-8 text", "Rename it"]);
    assert!(!error.is_environment());
}

#[test]
fn the_bundled_extracts_are_balanced() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cases = [
        (Dataset::Mnist, "data/mnist", [1, 28, 28], 10_000, 2_000),
        (Dataset::Cifar10, "tests/data/cifar10-tiny", [3, 32, 32], 200, 100),
    ];
    for (dataset, folder, input, train, test) in cases {
        let data = open(dataset, &root.join(folder), input, 10).unwrap();
        assert_eq!((data.train_len(), data.test_len()), (train, test), "{folder}");
        for (mut loader, images) in [(data.validation(1, 1), 0), (data.test(test, 1), test)] {
            let mut counts = [0; 10];
            while let Some(batch) = loader.next_batch() {
                batch.unwrap().labels.iter().for_each(|&l| counts[l as usize] += 1);
            }
            assert_eq!(counts, [images / 10; 10], "{folder}");
        }
    }
}

#[test]
fn a_single_image_is_prepared_as_evaluation_does() {
    let folder = tempfile::tempdir().unwrap();
    for split in ["train", "val"] {
        for class in ["a", "b"] {
            let place = folder.path().join(split).join(class);
            fs::create_dir_all(&place).unwrap();
            let pixel = |x: u32, y: u32| image::Rgb([(x * 5) as u8, (y * 7) as u8, (x ^ y) as u8]);
            image::RgbImage::from_fn(40, 31, pixel).save(place.join("0.png")).unwrap();
        }
    }
    let data = plain_data(Dataset::ImageFolder, vec![], 3);
    let source = open_with(&data, folder.path(), [3, 16, 20], 2).unwrap();
    let batch = source.test(1, 1).next_batch().unwrap().unwrap();
    let path = folder.path().join("val/a/0.png");
    let shape = Shape::from([3, 16, 20]);
    assert_eq!(read_image(&data, &shape, &path).unwrap(), batch.images);

    // An image of the size of the input keeps every pixel where the data set has one size.
    let gray = image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * 9 + y) as u8]));
    let path = folder.path().join("digit.png");
    gray.save(&path).unwrap();
    let mnist = Data { normalize: Some((vec![0.0], vec![1.0])), ..plain_data(Dataset::Mnist, vec![], 1) };
    let got = read_image(&mnist, &Shape::from([1, 28, 28]), &path).unwrap();
    let wanted: Vec<f32> = gray.as_raw().iter().map(|&p| (f64::from(p) / 255.0) as f32).collect();
    assert_eq!(got, wanted);

    let error = read_image(&mnist, &Shape::from([2, 28, 28]), &path).unwrap_err().to_string();
    says(&error, &["[2,28,28]", "1 or 3 channels"]);
    fs::write(&path, "no image").unwrap();
    let error = read_image(&mnist, &Shape::from([1, 28, 28]), &path).unwrap_err().to_string();
    says(&error, &["digit.png", "not a readable image"]);
}
