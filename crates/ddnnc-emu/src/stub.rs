//! A shared library of a few hundred bytes: its name is `libcuda.so`, and it needs `libcuda.so.1`.
//!
//! The loader of glibc takes a loaded library for a name when that is the library's own name (`DT_SONAME`), and a
//! library has one. A handle to this one shows the symbols of the library that it needs. Layout as the ELF-64
//! specification and the System V ABI give it; it is for this machine only, so that no linker is needed at run time.

const ADDRESS_ALIGN: u64 = 0x1000;
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const PROGRAM_HEADERS: u64 = 3;

/// Name and needed library, as offsets into the table of strings.
const STRINGS: &[u8] = b"\0libcuda.so\0libcuda.so.1\0";
const NAME: u64 = 1;
const NEEDED: u64 = 12;

/// The machine's number in the header: `EM_X86_64` or `EM_AARCH64`.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// The whole file.
pub(crate) fn image() -> Vec<u8> {
    let strings = HEADER + PROGRAM_HEADERS * PROGRAM_HEADER;
    let symbols = (strings + STRINGS.len() as u64).next_multiple_of(8);
    // One symbol, which is none, and a hash table with one empty bucket.
    let hash = symbols + 24;
    let dynamic = hash + 24;
    let entries: [(u64, u64); 8] = [
        // DT_NEEDED, DT_SONAME, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_NULL
        (1, NEEDED),
        (14, NAME),
        (4, hash),
        (5, strings),
        (6, symbols),
        (10, STRINGS.len() as u64),
        (11, 24),
        (0, 0),
    ];
    let end = dynamic + 16 * entries.len() as u64;

    let mut image = Vec::new();
    // 64 bits, little-endian, version 1, System V.
    image.extend(b"\x7fELF\x02\x01\x01");
    image.resize(16, 0);
    half(&mut image, &[3, MACHINE]);
    word(&mut image, &[1]);
    long(&mut image, &[0, HEADER, 0]);
    word(&mut image, &[0]);
    half(&mut image, &[HEADER as u16, PROGRAM_HEADER as u16, PROGRAM_HEADERS as u16, 64, 0, 0]);
    // PT_LOAD of the whole file, PT_DYNAMIC, and PT_GNU_STACK, without which a stack would have to be executable. All
    // are readable and writable, as the loader relocates the dynamic table in its place.
    for (kind, at, bytes, align) in
        [(1, 0, end, ADDRESS_ALIGN), (2, dynamic, end - dynamic, 8), (0x6474_e551, 0, 0, 16)]
    {
        word(&mut image, &[kind, 6]);
        long(&mut image, &[at, at, at, bytes, bytes, align]);
    }
    image.extend(STRINGS);
    image.resize(hash as usize, 0);
    word(&mut image, &[1, 1, 0, 0, 0, 0]);
    for (tag, value) in entries {
        long(&mut image, &[tag, value]);
    }
    image
}

fn half(image: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|v| image.extend(v.to_le_bytes()));
}

fn word(image: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|v| image.extend(v.to_le_bytes()));
}

fn long(image: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|v| image.extend(v.to_le_bytes()));
}
