//! Exported functions: memory pools, of which each device has its default one, and what a pointer points to.
#![allow(non_snake_case)]

use super::code::Code;
use super::ffi::{Host, Out, write_host};
use super::state::Id;
use super::{current, driver};

/// The handle of a device's pool.
fn pool(device: usize) -> u64 {
    0x0100 + device as u64
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetDefaultMemPool(handle: Out<u64>, device: i32) -> Code {
    driver(|d| {
        let device = d.device(device)?;
        handle.check().map(|h| h.set(pool(device)))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetMemPool(handle: Out<u64>, device: i32) -> Code {
    cuDeviceGetDefaultMemPool(handle, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceSetMemPool(device: i32, handle: u64) -> Code {
    driver(|d| if handle == pool(d.device(device)?) { Ok(()) } else { Err(Code::INVALID_VALUE) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolCreate(_handle: Out<u64>, _properties: Host) -> Code {
    driver(|d| d.refuse(Code::NOT_SUPPORTED, "a device has its default memory pool only"))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolDestroy(_handle: u64) -> Code {
    driver(|_| Err(Code::INVALID_VALUE))
}

/// Freed memory is never kept.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(_handle: u64, _bytes: usize) -> Code {
    driver(|_| Ok(()))
}

/// Attributes say when a pool gives memory back and reuses it, which here is at once and never.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAttribute(_handle: u64, attribute: u32, value: Host) -> Code {
    driver(
        |_| {
            if value.0.is_null() || !(1..=8).contains(&attribute) { Err(Code::INVALID_VALUE) } else { Ok(()) }
        },
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolGetAttribute(handle: u64, attribute: u32, value: Host) -> Code {
    driver(|d| {
        let device = handle.checked_sub(pool(0)).and_then(|n| d.devices.get(n as usize));
        let machine = &device.ok_or(Code::INVALID_VALUE)?.machine;
        let used = machine.properties().memory - machine.free_bytes();
        if value.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        match attribute {
            // Reuse, three kinds.
            1..=3 => write_host(value.address(), &0i32.to_ne_bytes()),
            // Bytes kept; reserved and used, now and at most.
            4 => write_host(value.address(), &0u64.to_ne_bytes()),
            5..=8 => write_host(value.address(), &used.to_ne_bytes()),
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuPointerGetAttribute(value: Host, attribute: u32, address: u64) -> Code {
    current(|d, context| {
        if value.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let ordinal = d.context(context)?.device as i32;
        let allocation = d.machine(context)?.allocation(address);
        let pinned = d.is_pinned(address as usize, 1);
        if allocation.is_none() && !pinned {
            return Err(Code::INVALID_VALUE);
        }
        let put = |bytes: &[u8]| write_host(value.address(), bytes);
        let (host, device) = (1u32, 2u32);
        match (attribute, allocation) {
            (1, _) => put(&context.to_ne_bytes()),
            (2, _) => put(&(if allocation.is_some() { device } else { host }).to_ne_bytes()),
            (3, Some(_)) | (4, None) => put(&address.to_ne_bytes()),
            (8, _) => put(&[0]),
            (9, _) => put(&ordinal.to_ne_bytes()),
            (11, Some((base, _))) => put(&base.to_ne_bytes()),
            (12, Some((_, bytes))) => put(&bytes.to_ne_bytes()),
            (13, _) => put(&[1]),
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(())
    })
}

/// Managed memory does not exist here.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPrefetchAsync_v2(
    _address: u64,
    _bytes: usize,
    _location: u64,
    _flags: u32,
    _stream: Id,
) -> Code {
    Code::NOT_SUPPORTED
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAdvise_v2(_address: u64, _bytes: usize, _advice: u32, _location: u64) -> Code {
    Code::NOT_SUPPORTED
}

/// Memory of other interfaces does not exist here either.
#[unsafe(no_mangle)]
pub extern "C" fn cuImportExternalMemory(_memory: Out<u64>, _description: Host) -> Code {
    Code::NOT_SUPPORTED
}

#[unsafe(no_mangle)]
pub extern "C" fn cuExternalMemoryGetMappedBuffer(
    _address: Out<u64>,
    _memory: u64,
    _description: Host,
) -> Code {
    Code::NOT_SUPPORTED
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDestroyExternalMemory(_memory: u64) -> Code {
    Code::NOT_SUPPORTED
}
