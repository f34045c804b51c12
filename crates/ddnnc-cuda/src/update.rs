//! All parameter updates of a step as one kernel over many tensors.
//!
//! Each tensor is cut into runs of elements, one per block; tables in the kernel's source say which tensor a block works
//! on and where its pointers stand among the parameters. Tensors that are updated alike share their code. The parameters
//! are pointers, one after the other, so that the kernel takes them as one struct and may count through them.

use crate::arch::Target;
use crate::code::{Argument, Cost, Kernel, LaunchCode};
use crate::ctext::float;
use crate::emit::PRELUDE;
use ddnnc_ir::{Group, Local, Op};
use indexmap::IndexMap;
use std::fmt::Write;

const THREADS: usize = 256;
/// Elements of a block at least and at most: four for each thread at a time.
const RUN: [usize; 2] = [4 * THREADS, 32 * THREADS];
/// Bytes of parameters that a kernel may have, from sm_70 and CUDA 12.1 on.
const PARAMETER_BYTES: usize = 32_764;

/// A tensor, or several of one size, updated by steps that follow from one another.
struct Chain {
    /// What is done, with places of pointers in the order in which `pointers` has them.
    code: String,
    /// Pointers: operands, then results.
    pointers: Vec<Argument>,
    /// Factors that differ from tensor to tensor, in the order in which the code names them.
    factors: Vec<f32>,
    elements: usize,
    flops: usize,
    read: usize,
    written: usize,
}

/// The kernel of a group of updates.
///
/// # Errors
///
/// What is no update, or more tensors than a kernel has parameters for.
pub fn emit(group: &Group, target: &Target) -> Result<LaunchCode, String> {
    let mut chains = Vec::new();
    for steps in crate::parts::connected(group) {
        let chain = chain(group, &steps)?;
        if chain.elements > 0 {
            chains.push(chain);
        }
    }
    if chains.is_empty() {
        return Ok(LaunchCode::default());
    }
    // Pointers, each once; a chain's begin where its own run of parameters does.
    let count: usize = chains.iter().map(|c| c.pointers.len()).sum();
    if count * 8 > PARAMETER_BYTES {
        return Err(format!("an update of {count} pointers; a kernel takes {}", PARAMETER_BYTES / 8));
    }
    let arguments: Vec<Argument> = chains.iter().flat_map(|c| c.pointers.iter().copied()).collect();
    let all: usize = chains.iter().map(|c| c.elements).sum();
    let run = (all / (8 * target.multiprocessors as usize)).clamp(RUN[0], RUN[1]).next_multiple_of(RUN[0]);
    let mut kinds: IndexMap<&str, usize> = IndexMap::new();
    let [mut first_block, mut first_pointer, mut first_factor, mut elements, mut kind] =
        [const { Vec::new() }; 5];
    let mut factors: Vec<String> = Vec::new();
    let (mut blocks, mut pointers) = (0, 0);
    for chain in &chains {
        let next = kinds.len();
        kind.push(*kinds.entry(&chain.code).or_insert(next));
        first_block.push(blocks);
        first_pointer.push(pointers);
        first_factor.push(factors.len());
        elements.push(chain.elements);
        factors.extend(chain.factors.iter().map(|&f| float(f64::from(f))));
        blocks += chain.elements.div_ceil(run);
        pointers += chain.pointers.len();
    }
    if factors.is_empty() {
        factors.push("0.f".to_owned());
    }
    let mut text = format!(
        "{PRELUDE}\n// {} tensors in runs of {run} elements.\nstruct Pointers {{ void* p[{count}]; }};\n",
        chains.len()
    );
    table(&mut text, "uint", "first_block", &first_block);
    table(&mut text, "ushort_t", "first_pointer", &first_pointer);
    table(&mut text, "ushort_t", "first_factor", &first_factor);
    table(&mut text, "uint", "elements", &elements);
    table(&mut text, "unsigned char", "kind", &kind);
    let _ = writeln!(text, "__device__ const float factors[] = {{{}}};", factors.join(", "));
    let _ = write!(
        text,
        r#"
extern "C" __global__ void BLOCK_OF({THREADS}) update(const __grid_constant__ Pointers pointers) {{
    // The last tensor whose first block is not behind this one.
    int low = 0, high = {};
    while (low < high) {{
        const int middle = (low + high + 1) / 2;
        if (first_block[middle] <= blockIdx.x) low = middle; else high = middle - 1;
    }}
    void* const* p = pointers.p + first_pointer[low];
    [[maybe_unused]] const float* factor = factors + first_factor[low];
    const uint from = (blockIdx.x - first_block[low]) * {run}u, to = min(from + {run}u, elements[low]);
    const int what = kind[low];
"#,
        chains.len() - 1
    );
    for (number, code) in kinds.keys().enumerate() {
        let lead = if number == 0 { "    " } else { " else " };
        let _ = write!(text, "{lead}if (what == {number}) {{\n{code}    }}");
    }
    text.push_str("\n}\n");
    let cost = Cost {
        matrix_flops: 0,
        vector_flops: chains.iter().map(|c| (c.flops * c.elements) as u64).sum(),
        bytes_read: chains.iter().map(|c| (4 * c.read * c.elements) as u64).sum(),
        bytes_written: chains.iter().map(|c| (4 * c.written * c.elements) as u64).sum(),
    };
    let kernel = Kernel {
        name: "update".to_owned(),
        source: text,
        grid: [u32::try_from(blocks).map_err(|_| "an update of too many elements")?, 1, 1],
        block: THREADS as u32,
        dynamic_shared: 0,
        arguments,
        cost,
        choice: format!("{} tensors in runs of {run}", chains.len()),
    };
    Ok(LaunchCode { kernels: vec![kernel], ..LaunchCode::default() })
}

fn table(text: &mut String, ctype: &str, name: &str, entries: &[usize]) {
    let entries: Vec<String> = entries.iter().map(usize::to_string).collect();
    let _ = writeln!(text, "__device__ const {ctype} {name}[] = {{{}}};", entries.join(", "));
}

/// The code of steps that follow from one another, on elements `from` to `to` of tensors of one size.
fn chain(group: &Group, steps: &[usize]) -> Result<Chain, String> {
    let mut made = Writer::default();
    let elements = group.steps[steps[0]].results[0].elements();
    let (mut body, mut flops) = (String::new(), 0);
    let mut results: Vec<(usize, String)> = Vec::new();
    for &s in steps {
        let step = &group.steps[s];
        if step.results.iter().any(|ty| ty.elements() != elements) {
            return Err("updates of several sizes that follow from one another".to_owned());
        }
        // Chains that are alike have equal text: steps are named by their number in the chain.
        let own = steps.iter().position(|&other| other == s).unwrap_or_default();
        let names: Vec<String> = (0..step.results.len()).map(|r| format!("s{own}_{r}")).collect();
        let operand = |made: &mut Writer, i: usize| made.element(step.operands[i], steps);
        match &step.op {
            Op::SgdUpdate { momentum, nesterov, weight_decay } => {
                let buffer = *momentum != 0.0;
                let (w, g) = (operand(&mut made, 0), operand(&mut made, 1));
                let lr = made.scalar(step.operands[step.operands.len() - 1], "");
                let (decay, keep) = (float(*weight_decay), float(*momentum));
                let [gradient, moved] = [format!("g{}", names[0]), format!("b{}", names[0])];
                let _ = writeln!(body, "const float {gradient} = __fmaf_rn({decay}, {w}, {g});");
                if buffer {
                    let b = operand(&mut made, 2);
                    let _ = writeln!(body, "const float {moved} = __fmaf_rn({keep}, {b}, {gradient});");
                } else {
                    let _ = writeln!(body, "const float {moved} = {gradient};");
                }
                let direction =
                    if *nesterov { format!("__fmaf_rn({keep}, {moved}, {gradient})") } else { moved.clone() };
                let _ = writeln!(body, "const float {} = __fmaf_rn(-{lr}, {direction}, {w});", names[0]);
                if buffer {
                    let _ = writeln!(body, "const float {} = {moved};", names[1]);
                }
                flops += 8;
            }
            Op::AdamwUpdate { beta1, beta2, eps, weight_decay } => {
                let [w, g, m, v] = [0, 1, 2, 3].map(|i| operand(&mut made, i));
                let lr = made.scalar(step.operands[4], "");
                // 1 − βᵗ without cancellation.
                let bias = |beta: f64| {
                    if beta > 0.0 { format!("-expm1f(@ * {})", float(beta.ln())) } else { "1.f".to_owned() }
                };
                let bias1 = made.scalar(step.operands[5], &bias(*beta1));
                let bias2 = made.scalar(step.operands[5], &bias(*beta2));
                let own = &names[0];
                let _ = writeln!(
                    body,
                    "const float {m1} = __fmaf_rn({b1}, {m}, {c1} * {g});\n\
                     const float {v1} = __fmaf_rn({b2}, {v}, {c2} * {g} * {g});\n\
                     const float d{own} = ({m1} / {bias1}) / (sqrtf({v1} / {bias2}) + {eps});\n\
                     const float {own} = __fmaf_rn(-{lr}, d{own}, {w} * (1.f - {lr} * {decay}));",
                    m1 = names[1],
                    v1 = names[2],
                    b1 = float(*beta1),
                    c1 = float(1.0 - beta1),
                    b2 = float(*beta2),
                    c2 = float(1.0 - beta2),
                    eps = float(*eps),
                    decay = float(*weight_decay),
                );
                flops += 18;
            }
            Op::Ema { momentum, scale } => {
                let (state, x) = (operand(&mut made, 0), operand(&mut made, 1));
                let keep = made.factor(1.0 - momentum);
                let take = made.factor(momentum * scale);
                let _ = writeln!(body, "const float {} = {keep} * {state} + {take} * {x};", names[0]);
                flops += 3;
            }
            op => return Err(format!("{} is no update", op.mnemonic())),
        }
        for (r, name) in names.into_iter().enumerate() {
            let local = Local::Step { step: s as u32, result: r as u32 };
            if let Some(i) = group.results.iter().position(|&l| l == local) {
                results.push((i, name));
            }
        }
    }
    Ok(made.finish(&body, &results, elements, flops))
}

#[derive(Default)]
struct Writer {
    /// Operands by number: whether they have the size of the chain (else they are one number).
    slots: IndexMap<usize, bool>,
    /// Declarations of scalars.
    scalars: String,
    factors: Vec<f32>,
}

impl Writer {
    fn slot(&mut self, operand: usize, whole: bool) -> usize {
        let (at, _) = self.slots.insert_full(operand, whole);
        at
    }

    /// The name of an element of an operand, or of a step before.
    fn element(&mut self, local: Local, steps: &[usize]) -> String {
        match local {
            Local::Operand(i) => format!("x{}[j]", self.slot(i as usize, true)),
            Local::Step { step, result } => {
                let at = steps.iter().position(|&s| s == step as usize).unwrap_or_default();
                format!("s{at}_{result}")
            }
        }
    }

    /// The name of a number that all elements share; `function` makes it of `@`, the operand's number.
    fn scalar(&mut self, local: Local, function: &str) -> String {
        let Local::Operand(i) = local else { return "NAN_F".to_owned() };
        let slot = self.slot(i as usize, false);
        let value = format!("*(const float*)p[{slot}]");
        let value = if function.is_empty() { value } else { function.replace('@', &value) };
        if let Some(at) = self.scalars.lines().position(|l| l.ends_with(&format!(" = {value};"))) {
            return format!("q{at}");
        }
        let name = format!("q{}", self.scalars.lines().count());
        let _ = writeln!(self.scalars, "        const float {name} = {value};");
        name
    }

    /// The name of a factor of this tensor.
    fn factor(&mut self, value: f64) -> String {
        self.factors.push(value as f32);
        format!("factor[{}]", self.factors.len() - 1)
    }

    fn finish(self, body: &str, results: &[(usize, String)], elements: usize, flops: usize) -> Chain {
        let mut pointers: Vec<Argument> = self.slots.keys().map(|&i| Argument::Operand(i)).collect();
        let first_result = pointers.len();
        pointers.extend(results.iter().map(|(i, _)| Argument::Result(*i)));
        let whole: Vec<usize> =
            self.slots.values().enumerate().filter(|(_, w)| **w).map(|(at, _)| at).collect();
        let body: String = body.lines().map(|line| format!("                {line}\n")).collect();
        let mut code = self.scalars.clone();
        // Four elements at a time; values begin at multiples of 64 bytes and runs at multiples of four elements.
        code.push_str(&format!(
            "        for (uint e = from + 4 * threadIdx.x; e < to; e += {}) {{\n",
            4 * THREADS
        ));
        code.push_str("            const int there = min(4u, to - e);\n");
        let (mut loads, mut stores) = ([String::new(), String::new()], [String::new(), String::new()]);
        for &at in &whole {
            let _ = writeln!(code, "            float x{at}[4];");
            let _ = writeln!(
                loads[0],
                "                {{ const float4 q = *(const float4*)((const float*)p[{at}] + e); \
                 x{at}[0] = q.x; x{at}[1] = q.y; x{at}[2] = q.z; x{at}[3] = q.w; }}"
            );
            let _ = writeln!(
                loads[1],
                "                for (int j = 0; j < 4; j++) x{at}[j] = j < there ? ((const float*)p[{at}])[e + j] : 0.f;"
            );
        }
        for (k, _) in results.iter().enumerate() {
            let at = first_result + k;
            let _ = writeln!(code, "            float y{k}[4];");
            let _ = writeln!(
                stores[0],
                "                *(float4*)((float*)p[{at}] + e) = make_float4(y{k}[0], y{k}[1], y{k}[2], y{k}[3]);"
            );
            let _ = writeln!(
                stores[1],
                "                for (int j = 0; j < 4; j++) if (j < there) ((float*)p[{at}])[e + j] = y{k}[j];"
            );
        }
        let unroll = "                #pragma unroll\n";
        let _ = write!(
            code,
            "            if (there == 4) {{\n{}            }} else {{\n{unroll}{}            }}\n",
            loads[0],
            loads[1].replace("\n                for", &format!("\n{unroll}                for")),
        );
        let made: String = results
            .iter()
            .enumerate()
            .map(|(k, (_, name))| format!("                y{k}[j] = {name};\n"))
            .collect();
        let _ = write!(
            code,
            "            #pragma unroll\n            for (int j = 0; j < 4; j++) {{\n{body}{made}            }}\n"
        );
        let _ = write!(
            code,
            "            if (there == 4) {{\n{}            }} else {{\n{unroll}{}            }}\n        }}\n",
            stores[0],
            stores[1].replace("\n                for", &format!("\n{unroll}                for")),
        );
        Chain {
            code,
            pointers,
            factors: self.factors,
            elements,
            flops,
            read: whole.len(),
            written: results.len(),
        }
    }
}
