//! Capturing streams into graphs.
//!
//! A capture belongs to the stream it began in. Other streams join it by waiting for an event recorded in it. Each
//! stream in it has a frontier: the nodes that its next node comes after.

use std::collections::BTreeMap;

use super::code::{Answer, Code};
use super::state::{Driver, EventState, Id};
use super::work::Op;

/// Work with the nodes that come before it.
pub(super) struct Node {
    pub op: Op,
    pub needs: Vec<usize>,
}

pub(super) struct Graph {
    pub nodes: Vec<Node>,
    /// The order in which nodes are executed: of those that may be next, the one captured last, so that a dependency
    /// that was forgotten shows.
    pub order: Vec<usize>,
}

/// Which calls other streams and threads may make meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    pub fn from_c(mode: u32) -> Answer<Mode> {
        match mode {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::ThreadLocal),
            2 => Ok(Mode::Relaxed),
            _ => Err(Code::INVALID_VALUE),
        }
    }
}

pub(super) struct Capture {
    pub context: Id,
    origin: Id,
    mode: Mode,
    /// The host thread that began it.
    thread: u64,
    nodes: Vec<Node>,
    frontiers: BTreeMap<Id, Vec<usize>>,
    /// Something was done that makes it worthless.
    pub invalid: bool,
}

impl Driver {
    /// The capture that a stream is in.
    ///
    /// # Errors
    ///
    /// Where that capture became invalid, as every use of the stream then fails.
    pub fn capture_of(&self, stream: Id) -> Answer<Option<Id>> {
        let s = self.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
        match s.capture.and_then(|id| Some((id, self.captures.get(&id)?))) {
            Some((_, c)) if c.invalid => Err(Code::STREAM_CAPTURE_INVALIDATED),
            found => Ok(found.map(|(id, _)| id)),
        }
    }

    pub fn invalidate(&mut self, capture: Id) {
        if let Some(c) = self.captures.get_mut(&capture) {
            c.invalid = true;
        }
    }

    /// The nodes that a stream's next node would come after.
    pub fn frontier(&self, capture: Id, stream: Id) -> Vec<usize> {
        self.captures.get(&capture).and_then(|c| c.frontiers.get(&stream)).cloned().unwrap_or_default()
    }

    pub fn begin_capture(&mut self, stream: Id, mode: Mode, thread: u64) -> Answer {
        let s = self.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
        let context = s.context;
        if self.contexts.get(&context).is_some_and(|c| c.null_stream == stream) {
            return self
                .refuse(Code::STREAM_CAPTURE_UNSUPPORTED, "the legacy default stream cannot be captured");
        }
        if s.capture.is_some() {
            return self.refuse(Code::INVALID_VALUE, "the stream is capturing already");
        }
        let id = self.id();
        let capture = Capture {
            context,
            origin: stream,
            mode,
            thread,
            nodes: Vec::new(),
            frontiers: BTreeMap::from([(stream, Vec::new())]),
            invalid: false,
        };
        self.captures.insert(id, capture);
        if let Some(s) = self.streams.get_mut(&stream) {
            s.capture = Some(id);
        }
        Ok(())
    }

    /// Adds a node behind a stream's frontier.
    pub fn capture_node(&mut self, stream: Id, op: Op) -> Answer {
        let Some(id) = self.capture_of(stream)? else { return Err(Code::INVALID_HANDLE) };
        let unfit = match op {
            Op::Write { .. } => Some("a copy from pageable memory of the host"),
            Op::Read { to, bytes, .. } if !self.is_pinned(to, bytes) => {
                Some("a copy to pageable memory of the host")
            }
            Op::Free { .. } => Some("freeing memory"),
            _ => None,
        };
        if let Some(what) = unfit {
            self.invalidate(id);
            return self.refuse(Code::STREAM_CAPTURE_UNSUPPORTED, format!("{what} cannot be captured here"));
        }
        let Some(capture) = self.captures.get_mut(&id) else { return Err(Code::INVALID_HANDLE) };
        let node = capture.nodes.len();
        let needs = capture.frontiers.insert(stream, vec![node]).unwrap_or_default();
        capture.nodes.push(Node { op, needs });
        Ok(())
    }

    /// A stream waits for an event of a capture: in the same capture a dependency, from outside it joins.
    pub fn join(&mut self, stream: Id, own: Option<Id>, capture: Id, nodes: Vec<usize>) -> Answer {
        if own.is_some_and(|own| own != capture) {
            own.into_iter().chain([capture]).for_each(|c| self.invalidate(c));
            return self.refuse(Code::STREAM_CAPTURE_MERGE, "two captures would become one");
        }
        let s = self.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
        if self.contexts.get(&s.context).is_some_and(|c| c.null_stream == stream) {
            self.invalidate(capture);
            return self
                .refuse(Code::STREAM_CAPTURE_IMPLICIT, "the legacy default stream cannot join a capture");
        }
        let Some(c) = self.captures.get_mut(&capture) else {
            return self.refuse(Code::CAPTURED_EVENT, "the event was recorded in a capture that has ended");
        };
        if c.invalid {
            return Err(Code::STREAM_CAPTURE_INVALIDATED);
        }
        let frontier = c.frontiers.entry(stream).or_default();
        frontier.extend(nodes);
        frontier.sort_unstable();
        frontier.dedup();
        if let Some(s) = self.streams.get_mut(&stream) {
            s.capture = Some(capture);
        }
        Ok(())
    }

    /// Ends a capture; its streams are as before.
    pub fn end_capture(&mut self, stream: Id, thread: u64) -> Answer<Graph> {
        let s = self.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
        let Some(id) = s.capture else {
            return self.refuse(Code::INVALID_VALUE, "the stream is not capturing");
        };
        let Some(capture) = self.captures.get(&id) else { return Err(Code::STREAM_CAPTURE_INVALIDATED) };
        if capture.origin != stream {
            self.invalidate(id);
            return self.refuse(Code::STREAM_CAPTURE_UNMATCHED, "the capture did not begin in this stream");
        }
        if capture.mode != Mode::Relaxed && capture.thread != thread {
            self.invalidate(id);
            return self.refuse(Code::STREAM_CAPTURE_WRONG_THREAD, "the capture began in another thread");
        }
        for stream in self.streams.values_mut().filter(|s| s.capture == Some(id)) {
            stream.capture = None;
        }
        let Some(capture) = self.captures.remove(&id) else { return Err(Code::STREAM_CAPTURE_INVALIDATED) };
        if capture.invalid {
            return Err(Code::STREAM_CAPTURE_INVALIDATED);
        }
        if !capture.is_joined() {
            let why = "a stream joined the capture and was not joined back before its end";
            return self.refuse(Code::STREAM_CAPTURE_UNJOINED, why);
        }
        let order = execution_order(&capture.nodes);
        Ok(Graph { nodes: capture.nodes, order })
    }

    /// Refuses work for the legacy default stream while a stream that it would wait for is capturing.
    pub fn forbid_implicit(&mut self, stream: Id) -> Answer {
        let s = self.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
        if self.contexts.get(&s.context).is_none_or(|c| c.null_stream != stream) {
            return Ok(());
        }
        let mut others = self.streams.values().filter(|o| o.context == s.context && o.blocking);
        let Some(capture) = others.find_map(|o| o.capture) else { return Ok(()) };
        self.invalidate(capture);
        let why = "the legacy default stream would wait for a capturing stream";
        self.refuse(Code::STREAM_CAPTURE_IMPLICIT, why)
    }

    /// Refuses calls that wait or change memory while a capture forbids them to this thread.
    pub fn forbid_unsafe(&mut self, what: &str, thread: u64, mode: Mode) -> Answer {
        let forbids = |c: &Capture| match mode {
            Mode::Relaxed => false,
            _ if c.thread == thread => c.mode != Mode::Relaxed,
            Mode::Global => c.mode == Mode::Global,
            Mode::ThreadLocal => false,
        };
        let Some((&id, _)) = self.captures.iter().find(|(_, c)| forbids(c)) else { return Ok(()) };
        self.invalidate(id);
        self.refuse(Code::STREAM_CAPTURE_UNSUPPORTED, format!("{what} while a stream is capturing"))
    }

    /// Refuses waiting for a stream or context in which something is captured.
    pub fn forbid_capturing(&mut self, streams: impl Fn(&Driver, Id) -> bool, what: &str) -> Answer {
        let mut capturing = self.streams.iter().filter_map(|(id, s)| Some((*id, s.capture?)));
        let Some((_, capture)) = capturing.find(|(id, _)| streams(self, *id)) else { return Ok(()) };
        let again = self.captures.get(&capture).is_some_and(|c| c.invalid);
        self.invalidate(capture);
        let code = if again { Code::STREAM_CAPTURE_INVALIDATED } else { Code::STREAM_CAPTURE_UNSUPPORTED };
        self.refuse(code, format!("{what} while it is capturing"))
    }

    /// Refuses to ask whether an event is done that will be done in a graph only.
    pub fn forbid_captured(&mut self, event: Id) -> Answer {
        let event = self.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
        if let EventState::Captured { capture, .. } = event.state {
            self.invalidate(capture);
            return self.refuse(Code::CAPTURED_EVENT, "the event was recorded in a capturing stream");
        }
        Ok(())
    }
}

impl Capture {
    /// Whether every node comes before what the origin would do next.
    fn is_joined(&self) -> bool {
        let mut seen = vec![false; self.nodes.len()];
        let mut open = self.frontiers.get(&self.origin).cloned().unwrap_or_default();
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut seen[node], true) {
                open.extend(&self.nodes[node].needs);
            }
        }
        seen.into_iter().all(|s| s)
    }
}

fn execution_order(nodes: &[Node]) -> Vec<usize> {
    let mut open: Vec<usize> = nodes.iter().map(|n| n.needs.len()).collect();
    let mut users = vec![Vec::new(); nodes.len()];
    for (node, n) in nodes.iter().enumerate() {
        n.needs.iter().for_each(|need| users[*need].push(node));
    }
    let mut ready: std::collections::BTreeSet<usize> = (0..nodes.len()).filter(|n| open[*n] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(node) = ready.pop_last() {
        order.push(node);
        for &user in &users[node] {
            open[user] -= 1;
            if open[user] == 0 {
                ready.insert(user);
            }
        }
    }
    order
}
