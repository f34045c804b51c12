//! One instruction of the text on its way to an [`Op`](crate::inst::Op): modifiers are taken one by one, operands are
//! looked up and checked, and what nobody took is refused.

use crate::inst::{Address, File, Reg, Space, Src, Type};
use crate::names::{Names, special};
use crate::number;
use smallvec::SmallVec;

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand<'a> {
    /// `%r1`, `12`, `-12`, `!%p1`, `symbol+8`
    Plain { text: &'a str, not: bool, minus: bool, offset: i64 },
    /// `{a, b}`
    Vector(Vec<Operand<'a>>),
    /// `[base+offset]`
    Memory { base: &'a str, offset: i64 },
    /// `a|b`
    Pair(&'a str, &'a str),
}

/// Modifiers without effect on values here, and the instructions that they belong to: where caches keep data, and how
/// strongly and how widely memory is ordered (the machine orders all accesses as its warps take turns).
pub(crate) const WITHOUT_EFFECT: &[(&[&str], &[&str])] = &[
    (
        &["ld", "ldu", "st"],
        &[
            "weak",
            "relaxed",
            "acquire",
            "release",
            "cta",
            "cluster",
            "gpu",
            "sys",
            "ca",
            "cg",
            "cs",
            "lu",
            "cv",
            "wb",
            "wt",
            "nc",
            "L1::evict_normal",
            "L1::evict_unchanged",
            "L1::evict_first",
            "L1::evict_last",
            "L1::no_allocate",
            "L2::evict_normal",
            "L2::evict_first",
            "L2::evict_last",
            "L2::64B",
            "L2::128B",
            "L2::256B",
        ],
    ),
    (&["atom", "red"], &["relaxed", "acquire", "release", "acq_rel", "cta", "cluster", "gpu", "sys"]),
    (&["membar"], &["gl", "cta", "sys"]),
    (&["fence"], &["sc", "acq_rel", "acquire", "release", "cta", "cluster", "gpu", "sys"]),
    (&["prefetch", "prefetchu"], &["L1", "L2", "L2::evict_last", "L2::evict_normal"]),
    (&["applypriority"], &["L2::evict_normal"]),
    (&["cp"], &["L2::64B", "L2::128B", "L2::256B"]),
    (&["bra", "brx", "ret"], &["uni"]),
    (&["bar", "barrier"], &["cta", "aligned"]),
];

/// An instruction being decoded. The errors of its methods say what is wrong, without the place.
pub(crate) struct Instruction<'a, 'n> {
    /// As written, with all modifiers.
    pub opcode: &'a str,
    /// The first part of it.
    pub root: &'a str,
    modifiers: SmallVec<[&'a str; 8]>,
    operands: SmallVec<[Operand<'a>; 6]>,
    names: &'n Names<'a>,
    /// Labels that the instruction jumps to, for whoever knows where they stand.
    pub labels: SmallVec<[&'a str; 1]>,
}

impl<'a, 'n> Instruction<'a, 'n> {
    pub fn new(opcode: &'a str, operands: SmallVec<[Operand<'a>; 6]>, names: &'n Names<'a>) -> Self {
        let mut parts = opcode.split('.');
        let root = parts.next().unwrap_or_default();
        let mut modifiers: SmallVec<[&str; 8]> = parts.collect();
        for (roots, ignored) in WITHOUT_EFFECT {
            if roots.contains(&root) {
                modifiers.retain(|m| !ignored.contains(m));
            }
        }
        Instruction { opcode, root, modifiers, operands, names, labels: SmallVec::new() }
    }

    /// Takes a modifier where it is there.
    pub fn take(&mut self, modifier: &str) -> bool {
        let found = self.modifiers.iter().position(|m| *m == modifier);
        if let Some(at) = found {
            self.modifiers.remove(at);
        }
        found.is_some()
    }

    /// Takes a modifier that must be there.
    pub fn require(&mut self, modifier: &str) -> Result<(), String> {
        if self.take(modifier) {
            return Ok(());
        }
        Err(format!("`{}` is executed only with the modifier `.{modifier}`", self.opcode))
    }

    /// Takes the first of some modifiers that is there and gives what it stands for.
    pub fn choice<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        choices.iter().find(|(name, _)| self.take(name)).map(|(_, value)| *value)
    }

    /// As [`Instruction::choice`], where one must be there.
    pub fn required_choice<T: Copy>(&mut self, choices: &[(&str, T)]) -> Result<T, String> {
        self.choice(choices).ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("`.{name}`")).collect();
            format!("`{}` is executed only with one of the modifiers {}", self.opcode, names.join(", "))
        })
    }

    /// Takes the next type among the modifiers.
    pub fn take_type(&mut self) -> Option<Type> {
        let is = |m: &str| Type::ALL.into_iter().find(|t| t.name() == m);
        let (at, ty) = self.modifiers.iter().enumerate().find_map(|(at, m)| is(m).map(|ty| (at, ty)))?;
        self.modifiers.remove(at);
        Some(ty)
    }

    /// Takes a modifier that begins so, and gives the rest of it.
    pub fn take_shape(&mut self, prefix: &str) -> Option<&'a str> {
        let rest = |m: &&'a str| m.strip_prefix(prefix);
        let (at, rest) = self.modifiers.iter().enumerate().find_map(|(at, m)| Some((at, rest(m)?)))?;
        self.modifiers.remove(at);
        Some(rest)
    }

    /// Takes the next type among the modifiers, which must be one of some.
    pub fn type_of(&mut self, allowed: &[Type]) -> Result<Type, String> {
        match self.take_type() {
            Some(ty) if allowed.contains(&ty) => Ok(ty),
            Some(ty) => Err(format!("type `.{}` of `{}` is not executed", ty.name(), self.opcode)),
            // The type is a modifier that no [`Type`] stands for, such as `.f32x2`; or there is none.
            None => {
                self.finish()?;
                Err(format!("`{}` lacks a type", self.opcode))
            }
        }
    }

    /// Refuses modifiers that change what the operands are, before these are read.
    pub fn refuse(&self, modifiers: &[&str]) -> Result<(), String> {
        match self.modifiers.iter().find(|m| modifiers.contains(m)) {
            None => Ok(()),
            Some(m) => Err(format!("modifier `.{m}` of `{}` is not executed", self.opcode)),
        }
    }

    /// Refuses modifiers that nobody took.
    pub fn finish(&self) -> Result<(), String> {
        match self.modifiers.first() {
            None => Ok(()),
            Some(m) => Err(format!("modifier `.{m}` of `{}` is not executed", self.opcode)),
        }
    }

    /// How many operands there are.
    pub fn operands(&self) -> usize {
        self.operands.len()
    }

    /// Checks how many operands there are.
    pub fn expect(&self, allowed: std::ops::RangeInclusive<usize>) -> Result<(), String> {
        let count = self.operands.len();
        if allowed.contains(&count) {
            return Ok(());
        }
        let (low, high) = (allowed.start(), allowed.end());
        let wanted = if low == high { low.to_string() } else { format!("{low} to {high}") };
        Err(format!("`{}` takes {wanted} operands, not {count}", self.opcode))
    }

    fn operand(&self, at: usize) -> Result<&Operand<'a>, String> {
        self.operands.get(at).ok_or_else(|| format!("`{}` lacks operand {}", self.opcode, at + 1))
    }

    fn unexpected(&self, at: usize, wanted: &str) -> String {
        format!("operand {} of `{}` must be {wanted}", at + 1, self.opcode)
    }

    fn register(&self, name: &str) -> Result<Reg, String> {
        self.names.register(name).ok_or_else(|| format!("register `{name}` is not declared"))
    }

    fn fits(&self, name: &str, reg: Reg, ty: Type, wider: bool) -> Result<Reg, String> {
        // Only integers and bits can be a part of a wider register; predicates lie apart.
        let wider = wider && !ty.is_float() && ty != Type::Pred;
        if reg.file == ty.file() || (wider && width(reg.file) > ty.bits()) {
            return Ok(reg);
        }
        let shown = |bits| if bits == 1 { "a predicate".to_owned() } else { format!("{bits} bits wide") };
        Err(format!(
            "register `{name}` is {}; type `.{}` of `{}` is {}",
            shown(width(reg.file)),
            ty.name(),
            self.opcode,
            shown(ty.bits().max(if ty == Type::Pred { 1 } else { 16 }))
        ))
    }

    fn destination_in(&self, operand: &Operand<'a>, at: usize, ty: Type, wider: bool) -> Result<Reg, String> {
        match operand {
            Operand::Plain { text, not: false, minus: false, offset: 0 } => {
                self.fits(text, self.register(text)?, ty, wider)
            }
            _ => Err(self.unexpected(at, "a register")),
        }
    }

    /// The register that takes a result of a type.
    pub fn destination(&self, at: usize, ty: Type) -> Result<Reg, String> {
        self.destination_in(self.operand(at)?, at, ty, false)
    }

    /// `d` or `d|p`: a result and a predicate.
    pub fn destination_and_predicate(&self, at: usize, ty: Type) -> Result<(Reg, Option<Reg>), String> {
        match self.operand(at)? {
            Operand::Pair(d, p) => {
                let d = self.fits(d, self.register(d)?, ty, false)?;
                let p = if *p == "_" {
                    None
                } else {
                    Some(self.fits(p, self.register(p)?, Type::Pred, false)?)
                };
                Ok((d, p))
            }
            operand => Ok((self.destination_in(operand, at, ty, false)?, None)),
        }
    }

    /// `p` or `p|q`, each a predicate or `_`.
    pub fn predicate_pair(&self, at: usize) -> Result<(Option<Reg>, Option<Reg>), String> {
        let one = |name: &str| match name {
            "_" => Ok(None),
            name => self.fits(name, self.register(name)?, Type::Pred, false).map(Some),
        };
        match self.operand(at)? {
            Operand::Pair(p, q) => Ok((one(p)?, one(q)?)),
            Operand::Plain { text, not: false, minus: false, offset: 0 } => Ok((one(text)?, None)),
            _ => Err(self.unexpected(at, "a predicate")),
        }
    }

    fn source_in(&self, operand: &Operand<'a>, at: usize, ty: Type, wider: bool) -> Result<Src, String> {
        let Operand::Plain { text, not: false, minus, offset } = *operand else {
            return Err(self.unexpected(at, "a register, variable or constant"));
        };
        let plain = offset == 0 && !minus;
        if let Some(reg) = self.names.register(text) {
            if !plain {
                return Err(self.unexpected(at, "a register without sign and offset"));
            }
            return self.fits(text, reg, ty, wider).map(Src::Reg);
        }
        if let Some((special, bits)) = special(text) {
            // Special registers of 32 bits are written in the low half of a wider register.
            if !plain || ty.bits() < bits.min(32) || ty.is_float() {
                return Err(format!("`{text}` cannot be an operand of `{}`", self.opcode));
            }
            return Ok(Src::Special(special));
        }
        if let Some(variable) = self.names.variable(text) {
            if minus || ty.bits() < 32 || ty.is_float() {
                return Err(format!("the address of `{text}` cannot be an operand of `{}`", self.opcode));
            }
            return Ok(Src::Variable { variable: variable.number, offset });
        }
        if text.starts_with('%') {
            return Err(format!("register `{text}` is not declared"));
        }
        if offset != 0 {
            return Err(format!("variable `{text}` is not declared"));
        }
        number::bits(text, minus, ty).map(Src::Imm)
    }

    /// A source of a type, in a register of exactly its width.
    pub fn source(&self, at: usize, ty: Type) -> Result<Src, String> {
        self.source_in(self.operand(at)?, at, ty, false)
    }

    /// A source of a type, in a register that may be wider.
    pub fn wide_source(&self, at: usize, ty: Type) -> Result<Src, String> {
        self.source_in(self.operand(at)?, at, ty, true)
    }

    /// A predicate `p` or `!p`.
    pub fn predicate(&self, at: usize) -> Result<(Src, bool), String> {
        match self.operand(at)? {
            Operand::Plain { text, not: true, minus: false, offset: 0 } => {
                let reg = self.fits(text, self.register(text)?, Type::Pred, false)?;
                Ok((Src::Reg(reg), true))
            }
            operand => Ok((self.source_in(operand, at, Type::Pred, false)?, false)),
        }
    }

    /// Whether an operand is a predicate register, negated or not.
    pub fn is_predicate(&self, at: usize) -> bool {
        matches!(self.operands.get(at), Some(Operand::Plain { text, .. })
            if self.names.register(text).is_some_and(|reg| reg.file == File::Pred))
    }

    /// Whether an operand is `{…}`.
    pub fn is_vector(&self, at: usize) -> bool {
        matches!(self.operands.get(at), Some(Operand::Vector(_)))
    }

    fn elements(&self, at: usize) -> Result<&[Operand<'a>], String> {
        match self.operand(at)? {
            Operand::Vector(parts) => Ok(parts),
            single => Ok(std::slice::from_ref(single)),
        }
    }

    fn counted(&self, at: usize, count: usize) -> Result<&[Operand<'a>], String> {
        let parts = self.elements(at)?;
        if parts.len() == count {
            return Ok(parts);
        }
        Err(self.unexpected(at, &format!("{count} registers, not {}", parts.len())))
    }

    /// The parts of `{a, b}`, or a single operand, as sources.
    pub fn sources(&self, at: usize, count: usize, ty: Type, wider: bool) -> Result<Vec<Src>, String> {
        self.counted(at, count)?.iter().map(|part| self.source_in(part, at, ty, wider)).collect()
    }

    /// The parts of `{d, e}`, or a single operand, as registers that take results; `None` for `_`.
    pub fn destinations(
        &self,
        at: usize,
        count: usize,
        ty: Type,
        wider: bool,
    ) -> Result<Vec<Option<Reg>>, String> {
        let one = |part: &Operand<'a>| match part {
            Operand::Plain { text: "_", .. } => Ok(None),
            part => self.destination_in(part, at, ty, wider).map(Some),
        };
        self.counted(at, count)?.iter().map(one).collect()
    }

    /// Like [`Instruction::destinations`], where `_` is not allowed.
    pub fn all_destinations(&self, at: usize, count: usize, ty: Type) -> Result<Vec<Reg>, String> {
        self.counted(at, count)?.iter().map(|part| self.destination_in(part, at, ty, false)).collect()
    }

    /// How many parts `{…}` has; 1 for a single operand.
    pub fn length(&self, at: usize) -> Result<usize, String> {
        self.elements(at).map(<[_]>::len)
    }

    /// A number that must be a constant of the text.
    pub fn constant(&self, at: usize) -> Result<u64, String> {
        match self.source(at, Type::B64) {
            Ok(Src::Imm(bits)) => Ok(bits),
            _ => Err(self.unexpected(at, "a constant")),
        }
    }

    /// An address in a space.
    pub fn address(&self, at: usize, space: Space) -> Result<Address, String> {
        let Operand::Memory { base, offset } = *self.operand(at)? else {
            return Err(self.unexpected(at, "an address in brackets"));
        };
        if let Some(reg) = self.names.register(base) {
            let narrow =
                reg.file == File::B32 && matches!(space, Space::Shared | Space::Local | Space::Const);
            if reg.file == File::B64 || narrow {
                return Ok(Address { base: Src::Reg(reg), offset });
            }
            return Err(format!("register `{base}` is not as wide as an address of `{}`", self.opcode));
        }
        if let Some(variable) = self.names.variable(base) {
            // Generic addresses of global memory are global addresses; those of other spaces need cvta.
            if variable.space == space || (space == Space::Generic && variable.space == Space::Global) {
                return Ok(Address { base: Src::Variable { variable: variable.number, offset: 0 }, offset });
            }
            return Err(format!("variable `{base}` is not in the state space of `{}`", self.opcode));
        }
        if base.starts_with('%') {
            return Err(format!("register `{base}` is not declared"));
        }
        Ok(Address { base: Src::Imm(number::bits(base, false, Type::U64)?), offset })
    }

    /// A label to jump to, or the name of a list of them.
    pub fn label(&mut self, at: usize) -> Result<(), String> {
        match *self.operand(at)? {
            Operand::Plain { text, not: false, minus: false, offset: 0 } => {
                self.labels.push(text);
                Ok(())
            }
            _ => Err(self.unexpected(at, "a label")),
        }
    }
}

fn width(file: File) -> u32 {
    match file {
        File::Pred => 1,
        File::B16 => 16,
        File::B32 => 32,
        File::B64 => 64,
        File::B128 => 128,
    }
}
