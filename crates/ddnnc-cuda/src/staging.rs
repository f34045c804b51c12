//! The way of a step's inputs to the device, past the step that is still running.
//!
//! An input goes to page-locked host memory, from there on a stream of its own to a staging area on the device, and at the
//! beginning of its step from there to its place in the arena. The last copy is needed because an input's place may hold
//! other values once the step has read the input: the next batch cannot wait there. There are two sets of host memory, so
//! that a batch can be written while the copies of the one before may still read theirs.

use crate::driver::{Context, Event, Pinned, Stream};
use crate::layout::{Addresses, staged_bytes};
use ddnnc_passes::{DeviceError, Program};
use indexmap::IndexMap;
use std::sync::Arc;

/// One input.
#[derive(Debug)]
struct Staged {
    /// From the start of the staging area, in host and device memory.
    offset: usize,
    bytes: usize,
    /// Its place in the arena.
    place: u64,
    /// Whether the current set of host memory holds it and a copy of it may be under way.
    written: bool,
}

/// The inputs of a program.
#[derive(Debug)]
pub struct Staging {
    inputs: IndexMap<String, Staged>,
    device: u64,
    sets: [Pinned; 2],
    /// The copies from a set have ended.
    copied: [Event; 2],
    /// The last step has taken its inputs from the device's staging area.
    taken: Event,
    current: usize,
    stream: Stream,
}

impl Staging {
    /// Of a loaded program. The staging area is cleared, so that an input that is never given is zeros.
    pub fn new(
        context: &Arc<Context>,
        program: &Program,
        addresses: &Addresses,
    ) -> Result<Staging, DeviceError> {
        let (mut inputs, mut offset) = (IndexMap::new(), 0);
        for (name, &id) in &program.inputs {
            let (bytes, place) = (program.buffer(id).ty.bytes(), addresses.buffer(program, id));
            inputs.insert(name.clone(), Staged { offset, bytes, place, written: false });
            offset += staged_bytes(program, id);
        }
        let stream = Stream::new(context)?;
        // SAFETY: the staging area is part of the program's memory, which outlives this value.
        unsafe { stream.fill(addresses.staging, 0, offset) }?;
        stream.wait()?;
        Ok(Staging {
            inputs,
            device: addresses.staging,
            sets: [Pinned::new(context, offset)?, Pinned::new(context, offset)?],
            copied: [Event::new(context)?, Event::new(context)?],
            taken: Event::new(context)?,
            current: 0,
            stream,
        })
    }

    /// Begins to bring an input to the device; `data` has the input's length in bytes.
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<(), DeviceError> {
        let fresh = self.inputs.values().all(|input| !input.written);
        if fresh {
            // This set was last copied from two steps ago.
            self.copied[self.current].wait()?;
            self.stream.wait_for(&self.taken)?;
        }
        let Some(input) = self.inputs.get_mut(name) else {
            return Err(DeviceError::UnknownName { name: name.to_owned() });
        };
        if input.written {
            self.stream.wait()?;
        }
        input.written = true;
        let set = &mut self.sets[self.current];
        set.write(input.offset, data);
        // SAFETY: the device's memory outlives this value, which waits for its stream when it is dropped; nothing writes
        // these bytes of the set before `copied` or the stream has been waited for.
        unsafe { self.stream.copy_in(self.device + input.offset as u64, set, input.offset, data.len()) }
    }

    /// Puts the inputs in their places at the head of a step on `compute`.
    pub fn take(&mut self, compute: &Stream) -> Result<(), DeviceError> {
        if self.inputs.values().any(|input| input.written) {
            self.copied[self.current].record(&self.stream)?;
            compute.wait_for(&self.copied[self.current])?;
            self.current = 1 - self.current;
        }
        for input in self.inputs.values_mut() {
            input.written = false;
            // SAFETY: both lie in the program's memory, in parts that are apart, which stays until the step has ended.
            unsafe { compute.copy_within(input.place, self.device + input.offset as u64, input.bytes) }?;
        }
        self.taken.record(compute)
    }

    /// Waits for copies that are under way.
    pub fn wait(&self) -> Result<(), DeviceError> {
        self.stream.wait()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A failure here is one that the step has reported already.
        let _ = self.stream.wait();
    }
}
