//! Compiled kernels on disk, so that a second run of a program compiles nothing.
//!
//! An entry's name is a hash of everything that the compiled kernel depends on. An entry is written beside its place and
//! renamed, so that processes may share a folder; it holds a hash of its content, so that one that is cut or damaged is
//! compiled anew instead of used.

use crate::nvrtc::Binary;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// First bytes of every entry; the number counts formats.
const MAGIC: &[u8; 16] = b"ddnnc-kernel-01\n";
const HASH_BYTES: usize = 32;

/// The name of an entry: a hash of source, options, NVRTC's version and kind of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; HASH_BYTES]);

impl Key {
    /// Of the parts in order: equal only where all are equal.
    pub fn new(parts: &[&[u8]]) -> Key {
        let mut hash = Sha256::new();
        hash.update(MAGIC);
        for part in parts {
            // With its length, so that no two lists of parts run together.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Key(hash.finalize().into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A folder of compiled kernels.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// In a folder, which is made when the first entry is written.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache { folder: folder.into() }
    }

    /// Where users' kernels are kept: `$DDNNC_CACHE`, else `$XDG_CACHE_HOME/ddnnc/kernels`, else
    /// `~/.cache/ddnnc/kernels`; `None` where none of the variables is set.
    pub fn default_folder() -> Option<PathBuf> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        set("DDNNC_CACHE").or_else(|| {
            let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
            Some(base.join("ddnnc").join("kernels"))
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of an entry.
    pub fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(key.to_string())
    }

    /// A kernel, if it is there and whole.
    pub fn get(&self, key: &Key) -> Option<Binary> {
        decode(&std::fs::read(self.path(key)).ok()?)
    }

    /// Keeps a kernel.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or written to.
    pub fn put(&self, key: &Key, binary: &Binary) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.folder)?;
        file.write_all(&encode(binary))?;
        file.persist(self.path(key)).map_err(|e| e.error)?;
        Ok(())
    }
}

/// Magic, hash of the rest, length of the log, log, code.
fn encode(binary: &Binary) -> Vec<u8> {
    let mut content = (binary.log.len() as u64).to_le_bytes().to_vec();
    content.extend_from_slice(binary.log.as_bytes());
    content.extend_from_slice(&binary.bytes);
    let mut entry = MAGIC.to_vec();
    entry.extend_from_slice(&Sha256::digest(&content));
    entry.extend_from_slice(&content);
    entry
}

fn decode(entry: &[u8]) -> Option<Binary> {
    let (hash, content) = entry.strip_prefix(MAGIC)?.split_at_checked(HASH_BYTES)?;
    if hash != Sha256::digest(content).as_slice() {
        return None;
    }
    let (length, rest) = content.split_first_chunk::<8>()?;
    let (log, bytes) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some(Binary { bytes: bytes.to_vec(), log: String::from_utf8(log.to_vec()).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary() -> Binary {
        Binary { bytes: vec![1, 2, 3, 0, 255], log: "ptxas info: 12 registers".to_owned() }
    }

    #[test]
    fn an_entry_that_is_not_whole_is_not_given() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::new(folder.path().join("made").join("when needed"));
        let key = Key::new(&[b"source", b"sm_90"]);
        assert_eq!(cache.get(&key), None);
        cache.put(&key, &binary()).expect("a writable folder");
        assert_eq!(cache.get(&key), Some(binary()));
        let path = cache.path(&key);
        let whole = std::fs::read(&path).expect("just written");
        for wrong in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[wrong] ^= 0x10;
            std::fs::write(&path, &damaged).expect("a writable folder");
            assert_eq!(cache.get(&key), None, "byte {wrong} of {}", whole.len());
            std::fs::write(&path, &whole[..wrong]).expect("a writable folder");
            assert_eq!(cache.get(&key), None, "cut to {wrong} bytes");
        }
        cache.put(&key, &binary()).expect("a writable folder");
        assert_eq!(cache.get(&key), Some(binary()));
    }

    #[test]
    fn every_part_counts_in_a_key_and_parts_do_not_run_together() {
        let keys = [
            Key::new(&[b"a", b"b"]),
            Key::new(&[b"b", b"a"]),
            Key::new(&[b"ab", b""]),
            Key::new(&[b"", b"ab"]),
            Key::new(&[b"ab"]),
            Key::new(&[b"a", b"b", b""]),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b), "{i}");
        }
        assert_eq!(keys[0].to_string().len(), 64);
    }

    #[test]
    fn writers_of_one_entry_do_not_disturb_each_other() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::new(folder.path());
        let key = Key::new(&[b"shared"]);
        let big = Binary { bytes: vec![7; 1 << 20], log: String::new() };
        cache.put(&key, &big).expect("a writable folder");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20).for_each(|_| cache.put(&key, &big).expect("a writable folder")));
            }
            for _ in 0..2 {
                scope.spawn(|| (0..50).for_each(|_| assert!(cache.get(&key).is_some_and(|b| b == big))));
            }
        });
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
