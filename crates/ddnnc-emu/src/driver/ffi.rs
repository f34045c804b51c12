//! What crosses the C interface: places to write to, texts, and memory of the host.
//!
//! The types here stand in signatures of exported functions only; Rust code cannot make one. What they point to is the
//! caller's promise, as `cuda.h` states it: null, or valid for what the function does with it.

use std::ffi::{CStr, c_char, c_void};

use super::code::{Answer, Code};

/// A place that a function writes its result to.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Refuses null, before anything is done whose result could not be told.
    pub(super) fn check(self) -> Answer<Place<T>> {
        if self.0.is_null() { Err(Code::INVALID_VALUE) } else { Ok(Place(self.0)) }
    }

    /// Writes where there is a place.
    pub(super) fn offer(self, value: T) {
        if let Ok(place) = self.check() {
            place.set(value);
        }
    }

    /// What the place holds; `None` for null.
    pub(super) fn get(&self) -> Option<T>
    where
        T: Copy,
    {
        // SAFETY: not null, so it is valid for reads, as the caller of the C function promised.
        (!self.0.is_null()).then(|| unsafe { self.0.read_unaligned() })
    }

    /// Several places, one after the other.
    pub(super) fn at(&self, index: usize) -> Out<T> {
        Out(if self.0.is_null() { self.0 } else { self.0.wrapping_add(index) })
    }
}

/// A place that is not null.
pub(super) struct Place<T>(*mut T);

impl<T> Place<T> {
    pub fn set(self, value: T) {
        // SAFETY: not null, so it is valid for writes, as the caller of the C function promised.
        unsafe { self.0.write_unaligned(value) }
    }
}

/// Values that a function reads.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    pub(super) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// The value at a position of the array that the caller passed.
    pub(super) fn at(&self, index: usize) -> Answer<T> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, so the array is as long as the function's contract says, by the caller's promise.
        Ok(unsafe { self.0.wrapping_add(index).read_unaligned() })
    }

    pub(super) fn get(&self) -> Answer<T> {
        self.at(0)
    }
}

/// A text of C.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    pub(super) fn get(&self) -> Answer<String> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, so it ends with a zero, by the caller's promise.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).map_err(|_| Code::INVALID_VALUE)
    }
}

/// An address of the host.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Host(pub(super) *mut c_void);

impl Host {
    pub(super) fn address(self) -> usize {
        self.0 as usize
    }
}

/// A function of the program, with its argument.
#[derive(Clone, Copy)]
pub(super) struct Callback {
    pub function: extern "C" fn(*mut c_void),
    pub data: usize,
}

/// Reads memory of the host that a copy names.
pub(super) fn read_host(from: usize, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    if bytes > 0 {
        // SAFETY: the program promised `bytes` readable bytes: until the call returns for pageable memory, until it is
        // freed for pinned memory, and freeing executes what is queued first. `data` is as long.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, data.as_mut_ptr(), bytes) };
    }
    data
}

/// Writes memory of the host that a copy names.
pub(super) fn write_host(to: usize, data: &[u8]) {
    if !data.is_empty() {
        // SAFETY: as for `read_host`, with writable bytes.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to as *mut u8, data.len()) };
    }
}

/// Writes a text and its zero, cut where the room ends; gives the bytes written without the zero.
pub(super) fn write_text(to: usize, room: usize, text: &str) -> usize {
    if to == 0 || room == 0 {
        return 0;
    }
    let bytes = &text.as_bytes()[..text.len().min(room - 1)];
    write_host(to, bytes);
    write_host(to + bytes.len(), &[0]);
    bytes.len()
}

/// An image of a module: what `cuModuleLoadData` is given says its own length.
pub(super) enum Image {
    /// Up to the zero.
    Text(Vec<u8>),
    /// Machine code.
    Binary,
}

const MACHINE_CODE: [&[u8; 4]; 3] = [b"\x7fELF", b"\x50\xed\x55\xba", b"\xb1\x43\x62\x46"];

pub(super) fn image(at: usize) -> Answer<Image> {
    if at == 0 {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: an image is a text that ends with a zero, or begins with four bytes that say what it is; none of these
    // has a zero before its fourth byte, so that reading up to a zero stays inside both.
    let head = |i: usize| unsafe { *(at as *const u8).add(i) };
    if MACHINE_CODE.iter().any(|magic| magic.iter().enumerate().all(|(i, b)| head(i) == *b)) {
        return Ok(Image::Binary);
    }
    // SAFETY: by the caller's promise a text that ends with a zero, as it is nothing else.
    let text = unsafe { CStr::from_ptr(at as *const c_char) };
    Ok(Image::Text(text.to_bytes().to_vec()))
}
