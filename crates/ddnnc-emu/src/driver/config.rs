//! What the environment says.

use crate::machine::{Options, Properties};
use crate::order::Order;

use super::cards::{self, Card};

/// How the driver and its devices behave, from variables named `DDNNC_EMU_…`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Config {
    pub devices: usize,
    pub card: Card,
    pub properties: Properties,
    pub options: Options,
    /// Say on stderr why something was refused.
    pub verbose: bool,
    /// The stream, by the order of their making, that does not wait for events: a fault on demand.
    pub skip_waits: Option<usize>,
}

/// Memory of a device unless `DDNNC_EMU_MEMORY` says otherwise: the card's, but no more than this.
const MEMORY: u64 = 16 << 30;

/// Every variable that is read.
const SETTINGS: [&str; 10] = [
    "DDNNC_EMU_ARCH",
    "DDNNC_EMU_MEMORY",
    "DDNNC_EMU_DEVICES",
    "DDNNC_EMU_ORDER",
    "DDNNC_EMU_RACES",
    "DDNNC_EMU_UNINITIALISED",
    "DDNNC_EMU_THREADS",
    "DDNNC_EMU_SKIP_WAITS",
    "DDNNC_EMU_VERBOSE",
    "DDNNC_EMU_LIBRARY",
];

/// What is no stream's number.
const NO_STREAM: usize = usize::MAX;

impl Config {
    /// Refuses variables that would set something and are none of the settings, so that a slip of the pen does not
    /// switch a check off.
    ///
    /// # Errors
    ///
    /// A sentence that names the variable, and the settings.
    pub fn check_names(names: impl IntoIterator<Item = String>) -> Result<(), String> {
        match names
            .into_iter()
            .find(|name| name.starts_with("DDNNC_EMU_") && !SETTINGS.contains(&name.as_str()))
        {
            Some(name) => Err(format!("{name} is no setting; there are {}", SETTINGS.join(", "))),
            None => Ok(()),
        }
    }

    /// Reads variables through `get`.
    ///
    /// # Errors
    ///
    /// A sentence that names the variable, its value, and what it may be.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Config, String> {
        let get = |name: &str| {
            debug_assert!(SETTINGS.contains(&name), "{name} is read and not listed");
            get(name).filter(|value| !value.is_empty())
        };
        let wrong = |name: &str, value: &str, may: &str| format!("{name}={value}: expected {may}");
        let switch = |name: &str, otherwise: bool| match get(name).as_deref() {
            None => Ok(otherwise),
            Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(value) => Err(wrong(name, value, "0 or 1")),
        };
        let number = |name: &str, otherwise: usize, range: std::ops::RangeInclusive<usize>| match get(name) {
            None => Ok(otherwise),
            Some(value) => match value.parse() {
                Ok(number) if range.contains(&number) => Ok(number),
                _ => Err(wrong(name, &value, &format!("a number from {} to {}", range.start(), range.end()))),
            },
        };

        let card = match get("DDNNC_EMU_ARCH") {
            None => cards::default(),
            Some(value) => cards::find(&value)
                .ok_or_else(|| wrong("DDNNC_EMU_ARCH", &value, &format!("one of {}", cards::names())))?,
        };
        let memory = match get("DDNNC_EMU_MEMORY") {
            None => card.memory.min(MEMORY),
            Some(value) => bytes(&value)
                .ok_or_else(|| wrong("DDNNC_EMU_MEMORY", &value, "bytes, or a number and K, M or G"))?,
        };
        let order = match get("DDNNC_EMU_ORDER") {
            None => Order::Forward,
            Some(value) => order(&value)
                .ok_or_else(|| wrong("DDNNC_EMU_ORDER", &value, "forward, reverse or random:SEED"))?,
        };
        let defaults = Options::default();
        Ok(Config {
            devices: number("DDNNC_EMU_DEVICES", 1, 0..=64)?,
            properties: card.properties(memory),
            options: Options {
                order,
                races: switch("DDNNC_EMU_RACES", defaults.races)?,
                uninitialised: switch("DDNNC_EMU_UNINITIALISED", defaults.uninitialised)?,
                threads: number("DDNNC_EMU_THREADS", defaults.threads, 1..=1024)?,
                ..defaults
            },
            card,
            verbose: switch("DDNNC_EMU_VERBOSE", false)?,
            skip_waits: Some(number("DDNNC_EMU_SKIP_WAITS", NO_STREAM, 0..=1024)?)
                .filter(|&n| n != NO_STREAM),
        })
    }
}

fn order(value: &str) -> Option<Order> {
    match value {
        "forward" => Some(Order::Forward),
        "reverse" => Some(Order::Reverse),
        _ => value.strip_prefix("random:")?.parse().ok().map(Order::Random),
    }
}

fn bytes(value: &str) -> Option<u64> {
    let (digits, shift) = match value.as_bytes().last()? {
        b'k' | b'K' => (&value[..value.len() - 1], 10),
        b'm' | b'M' => (&value[..value.len() - 1], 20),
        b'g' | b'G' => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        Config::read(|name| pairs.iter().find(|p| p.0 == name).map(|p| p.1.to_owned()))
    }

    #[test]
    fn values_are_understood() {
        let c = read(&[]).expect("defaults");
        assert_eq!((c.properties.arch, c.devices, c.options), (90, 1, Options::default()));
        let c = read(&[
            ("DDNNC_EMU_ARCH", "a100"),
            ("DDNNC_EMU_MEMORY", "8M"),
            ("DDNNC_EMU_ORDER", "random:7"),
            ("DDNNC_EMU_RACES", "0"),
            ("DDNNC_EMU_THREADS", "3"),
        ])
        .expect("all are right");
        assert_eq!((c.properties.arch, c.properties.memory), (80, 8 << 20));
        assert_eq!((c.options.order, c.options.races, c.options.threads), (Order::Random(7), false, 3));
        assert_eq!(read(&[("DDNNC_EMU_ARCH", "sm_120")]).expect("a card").properties.arch, 120);
    }

    #[test]
    fn unknown_names_are_refused() {
        let check = |names: &[&str]| Config::check_names(names.iter().map(|n| (*n).to_owned()));
        assert_eq!(check(&["PATH", "DDNNC_NVRTC", "DDNNC_EMU_ORDER", "DDNNC_EMU_LIBRARY"]), Ok(()));
        let message = check(&["DDNNC_EMU_RACES", "DDNNC_EMU_UNINITIALIZED"]).expect_err("another spelling");
        assert!(message.starts_with("DDNNC_EMU_UNINITIALIZED is no setting; there are "), "{message}");
        assert!(message.contains(" DDNNC_EMU_UNINITIALISED,"), "{message}");
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for (name, value) in [
            ("DDNNC_EMU_ARCH", "sm_13"),
            ("DDNNC_EMU_MEMORY", "8T"),
            ("DDNNC_EMU_MEMORY", "99999999999999999G"),
            ("DDNNC_EMU_ORDER", "random"),
            ("DDNNC_EMU_ORDER", "random:x"),
            ("DDNNC_EMU_RACES", "yes"),
            ("DDNNC_EMU_UNINITIALISED", "2"),
            ("DDNNC_EMU_THREADS", "0"),
            ("DDNNC_EMU_DEVICES", "-1"),
            ("DDNNC_EMU_VERBOSE", "on"),
            ("DDNNC_EMU_SKIP_WAITS", "all"),
        ] {
            let message = read(&[(name, value)]).expect_err(value);
            assert!(message.starts_with(&format!("{name}={value}: expected ")), "{message}");
        }
    }
}
