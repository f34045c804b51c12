//! A program as bytes, and back: JSON with a format name and a version.

use crate::{ALIGNMENT, BufferId, PassError, Place, Program, check_plan};
use ddnnc_ir::{Op, infer};
use serde::{Deserialize, Serialize};

const FORMAT: &str = "ddnnc-program";
const VERSION: u32 = 1;

#[derive(Serialize)]
struct FileRef<'a> {
    format: &'a str,
    version: u32,
    program: &'a Program,
}

#[derive(Deserialize)]
struct Header {
    format: String,
    version: u32,
}

#[derive(Deserialize)]
struct File {
    program: Program,
}

impl Program {
    /// The program as bytes; equal programs give equal bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PassError> {
        let file = FileRef { format: FORMAT, version: VERSION, program: self };
        let mut bytes = serde_json::to_vec(&file).map_err(|e| PassError::Program(e.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a program and checks it ([`Program::validate`]).
    pub fn from_bytes(bytes: &[u8]) -> Result<Program, PassError> {
        let bad = |e: serde_json::Error| PassError::Program(e.to_string());
        let header: Header = serde_json::from_slice(bytes).map_err(bad)?;
        if header.format != FORMAT {
            return Err(PassError::Program(format!("the format is `{}`, not `{FORMAT}`", header.format)));
        }
        if header.version != VERSION {
            return Err(PassError::Program(format!(
                "version {} cannot be read, only {VERSION}",
                header.version
            )));
        }
        let file: File = serde_json::from_slice(bytes).map_err(bad)?;
        file.program.validate()?;
        Ok(file.program)
    }

    /// Checks what devices rely on: ids and offsets in range, aligned and without overflow; every launch's results of
    /// the types that its operands give; names in the right region; and the memory plan ([`check_plan`]).
    pub fn validate(&self) -> Result<(), PassError> {
        self.check().map_err(PassError::Program)
    }

    fn check(&self) -> Result<(), String> {
        for (i, buffer) in self.buffers.iter().enumerate() {
            if buffer.ty.shape.checked_elements().is_none() {
                return Err(format!("b{i} is too large"));
            }
            let (offset, region) = match buffer.place {
                Place::Arena { offset } => (offset, self.arena_bytes),
                Place::Persistent { offset } => (offset, self.persistent_bytes),
            };
            let inside = offset.checked_add(buffer.ty.bytes()).is_some_and(|end| end <= region);
            if !inside || offset % ALIGNMENT != 0 {
                return Err(format!("b{i} lies at {offset}, outside its region or not aligned"));
            }
        }
        if self.arena_bytes.checked_add(self.persistent_bytes).is_none() {
            return Err("the regions are too large".to_owned());
        }
        for (name, &b) in &self.inputs {
            if !matches!(self.place(b)?, Place::Arena { .. }) {
                return Err(format!("the input `{name}` does not lie in the arena"));
            }
        }
        for &b in self.outputs.values() {
            self.place(b)?;
        }
        for (name, entry) in &self.persistent {
            if !matches!(self.place(entry.buffer)?, Place::Persistent { .. }) {
                return Err(format!("`{name}` does not lie in the persistent region"));
            }
        }
        for (i, launch) in self.launches.iter().enumerate() {
            self.check_launch(&launch.op, &launch.operands, &launch.results)
                .map_err(|e| format!("launch {i} ({} `{}`): {e}", launch.op.mnemonic(), launch.path))?;
        }
        check_plan(self)
    }

    fn place(&self, b: BufferId) -> Result<Place, String> {
        self.buffers.get(b.index()).map(|buffer| buffer.place).ok_or_else(|| format!("there is no b{}", b.0))
    }

    fn check_launch(&self, op: &Op, operands: &[BufferId], results: &[BufferId]) -> Result<(), String> {
        for &b in operands.iter().chain(results) {
            self.place(b)?;
        }
        let types: Vec<_> = operands.iter().map(|&b| &self.buffer(b).ty).collect();
        let made: Vec<_> = results.iter().map(|&b| &self.buffer(b).ty).collect();
        let fits = match op {
            Op::Constant { .. } => types.is_empty() && made.len() == 1,
            Op::Store { .. } => types.len() == 1 && types == made,
            _ if op.is_source() || op.is_sink() || op.is_alias() => {
                return Err("is a name for memory and never launched".to_owned());
            }
            _ => {
                let inferred = infer::result_types(op, &types).map_err(|e| e.to_string())?;
                inferred.iter().eq(made.iter().copied())
            }
        };
        if fits { Ok(()) } else { Err("the results do not have the types that the operands give".to_owned()) }
    }
}
