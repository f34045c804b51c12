//! Exported functions: events.
#![allow(non_snake_case)]

use super::code::{Answer, Code};
use super::ffi::Out;
use super::state::{Driver, Event, EventState, Id};
use super::{current, driver};

/// `CU_EVENT_DISABLE_TIMING`
const DISABLE_TIMING: u32 = 2;

#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(event: Out<Id>, flags: u32) -> Code {
    current(|d, context| {
        let place = event.check()?;
        // Blocking waits (1) and no timing; events of other processes (4) do not exist here.
        if flags & !3 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let id = d.id();
        let timing = flags & DISABLE_TIMING == 0;
        let event = Event { context, timing, state: EventState::Never, asked: false, time: None };
        d.events.insert(id, event);
        place.set(id);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Id) -> Code {
    driver(|d| d.events.remove(&event).map(|_| ()).ok_or(Code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Id, stream: Id) -> Code {
    current(|d, context| {
        let stream = d.stream(context, stream)?;
        match d.events.get(&event) {
            Some(e) if e.context == context => d.record(event, stream),
            _ => Err(Code::INVALID_HANDLE),
        }
    })
}

/// External events of graphs (1) are not told apart, as no node of a graph records an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: Id, stream: Id, flags: u32) -> Code {
    if flags != 0 {
        return Code::NOT_SUPPORTED;
    }
    cuEventRecord(event, stream)
}

fn of(d: &mut Driver, event: Id) -> Answer<&mut Event> {
    let context = d.events.get(&event).ok_or(Code::INVALID_HANDLE)?.context;
    d.context(context)?;
    d.forbid_captured(event)?;
    d.events.get_mut(&event).ok_or(Code::INVALID_HANDLE)
}

/// As [`super::api_stream::cuStreamQuery`]: not ready the first time, done the second.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Id) -> Code {
    driver(|d| {
        let EventState::Recorded(point) = of(d, event)?.state else { return Ok(()) };
        if d.reached(point) {
            return Ok(());
        }
        d.unsafe_call("querying an event")?;
        let event = of(d, event)?;
        let context = event.context;
        if !std::mem::replace(&mut event.asked, true) {
            return Err(Code::NOT_READY);
        }
        d.reach(point);
        d.context(context).map(|_| ())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Id) -> Code {
    driver(|d| {
        let event = of(d, event)?;
        let context = event.context;
        let EventState::Recorded(point) = event.state else { return Ok(()) };
        d.reach(point);
        d.context(context).map(|_| ())
    })
}

/// Time as the emulator took it, which says nothing about a device.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Id, end: Id) -> Code {
    driver(|d| {
        let place = milliseconds.check()?;
        let mut times = Vec::new();
        for event in [start, end] {
            let event = of(d, event)?;
            if !event.timing || matches!(event.state, EventState::Never) {
                return Err(Code::INVALID_HANDLE);
            }
            times.push(event.time.ok_or(Code::NOT_READY)?);
        }
        let (forth, back) = (times[1].checked_duration_since(times[0]), times[0].duration_since(times[1]));
        place.set(forth.map_or(-back.as_secs_f32(), |t| t.as_secs_f32()) * 1e3);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, start: Id, end: Id) -> Code {
    cuEventElapsedTime_v2(milliseconds, start, end)
}
