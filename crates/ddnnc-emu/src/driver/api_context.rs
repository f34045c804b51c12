//! Exported functions: contexts.
#![allow(non_snake_case)]

use super::code::{Answer, Code};
use super::ffi::{Host, Out};
use super::state::{Driver, Id};
use super::{THREAD, current, current_context, driver};

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: Out<Id>, device: i32) -> Code {
    driver(|d| {
        let place = context.check()?;
        let device = d.device(device)?;
        let id = match d.devices[device].primary {
            Some(id) => {
                if let Some(context) = d.contexts.get_mut(&id) {
                    context.references += 1;
                }
                id
            }
            None => {
                let id = d.new_context(device, true, 0);
                d.devices[device].primary = Some(id);
                id
            }
        };
        place.set(id);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> Code {
    driver(|d| {
        let device = d.device(device)?;
        let id = d.devices[device].primary.ok_or(Code::INVALID_CONTEXT)?;
        let context = d.contexts.get_mut(&id).ok_or(Code::INVALID_CONTEXT)?;
        context.references -= 1;
        if context.references == 0 {
            let answer = end(d, id);
            d.destroy_context(id);
            return answer;
        }
        Ok(())
    })
}

/// What was queued is done before a context goes; a fault that it already told is not told again.
fn end(d: &mut Driver, id: Id) -> Answer {
    match d.context(id) {
        Ok(_) => d.finish_context(id),
        Err(_) => Ok(()),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> Code {
    driver(|d| {
        let device = d.device(device)?;
        let Some(id) = d.devices[device].primary else { return Ok(()) };
        d.destroy_context(id);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) -> Code {
    driver(|d| {
        let (flags, active) = (flags.check()?, active.check()?);
        let primary = d.devices[d.device(device)?].primary;
        flags.set(primary.and_then(|id| d.contexts.get(&id)).map_or(0, |c| c.flags));
        active.set(i32::from(primary.is_some()));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) -> Code {
    driver(|d| {
        let primary = d.devices[d.device(device)?].primary;
        if let Some(context) = primary.and_then(|id| d.contexts.get_mut(&id)) {
            context.flags = flags;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v2(context: Out<Id>, flags: u32, device: i32) -> Code {
    driver(|d| {
        let place = context.check()?;
        let device = d.device(device)?;
        let id = d.new_context(device, false, flags);
        THREAD.with(|t| t.contexts.borrow_mut().push(id));
        place.set(id);
        Ok(())
    })
}

/// Affinity of execution (`parameters`, `count`) is not a thing here.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v3(
    context: Out<Id>,
    parameters: Host,
    count: i32,
    flags: u32,
    device: i32,
) -> Code {
    if !parameters.0.is_null() || count != 0 {
        return Code::NOT_SUPPORTED;
    }
    cuCtxCreate_v2(context, flags, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v4(context: Out<Id>, parameters: Host, flags: u32, device: i32) -> Code {
    if !parameters.0.is_null() {
        return Code::NOT_SUPPORTED;
    }
    cuCtxCreate_v2(context, flags, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: Id) -> Code {
    driver(|d| {
        let c = d.contexts.get(&context).ok_or(Code::INVALID_CONTEXT)?;
        if c.primary {
            return Err(Code::INVALID_CONTEXT);
        }
        let answer = end(d, context);
        d.destroy_context(context);
        THREAD.with(|t| {
            let mut contexts = t.contexts.borrow_mut();
            if contexts.last() == Some(&context) {
                contexts.pop();
            }
        });
        answer
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Id) -> Code {
    driver(|d| {
        if context != 0 && !d.contexts.contains_key(&context) {
            return Err(Code::INVALID_CONTEXT);
        }
        THREAD.with(|t| {
            let mut contexts = t.contexts.borrow_mut();
            contexts.pop();
            if context != 0 {
                contexts.push(context);
            }
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(context: Out<Id>) -> Code {
    driver(|_| context.check().map(|c| c.set(current_context().unwrap_or(0))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: Id) -> Code {
    driver(|d| {
        if !d.contexts.contains_key(&context) {
            return Err(Code::INVALID_CONTEXT);
        }
        THREAD.with(|t| t.contexts.borrow_mut().push(context));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPopCurrent_v2(context: Out<Id>) -> Code {
    driver(|_| {
        let popped = THREAD.with(|t| t.contexts.borrow_mut().pop()).ok_or(Code::INVALID_CONTEXT)?;
        context.offer(popped);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice(device: Out<i32>) -> Code {
    driver(|d| {
        let context = current_context().ok_or(Code::INVALID_CONTEXT)?;
        let context = d.contexts.get(&context).ok_or(Code::CONTEXT_IS_DESTROYED)?;
        device.check().map(|p| p.set(context.device as i32))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Code {
    current(|d, context| {
        let of_context = move |d: &Driver, id: Id| d.streams.get(&id).is_some_and(|s| s.context == context);
        d.forbid_capturing(of_context, "synchronising a context")?;
        d.finish_context(context)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetFlags(flags: Out<u32>) -> Code {
    current(|d, context| {
        let value = d.context(context)?.flags;
        flags.check().map(|f| f.set(value))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: u32) -> Code {
    current(|d, context| {
        d.context(context)?.flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetApiVersion(_context: Id, version: Out<u32>) -> Code {
    driver(|_| version.check().map(|v| v.set(3020)))
}

/// Limits are remembered and limit nothing.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(limit: u32, value: usize) -> Code {
    current(|d, context| {
        if limit > 6 {
            return Err(Code::UNSUPPORTED_LIMIT);
        }
        d.context(context)?.limits.insert(limit, value);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetLimit(value: Out<usize>, limit: u32) -> Code {
    current(|d, context| {
        let place = value.check()?;
        if limit > 6 {
            return Err(Code::UNSUPPORTED_LIMIT);
        }
        place.set(d.context(context)?.limits.get(&limit).copied().unwrap_or(1024));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCacheConfig(config: Out<u32>) -> Code {
    current(|d, context| {
        let value = d.context(context)?.cache_config;
        config.check().map(|c| c.set(value))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCacheConfig(config: u32) -> Code {
    current(|d, context| {
        d.context(context)?.cache_config = config;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) -> Code {
    current(|_, _| {
        least.offer(0);
        greatest.offer(-5);
        Ok(())
    })
}
