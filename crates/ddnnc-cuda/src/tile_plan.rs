//! What the steps of a tile program are: maps, sums, and vectors that follow from sums.

use crate::chain::{Access, Chain, chain_at};
use ddnnc_ir::{Group, Layout, Local, Op, ReduceKind, ValueType, is_reduction, is_vector_step};
use std::fmt::Write as _;

/// A reduction.
#[derive(Clone, Debug)]
pub(crate) struct Sum {
    /// What it gives.
    pub results: Vec<Local>,
    /// What a plain sum is multiplied with.
    pub factor: f64,
    /// Mean and variance.
    pub statistics: bool,
    /// Of the gradients of gain and bias: eps, and the variance.
    pub eps: Option<(f64, Local)>,
    /// The numbers of the chain's values that it adds up.
    terms: Vec<usize>,
}

/// The sums that a value follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Rows,
    Channels,
}

/// The steps of a tile program.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Values with an element for each row and channel that are results: the first values of the chain.
    pub maps: Vec<Local>,
    /// Sums over rows: a number for each channel.
    pub channel_sums: Vec<Sum>,
    /// Sums over channels: a number for each row.
    pub row_sums: Vec<Sum>,
    /// The values that maps and sums need.
    pub chain: Chain,
    /// How many of the chain's inputs are read from memory at every element.
    pub wide_inputs: usize,
    /// Vector steps and what they follow.
    vectors: Vec<(Local, After)>,
}

/// Whether a value's elements lie in memory as rows of channels.
pub(crate) fn has_rows(ty: &ValueType) -> bool {
    let d = ty.dims();
    match ty.layout {
        Layout::ChannelsLast => d.len() == 4,
        Layout::RowMajor => d.len() >= 2 && d[2..].iter().product::<usize>() == 1,
    }
}

impl Plan {
    /// Of these steps of a group; `elements` is how many a map has.
    ///
    /// # Errors
    ///
    /// What is no map, sum or vector, and maps of other sizes.
    pub fn new(group: &Group, steps: &[usize], given: &[Local], elements: usize) -> Result<Plan, String> {
        let mut plan = Plan {
            maps: given.iter().copied().filter(|l| group.results.contains(l)).collect(),
            channel_sums: Vec::new(),
            row_sums: Vec::new(),
            chain: Chain::default(),
            wide_inputs: 0,
            vectors: Vec::new(),
        };
        let is_map = |local: Local| -> Result<(), String> {
            let ty = group.ty(local).ok_or("a value that is not there")?;
            let well = has_rows(ty) && ty.elements() == elements && elements > 0;
            if well { Ok(()) } else { Err(format!("{ty} among rows of other values")) }
        };
        let mut terms: Vec<(Local, Access)> = Vec::new();
        let mut wanted = |local: Local, access: Access| {
            terms.push((local, access));
            terms.len() - 1
        };
        for &s in steps {
            let step = group.steps.get(s).ok_or("a step that is not there")?;
            let local = |result: usize| Local::Step { step: s as u32, result: result as u32 };
            let results: Vec<Local> = (0..step.results.len()).map(local).collect();
            let types: Vec<&ValueType> = step.operands.iter().filter_map(|&l| group.ty(l)).collect();
            if is_reduction(&step.op, &types) {
                let x = step.operands[0];
                is_map(x)?;
                let mut sum = Sum { results, factor: 1.0, statistics: false, eps: None, terms: Vec::new() };
                sum.terms.push(wanted(x, Access::Element));
                match &step.op {
                    Op::ChannelStats => sum.statistics = true,
                    Op::NormalizeGradReduce { eps } => {
                        is_map(step.operands[3])?;
                        sum.terms.push(wanted(step.operands[1], Access::Channel));
                        sum.terms.push(wanted(step.operands[3], Access::Element));
                        sum.eps = Some((*eps, step.operands[2]));
                    }
                    Op::Reduce { kind, axes } => {
                        let count: usize = axes.iter().map(|&a| types[0].dims()[a]).product();
                        if *kind == ReduceKind::Mean {
                            sum.factor = 1.0 / count as f64;
                        }
                        if axes.as_slice() == [1] {
                            plan.row_sums.push(sum);
                            continue;
                        }
                    }
                    op => return Err(format!("{} in a tile", op.mnemonic())),
                }
                plan.channel_sums.push(sum);
                continue;
            }
            let after: Vec<After> = step.operands.iter().filter_map(|l| plan.after(l)).collect();
            if let Some(&first) = after.first() {
                if !is_vector_step(&step.op)
                    || after.contains(&After::Rows) && after.contains(&After::Channels)
                {
                    return Err(format!("{} of a sum", step.op.mnemonic()));
                }
                plan.vectors.push((local(0), first));
            } else if group.results.contains(&local(0)) {
                is_map(local(0))?;
                plan.maps.push(local(0));
            }
        }
        let mut all: Vec<(Local, Access)> = plan.maps.iter().map(|&l| (l, Access::Element)).collect();
        for sum in plan.channel_sums.iter_mut().chain(&mut plan.row_sums) {
            sum.terms.iter_mut().for_each(|t| *t += plan.maps.len());
        }
        all.append(&mut terms);
        plan.chain = chain_at(group, &all, given)?;
        let wide = |i: &&crate::chain::Input| i.access == Access::Element && !given.contains(&i.local);
        plan.wide_inputs = plan.chain.inputs.iter().filter(wide).count();
        for input in plan.chain.inputs.iter().filter(|i| i.access == Access::Element) {
            is_map(input.local)?;
        }
        Ok(plan)
    }

    fn after(&self, local: &Local) -> Option<After> {
        let gives = |sums: &[Sum]| sums.iter().any(|s| s.results.contains(local));
        if gives(&self.channel_sums) {
            Some(After::Rows)
        } else if gives(&self.row_sums) {
            Some(After::Channels)
        } else {
            self.vectors.iter().find(|v| v.0 == *local).map(|v| v.1)
        }
    }

    /// The vectors that follow from sums over rows, or over channels.
    pub fn vectors(&self, of_rows: bool) -> impl Iterator<Item = Local> {
        let which = if of_rows { After::Rows } else { After::Channels };
        self.vectors.iter().filter(move |v| v.1 == which).map(|v| v.0)
    }

    /// Maps in memory, read or written.
    pub fn in_memory(&self) -> Vec<Local> {
        let read = self.chain.inputs.iter().filter(|i| i.access == Access::Element).map(|i| i.local);
        read.chain(self.maps.iter().copied()).collect()
    }

    /// Plain sums over rows, and statistics.
    pub fn totals(&self) -> (usize, usize) {
        let stats = self.channel_sums.iter().filter(|s| s.statistics).count();
        let gains = self.channel_sums.iter().filter(|s| s.eps.is_some()).count();
        (self.channel_sums.len() - stats + gains, stats)
    }

    /// Statements that add the values of an element to the sums, and how many operations they are.
    pub fn adds(&self) -> (String, usize) {
        let (mut text, mut flops, mut sums, mut stats) = (String::new(), 0, 0, 0);
        for sum in &self.channel_sums {
            let x = sum.terms[0];
            if sum.statistics {
                let _ = writeln!(text, "u_totals.add({stats}, u_e, o{x}, u_share);");
                stats += 1;
                flops += 6;
            } else if sum.eps.is_some() {
                let (mean, dy) = (sum.terms[1], sum.terms[2]);
                let _ = writeln!(
                    text,
                    "u_totals.sum[{sums}][u_e] = fmaf(o{x} - o{mean}, o{dy}, u_totals.sum[{sums}][u_e]);\n\
                     u_totals.sum[{}][u_e] += o{dy};",
                    sums + 1
                );
                sums += 2;
                flops += 4;
            } else {
                let _ = writeln!(text, "u_totals.sum[{sums}][u_e] += o{x};");
                sums += 1;
                flops += 1;
            }
        }
        for (n, sum) in self.row_sums.iter().enumerate() {
            let _ = writeln!(text, "u_s{n} += o{};", sum.terms[0]);
            flops += 1;
        }
        (text, flops)
    }
}
