//! Exported functions: launches and occupancy.
#![allow(non_snake_case)]

use std::sync::Arc;

use super::api_module::SHARED;
use super::code::{Answer, Code};
use super::ffi::{In, Out, read_host};
use super::state::{Driver, Id};
use super::work::Op;
use super::{current, driver, keep_text};

/// How a launch gives its parameters.
struct Given {
    /// An address of the host for each parameter.
    each: In<usize>,
    /// Pairs of a tag and a value: all parameters in one buffer.
    extra: In<usize>,
}

/// Tags of `extra`.
const END: usize = 0;
const BUFFER: usize = 1;
const BUFFER_SIZE: usize = 2;

impl Given {
    /// The number of the first parameter that has no address.
    fn missing(&self, layout: &[(usize, usize)]) -> Option<usize> {
        if self.each.is_null() && !self.extra.is_null() {
            return None;
        }
        (0..layout.len()).find(|&i| self.each.at(i).unwrap_or(0) == 0)
    }

    /// The parameter block of a kernel.
    fn block(&self, layout: &[(usize, usize)]) -> Answer<Vec<u8>> {
        let bytes = layout.last().map_or(0, |(at, size)| at + size);
        if self.each.is_null() && !self.extra.is_null() {
            return self.buffer();
        }
        let mut block = vec![0; bytes];
        for (i, (at, size)) in layout.iter().enumerate() {
            let from = self.each.at(i)?;
            if from == 0 {
                return Err(Code::INVALID_VALUE);
            }
            block[*at..at + size].copy_from_slice(&read_host(from, *size));
        }
        Ok(block)
    }

    fn buffer(&self) -> Answer<Vec<u8>> {
        let (mut buffer, mut size) = (0, 0);
        for i in (0..8).step_by(2) {
            match self.extra.at(i)? {
                END => break,
                BUFFER => buffer = self.extra.at(i + 1)?,
                // The size stands behind a pointer.
                BUFFER_SIZE => {
                    let at = self.extra.at(i + 1)?;
                    if at == 0 {
                        return Err(Code::INVALID_VALUE);
                    }
                    let mut bytes = [0; size_of::<usize>()];
                    bytes.copy_from_slice(&read_host(at, size_of::<usize>()));
                    size = usize::from_ne_bytes(bytes);
                }
                _ => return Err(Code::INVALID_VALUE),
            }
        }
        if buffer == 0 && size > 0 { Err(Code::INVALID_VALUE) } else { Ok(read_host(buffer, size)) }
    }
}

/// How large a launch is.
struct Size {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
}

impl Driver {
    fn launch(&mut self, context: Id, function: Id, size: Size, stream: u64, given: Given) -> Answer {
        let Size { grid, block, dynamic_shared } = size;
        let stream = self.stream(context, stream)?;
        let f = self.functions.get(&function).filter(|f| f.context == context).ok_or(Code::INVALID_HANDLE)?;
        let (module, kernel) = (f.id, f.name.clone());
        let most = f.dynamic_shared.unwrap_or(SHARED.saturating_sub(f.static_shared));
        if let Some(i) = given.missing(&f.params) {
            let message = format!(
                "launch refused of kernel `{kernel}`: parameter {i} of {} (from 0) has a null address",
                f.params.len()
            );
            keep_text(&message);
            return self.refuse(Code::INVALID_VALUE, message);
        }
        let params = given.block(&f.params)?;
        let checked = if dynamic_shared > most {
            Err(format!(
                "launch refused of kernel `{kernel}`: {dynamic_shared} bytes of dynamic shared memory; {most} without \
                 setting its attribute CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES higher"
            ))
        } else {
            let machine = self.machine(context)?;
            let checked = machine.check(module, &kernel, grid, block, dynamic_shared, params.len() as u64);
            checked.map_err(|fault| fault.to_string())
        };
        if let Err(message) = checked {
            keep_text(&message);
            return self.refuse(Code::INVALID_VALUE, message);
        }
        self.submit(
            stream,
            Op::Launch { module, kernel, grid, block, dynamic_shared, params: Arc::from(params) },
        )
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(
    function: Id,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared: u32,
    stream: Id,
    each: In<usize>,
    extra: In<usize>,
) -> Code {
    current(|d, context| {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        d.launch(context, function, Size { grid, block, dynamic_shared }, stream, Given { each, extra })
    })
}

/// Blocks of a grid run one after the other as far as they please, so that a grid cannot wait for itself.
#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchCooperativeKernel(
    _function: Id,
    _grid_x: u32,
    _grid_y: u32,
    _grid_z: u32,
    _block_x: u32,
    _block_y: u32,
    _block_z: u32,
    _dynamic_shared: u32,
    _stream: Id,
    _each: In<usize>,
) -> Code {
    driver(|d| d.refuse(Code::NOT_SUPPORTED, "cooperative launches are not executed"))
}

/// `CUlaunchConfig`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    stream: Id,
    attributes: usize,
    attribute_count: u32,
}

/// `CUlaunchAttribute`: a kind, and 64 bytes that mean what the kind says.
const ATTRIBUTE: usize = 72;

impl Config {
    /// Refuses attributes that change what a kernel may do; those that only make it faster are passed over.
    fn check(&self, d: &Driver) -> Answer {
        if self.attribute_count == 0 {
            return Ok(());
        }
        if self.attributes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        for i in 0..self.attribute_count as usize {
            let bytes = read_host(self.attributes + i * ATTRIBUTE, ATTRIBUTE);
            let word = |at: usize| bytes[at..at + 4].iter().rev().fold(0, |w, b| w << 8 | u32::from(*b));
            let (kind, value) = (word(0), [word(8), word(12), word(16)]);
            let harmless = match kind {
                // Nothing, cache policy, how the host waits, priority, domains of memory.
                0 | 1 | 3 | 8 | 9 | 10 => true,
                // Cooperative; overlap with the kernel before.
                2 | 6 => value[0] == 0,
                // Clusters of one block.
                4 => value == [1, 1, 1],
                _ => false,
            };
            if !harmless {
                return d.refuse(Code::NOT_SUPPORTED, format!("launch attribute {kind} with {value:?}"));
            }
        }
        Ok(())
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernelEx(
    config: In<Config>,
    function: Id,
    each: In<usize>,
    extra: In<usize>,
) -> Code {
    current(|d, context| {
        let c = config.get()?;
        c.check(d)?;
        let size = Size { grid: c.grid, block: c.block, dynamic_shared: c.dynamic_shared };
        d.launch(context, function, size, c.stream, Given { each, extra })
    })
}

/// Blocks of a function on a multiprocessor.
fn resident(d: &mut Driver, function: Id, threads: i32, dynamic_shared: usize) -> Answer<i32> {
    let f = d.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
    let (context, shared) = (f.context, u64::from(f.static_shared) + dynamic_shared as u64);
    let threads = u32::try_from(threads).ok().filter(|n| *n > 0).ok_or(Code::INVALID_VALUE)?;
    let card = d.config.card.clone();
    Ok(card.resident(d.machine(context)?.properties(), threads, shared) as i32)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: Out<i32>,
    function: Id,
    threads: i32,
    dynamic_shared: usize,
) -> Code {
    current(|d, _| {
        let place = blocks.check()?;
        place.set(resident(d, function, threads, dynamic_shared)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: Out<i32>,
    function: Id,
    threads: i32,
    dynamic_shared: usize,
    _flags: u32,
) -> Code {
    cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic_shared)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: Out<usize>,
    function: Id,
    blocks: i32,
    threads: i32,
) -> Code {
    current(|d, _| {
        let place = bytes.check()?;
        if blocks <= 0 || resident(d, function, threads, 0)? < blocks {
            return Err(Code::INVALID_VALUE);
        }
        let f = d.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        let (context, static_shared) = (f.context, f.static_shared);
        let p = d.machine(context)?.properties();
        let each = (p.shared_per_multiprocessor / blocks as u32).saturating_sub(1024).min(p.shared_per_block);
        place.set((each / 128 * 128).saturating_sub(static_shared) as usize);
        Ok(())
    })
}

/// A function of the program: bytes of dynamic shared memory for a number of threads.
type SharedOf = Option<extern "C" fn(i32) -> usize>;

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<i32>,
    block: Out<i32>,
    function: Id,
    shared_of: SharedOf,
    dynamic_shared: usize,
    limit: i32,
) -> Code {
    current(|d, context| {
        let (grid, block) = (grid.check()?, block.check()?);
        let limit = if limit <= 0 { 1024 } else { limit.min(1024) };
        let mut best = (0, 0, 0);
        for threads in (32..=limit).rev().step_by(32) {
            let dynamic_shared = shared_of.map_or(dynamic_shared, |f| f(threads));
            let blocks = resident(d, function, threads, dynamic_shared)?;
            best = best.max((blocks * threads, threads, blocks));
        }
        if best.0 == 0 {
            return Err(Code::INVALID_VALUE);
        }
        grid.set(best.2 * d.machine(context)?.properties().multiprocessors as i32);
        block.set(best.1);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: Out<i32>,
    block: Out<i32>,
    function: Id,
    shared_of: SharedOf,
    dynamic_shared: usize,
    limit: i32,
    _flags: u32,
) -> Code {
    cuOccupancyMaxPotentialBlockSize(grid, block, function, shared_of, dynamic_shared, limit)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveClusters(
    _clusters: Out<i32>,
    _function: Id,
    _config: In<Config>,
) -> Code {
    driver(|d| d.refuse(Code::NOT_SUPPORTED, "clusters are not executed"))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialClusterSize(
    _blocks: Out<i32>,
    _function: Id,
    _config: In<Config>,
) -> Code {
    driver(|d| d.refuse(Code::NOT_SUPPORTED, "clusters are not executed"))
}
