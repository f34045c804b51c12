//! Exported functions: streams.
#![allow(non_snake_case)]

use std::ffi::c_void;

use super::code::{Answer, Code};
use super::ffi::{Callback, Out};
use super::state::{Driver, Id, Stream};
use super::work::Op;
use super::{current, driver};

/// `CU_STREAM_NON_BLOCKING`
const NON_BLOCKING: u32 = 1;

fn create(d: &mut Driver, context: Id, stream: Out<Id>, flags: u32, priority: i32) -> Answer {
    let place = stream.check()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let id = d.id();
    let blocking = flags & NON_BLOCKING == 0;
    let priority = priority.clamp(-5, 0);
    let skips_waits = d.config.skip_waits == Some(d.streams_made);
    d.streams_made += 1;
    d.streams.insert(id, Stream { context, blocking, priority, skips_waits, ..Stream::default() });
    place.set(id);
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: Out<Id>, flags: u32) -> Code {
    current(|d, context| create(d, context, stream, flags, 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreateWithPriority(stream: Out<Id>, flags: u32, priority: i32) -> Code {
    current(|d, context| create(d, context, stream, flags, priority))
}

/// What the stream was given stays queued; the stream goes when that is done.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Id) -> Code {
    driver(|d| {
        let s = d.streams.get(&stream).filter(|s| !s.destroyed).ok_or(Code::INVALID_HANDLE)?;
        if d.contexts.get(&s.context).is_none_or(|c| c.null_stream == stream) {
            return Err(Code::INVALID_HANDLE);
        }
        s.capture.into_iter().for_each(|c| d.invalidate(c));
        match d.streams.get_mut(&stream) {
            Some(s) if !s.queue.is_empty() => s.destroyed = true,
            _ => {
                d.streams.remove(&stream);
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Id) -> Code {
    current(|d, context| {
        let stream = d.stream(context, stream)?;
        d.forbid_capturing(|_, id| id == stream, "synchronising a stream")?;
        d.forbid_implicit(stream)?;
        d.finish(stream)
    })
}

/// Work that is not done is "not ready" the first time; asking again does it, so that a loop that asks comes to an end.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Id) -> Code {
    current(|d, context| {
        let stream = d.stream(context, stream)?;
        d.forbid_capturing(|_, id| id == stream, "querying a stream")?;
        d.forbid_implicit(stream)?;
        let end = d.end_of(stream);
        let s = d.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?;
        if s.done == s.pushed {
            return Ok(());
        }
        if s.asked.replace(end.at) != Some(end.at) {
            return Err(Code::NOT_READY);
        }
        d.finish(stream)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Id, event: Id, _flags: u32) -> Code {
    current(|d, context| {
        let stream = d.stream(context, stream)?;
        if d.streams.get(&stream).is_some_and(|s| s.skips_waits) {
            return Ok(());
        }
        d.wait(stream, event)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetFlags(stream: Id, flags: Out<u32>) -> Code {
    current(|d, context| {
        let place = flags.check()?;
        let null = d.context(context)?.null_stream;
        let stream = d.stream(context, stream)?;
        let blocking = stream == null || d.streams.get(&stream).is_some_and(|s| s.blocking);
        place.set(if blocking { 0 } else { NON_BLOCKING });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetPriority(stream: Id, priority: Out<i32>) -> Code {
    current(|d, context| {
        let place = priority.check()?;
        let stream = d.stream(context, stream)?;
        place.set(d.streams.get(&stream).map_or(0, |s| s.priority));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetId(stream: Id, id: Out<u64>) -> Code {
    current(|d, context| {
        let place = id.check()?;
        place.set(d.stream(context, stream)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCtx(stream: Id, of: Out<Id>) -> Code {
    current(|d, context| {
        let place = of.check()?;
        d.stream(context, stream)?;
        place.set(context);
        Ok(())
    })
}

/// Managed memory does not exist here.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamAttachMemAsync(_stream: Id, _address: u64, _bytes: usize, _flags: u32) -> Code {
    Code::NOT_SUPPORTED
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchHostFunc(
    stream: Id,
    function: Option<extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> Code {
    current(|d, context| {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        let stream = d.stream(context, stream)?;
        d.submit(stream, Op::Call(Callback { function, data: data as usize }))
    })
}
