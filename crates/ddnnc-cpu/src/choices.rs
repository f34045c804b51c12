//! Measured choices between methods, and the file that keeps them.
//!
//! A file belongs to one kind of machine: processor, instructions, threads and version. It is written beside its place
//! and renamed. What is there is taken as it is, so that a program that is loaded again is computed in the same way, to
//! the bit.

use crate::convolution::Geometry;
use crate::method::{Direction, Method, Settings};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A convolution as far as the choice of its method goes.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its shape.
    pub geometry: Geometry,
    /// What it computes.
    pub direction: Direction,
    /// Images of its parts.
    pub images: Vec<usize>,
    /// Whether both operands are rounded to bf16.
    pub bf16: bool,
}

impl Site {
    /// All that it is, in words: `forward 32x32x64 64 3x3 stride 1x1 pad 1x1 dilation 1x1 groups 1 images 32+32 f32`.
    pub fn key(&self) -> String {
        let Geometry { conv, input, kernel, inputs, outputs, .. } = &self.geometry;
        let direction = match self.direction {
            Direction::Forward => "forward",
            Direction::InputGradient => "input gradient",
            Direction::WeightGradient => "weight gradient",
        };
        let pair = |[a, b]: [usize; 2]| format!("{a}x{b}");
        let images: Vec<String> = self.images.iter().map(usize::to_string).collect();
        format!(
            "{direction} {}x{inputs} {outputs} {} stride {} pad {} dilation {} groups {} images {} {}",
            pair(*input),
            pair(*kernel),
            pair(conv.stride),
            pair(conv.pad),
            pair(conv.dilation),
            conv.groups,
            images.join("+"),
            if self.bf16 { "bf16" } else { "f32" },
        )
    }
}

/// Methods by the key of a convolution.
pub type Choices = BTreeMap<String, Method>;

impl Settings {
    /// The methods that may compute a convolution.
    pub fn candidates(&self, site: &Site) -> Vec<Method> {
        let allowed = |m: &Method| self.winograd || *m != Method::Winograd;
        let fits = |m: &Method| m.fits(&site.geometry, site.direction, self.level, site.bf16);
        Method::ALL.into_iter().filter(|m| allowed(m) && fits(m)).collect()
    }

    /// The method of a convolution: the measured choice if there is one that fits, else by what is known of the kernels.
    pub fn method(&self, site: &Site) -> Method {
        let measured = match self.choices.is_empty() {
            true => None,
            false => self.choices.get(&site.key()).copied(),
        };
        match measured {
            Some(method) if self.candidates(site).contains(&method) => method,
            _ => Method::choose(self, &site.geometry, site.direction, &site.images, site.bf16),
        }
    }
}

const FORMAT: &str = "ddnnc-cpu-choices";

/// What the choices of a file were measured on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The processor's model.
    pub processor: String,
    /// The instructions of the kernels.
    pub instructions: String,
    /// Whether Winograd's algorithm was allowed.
    pub winograd: bool,
    /// Threads.
    pub threads: usize,
}

impl Kind {
    /// This machine, with these settings.
    pub fn here(settings: &Settings, threads: usize) -> Kind {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Kind {
            processor: processor(&info),
            instructions: settings.level.name().to_owned(),
            winograd: settings.winograd,
            threads,
        }
    }

    fn json(&self) -> Value {
        json!({
            "format": FORMAT,
            "version": env!("CARGO_PKG_VERSION"),
            "processor": self.processor,
            "instructions": self.instructions,
            "winograd": self.winograd,
            "threads": self.threads,
        })
    }

    /// The file of this kind in a folder.
    pub fn path(&self, folder: &Path) -> PathBuf {
        let Kind { processor, instructions, threads, .. } = self;
        let winograd = if self.winograd { "" } else { "-no-winograd" };
        let name = format!("{processor}-{instructions}{winograd}-{threads}-{}", env!("CARGO_PKG_VERSION"));
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        folder.join(format!("choices-{}.json", name.chars().map(plain).collect::<String>()))
    }
}

/// The model by what Linux says of the processors: a name, or the makers and parts of the kinds of cores, which is all that
/// there is on Arm; the architecture where it says neither.
fn processor(info: &str) -> String {
    let values = |name: &'static str| {
        info.lines().filter_map(move |line| Some(line.strip_prefix(name)?.split_once(':')?.1.trim()))
    };
    if let Some(name) = values("model name").next() {
        return name.to_owned();
    }
    let cores: BTreeSet<_> = values("CPU implementer").zip(values("CPU part")).collect();
    let parts = cores.into_iter().map(|(maker, part)| format!(" {maker}:{part}"));
    std::iter::once(std::env::consts::ARCH.to_owned()).chain(parts).collect()
}

/// Reads a file of choices; an error says in a sentence why one that is there cannot be used.
pub fn read(path: &Path, kind: &Kind) -> Result<Choices, String> {
    let damaged = |what: &str| format!("{} is measured anew: {what}", path.display());
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Choices::new()),
        Err(e) => return Err(damaged(&e.to_string())),
    };
    let file: Value = serde_json::from_slice(&bytes).map_err(|_| damaged("it is damaged"))?;
    if file["kind"] != kind.json() {
        return Err(damaged("it is of another machine or version"));
    }
    let entry = |(key, method): (&String, &Value)| {
        let found = Method::ALL.into_iter().find(|m| Some(m.name()) == method.as_str())?;
        Some((key.clone(), found))
    };
    let choices = file["choices"].as_object().and_then(|all| all.iter().map(entry).collect());
    choices.ok_or_else(|| damaged("it is damaged"))
}

/// Writes a file of choices, making its folder.
pub fn write(path: &Path, kind: &Kind, choices: &Choices) -> std::io::Result<()> {
    let named: BTreeMap<&str, &str> = choices.iter().map(|(key, m)| (key.as_str(), m.name())).collect();
    let text = format!("{:#}\n", json!({"kind": kind.json(), "choices": named}));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension(format!("{}.part", std::process::id()));
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path));
    written.inspect_err(|_| _ = std::fs::remove_file(&beside))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;
    use ddnnc_ir::Conv;
    use std::sync::Arc;

    fn site() -> Site {
        let conv = Conv { stride: [1; 2], pad: [1; 2], dilation: [1; 2], groups: 1 };
        let geometry =
            Geometry { conv, input: [32; 2], output: [32; 2], kernel: [3; 2], inputs: 64, outputs: 64 };
        Site { geometry, direction: Direction::Forward, images: vec![32, 32], bf16: false }
    }

    fn settings(choices: Choices, winograd: bool) -> Settings {
        Settings { level: Level::Portable, pairs: false, winograd, choices: Arc::new(choices) }
    }

    #[test]
    fn a_measured_choice_counts_where_it_fits() {
        let chosen = |method| Choices::from([(site().key(), method)]);
        assert_eq!(settings(chosen(Method::Direct), true).method(&site()), Method::Direct);
        assert_eq!(settings(chosen(Method::Winograd), true).method(&site()), Method::Winograd);
        // Never what is forbidden or does not compute it.
        assert_eq!(settings(chosen(Method::Winograd), false).method(&site()), Method::Direct);
        let depthwise = settings(chosen(Method::Depthwise), true).method(&site());
        assert_ne!(depthwise, Method::Depthwise);
        let other = Site { images: vec![1], ..site() };
        let known = settings(Choices::new(), true).method(&other);
        assert_eq!(settings(chosen(Method::Direct), true).method(&other), known);
    }

    #[test]
    fn processors_are_told_apart() {
        let x86 =
            "processor\t: 0\nmodel\t\t: 68\nmodel name\t: A/B (R) 1.0\nprocessor\t: 1\nmodel name\t: other\n";
        assert_eq!(processor(x86), "A/B (R) 1.0");
        let core = |maker: &str, part: &str| {
            format!(
                "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: {maker}\nCPU architecture: 8\nCPU part\t: {part}\n\n"
            )
        };
        let arch = std::env::consts::ARCH;
        let (big, little) = (core("0x41", "0xd0c"), core("0x41", "0xd03"));
        assert_eq!(processor(&big), format!("{arch} 0x41:0xd0c"));
        assert_eq!(processor(&format!("{big}{little}{big}")), format!("{arch} 0x41:0xd03 0x41:0xd0c"));
        assert_eq!(processor(""), arch);
    }

    #[test]
    fn a_file_gives_back_what_it_was_given_or_nothing() {
        let folder = std::env::temp_dir().join(format!("ddnnc-choices-{}", std::process::id()));
        let kind = Kind {
            processor: "A/B (R) 1.0".to_owned(),
            instructions: "avx2".to_owned(),
            winograd: true,
            threads: 2,
        };
        let path = kind.path(&folder.join("made when needed"));
        let choices = Choices::from([("a".to_owned(), Method::Winograd), ("b".to_owned(), Method::Direct)]);
        assert_eq!(read(&path, &kind), Ok(Choices::new()));
        write(&path, &kind, &choices).expect("a writable folder");
        assert_eq!(read(&path, &kind), Ok(choices));
        let other = Kind { threads: 3, ..kind.clone() };
        assert!(read(&path, &other).is_err_and(|e| e.contains("another machine")));
        let text = std::fs::read_to_string(&path).expect("just written");
        for wrong in [&text[..text.len() / 2], "", "[]", &text.replace("\"winograd\",", "\"magic\",")] {
            std::fs::write(&path, wrong).expect("a writable folder");
            assert!(read(&path, &kind).is_err(), "{wrong}");
        }
        std::fs::remove_dir_all(&folder).expect("our own folder");
    }
}
