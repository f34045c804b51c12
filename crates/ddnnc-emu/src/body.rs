//! The body of a kernel: declarations, scopes, labels, and instructions to be decoded.

use crate::declaration::variables;
use crate::decode;
use crate::inst::{Inst, Kernel, Op, Reg, Space, Type};
use crate::instruction::{Instruction, Operand};
use crate::names::{Names, Symbol};
use crate::number;
use crate::parse::{Parser, Wrong};
use crate::source;
use smallvec::SmallVec;

/// A jump whose target is looked up when all labels are known.
struct Jump<'a> {
    /// The instruction.
    index: usize,
    /// Where it was seen from.
    scope: usize,
    label: &'a str,
}

/// Reads a kernel's body after its `{`, to its `}`. `first` is the number of the kernel's first variable.
pub(crate) fn read<'a>(
    p: &mut Parser<'a>,
    kernel: &mut Kernel,
    first: u32,
    names: &mut Names<'a>,
) -> Result<(), Wrong> {
    let mut jumps = Vec::new();
    loop {
        let line = p.line();
        if p.take("{") {
            names.open();
            continue;
        }
        if p.take("}") {
            if names.close() {
                continue;
            }
            break;
        }
        if p.take(";") {
            continue;
        }
        let guard = if p.take("@") { Some(guard(p, names)?) } else { None };
        let word = p.word("an instruction")?;
        if guard.is_some() || !word.starts_with('.') {
            if guard.is_none() && p.take(":") {
                label(p, kernel, names, word).map_err(|(at, m)| (at.unwrap_or(line), m))?;
                continue;
            }
            instruction(p, kernel, names, &mut jumps, (line, guard, word))?;
            continue;
        }
        match word {
            ".reg" => registers(p, names, None)?,
            // The type may follow without a space: `.reg.b32 x;`.
            _ if word.starts_with(".reg.") => registers(p, names, Some(&word[4..]))?,
            ".shared" | ".local" => {
                let space = if word == ".shared" { Space::Shared } else { Space::Local };
                for (name, variable) in variables(p, space, false)? {
                    let number = first + kernel.variables.len() as u32;
                    names.declare_variable(name, Symbol { number, space }).map_err(|m| (line, m))?;
                    kernel.variables.push(variable);
                }
            }
            ".param" => {
                return Err((
                    line,
                    "calls are not executed; device functions must be `__forceinline__`".to_owned(),
                ));
            }
            ".pragma" => p.pragma()?,
            ".loc" => kernel.locs.push(source::loc(p, kernel.code.len() as u32)?),
            ".file" => p.file()?,
            _ => return Err((line, format!("directive `{word}` in a kernel is not executed"))),
        }
    }
    kernel.registers = names.counts();
    resolve(kernel, names, &jumps)
}

fn guard(p: &mut Parser, names: &Names) -> Result<(Reg, bool), Wrong> {
    let line = p.line();
    let not = p.take("!");
    let name = p.word("a predicate")?;
    match names.register(name) {
        Some(reg) if reg.file == Type::Pred.file() => Ok((reg, not)),
        Some(_) => Err((line, format!("register `{name}` is not a predicate"))),
        None => Err((line, format!("register `{name}` is not declared"))),
    }
}

/// What follows `name:`, which is an instruction, or a list of labels to jump to.
fn label<'a>(
    p: &mut Parser<'a>,
    kernel: &Kernel,
    names: &mut Names<'a>,
    name: &'a str,
) -> Result<(), (Option<u32>, String)> {
    let here = |message| (None, message);
    let there = |(line, message)| (Some(line), message);
    if p.take(".branchtargets") {
        let mut labels = vec![p.word("a label").map_err(there)?];
        while p.take(",") {
            labels.push(p.word("a label").map_err(there)?);
        }
        p.expect(";").map_err(there)?;
        return names.declare_list(name, labels).map_err(here);
    }
    if p.peek().is_some_and(|t| matches!(t.text, ".callprototype" | ".calltargets")) {
        return Err(here("calls are not executed; device functions must be `__forceinline__`".to_owned()));
    }
    names.declare_label(name, kernel.code.len() as u32).map_err(here)
}

/// `.reg .b32 %r<40>, %x;`
fn registers<'a>(p: &mut Parser<'a>, names: &mut Names<'a>, ty: Option<&'a str>) -> Result<(), Wrong> {
    let line = p.line();
    let word = match ty {
        Some(word) => word,
        None => p.word("the type of registers")?,
    };
    let ty = Type::ALL.into_iter().find(|t| word.strip_prefix('.') == Some(t.name()));
    let Some(ty) = ty else {
        return Err((line, format!("registers of type `{word}` are not executed")));
    };
    loop {
        let line = p.line();
        let name = p.word("the name of a register")?;
        let declared = if p.take("<") {
            let count = p.number("a number of registers")?;
            p.expect(">")?;
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            names.declare_registers(name, count, ty.file())
        } else {
            names.declare_register(name, ty.file())
        };
        declared.map_err(|message| (line, message))?;
        if !p.take(",") {
            return p.expect(";");
        }
    }
}

fn instruction<'a>(
    p: &mut Parser<'a>,
    kernel: &mut Kernel,
    names: &Names<'a>,
    jumps: &mut Vec<Jump<'a>>,
    (line, guard, opcode): (u32, Option<(Reg, bool)>, &'a str),
) -> Result<(), Wrong> {
    let mut operands = SmallVec::new();
    if opcode == "call" || opcode.starts_with("call.") {
        let message =
            format!("opcode `{opcode}` is not executed; device functions must be `__forceinline__`");
        return Err((line, message));
    }
    if !p.take(";") {
        loop {
            operands.push(operand(p)?);
            if !p.take(",") {
                break;
            }
        }
        p.expect(";")?;
    }
    let mut instruction = Instruction::new(opcode, operands, names);
    let op = decode::decode(&mut instruction).map_err(|message| (line, message))?;
    for &label in &instruction.labels {
        jumps.push(Jump { index: kernel.code.len(), scope: names.scope(), label });
    }
    kernel.code.push(Inst { guard, op, line });
    Ok(())
}

fn operand<'a>(p: &mut Parser<'a>) -> Result<Operand<'a>, Wrong> {
    if p.take("{") {
        let mut parts = Vec::new();
        loop {
            parts.push(operand(p)?);
            if !p.take(",") {
                break;
            }
        }
        p.expect("}")?;
        return Ok(Operand::Vector(parts));
    }
    if p.take("[") {
        let base = p.word("an address")?;
        let offset = offset(p)?;
        p.expect("]")?;
        return Ok(Operand::Memory { base, offset });
    }
    let not = p.take("!");
    let minus = !not && p.take("-");
    let text = p.word("an operand")?;
    if p.take("|") {
        return Ok(Operand::Pair(text, p.word("a predicate")?));
    }
    Ok(Operand::Plain { text, not, minus, offset: offset(p)? })
}

/// `+8`, `-8`, `+-8` or nothing.
fn offset(p: &mut Parser) -> Result<i64, Wrong> {
    let plus = p.take("+");
    let minus = p.take("-");
    if !plus && !minus {
        return Ok(0);
    }
    let line = p.line();
    let word = p.word("an offset")?;
    let value = number::integer(word).ok_or((line, format!("expected an offset, found `{word}`")))?;
    let value = if minus { -value } else { value };
    i64::try_from(value).map_err(|_| (line, format!("the offset `{word}` is too large")))
}

/// Fills in the targets of jumps.
fn resolve(kernel: &mut Kernel, names: &Names, jumps: &[Jump]) -> Result<(), Wrong> {
    for &Jump { index, scope, label } in jumps {
        let inst = &mut kernel.code[index];
        let line = inst.line;
        let find =
            |label| names.label(scope, label).ok_or((line, format!("label `{label}` is not declared")));
        match &mut inst.op {
            Op::Bra { target } => *target = find(label)?,
            Op::Brx { targets, .. } => {
                let list = names.list(scope, label);
                let list = list.ok_or((line, format!("the list `{label}` of targets is not declared")))?;
                *targets = list.into_iter().map(find).collect::<Result<_, _>>()?;
            }
            _ => {}
        }
    }
    // A label may stand at the end, or the last instruction may be guarded: there the kernel ends.
    let end = kernel.code.len() as u32;
    let reached = |inst: &Inst| match &inst.op {
        Op::Bra { target } => *target == end,
        Op::Brx { targets, .. } => targets.contains(&end),
        _ => false,
    };
    let last = kernel.code.last();
    let closed = last.is_some_and(|inst| {
        inst.guard.is_none()
            && matches!(inst.op, Op::Ret | Op::Exit | Op::Trap | Op::Bra { .. } | Op::Brx { .. })
    });
    let line = last.map_or(1, |inst| inst.line);
    if !closed || kernel.code.iter().any(reached) {
        kernel.code.push(Inst { guard: None, op: Op::Ret, line });
    }
    Ok(())
}
