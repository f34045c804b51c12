//! Planting a fault in what is emitted, and telling how it shows.

use crate::common::EmulatedDevice;
use crate::common::compare::{difference, tolerances};
use ddnnc_cases::Case;
use ddnnc_cuda::arch::Target;
use ddnnc_cuda::code::LaunchCode;
use ddnnc_passes::{Device, DeviceError, Executable, Program};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a fault shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// The results are those of the reference.
    Right,
    /// Other numbers than the reference's.
    Wrong,
    /// The reference's numbers, but not the bits of the first order.
    OtherBits,
    OutOfBounds,
    Misaligned,
    Uninitialised,
    Race,
    AsyncCopy,
    ProxyFence,
    AsyncProduct,
    Descriptor,
    Deadlock,
    Divergence,
    Trap,
    Launch,
    /// A launch leaves counters that are not 0.
    Counters,
}

impl Seen {
    /// What the report of a fault begins with.
    fn of_report(report: &str) -> Seen {
        let kinds = [
            ("access out of bounds", Seen::OutOfBounds),
            ("misaligned access", Seen::Misaligned),
            ("uninitialised read", Seen::Uninitialised),
            ("race on shared memory", Seen::Race),
            ("asynchronous copy still under way", Seen::AsyncCopy),
            ("missing proxy fence", Seen::ProxyFence),
            ("asynchronous product still under way", Seen::AsyncProduct),
            ("wrong matrix descriptor", Seen::Descriptor),
            ("deadlock", Seen::Deadlock),
            ("divergent warp instruction", Seen::Divergence),
            ("trap", Seen::Trap),
            ("launch refused", Seen::Launch),
            ("leaves counters that are not 0", Seen::Counters),
        ];
        let kind = kinds.iter().find(|(words, _)| report.contains(words));
        kind.unwrap_or_else(|| panic!("no report of the machine: {report}")).1
    }
}

/// What is changed.
#[derive(Clone, Copy)]
pub enum Plant {
    /// A piece of the kernels' text, which each kernel that holds it has once, and what stands in its place.
    Text(&'static str, &'static str),
    /// The emitted code otherwise; says whether it changed something.
    Code(fn(&mut LaunchCode) -> bool),
    /// The program's memory plan.
    Plan(fn(&mut Program)),
}

/// A device whose programs have the fault.
struct Planted<'a> {
    device: EmulatedDevice,
    plant: &'a Plant,
    /// How often it was planted.
    count: AtomicUsize,
}

impl Planted<'_> {
    fn edit(&self, code: &mut LaunchCode) {
        match *self.plant {
            Plant::Text(from, to) => {
                for kernel in &mut code.kernels {
                    match kernel.source.matches(from).count() {
                        0 => {}
                        1 => {
                            kernel.source = kernel.source.replace(from, to);
                            self.count.fetch_add(1, Ordering::Relaxed);
                        }
                        n => panic!("`{from}` is {n} times in kernel `{}`", kernel.name),
                    }
                }
            }
            Plant::Code(change) => {
                self.count.fetch_add(usize::from(change(code)), Ordering::Relaxed);
            }
            Plant::Plan(_) => {}
        }
    }
}

impl Device for Planted<'_> {
    fn name(&self) -> &str {
        "planted"
    }

    fn load(&self, program: &Program) -> Result<Box<dyn Executable>, DeviceError> {
        let mut program = program.clone();
        if let Plant::Plan(change) = self.plant {
            let before = program.clone();
            change(&mut program);
            let places = |p: &Program| p.buffers.iter().map(|b| b.place).collect::<Vec<_>>();
            self.count.fetch_add(usize::from(places(&before) != places(&program)), Ordering::Relaxed);
        }
        Ok(Box::new(self.device.load_edited(&program, &|code| self.edit(code))?))
    }
}

/// A case that a fault is planted in.
pub struct Site {
    pub case: Case,
    pub target: Target,
    /// Operands are multiples of 1/16, so that matrix units lose nothing of them or their products.
    pub coarse: bool,
}

impl Site {
    /// How the case goes in each order, with a fault or without; what was said of it.
    fn run(&self, plant: Option<&Plant>) -> Vec<(Seen, String)> {
        let mut operands = self.case.draw(7);
        if self.coarse {
            operands.iter_mut().flat_map(|t| &mut t.data).for_each(|x| *x = (*x * 16.0).round() / 16.0);
        }
        let expected = self.case.reference(&operands);
        let tolerances = tolerances(&self.case, &operands, &expected);
        let mut bits: Option<Vec<u32>> = None;
        let mut seen = Vec::new();
        for mut device in EmulatedDevice::orders() {
            device.target = self.target.clone();
            let ran = match plant {
                None => self.case.run(&device, &operands, &[]),
                Some(plant) => {
                    let planted = Planted { device, plant, count: AtomicUsize::new(0) };
                    let ran = self.case.run(&planted, &operands, &[]);
                    assert!(planted.count.into_inner() > 0, "there is no place for the fault any more");
                    ran
                }
            };
            seen.push(match ran {
                Err(error) => {
                    let report = error.to_string();
                    let seen = Seen::of_report(&report);
                    // A line of the kernel's text is shown, unless no kernel was at work.
                    let shows_line = report.contains(".cu:") && report.contains(" | ");
                    assert!(shows_line || matches!(seen, Seen::Launch | Seen::Counters), "{report}");
                    (seen, report)
                }
                Ok(found) => {
                    let now: Vec<u32> = found.iter().flatten().map(|x| x.to_bits()).collect();
                    let same = bits.get_or_insert_with(|| now.clone()) == &now;
                    match difference(&expected, &found, &tolerances) {
                        Some(message) => (Seen::Wrong, message),
                        None if same => (Seen::Right, String::new()),
                        None => (Seen::OtherBits, String::new()),
                    }
                }
            });
        }
        seen
    }

    /// Without the fault every order gives the reference's numbers and the same bits; with it at least one order shows
    /// one of these.
    pub fn catches(&self, plant: Plant, shows: &[Seen]) {
        let well = self.run(None);
        assert!(well.iter().all(|(seen, _)| *seen == Seen::Right), "without a fault: {well:?}");
        let found = self.run(Some(&plant));
        let seen: BTreeSet<Seen> = found.iter().map(|(seen, _)| *seen).collect();
        assert!(shows.iter().any(|kind| seen.contains(kind)), "expected one of {shows:?}, seen: {found:#?}");
    }
}
