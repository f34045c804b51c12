//! Exported functions: initialisation, devices, errors, and finding functions by name.
#![allow(non_snake_case)]

use std::ffi::{c_char, c_void};
use std::ptr;

use super::code::Code;
use super::ffi::{Host, In, Out, Text, write_text};
use super::functions;
use super::state::Driver;
use super::{driver, guarded};

/// CUDA 13.0.
const VERSION: i32 = 13000;

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: u32) -> Code {
    guarded(|d| {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if d.is_none() {
            *d = Some(Driver::initialise()?);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: Out<i32>) -> Code {
    guarded(|_| version.check().map(|v| v.set(VERSION)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: Out<i32>, ordinal: i32) -> Code {
    driver(|d| {
        let place = device.check()?;
        d.device(ordinal)?;
        place.set(ordinal);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: Out<i32>) -> Code {
    driver(|d| count.check().map(|c| c.set(d.devices.len() as i32)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(name: Host, length: i32, device: i32) -> Code {
    driver(|d| {
        let device = d.device(device)?;
        if name.0.is_null() || length <= 0 {
            return Err(Code::INVALID_VALUE);
        }
        write_text(name.address(), length as usize, &d.devices[device].machine.properties().name);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) -> Code {
    driver(|d| {
        let device = d.device(device)?;
        let mut value = *b"ddnnc-emu device";
        value[15] = device as u8;
        uuid.check().map(|u| u.set(value))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) -> Code {
    cuDeviceGetUuid_v2(uuid, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) -> Code {
    driver(|d| {
        let device = d.device(device)?;
        bytes.check().map(|b| b.set(d.devices[device].machine.properties().memory as usize))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(value: Out<i32>, attribute: i32, device: i32) -> Code {
    driver(|d| {
        let place = value.check()?;
        let properties = d.devices[d.device(device)?].machine.properties();
        place.set(d.config.card.attribute(properties, attribute, device).ok_or(Code::INVALID_VALUE)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) -> Code {
    driver(|d| {
        let arch = d.devices[d.device(device)?].machine.properties().arch as i32;
        major.check()?.set(arch / 10);
        minor.check()?.set(arch % 10);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetPCIBusId(text: Host, length: i32, device: i32) -> Code {
    driver(|d| {
        let device = d.device(device)?;
        if text.0.is_null() || length <= 0 {
            return Err(Code::INVALID_VALUE);
        }
        write_text(text.address(), length as usize, &format!("0000:{:02x}:00.0", device + 1));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) -> Code {
    driver(|d| {
        d.device(device)?;
        d.device(peer)?;
        can.check().map(|c| c.set(0))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(error: Code, text: Out<*const c_char>) -> Code {
    guarded(|_| {
        let place = text.check()?;
        let described = error.describe();
        place.set(described.map_or(ptr::null(), |d| d.0.as_ptr()));
        described.map(|_| ()).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(error: Code, text: Out<*const c_char>) -> Code {
    guarded(|_| {
        let place = text.check()?;
        let described = error.describe();
        place.set(described.map_or(ptr::null(), |d| d.1.as_ptr()));
        described.map(|_| ()).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress_v2(
    symbol: Text,
    function: Out<*const c_void>,
    _version: i32,
    _flags: u64,
    status: Out<u32>,
) -> Code {
    guarded(|_| {
        let place = function.check()?;
        let found = functions::find(&symbol.get()?);
        place.set(found.unwrap_or(ptr::null()));
        // CU_GET_PROC_ADDRESS_SUCCESS, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND.
        status.offer(u32::from(found.is_none()));
        found.map(|_| ()).ok_or(Code::NOT_FOUND)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress(
    symbol: Text,
    function: Out<*const c_void>,
    version: i32,
    flags: u64,
    status: Out<u32>,
) -> Code {
    cuGetProcAddress_v2(symbol, function, version, flags, status)
}

/// Tables of private functions, of which there are none. NVRTC asks for one and does without.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetExportTable(table: Out<*const c_void>, _id: In<[u8; 16]>) -> Code {
    guarded(|_| {
        table.offer(ptr::null());
        Err(Code::NOT_FOUND)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> Code {
    driver(|_| Ok(()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> Code {
    driver(|_| Ok(()))
}
