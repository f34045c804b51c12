//! The driver: what answers as `libcuda.so.1`.
//!
//! The exported functions stand in the files `api_*.rs`, by subject. Each one does no more than check its arguments and
//! call [`state::Driver`], which one lock guards: a call that forces work holds it until that work is done. A panic
//! inside becomes an error code, and its message what `ddnnc_emu_last_fault` tells.
//!
//! In a program that links the Rust library these functions are ordinary functions of an executable, which are not
//! visible to `dlopen` and `dlsym`; only the shared library shows them.

mod api_context;
mod api_device;
mod api_event;
mod api_graph;
mod api_launch;
mod api_memory;
mod api_module;
mod api_own;
mod api_pool;
mod api_stream;
mod capture;
mod cards;
mod code;
mod config;
mod ffi;
mod functions;
mod report;
mod schedule;
mod state;
mod work;

pub use report::Report;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use capture::Mode;
use code::{Answer, Code};
use config::Config;
use state::{Driver, Id};
use work::Failure;

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

/// The latest fault or panic, in words.
static TEXT: Mutex<String> = Mutex::new(String::new());

static THREADS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static THREAD: Thread = Thread {
        number: THREADS.fetch_add(1, Ordering::Relaxed),
        contexts: RefCell::new(Vec::new()),
        mode: Cell::new(Mode::Global),
        in_callback: Cell::new(false),
    };
}

/// What the driver keeps for a thread of the host.
struct Thread {
    number: u64,
    /// Its contexts; the last one is current. 0 stands for none.
    contexts: RefCell<Vec<Id>>,
    mode: Cell<Mode>,
    in_callback: Cell<bool>,
}

fn keep_text(text: &str) {
    text.clone_into(&mut TEXT.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Runs an exported function: the lock taken, panics caught.
fn guarded(f: impl FnOnce(&mut Option<Driver>) -> Answer) -> Code {
    let inside = || {
        if THREAD.with(|t| t.in_callback.get()) {
            return Err(Code::NOT_PERMITTED);
        }
        f(&mut DRIVER.lock().unwrap_or_else(PoisonError::into_inner))
    };
    match catch_unwind(AssertUnwindSafe(inside)) {
        Ok(Ok(())) => Code::SUCCESS,
        Ok(Err(code)) => code,
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            let failure = Failure { code: Code::UNKNOWN, text: format!("the emulator panicked: {said}") };
            // What is queued may name memory that its owner now believes unused.
            let mut driver = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
            for d in driver.iter_mut() {
                let contexts: Vec<Id> = d.contexts.keys().copied().collect();
                contexts.into_iter().for_each(|context| d.fail(context, &failure));
            }
            keep_text(&failure.text);
            Code::UNKNOWN
        }
    }
}

/// An exported function that needs the driver initialised.
fn driver(f: impl FnOnce(&mut Driver) -> Answer) -> Code {
    guarded(|d| f(d.as_mut().ok_or(Code::NOT_INITIALIZED)?))
}

/// An exported function that needs a current context without faults.
fn current(f: impl FnOnce(&mut Driver, Id) -> Answer) -> Code {
    driver(|d| {
        let context = current_context().ok_or(Code::INVALID_CONTEXT)?;
        d.context(context)?;
        f(d, context)
    })
}

/// The context that is current to this thread.
fn current_context() -> Option<Id> {
    THREAD.with(|t| t.contexts.borrow().last().copied()).filter(|id| *id != 0)
}

fn thread_number() -> u64 {
    THREAD.with(|t| t.number)
}

/// Runs a callback of the program, during which the thread may not call the driver.
fn in_callback(f: impl FnOnce()) {
    THREAD.with(|t| t.in_callback.set(true));
    f();
    THREAD.with(|t| t.in_callback.set(false));
}

impl Driver {
    /// Reads the configuration and makes the devices.
    fn initialise() -> Answer<Driver> {
        let get = |name: &str| std::env::var(name).ok();
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        match Config::check_names(names).and_then(|()| Config::read(get)) {
            Ok(config) if config.devices == 0 => Err(Code::NO_DEVICE),
            Ok(config) => Ok(Driver::new(config)),
            Err(message) => {
                eprintln!("ddnnc-emu: {message}");
                keep_text(&message);
                Err(Code::INVALID_VALUE)
            }
        }
    }

    /// The stream that a handle names in a context.
    fn stream(&mut self, context: Id, handle: u64) -> Answer<Id> {
        match handle {
            0 | 1 => Ok(self.context(context)?.null_stream),
            2 => {
                let thread = thread_number();
                if let Some(stream) = self.context(context)?.thread_streams.get(&thread) {
                    return Ok(*stream);
                }
                let stream = self.id();
                self.context(context)?.thread_streams.insert(thread, stream);
                let new = state::Stream { context, blocking: true, ..Default::default() };
                self.streams.insert(stream, new);
                Ok(stream)
            }
            _ => match self.streams.get(&handle) {
                Some(s) if s.context == context && !s.destroyed => Ok(handle),
                _ => Err(Code::INVALID_HANDLE),
            },
        }
    }

    /// Refuses what a capture forbids to this thread.
    fn unsafe_call(&mut self, what: &str) -> Answer {
        self.forbid_unsafe(what, thread_number(), THREAD.with(|t| t.mode.get()))
    }
}
