//! Texts to code: from the cache where they are there, else by NVRTC on several threads.

use crate::arch::Arch;
use crate::cache::{Cache, Key};
use crate::nvrtc::{self, Binary, NvrtcError, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A kernel to compile.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// Its function's name.
    pub name: &'a str,
    /// Its text.
    pub source: &'a str,
}

/// A kernel that is compiled.
#[derive(Clone, Debug)]
pub struct Built {
    /// Its code and log.
    pub binary: Binary,
    /// Whether the cache had it.
    pub cached: bool,
}

/// How kernels are compiled.
#[derive(Clone, Copy, Debug)]
pub struct Build<'a> {
    /// For which architecture.
    pub arch: Arch,
    /// To what.
    pub output: Output,
    /// Where compiled kernels are kept; none are kept without.
    pub cache: Option<&'a Cache>,
    /// Threads that compile.
    pub threads: usize,
}

/// What is told of a build while it runs; any thread tells it.
pub trait Progress: Sync {
    /// So many of the kernels that the cache does not have are compiled.
    fn compiling(&self, done: usize, of: usize);
    /// A compiled kernel could not be kept in the cache's folder.
    fn not_kept(&self, error: &std::io::Error);
}

/// The cache's name for a kernel.
///
/// # Errors
///
/// No NVRTC.
pub fn key(source: &str, arch: Arch, output: Output) -> Result<Key, NvrtcError> {
    let (major, minor) = nvrtc::find()?;
    let options = nvrtc::options(arch, output).join("\0");
    let kind = match output {
        Output::Ptx => "ptx",
        Output::PtxWithLines => "ptx with lines",
        Output::Cubin => "cubin",
    };
    let version = format!("{major}.{minor}");
    let parts = [source, &options, &version, &arch.to_string(), kind];
    Ok(Key::new(&parts.map(str::as_bytes)))
}

impl Build<'_> {
    /// The code of every unit, in order.
    ///
    /// # Errors
    ///
    /// Of the first unit that does not compile.
    pub fn run(&self, units: &[Unit], progress: &dyn Progress) -> Result<Vec<Built>, NvrtcError> {
        let keys: Vec<Key> =
            units.iter().map(|unit| key(unit.source, self.arch, self.output)).collect::<Result<_, _>>()?;
        let mut found: Vec<Option<Built>> =
            keys.iter().map(|key| Some(Built { binary: self.cache?.get(key)?, cached: true })).collect();
        let missing: Vec<usize> = (0..units.len()).filter(|&i| found[i].is_none()).collect();
        for (i, built) in self.compile(units, &keys, &missing, progress)? {
            found[i] = Some(built);
        }
        // Every unit was found or compiled.
        Ok(found.into_iter().flatten().collect())
    }

    fn compile(
        &self,
        units: &[Unit],
        keys: &[Key],
        missing: &[usize],
        progress: &dyn Progress,
    ) -> Result<Vec<(usize, Built)>, NvrtcError> {
        let (next, done, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let results = Mutex::new(Vec::new());
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let Some(&i) = missing.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let built = nvrtc::compile(units[i].name, units[i].source, self.arch, self.output);
                if let (Ok(binary), Some(cache)) = (&built, self.cache)
                    && let Err(error) = cache.put(&keys[i], binary)
                {
                    progress.not_kept(&error);
                }
                failed.fetch_or(built.is_err(), Ordering::Relaxed);
                results.lock().unwrap_or_else(PoisonError::into_inner).push((i, built));
                progress.compiling(done.fetch_add(1, Ordering::Relaxed) + 1, missing.len());
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.min(missing.len()) {
                scope.spawn(work);
            }
            work();
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Threads take units in order, so the first that fails is the same however many there are.
        results.sort_by_key(|(i, _)| *i);
        results.into_iter().map(|(i, b)| Ok((i, Built { binary: b?, cached: false }))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_has_a_key_of_its_own() {
        let of = |output| key("text", Arch(90), output).expect("`.ci/nvrtc` installs NVRTC");
        let keys = [Output::Ptx, Output::PtxWithLines, Output::Cubin].map(of);
        assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2], "{keys:?}");
    }
}
