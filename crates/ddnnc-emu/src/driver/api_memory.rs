//! Exported functions: memory of devices and of the host, copies, memsets.
#![allow(non_snake_case)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;

use super::code::{Answer, Code};
use super::ffi::{Host, Out, read_host};
use super::state::{Driver, Id};
use super::work::Op;
use super::{current, driver};

impl Driver {
    /// Allocates; where memory lacks, what is queued to be freed is freed first.
    fn allocate(&mut self, context: Id, bytes: usize) -> Answer<u64> {
        let mut address = self.machine(context)?.alloc(bytes as u64);
        if address.is_none() {
            self.finish_context(context)?;
            address = self.machine(context)?.alloc(bytes as u64);
        }
        let Some(address) = address else {
            let free = self.machine(context)?.free_bytes();
            return self
                .refuse(Code::OUT_OF_MEMORY, format!("{bytes} bytes asked for, {free} bytes are free"));
        };
        self.context(context)?.allocations.insert(address);
        Ok(address)
    }

    /// Refuses a range that is not inside one allocation.
    fn range(&mut self, context: Id, address: u64, bytes: usize) -> Answer {
        let inside = |(base, size): (u64, u64)| bytes as u64 <= size - (address - base);
        if bytes == 0 || self.machine(context)?.allocation(address).is_some_and(inside) {
            return Ok(());
        }
        self.refuse(
            Code::INVALID_VALUE,
            format!("{bytes} bytes at {address:#x} are not inside one allocation"),
        )
    }

    /// A copy in the order of a stream. Waits where CUDA waits: for copies to pageable memory of the host.
    fn copy_async(&mut self, context: Id, stream: u64, copy: Copy) -> Answer {
        let stream = self.stream(context, stream)?;
        match copy {
            Copy::In { to, from, bytes } => {
                self.host(from, bytes)?;
                self.range(context, to, bytes)?;
                if self.is_pinned(from, bytes) {
                    return self.submit(stream, Op::WritePinned { to, from, bytes });
                }
                // Asked first, so that a capture refuses before memory is read.
                self.capture_of(stream)?;
                self.submit(stream, Op::Write { to, data: Arc::from(read_host(from, bytes)) })
            }
            Copy::Out { to, from, bytes } => {
                self.host(to, bytes)?;
                self.range(context, from, bytes)?;
                self.submit(stream, Op::Read { to, from, bytes })?;
                if self.is_pinned(to, bytes) { Ok(()) } else { self.finish(stream) }
            }
            Copy::Within { to, from, bytes } => {
                self.range(context, from, bytes)?;
                self.range(context, to, bytes)?;
                self.submit(stream, Op::Copy { to, from, bytes: bytes as u64 })
            }
        }
    }

    /// A copy that has ended when the call returns, in the order of the legacy default stream.
    fn copy(&mut self, context: Id, copy: Copy) -> Answer {
        self.unsafe_call("a copy that waits")?;
        self.copy_async(context, 0, copy)?;
        // Copies on the device are not waited for.
        if matches!(copy, Copy::Within { .. }) {
            return Ok(());
        }
        let stream = self.stream(context, 0)?;
        self.finish(stream)
    }

    fn host(&self, address: usize, bytes: usize) -> Answer {
        if address == 0 && bytes > 0 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    /// Which way a copy goes when only addresses say it.
    fn direction(&mut self, context: Id, to: u64, from: u64, bytes: usize) -> Answer<Copy> {
        let machine = self.machine(context)?;
        let on_device = |address| machine.allocation(address).is_some();
        match (on_device(to), on_device(from)) {
            (true, true) => Ok(Copy::Within { to, from, bytes }),
            (true, false) => Ok(Copy::In { to, from: from as usize, bytes }),
            (false, true) => Ok(Copy::Out { to: to as usize, from, bytes }),
            (false, false) => self.refuse(Code::INVALID_VALUE, "a copy from the host to the host"),
        }
    }

    fn memset(
        &mut self,
        context: Id,
        stream: u64,
        to: u64,
        value: u32,
        width: usize,
        count: usize,
    ) -> Answer {
        let stream = self.stream(context, stream)?;
        if !to.is_multiple_of(width as u64) {
            return Err(Code::INVALID_VALUE);
        }
        let bytes = count.checked_mul(width).ok_or(Code::INVALID_VALUE)?;
        self.range(context, to, bytes)?;
        if count == 0 {
            return Ok(());
        }
        self.submit(stream, Op::Set { to, pattern: value.to_ne_bytes(), width, count })
    }
}

#[derive(Clone, Copy)]
enum Copy {
    In { to: u64, from: usize, bytes: usize },
    Out { to: usize, from: u64, bytes: usize },
    Within { to: u64, from: u64, bytes: usize },
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> Code {
    current(|d, context| {
        let (free, total) = (free.check()?, total.check()?);
        let machine = d.machine(context)?;
        free.set(machine.free_bytes() as usize);
        total.set(machine.properties().memory as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) -> Code {
    current(|d, context| {
        let place = address.check()?;
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        d.unsafe_call("allocating memory")?;
        place.set(d.allocate(context, bytes)?);
        Ok(())
    })
}

/// Waits for everything, as CUDA does.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Code {
    current(|d, context| {
        if address == 0 {
            return Ok(());
        }
        d.unsafe_call("freeing memory")?;
        d.finish_context(context)?;
        if !d.context(context)?.allocations.remove(&address) {
            return d.refuse(Code::INVALID_VALUE, format!("no allocation begins at {address:#x}"));
        }
        d.machine(context)?.free(address);
        Ok(())
    })
}

/// Memory is there when the call returns; the order of the stream matters only for its end.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Id) -> Code {
    current(|d, context| {
        let place = address.check()?;
        let stream = d.stream(context, stream)?;
        if let Some(capture) = d.capture_of(stream)? {
            d.invalidate(capture);
            return d.refuse(Code::STREAM_CAPTURE_UNSUPPORTED, "allocating memory cannot be captured here");
        }
        place.set(if bytes == 0 { 0 } else { d.allocate(context, bytes)? });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, _pool: u64, stream: Id) -> Code {
    cuMemAllocAsync(address, bytes, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: Id) -> Code {
    current(|d, context| {
        let stream = d.stream(context, stream)?;
        if address == 0 {
            return Ok(());
        }
        if !d.context(context)?.allocations.contains(&address) {
            return d.refuse(Code::INVALID_VALUE, format!("no allocation begins at {address:#x}"));
        }
        d.submit(stream, Op::Free { address })?;
        d.context(context)?.allocations.remove(&address);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) -> Code {
    current(|d, context| {
        let (start, size) = d.machine(context)?.allocation(address).ok_or(Code::INVALID_VALUE)?;
        base.offer(start);
        bytes.offer(size as usize);
        Ok(())
    })
}

/// Pinned memory is aligned as pages are.
const PAGE: usize = 4096;

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostAlloc(address: Out<usize>, bytes: usize, flags: u32) -> Code {
    current(|d, _| {
        let place = address.check()?;
        // Portable (1), mapped (2), which kernels cannot use here, and write-combined (4).
        if bytes == 0 || flags & !7 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| Code::INVALID_VALUE)?;
        // SAFETY: the layout has a size that is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            return Err(Code::OUT_OF_MEMORY);
        }
        d.pinned.insert(memory as usize, (bytes, true));
        place.set(memory as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocHost_v2(address: Out<usize>, bytes: usize) -> Code {
    cuMemHostAlloc(address, bytes, 0)
}

/// Does what is queued first, as copies may still need the memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(address: Host) -> Code {
    driver(|d| {
        let address = address.address();
        let Some(&(bytes, true)) = d.pinned.get(&address) else { return Err(Code::INVALID_VALUE) };
        let answer = finish_all(d);
        d.pinned.remove(&address);
        let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| Code::INVALID_VALUE)?;
        // SAFETY: `cuMemHostAlloc` allocated it with this layout, nothing queued names it any more, and it is gone
        // from the table, so that it is freed once.
        unsafe { dealloc(address as *mut u8, layout) };
        answer
    })
}

fn finish_all(d: &mut Driver) -> Answer {
    let contexts: Vec<Id> = d.contexts.keys().copied().collect();
    contexts.into_iter().map(|context| d.finish_context(context)).fold(Ok(()), Answer::and)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(address: Host, bytes: usize, flags: u32) -> Code {
    current(|d, _| {
        let start = address.address();
        if start == 0 || bytes == 0 || flags & !11 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let end = start.checked_add(bytes).ok_or(Code::INVALID_VALUE)?;
        let before = d.pinned.range(..end).next_back();
        if before.is_some_and(|(other, (size, _))| other + size > start) {
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
        }
        d.pinned.insert(start, (bytes, false));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(address: Host) -> Code {
    driver(|d| {
        let Some(&(_, false)) = d.pinned.get(&address.address()) else {
            return Err(Code::HOST_MEMORY_NOT_REGISTERED);
        };
        let answer = finish_all(d);
        d.pinned.remove(&address.address());
        answer
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetFlags(flags: Out<u32>, address: Host) -> Code {
    driver(|d| {
        if !d.is_pinned(address.address(), 1) {
            return Err(Code::INVALID_VALUE);
        }
        flags.check().map(|f| f.set(0))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetDevicePointer_v2(_device: Out<u64>, _address: Host, _flags: u32) -> Code {
    driver(|d| d.refuse(Code::NOT_SUPPORTED, "kernels cannot access memory of the host here"))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocManaged(_address: Out<u64>, _bytes: usize, _flags: u32) -> Code {
    driver(|d| d.refuse(Code::NOT_SUPPORTED, "there is no managed memory here"))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoD_v2(to: u64, from: Host, bytes: usize) -> Code {
    current(|d, context| d.copy(context, Copy::In { to, from: from.address(), bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoH_v2(to: Host, from: u64, bytes: usize) -> Code {
    current(|d, context| d.copy(context, Copy::Out { to: to.address(), from, bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Code {
    current(|d, context| d.copy(context, Copy::Within { to, from, bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy(to: u64, from: u64, bytes: usize) -> Code {
    current(|d, context| {
        let copy = d.direction(context, to, from, bytes)?;
        d.copy(context, copy)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: Host, bytes: usize, stream: Id) -> Code {
    current(|d, context| d.copy_async(context, stream, Copy::In { to, from: from.address(), bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: Host, from: u64, bytes: usize, stream: Id) -> Code {
    current(|d, context| d.copy_async(context, stream, Copy::Out { to: to.address(), from, bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Id) -> Code {
    current(|d, context| d.copy_async(context, stream, Copy::Within { to, from, bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Id) -> Code {
    current(|d, context| {
        let copy = d.direction(context, to, from, bytes)?;
        d.copy_async(context, stream, copy)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    to_context: Id,
    from: u64,
    from_context: Id,
    bytes: usize,
    stream: Id,
) -> Code {
    current(|d, context| {
        let stream = d.stream(context, stream)?;
        d.range(to_context, to, bytes)?;
        d.range(from_context, from, bytes)?;
        let device = d.context(to_context)?.device;
        let here = d.context(context)?.device;
        // The stream's own device reads; a copy from elsewhere would need that device's queue.
        if d.context(from_context)?.device != here {
            return d.refuse(
                Code::NOT_SUPPORTED,
                "a copy between devices in a stream of the one that it goes to",
            );
        }
        d.submit(stream, Op::CopyPeer { to, device, from, bytes: bytes as u64 })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> Code {
    current(|d, context| d.memset(context, 0, to, value.into(), 1, count))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16_v2(to: u64, value: u16, count: usize) -> Code {
    current(|d, context| d.memset(context, 0, to, value.into(), 2, count))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(to: u64, value: u32, count: usize) -> Code {
    current(|d, context| d.memset(context, 0, to, value, 4, count))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Id) -> Code {
    current(|d, context| d.memset(context, stream, to, value.into(), 1, count))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Id) -> Code {
    current(|d, context| d.memset(context, stream, to, value.into(), 2, count))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Id) -> Code {
    current(|d, context| d.memset(context, stream, to, value, 4, count))
}
