//! What a compiled kernel uses: registers and spills from ptxas' log, instructions from nvdisasm.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// What ptxas says of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
    /// Bytes of stack: arrays in local memory.
    pub stack: u32,
    /// Bytes of registers stored to local memory and loaded from it.
    pub spills: u32,
    /// Whether ptxas could not keep products of warpgroups under way beside other work, and waits for each.
    pub serialized: bool,
}

/// Reads the log of a compilation to machine code; `None` where it says nothing of a kernel.
pub fn resources(log: &str) -> Option<Resources> {
    let mut found = Resources::default();
    let mut seen = false;
    for line in log.lines() {
        let words: Vec<&str> = line.split([' ', ',']).filter(|w| !w.is_empty()).collect();
        let before = |pattern: &[&str]| -> Option<u32> {
            let at = words.windows(pattern.len()).position(|w| w == pattern)?;
            words.get(at.checked_sub(1)?)?.parse().ok()
        };
        if let Some(n) = before(&["registers"]) {
            found.registers = n;
            seen = true;
        }
        found.shared += before(&["bytes", "smem"]).unwrap_or(0);
        found.stack += before(&["bytes", "stack"]).unwrap_or(0);
        found.spills += before(&["bytes", "spill", "stores"]).unwrap_or(0);
        found.spills += before(&["bytes", "spill", "loads"]).unwrap_or(0);
        found.serialized |= line.contains("wgmma.mma_async instructions are serialized");
    }
    seen.then_some(found)
}

/// Instructions of a kernel that tell what it runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instructions {
    /// Matrix products (HMMA and its successors).
    pub matrix: u32,
    /// Loads of matrix fragments (LDSM).
    pub fragment_loads: u32,
    /// Asynchronous copies from global to shared memory (LDGSTS).
    pub async_copies: u32,
    /// Accesses to local memory (LDL, STL).
    pub local: u32,
    /// All.
    pub all: u32,
}

/// Counts the instructions of a disassembly.
pub fn instructions(sass: &str) -> Instructions {
    let mut count = Instructions::default();
    for line in sass.lines() {
        // `/*0050*/   @P0 LDG.E R0, …`
        let Some((_, rest)) = line.trim_start().strip_prefix("/*").and_then(|l| l.split_once("*/")) else {
            continue;
        };
        let mut words = rest.split_whitespace().filter(|w| !w.starts_with('@') && *w != "{");
        let Some(opcode) = words.next() else { continue };
        let name = opcode.trim_end_matches(';').split('.').next().unwrap_or_default();
        count.all += 1;
        match name {
            "HMMA" | "HGMMA" | "UTCHMMA" | "OMMA" | "QMMA" => count.matrix += 1,
            "LDSM" => count.fragment_loads += 1,
            "LDGSTS" => count.async_copies += 1,
            "LDL" | "STL" => count.local += 1,
            _ => {}
        }
    }
    count
}

/// Why there is no disassembly.
#[derive(Debug, thiserror::Error)]
pub enum DisassemblyError {
    /// No tool.
    #[error(
        "nvdisasm was not found; looked in {looked} (`pip install nvidia-cuda-nvdisasm` has it, and so has the CUDA toolkit)"
    )]
    NotFound {
        /// Where.
        looked: String,
    },
    /// It failed.
    #[error("nvdisasm failed: {0}")]
    Failed(String),
}

/// Finds nvdisasm: in `$PATH`, then in the `bin` folder beside the folder that `$DDNNC_NVRTC` names.
///
/// # Errors
///
/// [`DisassemblyError::NotFound`].
pub fn nvdisasm() -> Result<PathBuf, DisassemblyError> {
    let mut looked = vec!["$PATH".to_owned()];
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    if let Some(nvrtc) = std::env::var_os("DDNNC_NVRTC") {
        let bin = PathBuf::from(nvrtc).join("../bin");
        looked.push(format!("{} (beside $DDNNC_NVRTC)", bin.display()));
        folders.push(bin);
    }
    let found = folders.into_iter().map(|folder| folder.join("nvdisasm")).find(|path| path.is_file());
    found.ok_or_else(|| DisassemblyError::NotFound { looked: looked.join(", then in ") })
}

/// The machine code of a cubin as text.
///
/// # Errors
///
/// No nvdisasm, or what it says.
pub fn disassemble(cubin: &[u8]) -> Result<String, DisassemblyError> {
    disassembly(cubin, &[])
}

/// Counts the instructions of a cubin.
///
/// # Errors
///
/// No nvdisasm, or what it says.
pub fn count(cubin: &[u8]) -> Result<Instructions, DisassemblyError> {
    // Without following the flow of data, which takes a third of the time and adds nothing to names.
    Ok(instructions(&disassembly(cubin, &["--no-dataflow"])?))
}

fn disassembly(cubin: &[u8], options: &[&str]) -> Result<String, DisassemblyError> {
    let tool = nvdisasm()?;
    let failed = |e: std::io::Error| DisassemblyError::Failed(e.to_string());
    let mut file = tempfile::Builder::new().suffix(".cubin").tempfile().map_err(failed)?;
    file.write_all(cubin).map_err(failed)?;
    let output = Command::new(tool).arg("-c").args(options).arg(file.path()).output().map_err(failed)?;
    if !output.status.success() {
        return Err(DisassemblyError::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read_from_the_log() {
        let log = "ptxas info    : Compiling entry function 'k' for 'sm_80'\n\
                   ptxas info    : Function properties for k\n\
                   ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
                   ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem, 368 bytes cmem[0]\n";
        let expected = Resources { registers: 40, shared: 1024, stack: 16, spills: 20, serialized: false };
        assert_eq!(resources(log), Some(expected));
        assert_eq!(resources("warning: nothing"), None);
    }

    #[test]
    fn instructions_are_counted_by_name() {
        let sass = "\t.target\tsm_90\nk:\n\
            \x20       /*0000*/                   LDC R1, c[0x0][0x28] ;\n\
            \x20       /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R3], desc[UR4][R4.64] ;\n\
            \x20       /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;\n\
            \x20       /*0030*/                   LDSM.16.MT88.4 R4, [R8] ;\n\
            \x20       /*0040*/                   STL [R1], R2 ;\n\
            \x20       /*0050*/                   EXIT ;\n";
        let expected = Instructions { matrix: 1, fragment_loads: 1, async_copies: 1, local: 1, all: 6 };
        assert_eq!(instructions(sass), expected);
    }
}
