//! When work is done: as late as possible.
//!
//! Work is queued and stays queued until something must have its result. Then only that is done which comes before it:
//! earlier work of the same stream, and what events and the legacy default stream put before those. Work of other
//! streams stays undone, so that a program that forgot to wait for it reads what was there before.

use crate::order::{Order, mix};

use super::code::{Answer, Code};
use super::state::{Driver, EventState, Id, Item, Point};
use super::work::Op;

impl Driver {
    /// Gives work to a stream, or to the graph that the stream captures.
    pub fn submit(&mut self, stream: Id, op: Op) -> Answer {
        self.submit_after(stream, op, Vec::new())
    }

    /// The same with needs of its own.
    pub fn submit_after(&mut self, stream: Id, op: Op, needs: Vec<Point>) -> Answer {
        if self.capture_of(stream)?.is_some() {
            return self.capture_node(stream, op);
        }
        self.forbid_implicit(stream)?;
        self.push(stream, op, needs);
        Ok(())
    }

    /// Queues work behind what comes before it; gives the point that it ends at.
    pub fn push(&mut self, stream: Id, op: Op, mut needs: Vec<Point>) -> Point {
        let Some(s) = self.streams.get(&stream) else { return Point { stream, at: 0 } };
        let null = self.contexts.get(&s.context).map_or(stream, |c| c.null_stream);
        if stream == null {
            let context = s.context;
            let others =
                self.streams.iter().filter(|(id, s)| s.context == context && s.blocking && **id != null);
            needs.extend(others.map(|(id, s)| Point { stream: *id, at: s.pushed }));
        } else if s.blocking {
            needs.extend(self.streams.get(&null).map(|s| Point { stream: null, at: s.pushed }));
        }
        needs.retain(|p| !self.reached(*p));
        let Some(s) = self.streams.get_mut(&stream) else { return Point { stream, at: 0 } };
        s.queue.push_back(Item { op, needs });
        s.pushed += 1;
        Point { stream, at: s.pushed }
    }

    pub fn reached(&self, point: Point) -> bool {
        self.streams.get(&point.stream).is_none_or(|s| s.done >= point.at)
    }

    /// Does what comes before a point, and nothing else.
    pub fn reach(&mut self, point: Point) {
        let mut wanted = vec![point];
        while let Some(&point) = wanted.last() {
            if self.reached(point) {
                wanted.pop();
                continue;
            }
            let Some(s) = self.streams.get(&point.stream) else { continue };
            let (context, at) = (s.context, s.done + 1);
            // Needs are older than what needs them, so that this ends.
            let need = s.queue.front().and_then(|item| item.needs.iter().find(|p| !self.reached(**p)));
            if let Some(need) = need {
                wanted.push(*need);
                continue;
            }
            let Some(s) = self.streams.get_mut(&point.stream) else { continue };
            s.done = at;
            let Some(item) = s.queue.pop_front() else { continue };
            if let Err(failure) = self.execute(context, Point { at, ..point }, &item.op) {
                self.fail(context, &failure);
            }
        }
        self.streams.retain(|_, s| !(s.destroyed && s.queue.is_empty()));
    }

    /// Everything a stream was given.
    pub fn end_of(&self, stream: Id) -> Point {
        Point { stream, at: self.streams.get(&stream).map_or(0, |s| s.pushed) }
    }

    /// Does everything a stream was given, then tells whether its context is still sound.
    pub fn finish(&mut self, stream: Id) -> Answer {
        let context = self.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?.context;
        self.reach(self.end_of(stream));
        self.context(context).map(|_| ())
    }

    /// Does everything that a context was given. Streams that nothing orders take turns as warps do.
    pub fn finish_context(&mut self, context: Id) -> Answer {
        let mut streams: Vec<Id> =
            self.streams.iter().filter(|(_, s)| s.context == context).map(|(id, _)| *id).collect();
        match self.config.options.order {
            Order::Forward => {}
            Order::Reverse => streams.reverse(),
            Order::Random(seed) => streams.sort_by_key(|id| mix(seed ^ *id)),
        }
        for stream in streams {
            self.reach(self.end_of(stream));
        }
        self.context(context).map(|_| ())
    }

    /// Records an event in a stream.
    pub fn record(&mut self, event: Id, stream: Id) -> Answer {
        if !self.events.contains_key(&event) {
            return Err(Code::INVALID_HANDLE);
        }
        let state = match self.capture_of(stream)? {
            Some(capture) => EventState::Captured { capture, nodes: self.frontier(capture, stream) },
            None => {
                self.forbid_implicit(stream)?;
                let at = self.push(stream, Op::Record { event }, Vec::new());
                EventState::Recorded(at)
            }
        };
        if let Some(event) = self.events.get_mut(&event) {
            event.state = state;
            event.asked = false;
            event.time = None;
        }
        Ok(())
    }

    /// Makes what a stream is given from now on wait for an event.
    pub fn wait(&mut self, stream: Id, event: Id) -> Answer {
        let state = self.events.get(&event).ok_or(Code::INVALID_HANDLE)?.state.clone();
        match (self.capture_of(stream)?, state) {
            (_, EventState::Never) => Ok(()),
            (None, EventState::Recorded(point)) => {
                self.forbid_implicit(stream)?;
                self.push(stream, Op::Wait, vec![point]);
                Ok(())
            }
            (Some(capture), EventState::Recorded(_)) => {
                self.invalidate(capture);
                let why = "a capturing stream waits for an event that was recorded outside of the capture";
                self.refuse(Code::STREAM_CAPTURE_ISOLATION, why)
            }
            (own, EventState::Captured { capture, nodes }) => self.join(stream, own, capture, nodes),
        }
    }
}
