//! What streams are given to do, and doing it.

use std::sync::Arc;
use std::time::Instant;

use crate::fault::{Fault, FaultKind};
use crate::machine::ModuleId;

use super::capture::Graph;
use super::code::Code;
use super::ffi::{Callback, read_host, write_host};
use super::state::{Driver, EventState, Id, Point};
use super::{in_callback, keep_text};

/// One piece of work.
#[derive(Clone)]
pub(super) enum Op {
    Launch {
        module: ModuleId,
        kernel: Arc<str>,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        /// As copied when the launch was asked for.
        params: Arc<[u8]>,
    },
    /// Memory of the host that was read when the copy was asked for.
    Write {
        to: u64,
        data: Arc<[u8]>,
    },
    /// Pinned memory of the host, read when the copy is executed.
    WritePinned {
        to: u64,
        from: usize,
        bytes: usize,
    },
    Read {
        to: usize,
        from: u64,
        bytes: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: u64,
    },
    /// A copy to another device.
    CopyPeer {
        to: u64,
        device: usize,
        from: u64,
        bytes: u64,
    },
    /// The first bytes of the pattern, again and again.
    Set {
        to: u64,
        pattern: [u8; 4],
        width: usize,
        count: usize,
    },
    Free {
        address: u64,
    },
    Call(Callback),
    /// The end of what came before an event.
    Record {
        event: Id,
    },
    /// Nothing: its needs are what it is for.
    Wait,
    Graph(Arc<Graph>),
}

/// Why work was not done.
pub(super) struct Failure {
    pub code: Code,
    pub text: String,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        let code = match fault.kind {
            FaultKind::OutOfBounds | FaultKind::Uninitialised => Code::ILLEGAL_ADDRESS,
            FaultKind::Misaligned => Code::MISALIGNED_ADDRESS,
            FaultKind::Launch => Code::LAUNCH_OUT_OF_RESOURCES,
            _ => Code::LAUNCH_FAILED,
        };
        Failure { code, text: fault.to_string() }
    }
}

/// A copy whose range was fine when it was asked for.
fn stale(what: &'static str) -> impl FnOnce(String) -> Failure {
    move |message| Failure { code: Code::ILLEGAL_ADDRESS, text: format!("{what}: {message}") }
}

/// Bytes of a memset written at a time.
const CHUNK: usize = 1 << 20;

impl Driver {
    /// Does one piece of work of a context, which stood at a point of a stream.
    pub fn execute(&mut self, context: Id, point: Point, op: &Op) -> Result<(), Failure> {
        let gone = || Failure { code: Code::CONTEXT_IS_DESTROYED, text: "the context is gone".to_owned() };
        let device = self.contexts.get(&context).ok_or_else(gone)?.device;
        let machine = &mut self.devices[device].machine;
        match op {
            Op::Launch { module, kernel, grid, block, dynamic_shared, params } => {
                let did = machine.launch(*module, kernel, *grid, *block, *dynamic_shared, params)?;
                self.report.launched(&did);
            }
            Op::Write { to, data } => {
                machine.write(*to, data).map_err(stale("copy to the device"))?;
                self.report.host_to_device += data.len() as u64;
            }
            Op::WritePinned { to, from, bytes } => {
                machine.write(*to, &read_host(*from, *bytes)).map_err(stale("copy to the device"))?;
                self.report.host_to_device += *bytes as u64;
            }
            Op::Read { to, from, bytes } => {
                let mut data = vec![0; *bytes];
                machine.read(*from, &mut data).map_err(stale("copy to the host"))?;
                write_host(*to, &data);
                self.report.device_to_host += *bytes as u64;
            }
            Op::Copy { to, from, bytes } => {
                machine.copy(*to, *from, *bytes).map_err(stale("copy on the device"))?;
                self.report.device_to_device += bytes;
            }
            Op::CopyPeer { to, device, from, bytes } => {
                let mut data = vec![0; *bytes as usize];
                machine.read(*from, &mut data).map_err(stale("copy between devices"))?;
                let machine = &mut self.devices[*device].machine;
                machine.write(*to, &data).map_err(stale("copy between devices"))?;
                self.report.device_to_device += bytes;
            }
            Op::Set { to, pattern, width, count } => {
                let unit = &pattern[..*width];
                let chunk = unit.repeat((CHUNK / width).min(*count));
                let (mut at, end) = (*to, *to + (*count * *width) as u64);
                while at < end {
                    let n = chunk.len().min((end - at) as usize);
                    machine.write(at, &chunk[..n]).map_err(stale("memset"))?;
                    at += n as u64;
                }
            }
            Op::Free { address } => {
                machine.free(*address);
            }
            Op::Call(callback) => in_callback(|| (callback.function)(callback.data as *mut _)),
            Op::Record { event } => {
                if let Some(event) = self.events.get_mut(event)
                    && matches!(event.state, EventState::Recorded(p) if p == point)
                {
                    event.time = Some(Instant::now());
                }
            }
            Op::Wait => {}
            Op::Graph(graph) => {
                self.report.graphs += 1;
                for &node in &graph.order {
                    self.execute(context, point, &graph.nodes[node].op)?;
                }
            }
        }
        Ok(())
    }

    /// What a failure does to its context: every later call answers its code, and nothing queued is executed.
    pub fn fail(&mut self, context: Id, failure: &Failure) {
        let Some(c) = self.contexts.get_mut(&context) else { return };
        if c.sticky.is_none() {
            c.sticky = Some(failure.code);
            eprintln!("ddnnc-emu: {}", failure.text);
            keep_text(&failure.text);
        }
        for stream in self.streams.values_mut().filter(|s| s.context == context) {
            stream.queue.clear();
            stream.done = stream.pushed;
        }
    }
}
