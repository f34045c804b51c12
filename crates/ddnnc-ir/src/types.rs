//! Types of values: element type and shape.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::fmt;

/// The element type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// The upper half of a 32-bit float: 8 bits of mantissa. Only how a value is kept: arithmetic is in f32.
    Bf16,
    /// 64-bit signed integer (labels, random state).
    I64,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 => 2,
            DType::I64 => 8,
        }
    }

    /// The printed form.
    pub fn as_str(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::I64 => "i64",
        }
    }
}

/// The order in which a value's elements lie in memory. What a value is does not depend on it: extents and axes are
/// those of the shape, and the reference evaluator does not know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub enum Layout {
    /// As the shape says, the last axis innermost.
    #[default]
    RowMajor,
    /// Of `[N,C,H,W]` only: N outermost, then H, W, and C innermost. Printed as `{nhwc}` behind the shape.
    ChannelsLast,
}

impl Layout {
    /// The printed form, as an attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Layout::RowMajor => "row_major",
            Layout::ChannelsLast => "nhwc",
        }
    }
}

/// The extents of a value, outermost first; empty for a scalar. Images are `[N, C, H, W]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub struct Shape(pub SmallVec<[usize; 4]>);

impl Shape {
    /// The shape of a scalar.
    pub fn scalar() -> Shape {
        Shape::default()
    }

    /// The extents.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// How many extents there are.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// How many elements there are. Types in a graph are checked to keep this below [`MAX_ELEMENTS`].
    pub fn elements(&self) -> usize {
        self.0.iter().product()
    }

    /// How many elements there are, where that is at most [`MAX_ELEMENTS`].
    pub fn checked_elements(&self) -> Option<usize> {
        // An extent of zero must not hide others whose product overflows.
        let bound = self.0.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
        (bound <= MAX_ELEMENTS).then(|| self.elements())
    }
}

/// The largest number of elements that a value may have.
pub const MAX_ELEMENTS: usize = 1 << 40;

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Shape {
        Shape(SmallVec::from_slice(&dims))
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Shape {
        Shape(SmallVec::from_slice(dims))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// The type of a value: element type, shape and layout, printed as `f32[128,3,32,32]` or `bf16[128,3,32,32]{nhwc}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValueType {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Shape,
    /// Order in memory.
    pub layout: Layout,
}

impl ValueType {
    /// An f32 value of that shape.
    pub fn f32(shape: impl Into<Shape>) -> ValueType {
        ValueType { dtype: DType::F32, shape: shape.into(), layout: Layout::RowMajor }
    }

    /// An i64 value of that shape.
    pub fn i64(shape: impl Into<Shape>) -> ValueType {
        ValueType { dtype: DType::I64, shape: shape.into(), layout: Layout::RowMajor }
    }

    /// An f32 scalar.
    pub fn scalar() -> ValueType {
        ValueType::f32(Shape::scalar())
    }

    /// The same in another layout.
    pub fn with_layout(mut self, layout: Layout) -> ValueType {
        self.layout = layout;
        self
    }

    /// The same of another element type.
    pub fn with_dtype(mut self, dtype: DType) -> ValueType {
        self.dtype = dtype;
        self
    }

    /// Whether the elements lie in memory as in a row-major value: in that layout, or where there is one channel or
    /// one position.
    pub fn is_row_major(&self) -> bool {
        match self.layout {
            Layout::RowMajor => true,
            Layout::ChannelsLast => {
                let d = self.dims();
                d.len() == 4 && (d[1] == 1 || d[2] * d[3] == 1)
            }
        }
    }

    /// Elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }

    /// The extents.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype.as_str(), self.shape)?;
        match self.layout {
            Layout::RowMajor => Ok(()),
            Layout::ChannelsLast => f.write_str("{nhwc}"),
        }
    }
}
