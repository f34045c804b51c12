//! Launches of convolutions: one per sub-net, of one weight, with what is computed on the way in and out.
//!
//! Elementwise steps before a convolution are a tile program that makes its rows as they are read; steps behind it are a
//! tile program on its finished rows while they are in cache. What else a group asks for runs before (values that no
//! convolution takes part in) or after (steps on sums, and on weight gradients).

use crate::ahead::Ahead;
use crate::choices::Site;
use crate::convolution::{self, Emit, Geometry, PARTS, Part, Rows, Run, Weights};
use crate::convolution_weight::{GradPart, grad_weight, grad_weight_need};
use crate::device::Machine;
use crate::launch::Need;
use crate::memory::{Memory, Plan, Slot};
use crate::method::{Direction, Method, Settings};
use crate::pointwise::{Cells, Pointwise, after_sums, clear, domain_of, gathers, needed};
use crate::pointwise_compile::{Body, Compiler};
use crate::pointwise_finish::Finish;
use crate::pointwise_inst::Domain;
use crate::pointwise_program::{Lent, Program};
use crate::pointwise_tables::Fill;
use ddnnc_ir::{BinaryKind, DType, Local, Op, Step, ValueType, is_convolution};

/// Rows of an operand.
#[derive(Clone, Debug)]
enum Input {
    /// As they lie in memory, f32.
    Direct(Slot),
    /// As they lie in memory, bf16, and the program that makes f32 of them.
    Bf16(Slot, Box<Program>),
    /// Computed.
    Program(Box<Program>),
}

impl Input {
    /// Leaves it to the kernel to ask for memory.
    fn asks_no_more(&mut self) {
        if let Input::Program(program) | Input::Bf16(_, program) = self {
            program.asks = false;
        }
    }
}

/// One sub-net's share.
#[derive(Clone, Debug)]
struct Share {
    images: usize,
    channels: usize,
    x: Input,
    /// The convolution's own result, where it is one of the launch.
    out: Option<Slot>,
    epilogue: Option<Program>,
}

/// One sub-net's share of a weight gradient.
#[derive(Clone, Debug)]
struct GradShare {
    images: usize,
    x: Input,
    dy: Input,
}

/// Weight gradients that add up to one.
#[derive(Clone, Debug)]
struct GradSum {
    shares: Vec<GradShare>,
    out: Slot,
}

#[derive(Clone, Debug)]
enum Work {
    /// Forward or (true) input gradients.
    Rows { backward: bool, weight: Slot, shares: Vec<Share> },
    /// Weight gradients.
    Weights(Vec<GradSum>),
}

/// A launch of convolutions.
#[derive(Clone, Debug)]
pub struct Convolution {
    geometry: Geometry,
    method: Method,
    site: Site,
    before: Option<Pointwise>,
    fills: Vec<Fill>,
    body: Work,
    tasks: usize,
    stride: usize,
    finish: Finish,
    after: Option<Pointwise>,
}

/// For every step, the convolutions that it follows.
fn convolutions_before(steps: &[Step]) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = Vec::with_capacity(steps.len());
    for (i, step) in steps.iter().enumerate() {
        let mut mine = Vec::new();
        for local in &step.operands {
            if let Local::Step { step, .. } = *local {
                mine.extend_from_slice(&all[step as usize]);
            }
        }
        if is_convolution(&step.op) {
            mine.push(i);
        }
        mine.sort_unstable();
        mine.dedup();
        all.push(mine);
    }
    all
}

/// The geometry of a convolution of these types.
fn geometry(body: &Body<'_>, step: &Step) -> Result<Geometry, String> {
    let dims = |i: usize| -> Result<[usize; 4], String> {
        let local = step.operands.get(i).ok_or("an operand is missing")?;
        body.ty(*local)?.dims().try_into().map_err(|_| "a convolution of four dimensions".to_owned())
    };
    let result: [usize; 4] =
        step.results[0].dims().try_into().map_err(|_| "a convolution of four dimensions".to_owned())?;
    let (conv, x, w, y) = match &step.op {
        Op::Conv2d(conv) => (conv, dims(0)?, dims(1)?, result),
        Op::Conv2dGradInput { conv, .. } => (conv, result, dims(1)?, dims(0)?),
        Op::Conv2dGradWeight { conv, .. } => (conv, dims(0)?, result, dims(1)?),
        op => return Err(format!("{} is not a convolution", op.mnemonic())),
    };
    Ok(Geometry {
        conv: *conv,
        input: [x[2], x[3]],
        output: [y[2], y[3]],
        kernel: [w[2], w[3]],
        inputs: x[1],
        outputs: y[1],
    })
}

/// Whether both operands of a convolution are rounded to bf16.
fn rounded(body: &Body<'_>, step: &Step) -> Result<bool, String> {
    let mut both = true;
    for local in step.operands.iter().take(2) {
        both &= body.ty(*local)?.dtype == DType::Bf16;
    }
    Ok(both)
}

/// Whether rows of channels are how a value lies.
fn check_rows(ty: &ValueType) -> Result<(), String> {
    let d = ty.dims();
    if ty.elements() == 0 || (d.len() == 4 && Domain::of(ty).channels == d[1]) {
        return Ok(());
    }
    Err(format!("a convolution takes channels-last values, not {ty}"))
}

/// What compiling a launch goes by.
struct Maker<'a, 'p> {
    settings: &'p Settings,
    body: Body<'a>,
    results: &'a [(Local, Slot)],
    convolutions: &'a [Vec<usize>],
    plan: &'p mut Plan,
    fills: Vec<Fill>,
}

impl Maker<'_, '_> {
    /// Rows of an operand of a convolution.
    fn input(&mut self, local: Local) -> Result<Input, String> {
        let ty = self.body.ty(local)?.clone();
        check_rows(&ty)?;
        let stored = self.results.iter().find(|r| r.0 == local).map(|r| r.1);
        let there = match local {
            Local::Operand(i) => Some(self.body.slots[i as usize]),
            Local::Step { step, .. } => {
                if !self.convolutions[step as usize].is_empty() {
                    return Err("a convolution of a convolution".to_owned());
                }
                stored
            }
        };
        let compile = |body: Body<'_>, local: Local, plan: &mut Plan, fills: &mut Vec<Fill>| {
            let mut compiler = Compiler::new(body, Domain::of(&ty), plan, fills);
            compiler.write_rows(local)?;
            Ok::<_, String>(Box::new(compiler.finish().program))
        };
        match there {
            Some(slot) if slot.dtype == DType::F32 => Ok(Input::Direct(slot)),
            Some(slot) => {
                let types = [ty.clone()];
                let body = Body { steps: &[], operands: &types, slots: &[slot], aliased: &[false] };
                let program = compile(body, Local::Operand(0), self.plan, &mut self.fills)?;
                Ok(if slot.dtype == DType::Bf16 {
                    Input::Bf16(slot, program)
                } else {
                    Input::Program(program)
                })
            }
            None => compile(self.body, local, self.plan, &mut self.fills).map(Input::Program),
        }
    }
}

impl Convolution {
    /// What its convolutions compute, and how.
    pub fn method(&self) -> (Direction, Method) {
        (self.site.direction, self.method)
    }

    /// What the choice of the method goes by.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Compiles a group of convolutions whose values `results` go to those places.
    ///
    /// # Errors
    ///
    /// What cannot run as one launch, in words.
    pub fn compile(
        steps: &[Step],
        operands: &[ValueType],
        slots: &[Slot],
        results: &[(Local, Slot)],
        settings: &Settings,
        plan: &mut Plan,
    ) -> Result<Convolution, String> {
        if slots.iter().any(|slot| results.iter().any(|r| r.1.overlaps(slot))) {
            return Err("a result lies on an operand".to_owned());
        }
        let aliased = vec![false; slots.len()];
        let body = Body { steps, operands, slots, aliased: &aliased };
        let convolutions = convolutions_before(steps);
        let first = steps.iter().find(|s| is_convolution(&s.op)).ok_or("no convolution")?;
        let geometry = geometry(&body, first)?;
        // What no convolution takes part in.
        let apart = |r: &&(Local, Slot)| match r.0 {
            Local::Step { step, .. } => convolutions[step as usize].is_empty(),
            Local::Operand(_) => false,
        };
        let early: Vec<(Local, Slot)> = results.iter().filter(apart).copied().collect();
        let before = match early.is_empty() {
            true => None,
            false => Some(Pointwise::compile(steps, operands, slots, &early, plan)?),
        };
        let late: Vec<(Local, Slot)> = results.iter().filter(|r| !apart(r)).copied().collect();
        let maker = Maker { settings, body, results, convolutions: &convolutions, plan, fills: Vec::new() };
        let mut made = match first.op {
            Op::Conv2dGradWeight { .. } => weights(maker, geometry, &late)?,
            _ => rows(maker, geometry, first, &late)?,
        };
        made.before = before;
        Ok(made)
    }

    /// Workspace beside the launch's own memory.
    pub fn need(&self) -> Need {
        let mut need = Need::default();
        let program = |need: &mut Need, p: &Program| {
            need.include(Need { tile: p.scratch(), sums: p.sums, ..Need::default() });
        };
        let input = |need: &mut Need, x: &Input| {
            if let Input::Program(p) | Input::Bf16(_, p) = x {
                program(need, p);
            }
        };
        match &self.body {
            Work::Rows { backward, shares, .. } => {
                let images: Vec<usize> = shares.iter().map(|s| s.images).collect();
                need.include(convolution::need(self.method, &self.geometry, *backward, &images));
                for share in shares {
                    input(&mut need, &share.x);
                    share.epilogue.iter().for_each(|p| program(&mut need, p));
                }
            }
            Work::Weights(sums) => {
                for sum in sums {
                    let images: Vec<usize> = sum.shares.iter().map(|s| s.images).collect();
                    need.include(grad_weight_need(self.method, &self.geometry, &images));
                    for share in &sum.shares {
                        input(&mut need, &share.x);
                        input(&mut need, &share.dy);
                    }
                }
            }
        }
        need.partials += self.tasks * self.stride;
        for other in self.before.iter().chain(&self.after) {
            need.include(other.need());
        }
        need
    }

    /// Runs the launch.
    pub fn run(&self, machine: &mut Machine<'_>, memory: Memory<'_>) {
        if let Some(before) = &self.before {
            before.run(machine, memory);
        }
        for fill in &self.fills {
            fill.run(memory);
        }
        match &self.body {
            Work::Rows { backward, weight, shares } => {
                self.run_rows(machine, memory, *backward, *weight, shares);
            }
            Work::Weights(sums) => {
                for sum in sums {
                    self.run_weights(machine, memory, sum);
                }
            }
        }
        if let Some(after) = &self.after {
            after.run(machine, memory);
        }
    }

    fn run_rows(
        &self,
        machine: &mut Machine<'_>,
        memory: Memory<'_>,
        backward: bool,
        weight: Slot,
        shares: &[Share],
    ) {
        let (mut machine, partials) = machine.with_partials(self.tasks * self.stride);
        clear(partials, self.stride);
        let epilogue = Epilogue { shares, memory, partials: Cells::new(partials), stride: self.stride };
        let sources: [Source<'_>; PARTS] = std::array::from_fn(|i| match shares.get(i) {
            Some(share) => Source::new(&share.x, share.channels, memory),
            None => Source::NONE,
        });
        let mut parts: [Part<'_>; PARTS] = std::array::from_fn(|i| Part {
            images: shares.get(i).map_or(0, |s| s.images),
            x: &sources[i],
            // SAFETY: results lie apart from each other and from all operands, and each is written by one part.
            out: shares.get(i).and_then(|s| s.out).map(|slot| unsafe { memory.view_mut(slot) }),
        });
        // SAFETY: nothing writes the weight; its element type is matched.
        let weights = unsafe {
            match weight.dtype {
                DType::Bf16 => Weights::Bf16(memory.view(weight)),
                _ => Weights::F32(memory.view(weight)),
            }
        };
        let emit: Option<&dyn Emit> = match shares.iter().any(|s| s.epilogue.is_some()) {
            true => Some(&epilogue),
            false => None,
        };
        let parts = &mut parts[..shares.len()];
        convolution::run(&mut machine, self.method, &self.geometry, backward, weights, parts, emit);
        self.finish.run(machine.level, memory, partials, self.stride);
    }

    fn run_weights(&self, machine: &mut Machine<'_>, memory: Memory<'_>, sum: &GradSum) {
        let g = &self.geometry;
        let shares = &sum.shares;
        let source = |i: usize, dy: bool| match shares.get(i) {
            Some(share) if dy => Source::new(&share.dy, g.outputs, memory),
            Some(share) => Source::new(&share.x, g.inputs, memory),
            None => Source::NONE,
        };
        let xs: [Source<'_>; PARTS] = std::array::from_fn(|i| source(i, false));
        let dys: [Source<'_>; PARTS] = std::array::from_fn(|i| source(i, true));
        let parts: [GradPart<'_>; PARTS] = std::array::from_fn(|i| GradPart {
            images: shares.get(i).map_or(0, |s| s.images),
            x: &xs[i],
            dy: &dys[i],
        });
        // SAFETY: the result lies apart from all operands and is written by this call alone.
        let out = unsafe { memory.view_mut(sum.out) };
        grad_weight(machine, self.method, g, &parts[..shares.len()], out);
    }
}

/// Compiles forward convolutions or input gradients.
fn rows(
    mut maker: Maker<'_, '_>,
    geometry: Geometry,
    first: &Step,
    results: &[(Local, Slot)],
) -> Result<Convolution, String> {
    let body = maker.body;
    let after = after_sums(&body)?;
    let wanted: Vec<Local> = results.iter().map(|r| r.0).collect();
    let needed = needed(body.steps, &wanted);
    let &Local::Operand(weight) = first.operands.get(1).ok_or("a weight is missing")? else {
        return Err("a weight that the group makes itself".to_owned());
    };
    let backward = matches!(first.op, Op::Conv2dGradInput { .. });
    let mut finish = Finish::default();
    let mut shares = Vec::new();
    let mut stride = 0;
    let of = |local: Local| match local {
        Local::Step { step, .. } => maker.convolutions[step as usize].as_slice(),
        Local::Operand(_) => &[],
    };
    for &(local, _) in results {
        if of(local).len() > 1
            && let Local::Step { step, .. } = local
            && !after[step as usize]
        {
            return Err("a value of several convolutions".to_owned());
        }
    }
    let all: Vec<usize> =
        (0..body.steps.len()).filter(|&i| is_convolution(&body.steps[i].op) && needed[i]).collect();
    if all.len() > PARTS {
        return Err(format!("{} convolutions", all.len()));
    }
    for (number, &index) in all.iter().enumerate() {
        let step = &body.steps[index];
        let raw = Local::Step { step: index as u32, result: 0 };
        let ty = &step.results[0];
        check_rows(ty)?;
        let mut stores: Vec<(Local, Slot)> = Vec::new();
        let mut out = None;
        for &(local, slot) in results {
            let Local::Step { step, .. } = local else { continue };
            if maker.convolutions[step as usize] != [index] || after[step as usize] {
                continue;
            }
            if local == raw && slot.dtype == DType::F32 && out.is_none() {
                out = Some(slot);
            } else {
                stores.push((local, slot));
            }
        }
        let mut sums = Vec::new();
        for (i, s) in body.steps.iter().enumerate().filter(|(i, _)| needed[*i]) {
            let types = s.operands.iter().map(|&l| body.ty(l)).collect::<Result<Vec<_>, _>>()?;
            if !gathers(s, &types) {
                continue;
            }
            match maker.convolutions[i].as_slice() {
                [one] if *one == index => sums.push(i),
                [_] => {}
                [] => return Err("a sum before the convolution, used behind it".to_owned()),
                _ => return Err("a sum over several convolutions".to_owned()),
            }
        }
        let x = *step.operands.first().ok_or("an operand is missing")?;
        let input = maker.input(x)?;
        let epilogue = if stores.is_empty() && sums.is_empty() {
            None
        } else {
            let mut compiler = Compiler::new(body, Domain::of(ty), maker.plan, &mut maker.fills);
            compiler.lend(raw)?;
            for &(local, slot) in &stores {
                if domain_of(&body, local)? != Domain::of(ty) {
                    return Err("a result of another shape than the convolution".to_owned());
                }
                compiler.store(local, slot)?;
            }
            for &sum in &sums {
                compiler.gather(sum)?;
            }
            let compiled = compiler.finish();
            finish.reduce(&body, results, number, &compiled, maker.plan)?;
            stride = stride.max(compiled.program.partials);
            Some(compiled.program)
        };
        let channels = if backward { geometry.outputs } else { geometry.inputs };
        shares.push(Share { images: ty.dims()[0], channels, x: input, out, epilogue });
    }
    for (i, step) in body.steps.iter().enumerate().filter(|(i, _)| needed[*i] && after[*i]) {
        let types = step.operands.iter().map(|&l| body.ty(l)).collect::<Result<Vec<_>, _>>()?;
        if !gathers(step, &types) {
            finish.vector(&body, results, i, maker.plan)?;
        }
    }
    finish.copies(results);
    let images: Vec<usize> = shares.iter().map(|s| s.images).collect();
    let direction = if backward { Direction::InputGradient } else { Direction::Forward };
    let bf16 =
        all.iter().try_fold(true, |bf16, &i| Ok::<_, String>(bf16 && rounded(&body, &body.steps[i])?))?;
    let site = Site { geometry, direction, images, bf16 };
    let method = maker.settings.method(&site);
    if method.asks_ahead(direction) {
        for share in &mut shares {
            share.x.asks_no_more();
            share.epilogue.iter_mut().for_each(|program| program.asks = false);
        }
    }
    let tasks = convolution::tasks(method, &geometry, backward, &site.images);
    Ok(Convolution {
        geometry,
        method,
        site,
        before: None,
        fills: maker.fills,
        body: Work::Rows { backward, weight: body.slots[weight as usize], shares },
        tasks,
        stride,
        finish,
        after: None,
    })
}

/// Compiles weight gradients and what follows them.
fn weights(
    mut maker: Maker<'_, '_>,
    geometry: Geometry,
    results: &[(Local, Slot)],
) -> Result<Convolution, String> {
    let body = maker.body;
    let wanted: Vec<Local> = results.iter().map(|r| r.0).collect();
    let needed = needed(body.steps, &wanted);
    // How often each step is read, by needed steps and as a result.
    let mut uses = vec![0usize; body.steps.len()];
    let read = body.steps.iter().enumerate().filter(|(i, _)| needed[*i]).flat_map(|(_, s)| &s.operands);
    for local in read.chain(wanted.iter()) {
        if let Local::Step { step, .. } = *local {
            uses[step as usize] += 1;
        }
    }
    // A sum is a weight gradient or an addition of two sums that nobody else reads.
    let mut parts: Vec<Vec<usize>> = Vec::with_capacity(body.steps.len());
    let mut inner = vec![false; body.steps.len()];
    for (i, step) in body.steps.iter().enumerate() {
        let taken: Vec<usize> = step
            .operands
            .iter()
            .filter_map(|l| match *l {
                Local::Step { step, .. } => Some(step as usize),
                Local::Operand(_) => None,
            })
            .collect();
        let adds = matches!(step.op, Op::Binary { kind: BinaryKind::Add })
            && taken.len() == 2
            && taken.iter().all(|&t| !parts[t].is_empty() && uses[t] == 1);
        parts.push(if is_convolution(&step.op) {
            vec![i]
        } else if adds {
            taken.iter().for_each(|&t| inner[t] = true);
            taken.iter().flat_map(|&t| parts[t].clone()).collect()
        } else {
            Vec::new()
        });
    }
    let mut steps = body.steps.to_vec();
    let (mut operands, mut slots) = (body.operands.to_vec(), body.slots.to_vec());
    let mut sums = Vec::new();
    let (mut bf16, mut images) = (true, Vec::new());
    for (root, convolutions) in parts.iter().enumerate() {
        if convolutions.is_empty() || inner[root] || !needed[root] {
            continue;
        }
        if convolutions.len() > PARTS {
            return Err(format!("{} convolutions", convolutions.len()));
        }
        let mut shares = Vec::new();
        for &c in convolutions {
            let [x, dy] = body.steps[c].operands.as_slice() else {
                return Err("a weight gradient of two operands".to_owned());
            };
            bf16 &= rounded(&body, &body.steps[c])?;
            let n = body.ty(*x)?.dims()[0];
            images.push(n);
            shares.push(GradShare { images: n, x: maker.input(*x)?, dy: maker.input(*dy)? });
        }
        let local = Local::Step { step: root as u32, result: 0 };
        let ty = body.ty(local)?;
        let out = match results.iter().find(|r| r.0 == local) {
            Some(result) => result.1,
            None => maker.plan.value(ty),
        };
        sums.push(GradSum { shares, out });
        // Behind it, the sum is an operand.
        let operand = Local::Operand(operands.len() as u32);
        operands.push(ty.clone());
        slots.push(out);
        for step in &mut steps {
            step.operands.iter_mut().filter(|l| **l == local).for_each(|l| *l = operand);
        }
    }
    let rest: Vec<(Local, Slot)> = results
        .iter()
        .filter(|r| !matches!(r.0, Local::Step { step, .. } if !parts[step as usize].is_empty()))
        .copied()
        .collect();
    if results.len() - rest.len() > sums.iter().filter(|s| results.iter().any(|r| r.1 == s.out)).count() {
        return Err("a weight gradient that is two results".to_owned());
    }
    let after = match rest.is_empty() {
        true => None,
        false => Some(Pointwise::compile(&steps, &operands, &slots, &rest, maker.plan)?),
    };
    let site = Site { geometry, direction: Direction::WeightGradient, images, bf16 };
    let method = maker.settings.method(&site);
    if method.asks_ahead(site.direction) {
        for share in sums.iter_mut().flat_map(|sum: &mut GradSum| &mut sum.shares) {
            share.x.asks_no_more();
            share.dy.asks_no_more();
        }
    }
    Ok(Convolution {
        geometry,
        method,
        site,
        before: None,
        fills: maker.fills,
        body: Work::Weights(sums),
        tasks: 0,
        stride: 0,
        finish: Finish::default(),
        after,
    })
}

/// Rows of an operand while a launch runs.
struct Source<'a> {
    channels: usize,
    direct: Option<&'a [f32]>,
    direct_bf16: Option<&'a [u16]>,
    program: Option<(&'a Program, Memory<'a>)>,
}

impl<'a> Source<'a> {
    const NONE: Source<'static> = Source { channels: 0, direct: None, direct_bf16: None, program: None };

    fn new(input: &'a Input, channels: usize, memory: Memory<'a>) -> Source<'a> {
        match input {
            Input::Direct(slot) => {
                // SAFETY: operands of a convolution lie apart from its results, so nothing writes there; it holds f32.
                let rows = unsafe { memory.view(*slot) };
                Source { channels, direct: Some(rows), ..Source::NONE }
            }
            Input::Bf16(slot, program) => {
                // SAFETY: as above; it holds bf16.
                let rows = unsafe { memory.view(*slot) };
                Source { channels, direct_bf16: Some(rows), program: Some((program, memory)), ..Source::NONE }
            }
            Input::Program(program) => Source { channels, program: Some((program, memory)), ..Source::NONE },
        }
    }
}

impl Rows for Source<'_> {
    fn channels(&self) -> usize {
        self.channels
    }

    fn direct(&self) -> Option<&[f32]> {
        self.direct
    }

    fn direct_bf16(&self) -> Option<&[u16]> {
        self.direct_bf16
    }

    fn load(&self, machine: &Machine<'_>, first: usize, count: usize, worker: usize, out: &mut [f32]) {
        if let Some(direct) = self.direct {
            out.copy_from_slice(&direct[first * self.channels..][..count * self.channels]);
        }
        if let Some((program, memory)) = self.program {
            program.run(machine, memory, worker, (first, count), Lent::Floats(out), None);
        }
    }

    fn list(&self, first: usize, count: usize, ahead: &mut Ahead) {
        let range = first * self.channels..(first + count) * self.channels;
        if let Some(direct) = self.direct {
            ahead.list(direct[range.clone()].as_ptr(), range.len());
        } else if let Some(direct) = self.direct_bf16 {
            ahead.list(direct[range.clone()].as_ptr(), range.len());
        } else if let Some((program, memory)) = self.program {
            program.list(memory, first, count, ahead);
        }
    }

    fn load_bf16(
        &self,
        machine: &Machine<'_>,
        first: usize,
        count: usize,
        worker: usize,
        out: &mut [u16],
    ) -> bool {
        match self.program {
            Some((program, memory)) if program.gives_halves() => {
                program.run(machine, memory, worker, (first, count), Lent::Halves(out), None);
                true
            }
            _ => false,
        }
    }
}

/// What runs on finished rows.
struct Epilogue<'a> {
    shares: &'a [Share],
    memory: Memory<'a>,
    partials: Cells<'a, f64>,
    stride: usize,
}

impl Emit for Epilogue<'_> {
    fn list(&self, run: Run, rows: usize, ahead: &mut Ahead) {
        if let Some(program) = &self.shares[run.part].epilogue {
            program.list(self.memory, run.first, rows, ahead);
        }
    }

    fn emit(&self, machine: &Machine<'_>, run: Run, rows: &mut [f32]) {
        let Some(program) = &self.shares[run.part].epilogue else { return };
        let count = rows.len() / program.domain.channels;
        // SAFETY: a task's partial sums are its own, and it emits one run at a time.
        let partial = unsafe { self.partials.range(run.task * self.stride, self.stride) };
        let partial = (program.partials > 0).then(|| {
            partial[0] = run.part as f64;
            partial
        });
        program.run(machine, self.memory, run.worker, (run.first, count), Lent::Floats(rows), partial);
    }
}
