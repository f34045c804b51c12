//! Matrix descriptors: where in shared memory a factor of `wgmma` lies.
//!
//! PTX ISA, section "Asynchronous warpgroup level matrix shared memory layout". A matrix is made of units of 16 bytes. Their
//! places are a linear function of row and column, and the swizzle then exchanges units inside the 128 bytes that an
//! address lies in: it works on the bits of the address itself, so that a matrix may begin in the midst of a row of such
//! units.

/// A unit of 16 bytes.
pub(crate) const UNIT: u32 = 16;

/// A descriptor, taken apart. Offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    /// How many bits of the address are exchanged: 2 to that power units are a row of an atom.
    bits: u32,
}

/// Bits that no field has.
const UNUSED: u64 = !(0x3fff | 0x3fff << 16 | 0x3fff << 32 | 7 << 49 | 3 << 62);

impl Descriptor {
    /// Takes a descriptor apart; else says why it is none.
    pub fn new(bits: u64) -> Result<Descriptor, &'static str> {
        if bits & UNUSED != 0 {
            return Err("sets bits outside its fields");
        }
        if bits >> 49 & 7 != 0 {
            return Err("has a base offset, which is not executed");
        }
        let field = |at: u32| (bits >> at) as u32 % (1 << 14) * UNIT;
        // 1 is a swizzle of 128 bytes, 2 of 64, 3 of 32.
        let bits = [0, 3, 2, 1][(bits >> 62) as usize];
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), bits })
    }

    /// Where a unit lies whose elements are neighbours along k: that of a row (for B: a column), number `unit` of two.
    pub fn along_k(&self, row: u32, unit: u32) -> u32 {
        let next = if self.bits == 0 { self.leading } else { UNIT };
        self.swizzle((row % 8) * (UNIT << self.bits) + (row / 8) * self.stride + unit * next)
    }

    /// Where a unit lies whose elements are neighbours along the rows (for B: the columns): number `unit` of them.
    pub fn along_rows(&self, unit: u32, k: u32) -> u32 {
        // Without a swizzle the two offsets change places.
        let (leading, stride) =
            if self.bits == 0 { (self.stride, self.leading) } else { (self.leading, self.stride) };
        let width = 1 << self.bits;
        let across = (unit % width) * UNIT + (unit / width) * leading;
        self.swizzle(across + (k % 8) * (UNIT << self.bits) + (k / 8) * stride)
    }

    fn swizzle(&self, offset: u32) -> u32 {
        let address = self.start + offset;
        address ^ (address >> 3 & (((1 << self.bits) - 1) << 4))
    }
}
