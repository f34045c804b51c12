//! What the driver keeps: devices, contexts and everything that a handle names.
//!
//! A handle is a number that is never given twice and never followed as a pointer, so that a stale or invented one is
//! an error and not a crash. Maps are ordered, so that nothing depends on where things lie.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::machine::{Machine, ModuleId};

use super::capture::{Capture, Graph};
use super::code::{Answer, Code};
use super::config::Config;
use super::report::Report;
use super::work::Op;

/// What a handle is inside.
pub(super) type Id = u64;

pub(super) struct Device {
    pub machine: Machine,
    /// Its primary context, made when it is first retained.
    pub primary: Option<Id>,
}

pub(super) struct Context {
    pub device: usize,
    /// How often a primary context is retained; 1 for others.
    pub references: u32,
    pub primary: bool,
    pub flags: u32,
    /// The error that every call answers since a kernel did what it must not.
    pub sticky: Option<Code>,
    /// The legacy default stream.
    pub null_stream: Id,
    /// Streams of host threads, by the thread's number.
    pub thread_streams: BTreeMap<u64, Id>,
    pub allocations: BTreeSet<u64>,
    pub limits: BTreeMap<u32, usize>,
    pub cache_config: u32,
}

#[derive(Default)]
pub(super) struct Stream {
    pub context: Id,
    /// Whether it waits for the legacy default stream, and that one for it.
    pub blocking: bool,
    pub priority: i32,
    pub queue: VecDeque<Item>,
    /// How many items it was ever given, and how many of them are executed.
    pub pushed: u64,
    pub done: u64,
    /// The program let it go; it goes when its queue is empty.
    pub destroyed: bool,
    /// Items it had when a query was last answered with "not ready".
    pub asked: Option<u64>,
    pub capture: Option<Id>,
    /// See `DDNNC_EMU_SKIP_WAITS`.
    pub skips_waits: bool,
}

pub(super) struct Item {
    pub op: Op,
    pub needs: Vec<Point>,
}

/// The first `at` items of a stream. Reached when they are executed, or when the stream is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub stream: Id,
    pub at: u64,
}

pub(super) struct Event {
    pub context: Id,
    pub timing: bool,
    pub state: EventState,
    /// Whether a query was already answered with "not ready" since it was recorded.
    pub asked: bool,
    /// When the point that it was recorded at was reached.
    pub time: Option<Instant>,
}

#[derive(Clone)]
pub(super) enum EventState {
    Never,
    Recorded(Point),
    /// Recorded in a stream that was capturing: the nodes it stands for.
    Captured {
        capture: Id,
        nodes: Vec<usize>,
    },
}

pub(super) struct Module {
    pub context: Id,
    pub id: ModuleId,
    /// Handles of its functions.
    pub functions: BTreeMap<String, Id>,
}

pub(super) struct Function {
    pub context: Id,
    pub module: Id,
    pub id: ModuleId,
    pub name: Arc<str>,
    /// Offset and bytes of each parameter.
    pub params: Vec<(usize, usize)>,
    pub static_shared: u32,
    /// Bytes of dynamic shared memory that launches may ask for; negative: as much as needs no opting in.
    pub dynamic_shared: Option<u32>,
    pub carveout: i32,
}

/// A graph ready to be launched.
pub(super) struct Executable {
    pub context: Id,
    pub graph: Arc<Graph>,
    /// Its latest launch: the next one comes after it.
    pub last: Option<Point>,
}

pub(super) struct Driver {
    pub config: Config,
    pub devices: Vec<Device>,
    pub contexts: BTreeMap<Id, Context>,
    pub streams: BTreeMap<Id, Stream>,
    /// How many streams the program has made so far.
    pub streams_made: usize,
    pub events: BTreeMap<Id, Event>,
    pub modules: BTreeMap<Id, Module>,
    pub functions: BTreeMap<Id, Function>,
    pub captures: BTreeMap<Id, Capture>,
    pub graphs: BTreeMap<Id, Arc<Graph>>,
    pub executables: BTreeMap<Id, Executable>,
    /// Memory of the host that copies read and write when they are executed: bytes by address, and whether it is ours.
    pub pinned: BTreeMap<usize, (usize, bool)>,
    pub report: Report,
    next: Id,
}

impl Driver {
    pub fn new(config: Config) -> Driver {
        let device = || Device {
            machine: Machine::new(config.properties.clone(), config.options.clone()),
            primary: None,
        };
        Driver {
            devices: (0..config.devices).map(|_| device()).collect(),
            config,
            contexts: BTreeMap::new(),
            streams: BTreeMap::new(),
            streams_made: 0,
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executables: BTreeMap::new(),
            pinned: BTreeMap::new(),
            report: Report::default(),
            next: 0x1000,
        }
    }

    /// A new handle; aligned as a pointer would be.
    pub fn id(&mut self) -> Id {
        self.next += 16;
        self.next
    }

    /// Says why, where the user asked for it.
    pub fn refuse<T>(&self, code: Code, why: impl std::fmt::Display) -> Answer<T> {
        if self.config.verbose {
            eprintln!("ddnnc-emu: {why}");
        }
        Err(code)
    }

    pub fn device(&self, ordinal: i32) -> Answer<usize> {
        let device = usize::try_from(ordinal).map_err(|_| Code::INVALID_DEVICE)?;
        if device < self.devices.len() { Ok(device) } else { Err(Code::INVALID_DEVICE) }
    }

    pub fn new_context(&mut self, device: usize, primary: bool, flags: u32) -> Id {
        let (id, null_stream) = (self.id(), self.id());
        let context = Context {
            device,
            references: 1,
            primary,
            flags,
            sticky: None,
            null_stream,
            thread_streams: BTreeMap::new(),
            allocations: BTreeSet::new(),
            limits: BTreeMap::new(),
            cache_config: 0,
        };
        self.contexts.insert(id, context);
        self.streams.insert(null_stream, Stream { context: id, blocking: true, ..Stream::default() });
        id
    }

    /// A context that can be used: not destroyed, and no fault in it so far.
    pub fn context(&mut self, id: Id) -> Answer<&mut Context> {
        let context = self.contexts.get_mut(&id).ok_or(Code::CONTEXT_IS_DESTROYED)?;
        match context.sticky {
            Some(code) => Err(code),
            None => Ok(context),
        }
    }

    pub fn machine(&mut self, context: Id) -> Answer<&mut Machine> {
        let device = self.contexts.get(&context).ok_or(Code::CONTEXT_IS_DESTROYED)?.device;
        Ok(&mut self.devices[device].machine)
    }

    /// Frees everything of a context. A primary context keeps its handle, and is as new when it is retained again.
    pub fn destroy_context(&mut self, id: Id) {
        let Some(context) = self.contexts.remove(&id) else { return };
        self.captures.retain(|_, c| c.context != id);
        self.streams.retain(|_, s| s.context != id);
        self.events.retain(|_, e| e.context != id);
        self.functions.retain(|_, f| f.context != id);
        self.executables.retain(|_, e| e.context != id);
        let machine = &mut self.devices[context.device].machine;
        for module in self.modules.values().filter(|m| m.context == id) {
            machine.unload(module.id);
        }
        self.modules.retain(|_, m| m.context != id);
        for address in context.allocations {
            machine.free(address);
        }
        if context.primary {
            self.devices[context.device].primary = None;
        }
    }

    /// Whether a range lies in memory that was pinned.
    pub fn is_pinned(&self, address: usize, bytes: usize) -> bool {
        let before = self.pinned.range(..=address).next_back();
        before.is_some_and(|(base, (size, _))| address - base <= *size && bytes <= size - (address - base))
    }
}
