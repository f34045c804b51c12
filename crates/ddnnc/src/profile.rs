//! `bench --profile`: what every launch of a step takes, beside what the device can do at most.

use crate::launches::name;
use crate::output::table;
use ddnnc_passes::{Limits, Program, Work, WorkKind};
use serde_json::{Map, Value, json};

/// Steps whose times are kept: enough for a steady median.
pub const KEPT: usize = 1000;

/// What scarce thing a launch waits for, if it runs at the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// f32 arithmetic.
    F32,
    /// bf16 arithmetic.
    Bf16,
    /// Memory.
    Memory,
}

impl Bound {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Bound::F32 => "f32",
            Bound::Bf16 => "bf16",
            Bound::Memory => "memory",
        }
    }
}

/// A launch and its time.
#[derive(Clone, Debug)]
pub struct Timed {
    /// The operator's mnemonic or the group's name.
    pub name: String,
    /// Path of what it computes; may be empty.
    pub path: String,
    /// What it computes and moves.
    pub work: Work,
    /// How the device computes it; empty where there is nothing to choose.
    pub method: String,
    /// Median over the steps.
    pub seconds: f64,
    /// The time at the limit, and which limit that is; `None` where the device tells none.
    pub floor: Option<(f64, Bound)>,
}

/// The launches of a step in order, with their times.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The program's name.
    pub name: String,
    /// The launches in order.
    pub launches: Vec<Timed>,
    /// What the device can do at most.
    pub limits: Option<Limits>,
}

/// The sum over launches that have something in common.
#[derive(Clone, Debug, Default)]
struct Sum {
    launches: usize,
    seconds: f64,
    floor: f64,
    macs: u64,
    bytes: u64,
}

impl Profile {
    /// The profile of a program whose launches took so long (seconds; for each launch its time in every step).
    pub fn new(
        program: &Program,
        methods: Option<Vec<String>>,
        times: Vec<Vec<f64>>,
        limits: Option<Limits>,
    ) -> Profile {
        let mut methods = methods.unwrap_or_default().into_iter();
        let timed = |(launch, mut times): (&ddnnc_passes::Launch, Vec<f64>)| {
            let work = Work::new(program, launch);
            Timed {
                name: name(&launch.op).to_owned(),
                path: launch.path.clone(),
                work,
                method: methods.next().unwrap_or_default(),
                seconds: median(&mut times),
                floor: limits.map(|limits| floor(&work, &limits)),
            }
        };
        let launches = program.launches.iter().zip(times).map(timed).collect();
        Profile { name: program.name.clone(), launches, limits }
    }

    /// All launches together.
    pub fn seconds(&self) -> f64 {
        self.launches.iter().map(|l| l.seconds).sum()
    }

    /// Numbers of the launches, the slowest first.
    fn slowest(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.launches.len()).collect();
        let seconds = |i: usize| self.launches[i].seconds;
        order.sort_by(|&a, &b| seconds(b).total_cmp(&seconds(a)).then(a.cmp(&b)));
        order
    }

    /// Sums of the launches that belong to each key; keys without a launch are left out.
    fn sums<K: Copy>(&self, keys: &[K], belongs: impl Fn(&Timed, K) -> bool) -> Vec<(K, Sum)> {
        let mut sums: Vec<(K, Sum)> = keys.iter().map(|&k| (k, Sum::default())).collect();
        for launch in &self.launches {
            if let Some((_, sum)) = sums.iter_mut().find(|(k, _)| belongs(launch, *k)) {
                sum.launches += 1;
                sum.seconds += launch.seconds;
                sum.floor += launch.floor.map_or(0.0, |f| f.0);
                sum.macs += launch.work.macs;
                sum.bytes += launch.work.bytes_read + launch.work.bytes_written;
            }
        }
        sums.retain(|(_, sum)| sum.launches > 0);
        sums
    }

    fn by_kind(&self) -> Vec<(&'static str, Sum)> {
        let sums = self.sums(&WorkKind::ALL, |l, kind| l.work.kind == kind);
        sums.into_iter().map(|(kind, sum)| (kind.as_str(), sum)).collect()
    }

    fn by_method(&self) -> Vec<(&str, Sum)> {
        let mut methods: Vec<&str> = self.launches.iter().map(|l| l.method.as_str()).collect();
        methods.sort_unstable();
        methods.dedup();
        methods.retain(|m| !m.is_empty());
        self.sums(&methods, |l, method| l.method == method)
    }

    /// Limits, sums and the `top` slowest launches, within 100 columns.
    pub fn table(&self, top: usize) -> String {
        let all = self.seconds();
        let mut text = String::new();
        if let Some(Limits { f32_flops, bf16_flops, bytes }) = self.limits {
            let (f32s, bf16s, memory) = (f32_flops / 1e9, bf16_flops / 1e9, bytes / 1e9);
            text.push_str(&format!(
                "  limits  {f32s:.0} GFLOP/s f32, {bf16s:.0} GFLOP/s bf16, {memory:.1} GB/s memory\n\n"
            ));
        }
        let sum_row = |(name, sum): (&str, Sum)| {
            vec![
                name.to_owned(),
                sum.launches.to_string(),
                format!("{:.3}", sum.seconds * 1e3),
                percent(sum.seconds, all),
                rate(sum.macs, sum.bytes, sum.seconds),
                self.limits.map_or("-".to_owned(), |_| share(sum.floor, sum.seconds)),
            ]
        };
        let header = |first| [first, "launches", "ms", "step", "rate", "of limit"];
        text.push_str(&table(
            1,
            &header("kind"),
            &self.by_kind().into_iter().map(sum_row).collect::<Vec<_>>(),
        ));
        let methods: Vec<Vec<String>> = self.by_method().into_iter().map(sum_row).collect();
        if !methods.is_empty() {
            text.push('\n');
            text.push_str(&table(1, &header("method"), &methods));
        }
        let row = |i: usize| {
            let Timed { work, method, seconds, floor, .. } = &self.launches[i];
            let limit = floor
                .map_or("-".to_owned(), |(f, bound)| format!("{} {:<6}", share(f, *seconds), bound.as_str()));
            vec![
                clip(self.launches[i].title(), TITLE),
                work.kind.as_str().to_owned(),
                if method.is_empty() { "-".to_owned() } else { clip(method, METHOD) },
                format!("{:.3}", seconds * 1e3),
                percent(*seconds, all),
                rate(work.macs, work.bytes_read + work.bytes_written, *seconds),
                limit,
            ]
        };
        let rows: Vec<Vec<String>> = self.slowest().into_iter().take(top).map(row).collect();
        text.push('\n');
        text.push_str(&table(3, &["launch", "kind", "method", "ms", "step", "rate", "of limit     "], &rows));
        let left = self.launches.len().saturating_sub(top);
        if left > 0 {
            text.push_str(&format!("  and {left} more: `--top N` shows as many\n"));
        }
        text
    }

    /// The object `profile` of `bench --json`.
    pub fn json(&self) -> Value {
        let all = self.seconds();
        let launch = |(i, launch): (usize, &Timed)| {
            let Work { macs, bf16, bytes_read, bytes_written, kind } = launch.work;
            let seconds = launch.seconds;
            json!({
                "launch": i,
                "name": launch.name,
                "path": launch.path,
                "kind": kind.as_str(),
                "method": if launch.method.is_empty() { Value::Null } else { json!(launch.method) },
                "ms": seconds * 1e3,
                "share": ratio(seconds, all),
                "macs": macs,
                "bf16": bf16,
                "bytes_read": bytes_read,
                "bytes_written": bytes_written,
                "gflops": ratio(2.0 * macs as f64, seconds) / 1e9,
                "gbs": ratio((bytes_read + bytes_written) as f64, seconds) / 1e9,
                "limit": launch.floor.map(|f| f.1.as_str()),
                "limit_ms": launch.floor.map(|f| f.0 * 1e3),
                "of_limit": launch.floor.map(|f| ratio(f.0, seconds)),
            })
        };
        let sums = |sums: Vec<(&str, Sum)>| {
            let entry = |(name, sum): (&str, Sum)| {
                let entry = json!({
                    "launches": sum.launches,
                    "ms": sum.seconds * 1e3,
                    "share": ratio(sum.seconds, all),
                    "gflops": ratio(2.0 * sum.macs as f64, sum.seconds) / 1e9,
                    "gbs": ratio(sum.bytes as f64, sum.seconds) / 1e9,
                    "limit_ms": self.limits.map(|_| sum.floor * 1e3),
                });
                (name.to_owned(), entry)
            };
            Value::Object(sums.into_iter().map(entry).collect::<Map<_, _>>())
        };
        let limits = self.limits.map(|l| {
            json!({"f32_gflops": l.f32_flops / 1e9, "bf16_gflops": l.bf16_flops / 1e9, "memory_gbs": l.bytes / 1e9})
        });
        json!({
            "ms": all * 1e3,
            "limits": limits,
            "kinds": sums(self.by_kind()),
            "methods": sums(self.by_method()),
            "launches": self.launches.iter().enumerate().map(launch).collect::<Vec<_>>(),
        })
    }
}

impl Timed {
    /// Its path, or its name where it has none.
    pub fn title(&self) -> &str {
        if self.path.is_empty() { &self.name } else { &self.path }
    }
}

/// The time of a launch at the limit: that of the scarcer of arithmetic and memory.
fn floor(work: &Work, limits: &Limits) -> (f64, Bound) {
    let (flops, bound) =
        if work.bf16 { (limits.bf16_flops, Bound::Bf16) } else { (limits.f32_flops, Bound::F32) };
    let arithmetic = 2.0 * work.macs as f64 / flops;
    let memory = (work.bytes_read + work.bytes_written) as f64 / limits.bytes;
    if arithmetic > memory { (arithmetic, bound) } else { (memory, Bound::Memory) }
}

/// The widest path and method of the table.
const TITLE: usize = 30;
const METHOD: usize = 9;

/// The end of a text that is too long.
pub fn clip(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(length + 1 - most)).collect()
}

/// Operations where there are products, else bytes.
pub fn rate(macs: u64, bytes: u64, seconds: f64) -> String {
    match macs {
        0 => format!("{:.1} GB/s", ratio(bytes as f64, seconds) / 1e9),
        _ => format!("{:.0} GFLOP/s", ratio(2.0 * macs as f64, seconds) / 1e9),
    }
}

/// `0.87`
pub fn share(part: f64, of: f64) -> String {
    format!("{:.2}", ratio(part, of))
}

fn percent(part: f64, of: f64) -> String {
    format!("{:.1} %", 100.0 * ratio(part, of))
}

fn ratio(part: f64, of: f64) -> f64 {
    if of > 0.0 { part / of } else { 0.0 }
}

/// The middle of some times; 0 where there are none.
pub fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    match times.len() {
        0 => 0.0,
        n if n % 2 == 1 => times[n / 2],
        n => (times[n / 2 - 1] + times[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(path: &str, kind: WorkKind, macs: u64, bytes: u64, seconds: f64, method: &str) -> Timed {
        let work = Work { kind, macs, bf16: false, bytes_read: bytes, bytes_written: 0 };
        let limits = Limits { f32_flops: 1e9, bf16_flops: 2e9, bytes: 1e8 };
        Timed {
            name: "conv2d".to_owned(),
            path: path.to_owned(),
            work,
            method: method.to_owned(),
            seconds,
            floor: Some(floor(&work, &limits)),
        }
    }

    fn profile() -> Profile {
        let launches = vec![
            timed("net.a", WorkKind::Forward, 50_000_000, 1, 0.2, "winograd"),
            timed("", WorkKind::Elementwise, 0, 10_000_000, 0.1, ""),
            timed(&"net.a.very.long.path".repeat(3), WorkKind::InputGradient, 50_000_000, 1, 0.4, "direct"),
            timed("net.b", WorkKind::Forward, 1, 10_000_000, 0.3, "winograd"),
        ];
        let limits = Some(Limits { f32_flops: 1e9, bf16_flops: 2e9, bytes: 1e8 });
        Profile { name: "p".to_owned(), launches, limits }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn the_limit_is_that_of_the_scarcer() {
        let profile = profile();
        let floors: Vec<_> = profile.launches.iter().map(|l| l.floor.expect("limits").1).collect();
        assert_eq!(floors, [Bound::F32, Bound::Memory, Bound::F32, Bound::Memory]);
        let half = Work { bf16: true, ..profile.launches[0].work };
        assert_eq!(floor(&half, &profile.limits.expect("limits")), (0.05, Bound::Bf16));
    }

    #[test]
    fn the_slowest_come_first_and_sums_are_whole() {
        let profile = profile();
        assert_eq!(profile.slowest(), [2, 3, 0, 1]);
        let text = profile.table(2);
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
        assert!(text.contains("400.000") && !text.contains("net.a "), "{text}");
        assert!(text.contains("and 2 more"), "{text}");
        let json = profile.json();
        assert_eq!(json["kinds"]["forward"]["launches"], 2);
        assert_eq!(json["methods"]["winograd"]["launches"], 2);
        assert_eq!(json["launches"][1]["method"], Value::Null);
        let sum: f64 = ["forward", "input grad", "elementwise"]
            .map(|kind| json["kinds"][kind]["ms"].as_f64().expect("a number"))
            .iter()
            .sum();
        assert!((sum - 1000.0).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn long_paths_keep_their_end() {
        assert_eq!(clip("a.b.c", 5), "a.b.c");
        assert_eq!(clip("a.b.c.d", 5), "….c.d");
    }
}
