//! Kernels prepared for running: variables placed, symbols replaced by addresses, what cannot run refused.

use std::sync::Arc;

use crate::inst::{Address, Atomic, File, FirstFactor, Inst, Kernel, Module, Op, Space, Src, Type};
use crate::source::{self, Loc, SourceFile, SourcePlace};
use crate::watched::Watched;

/// Windows of the state spaces within generic addresses; global memory has no window.
pub(crate) const SHARED_WINDOW: u64 = 0x0100_0000_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
pub(crate) const PARAM_WINDOW: u64 = 0x0300_0000_0000;
/// Bytes of each window.
pub(crate) const WINDOW: u64 = 0x0100_0000_0000;

/// Static shared memory a kernel may declare on every device.
const STATIC_SHARED: u64 = 48 << 10;

/// A kernel ready to run.
pub(crate) struct Program {
    pub name: String,
    /// Its instructions; the last one ends the thread.
    pub code: Vec<Inst>,
    locs: Vec<Loc>,
    files: Arc<[SourceFile]>,
    pub registers: [u32; 5],
    pub max_threads: Option<u32>,
    /// The one size of a block that it may be launched with.
    pub required_threads: Option<[u32; 3]>,
    /// Address of each variable in the window of its state space.
    pub variables: Vec<u64>,
    pub param_bytes: u64,
    /// Bytes of static shared memory, up to where dynamic shared memory begins.
    pub static_shared: u32,
    /// Bytes of local memory of a thread.
    pub local_bytes: u64,
    /// Bytes of the smallest access to shared memory, a power of two.
    pub granule: u32,
    /// Registers of `wgmma`.
    pub watched: Watched,
}

impl Program {
    /// The line of the PTX that an instruction stands in; past the code's end that of its end.
    pub fn line(&self, pc: u32) -> u32 {
        self.code.get(pc as usize).or(self.code.last()).map_or(0, |inst| inst.line)
    }

    /// Where in the source instructions come from, as far as the PTX says it; those of one place together.
    pub fn places(&self, pcs: impl IntoIterator<Item = u32>) -> Vec<SourcePlace> {
        let mut places: Vec<SourcePlace> = Vec::new();
        for pc in pcs {
            let line = self.line(pc);
            let Some(place) = source::place(&self.locs, &self.files, pc, line) else { continue };
            let same = |p: &&mut SourcePlace| (&p.at, &p.inlined_at) == (&place.at, &place.inlined_at);
            match places.iter_mut().find(same) {
                Some(known) if known.ptx_lines.contains(&line) => {}
                Some(known) => known.ptx_lines.push(line),
                None => places.push(place),
            }
        }
        places
    }
}

/// Prepares a kernel of a module whose variables lie at `module_addresses` (those of shared memory: anything); `files` are
/// the module's.
pub(crate) fn prepare(
    kernel: &Kernel,
    module: &Module,
    files: &Arc<[SourceFile]>,
    module_addresses: &[u64],
) -> Result<Program, String> {
    let module_variables = &module.variables;
    let mut code = kernel.code.clone();
    let line = code.last().map_or(0, |i| i.line);
    code.push(Inst { guard: None, op: Op::Exit, line });

    // Module-level shared variables take room only in kernels that name them.
    let total = module_variables.len() + kernel.variables.len();
    let mut used = vec![false; total];
    used[module_variables.len()..].fill(true);
    let mut unknown = None;
    for inst in &mut code {
        let line = inst.line;
        sources(&mut inst.op, &mut |src| {
            if let Src::Variable { variable, .. } = *src {
                match used.get_mut(variable as usize) {
                    Some(u) => *u = true,
                    None => unknown = Some(line),
                }
            }
        });
    }
    if let Some(line) = unknown {
        return Err(format!("kernel `{}`, PTX line {line}: a variable that is not declared", kernel.name));
    }

    let mut variables = vec![0; total];
    variables[..module_addresses.len()].copy_from_slice(module_addresses);
    let (mut params, mut shared, mut local) = (0u64, 0u64, 0u64);
    let mut dynamic_align = 1;
    let all = || module_variables.iter().chain(&kernel.variables).enumerate();
    for (i, v) in all() {
        let next = match v.space {
            Space::Param => &mut params,
            Space::Shared if v.dynamic => {
                dynamic_align = dynamic_align.max(v.align);
                continue;
            }
            Space::Shared if used[i] => &mut shared,
            Space::Local => &mut local,
            _ => continue,
        };
        let at = next.next_multiple_of(v.align.max(1));
        variables[i] = at;
        *next = at + v.bytes;
    }
    if all().any(|(i, v)| v.dynamic && used[i]) {
        shared = shared.next_multiple_of(dynamic_align.max(1));
    }
    if shared > STATIC_SHARED {
        return Err(format!(
            "kernel `{}` has {shared} bytes of static shared memory; at most {STATIC_SHARED} are possible, more only \
             as dynamic shared memory",
            kernel.name
        ));
    }
    for (i, _) in all().filter(|(_, v)| v.dynamic) {
        variables[i] = shared;
    }

    let mut granule = 16;
    for inst in &mut code {
        let kernel = &kernel.name;
        let line = inst.line;
        if let Some(why) = refuse(&inst.op) {
            return Err(format!("kernel `{kernel}`, PTX line {line}: {why}"));
        }
        granule = granule.min(shared_bytes(&inst.op));
        sources(&mut inst.op, &mut |src| {
            if let Src::Variable { variable, offset } = *src {
                *src = Src::Imm(variables[variable as usize].wrapping_add_signed(offset));
            }
        });
    }
    let targets = code.len() as u32;
    for inst in &code {
        let wrong = match &inst.op {
            Op::Bra { target } => *target >= targets,
            Op::Brx { targets: list, .. } => list.iter().any(|t| *t >= targets),
            _ => false,
        };
        if wrong {
            return Err(format!("kernel `{}`, PTX line {}: a jump out of it", kernel.name, inst.line));
        }
    }
    Ok(Program {
        watched: Watched::new(&code, kernel.registers[File::B32 as usize]),
        name: kernel.name.clone(),
        code,
        locs: kernel.locs.clone(),
        files: Arc::clone(files),
        registers: kernel.registers,
        max_threads: kernel.max_threads,
        required_threads: kernel.required_threads,
        variables,
        param_bytes: params,
        static_shared: shared as u32,
        local_bytes: local.next_multiple_of(16),
        granule,
    })
}

/// Bytes of one element in memory; 0 for predicates, which memory cannot hold.
pub(crate) fn type_bytes(ty: Type) -> u32 {
    match ty {
        Type::Pred => 0,
        Type::B8 | Type::U8 | Type::S8 => 1,
        Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
        Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 | Type::Bf16x2 | Type::Tf32 => 4,
        Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
        Type::B128 => 16,
    }
}

/// Bytes of an operation's access that may touch shared memory; 16 for others.
fn shared_bytes(op: &Op) -> u32 {
    let shared = |space: Space| matches!(space, Space::Shared | Space::Generic);
    match op {
        Op::Ld { space, ty, dst, .. } if shared(*space) => type_bytes(*ty) * dst.len() as u32,
        Op::St { space, ty, src, .. } if shared(*space) => type_bytes(*ty) * src.len() as u32,
        Op::Atom { space, ty, .. } if shared(*space) => type_bytes(*ty),
        Op::CpAsync { bytes, .. } => *bytes,
        _ => 16,
    }
}

/// Why an operation cannot run, where it cannot.
fn refuse(op: &Op) -> Option<String> {
    let access = |ty: Type, n: usize| {
        let bytes = type_bytes(ty) as usize * n;
        (!bytes.is_power_of_two() || bytes > 32)
            .then(|| format!("an access of {n} elements of {ty:?} is not executed"))
    };
    match op {
        Op::Ld { ty, dst, .. } => access(*ty, dst.len()).or_else(|| {
            dst.iter().flatten().any(|r| r.file == File::Pred).then(|| "a load into a predicate".to_owned())
        }),
        Op::St { ty, src, .. } => access(*ty, src.len()),
        Op::CpAsync { bytes, .. } if !matches!(bytes, 4 | 8 | 16) => {
            Some(format!("cp.async of {bytes} bytes; 4, 8 and 16 exist"))
        }
        Op::Atom { op, ty, b, .. } => {
            use Type::{B32, B64, F32, F64, S32, S64, U32, U64};
            let known = match op {
                Atomic::Add => matches!(ty, U32 | S32 | U64 | S64 | F32 | F64),
                Atomic::Min | Atomic::Max => matches!(ty, U32 | S32 | U64 | S64),
                Atomic::And | Atomic::Or | Atomic::Xor => matches!(ty, B32 | U32 | S32 | B64 | U64 | S64),
                Atomic::Exch => matches!(ty, B32 | U32 | S32 | F32 | B64 | U64 | S64 | F64),
                Atomic::Cas => matches!(ty, B32 | U32 | S32 | B64 | U64 | S64) && b.is_some(),
                Atomic::Inc | Atomic::Dec => *ty == U32,
            };
            (!known).then(|| format!("the atomic operation {op:?} on {ty:?} is not executed"))
        }
        Op::Redux { op, ty, .. } => {
            let known = matches!(ty, Type::U32 | Type::S32 | Type::B32)
                && !matches!(op, Atomic::Exch | Atomic::Cas | Atomic::Inc | Atomic::Dec);
            (!known).then(|| format!("redux {op:?} on {ty:?} is not executed"))
        }
        Op::MatchAny { ty, .. } if !matches!(type_bytes(*ty), 4 | 8) => {
            Some(format!("match on {ty:?} is not executed"))
        }
        Op::LdMatrix { dst, .. } if !matches!(dst.len(), 1 | 2 | 4) => {
            Some(format!("ldmatrix of {} registers", dst.len()))
        }
        Op::StMatrix { src, .. } if !matches!(src.len(), 1 | 2 | 4) => {
            Some(format!("stmatrix of {} registers", src.len()))
        }
        _ => None,
    }
}

/// Calls `f` for each source operand, addresses included.
pub(crate) fn sources(op: &mut Op, f: &mut dyn FnMut(&mut Src)) {
    fn at(address: &mut Address, f: &mut dyn FnMut(&mut Src)) {
        f(&mut address.base);
    }
    match op {
        Op::Mov { src, .. }
        | Op::Unpack { src, .. }
        | Op::Unary { a: src, .. }
        | Op::Cvt { src, .. }
        | Op::Cvta { src, .. }
        | Op::IsSpace { src, .. }
        | Op::Brx { index: src, .. }
        | Op::BarWarp { mask: src } => f(src),
        Op::Pack { parts, .. } => parts.iter_mut().for_each(f),
        Op::Binary { a, b, .. } => [a, b].into_iter().for_each(f),
        Op::Ternary { a, b, c, .. } => [a, b, c].into_iter().for_each(f),
        Op::Bfi { a, b, position, length, .. } => [a, b, position, length].into_iter().for_each(f),
        Op::Setp { a, b, combine, .. } | Op::Set { a, b, combine, .. } => {
            [a, b].into_iter().for_each(&mut *f);
            if let Some((_, c, _)) = combine {
                f(c);
            }
        }
        Op::Selp { a, b, predicate, .. } => [a, b, predicate].into_iter().for_each(f),
        Op::CvtPack { high, low, .. } => [high, low].into_iter().for_each(f),
        Op::Ld { address, .. } | Op::LdMatrix { address, .. } | Op::StMatrix { address, .. } => {
            at(address, f)
        }
        Op::St { src, address, .. } => {
            src.iter_mut().for_each(&mut *f);
            at(address, f);
        }
        Op::Atom { address, a, b, .. } => {
            at(address, f);
            f(a);
            b.iter_mut().for_each(f);
        }
        Op::BarSync { id, threads } => {
            f(id);
            threads.iter_mut().for_each(f);
        }
        Op::BarArrive { id, threads } => [id, threads].into_iter().for_each(f),
        Op::BarRed { id, predicate, .. } => [id, predicate].into_iter().for_each(f),
        Op::Shfl { src, lane, clamp, mask, .. } => [src, lane, clamp, mask].into_iter().for_each(f),
        Op::Vote { predicate, mask, .. } => [predicate, mask].into_iter().for_each(f),
        Op::MatchAny { src, mask, .. } | Op::Redux { src, mask, .. } => [src, mask].into_iter().for_each(f),
        Op::CpAsync { source_bytes, shared, global, ignore, .. } => {
            at(shared, f);
            at(global, f);
            source_bytes.iter_mut().for_each(&mut *f);
            if let Some((p, _)) = ignore {
                f(p);
            }
        }
        Op::Mma { a, b, c, .. } => {
            a.iter_mut().for_each(&mut *f);
            b.iter_mut().for_each(&mut *f);
            c.iter_mut().for_each(f);
        }
        Op::Wgmma(product) => {
            if let FirstFactor::Descriptor(a) = &mut product.a {
                f(a);
            }
            [&mut product.b, &mut product.scale_d.0].into_iter().for_each(f);
        }
        Op::Activemask { .. }
        | Op::Fence
        | Op::ProxyFence
        | Op::WgmmaFence
        | Op::WgmmaCommit
        | Op::WgmmaWait { .. }
        | Op::Bra { .. }
        | Op::CpAsyncCommit
        | Op::CpAsyncWait { .. }
        | Op::CpAsyncWaitAll
        | Op::Nop
        | Op::Ret
        | Op::Exit
        | Op::Trap => {}
    }
}
