//! Decoded PTX: what the parser gives and the machine executes. One variant per behaviour, with every modifier that
//! changes a result as a field; what no variant can say is refused when the text is read.

mod module;
mod wgmma;

pub use module::{Kernel, Module, Variable};
use smallvec::SmallVec;
pub use wgmma::{Factor, FirstFactor, Wgmma};

/// Which register file a register lies in. 8-bit and 16-bit registers share the 16-bit file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum File {
    /// `.pred`
    Pred,
    /// `.b8 .u8 .s8 .b16 .u16 .s16 .f16 .bf16`
    B16,
    /// `.b32 .u32 .s32 .f32 .f16x2 .bf16x2`
    B32,
    /// `.b64 .u64 .s64 .f64`
    B64,
    /// `.b128`: moved as a whole only
    B128,
}

/// A virtual register: `index` counts within its file and kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reg {
    /// Its file.
    pub file: File,
    /// Its number there.
    pub index: u32,
}

/// The type of an instruction or memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    Tf32,
}

impl Type {
    /// Every type, in the order of declaration.
    pub const ALL: [Type; 21] = [
        Type::Pred,
        Type::B8,
        Type::B16,
        Type::B32,
        Type::B64,
        Type::B128,
        Type::U8,
        Type::U16,
        Type::U32,
        Type::U64,
        Type::S8,
        Type::S16,
        Type::S32,
        Type::S64,
        Type::F16,
        Type::F16x2,
        Type::Bf16,
        Type::Bf16x2,
        Type::F32,
        Type::F64,
        Type::Tf32,
    ];

    /// As PTX writes it, without the dot.
    pub fn name(self) -> &'static str {
        match self {
            Type::Pred => "pred",
            Type::B8 => "b8",
            Type::B16 => "b16",
            Type::B32 => "b32",
            Type::B64 => "b64",
            Type::B128 => "b128",
            Type::U8 => "u8",
            Type::U16 => "u16",
            Type::U32 => "u32",
            Type::U64 => "u64",
            Type::S8 => "s8",
            Type::S16 => "s16",
            Type::S32 => "s32",
            Type::S64 => "s64",
            Type::F16 => "f16",
            Type::F16x2 => "f16x2",
            Type::Bf16 => "bf16",
            Type::Bf16x2 => "bf16x2",
            Type::F32 => "f32",
            Type::F64 => "f64",
            Type::Tf32 => "tf32",
        }
    }

    /// Its width in bits; 1 for a predicate.
    pub fn bits(self) -> u32 {
        match self {
            Type::Pred => 1,
            Type::B8 | Type::U8 | Type::S8 => 8,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 16,
            Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 | Type::Bf16x2 | Type::Tf32 => 32,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 64,
            Type::B128 => 128,
        }
    }

    /// The register file of values of exactly this width.
    pub fn file(self) -> File {
        match self.bits() {
            1 => File::Pred,
            8 | 16 => File::B16,
            32 => File::B32,
            64 => File::B64,
            _ => File::B128,
        }
    }

    /// Whether it is a floating-point type, packed or not.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 | Type::F32 | Type::F64 | Type::Tf32
        )
    }

    /// Whether it is `.s8` to `.s64`.
    pub fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }
}

/// A source operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Src {
    /// A register.
    Reg(Reg),
    /// Bits, already in the width of the operand's type (floats as their IEEE bits; 1 or 0 for a predicate). That is
    /// the instruction's type, except for shift amounts, positions and lengths (32 bits) and the third operand of
    /// `mad.wide` (twice the width).
    Imm(u64),
    /// `%tid.x` and the like.
    Special(Special),
    /// Address of a variable, in the window of its state space (what `mov` of a symbol gives), plus an offset.
    Variable {
        /// Which variable.
        variable: u32,
        /// Bytes.
        offset: i64,
    },
}

/// Special registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Special {
    TidX,
    TidY,
    TidZ,
    NtidX,
    NtidY,
    NtidZ,
    CtaidX,
    CtaidY,
    CtaidZ,
    NctaidX,
    NctaidY,
    NctaidZ,
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    Clock,
    Clock64,
    GlobalTimer,
    DynamicSharedSize,
    TotalSharedSize,
}

/// State spaces of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Const,
    Param,
}

/// Where an access goes: `[base + offset]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Address {
    /// Register, variable or number; a parameter is a [`Src::Variable`] of space `Param`.
    pub base: Src,
    /// Bytes.
    pub offset: i64,
}

/// Rounding of a floating-point result, or of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Round {
    /// To the nearest, ties to even.
    Rn,
    /// To the nearest, ties away from zero.
    Rna,
    /// Towards zero.
    Rz,
    /// Towards −∞.
    Rm,
    /// Towards +∞.
    Rp,
}

/// How a floating-point operation treats its operands and result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Float {
    /// Rounding of the result.
    pub round: Round,
    /// Denormal operands and results become zero of their sign.
    pub ftz: bool,
    /// The result is clamped to [0, 1], NaN to 0.
    pub sat: bool,
}

/// Functions of one value; `approx` functions are computed in f64 and rounded (`.approx` promises no bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Unary {
    Not,
    Neg,
    Abs,
    Popc,
    Clz,
    Brev,
    Bfind { shift_amount: bool },
    Cnot,
    Rcp { approx: bool },
    Sqrt { approx: bool },
    RsqrtApprox,
    Ex2Approx,
    Lg2Approx,
    SinApprox,
    CosApprox,
    TanhApprox,
}

/// Functions of two values of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    MulLo,
    MulHi,
    MulWide,
    Mul24Lo,
    Div {
        approx: bool,
    },
    Rem,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    /// `.NaN`: a NaN operand wins; else the other operand does.
    Min {
        nan: bool,
    },
    Max {
        nan: bool,
    },
    /// The sign of `a` on the value of `b`.
    CopySign,
}

/// Functions of three values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Ternary {
    MadLo,
    MadHi,
    MadWide,
    Mad24Lo,
    Fma {
        relu: bool,
    },
    Sad,
    Bfe,
    Lop3(u8),
    ShfLeft {
        clamp: bool,
    },
    ShfRight {
        clamp: bool,
    },
    /// Default mode only.
    Prmt,
    Dp4a {
        a_signed: bool,
        b_signed: bool,
    },
    /// Two halves of a by the lower (else the upper) two bytes of b.
    Dp2a {
        high: bool,
        a_signed: bool,
        b_signed: bool,
    },
}

/// Comparison of `setp` and `set`; the last ones are true where an operand is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Lo,
    Ls,
    Hi,
    Hs,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Logic that combines a comparison with a predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum BoolOp {
    And,
    Or,
    Xor,
}

/// Which lane a `shfl` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

/// Votes of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// Read-modify-write operations, of `atom`, `red` and `redux`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Atomic {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// Shape of a warp's matrix product. Layouts are `.row.col`; others are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mma {
    /// bf16 × bf16 + f32; A 4 registers, B 2, C and D 4.
    M16N8K16Bf16,
    /// bf16 × bf16 + f32; A 2, B 1.
    M16N8K8Bf16,
    /// f16 × f16 + f32; A 4, B 2.
    M16N8K16F16,
    /// tf32 × tf32 + f32; A 4, B 2.
    M16N8K8Tf32,
    /// tf32 × tf32 + f32; A 2, B 1.
    M16N8K4Tf32,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Op {
    Mov {
        ty: Type,
        dst: Reg,
        src: Src,
    },
    /// `mov.b64 %rd, {%r, %r}`: parts from the low end.
    Pack {
        ty: Type,
        dst: Reg,
        parts: SmallVec<[Src; 4]>,
    },
    /// `mov.b64 {%r, %r}, %rd`; `None` is `_`.
    Unpack {
        ty: Type,
        parts: SmallVec<[Option<Reg>; 4]>,
        src: Src,
    },
    Unary {
        op: Unary,
        ty: Type,
        float: Float,
        dst: Reg,
        a: Src,
    },
    /// `carry_out` sets the carry flag (`add.cc`), `carry_in` adds it (`addc`).
    Binary {
        op: Binary,
        ty: Type,
        float: Float,
        carry_out: bool,
        carry_in: bool,
        dst: Reg,
        a: Src,
        b: Src,
    },
    /// For `Bfi` there is a variant of its own.
    Ternary {
        op: Ternary,
        ty: Type,
        float: Float,
        carry_out: bool,
        carry_in: bool,
        dst: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    Bfi {
        ty: Type,
        dst: Reg,
        a: Src,
        b: Src,
        position: Src,
        length: Src,
    },
    /// `setp`: `dst` = compare(a, b) ∘ c, `other` = !compare(a, b) ∘ c.
    Setp {
        compare: Compare,
        ty: Type,
        ftz: bool,
        dst: Option<Reg>,
        other: Option<Reg>,
        a: Src,
        b: Src,
        combine: Option<(BoolOp, Src, bool)>,
    },
    /// `set`: all ones or 1.0 in a register of `to`.
    Set {
        compare: Compare,
        ty: Type,
        to: Type,
        ftz: bool,
        dst: Reg,
        a: Src,
        b: Src,
        combine: Option<(BoolOp, Src, bool)>,
    },
    Selp {
        ty: Type,
        dst: Reg,
        a: Src,
        b: Src,
        predicate: Src,
    },
    /// `testp`-like classes are refused; predicates logic is `Binary` on `Type::Pred`.
    Cvt {
        to: Type,
        from: Type,
        round: Option<Round>,
        ftz: bool,
        sat: bool,
        relu: bool,
        /// Rounding to an integer in a floating-point type (`cvt.rni.f32.f32`); false where `to` is an integer type.
        integer: bool,
        dst: Reg,
        src: Src,
    },
    /// `cvt.rn.bf16x2.f32 d, a, b` (a in the upper half), also `f16x2`.
    CvtPack {
        to: Type,
        round: Round,
        relu: bool,
        sat: bool,
        dst: Reg,
        high: Src,
        low: Src,
    },
    /// `cvta` (to generic) and `cvta.to`.
    Cvta {
        space: Space,
        to_generic: bool,
        dst: Reg,
        src: Src,
    },
    /// `isspacep`: whether a generic address lies in the window of a space.
    IsSpace {
        space: Space,
        dst: Reg,
        src: Src,
    },
    /// Registers may be wider than `ty`: signed types are extended by their sign, all others by zeros.
    Ld {
        space: Space,
        ty: Type,
        dst: SmallVec<[Option<Reg>; 4]>,
        address: Address,
        volatile: bool,
    },
    St {
        space: Space,
        ty: Type,
        src: SmallVec<[Src; 4]>,
        address: Address,
        volatile: bool,
    },
    /// `dst` is `None` for `red`.
    Atom {
        space: Space,
        op: Atomic,
        ty: Type,
        dst: Option<Reg>,
        address: Address,
        a: Src,
        b: Option<Src>,
    },
    /// `membar`, `fence`: order only.
    Fence,
    /// `fence.proxy.async`: what its threads have written is there for the asynchronous proxy, which reads the factors
    /// of [`Wgmma`].
    ProxyFence,
    /// Jump to an instruction's index.
    Bra {
        target: u32,
    },
    /// `brx.idx` over a `.branchtargets` list.
    Brx {
        index: Src,
        targets: SmallVec<[u32; 8]>,
    },
    /// `bar.sync`/`barrier.sync` of barrier `id` for `threads` of the block (all where `None`).
    BarSync {
        id: Src,
        threads: Option<Src>,
    },
    BarArrive {
        id: Src,
        threads: Src,
    },
    /// `bar.red.popc/and/or`
    BarRed {
        op: BarReduce,
        id: Src,
        predicate: Src,
        negate: bool,
        dst: Reg,
    },
    /// `bar.warp.sync`
    BarWarp {
        mask: Src,
    },
    Shfl {
        mode: Shuffle,
        dst: Reg,
        valid: Option<Reg>,
        src: Src,
        lane: Src,
        clamp: Src,
        mask: Src,
    },
    Vote {
        mode: Vote,
        dst: Reg,
        predicate: Src,
        negate: bool,
        mask: Src,
    },
    Activemask {
        dst: Reg,
    },
    MatchAny {
        ty: Type,
        dst: Reg,
        src: Src,
        mask: Src,
    },
    Redux {
        op: Atomic,
        ty: Type,
        dst: Reg,
        src: Src,
        mask: Src,
    },
    /// Bytes 4, 8 or 16; `source_bytes` fewer than that: the rest is zeros.
    CpAsync {
        bytes: u32,
        source_bytes: Option<Src>,
        shared: Address,
        global: Address,
        /// `ignore-src` predicate.
        ignore: Option<(Src, bool)>,
    },
    CpAsyncCommit,
    /// At most that many of the newest groups may still be under way.
    CpAsyncWait {
        pending: u32,
    },
    CpAsyncWaitAll,
    /// `ldmatrix.sync.aligned.m8n8.x{1,2,4}[.trans].shared.b16`
    LdMatrix {
        trans: bool,
        dst: SmallVec<[Reg; 4]>,
        address: Address,
    },
    /// `stmatrix`, likewise.
    StMatrix {
        trans: bool,
        src: SmallVec<[Reg; 4]>,
        address: Address,
    },
    Mma {
        shape: Mma,
        d: [Reg; 4],
        a: SmallVec<[Src; 4]>,
        b: SmallVec<[Src; 2]>,
        c: [Src; 4],
    },
    /// Boxed, as it is much larger than the others.
    Wgmma(Box<Wgmma>),
    WgmmaFence,
    WgmmaCommit,
    /// At most that many of the newest groups may still be under way.
    WgmmaWait {
        pending: u32,
    },
    /// `prefetch`, `discard`, `applypriority`, `createpolicy`-free hints: no effect on values. `pragma` too.
    Nop,
    Ret,
    Exit,
    Trap,
}

/// Reductions of a block's barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum BarReduce {
    Popc,
    And,
    Or,
}

/// One instruction with its guard and its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Inst {
    /// `@%p` (false) or `@!%p` (true).
    pub guard: Option<(Reg, bool)>,
    /// What it does.
    pub op: Op,
    /// Line of the PTX text, from 1.
    pub line: u32,
}
