//! Declarations of variables: alignment, type, extent and initial values.

use crate::inst::{Space, Type, Variable};
use crate::number;
use crate::parse::{Parser, Wrong};

/// The rest of a declaration after its state space, to the `;`.
pub(crate) fn variables<'a>(
    p: &mut Parser<'a>,
    space: Space,
    external: bool,
) -> Result<Vec<(&'a str, Variable)>, Wrong> {
    let found = variable_list(p, space, external, true)?;
    p.expect(";")?;
    Ok(found)
}

/// One parameter of a kernel, after `.param`.
pub(crate) fn parameter<'a>(p: &mut Parser<'a>) -> Result<Vec<(&'a str, Variable)>, Wrong> {
    variable_list(p, Space::Param, false, false)
}

fn variable_list<'a>(
    p: &mut Parser<'a>,
    space: Space,
    external: bool,
    several: bool,
) -> Result<Vec<(&'a str, Variable)>, Wrong> {
    let (mut align, mut count, mut pointer) = (None, 1, false);
    let mut ty: Option<Type> = None;
    let mut found = Vec::new();
    loop {
        let (line, word) = (p.line(), p.word("the name of a variable")?);
        match word {
            ".align" => {
                let bytes = p.number("an alignment")?;
                if !bytes.is_power_of_two() || bytes > 1 << 20 {
                    return Err((line, format!("an alignment of {bytes} is not a power of two")));
                }
                // After `.ptr` it tells of what the pointer points to.
                if !pointer {
                    align = Some(bytes);
                }
            }
            ".ptr" if space == Space::Param => pointer = true,
            ".global" | ".const" | ".shared" | ".local" if pointer => {}
            ".v2" => count = 2,
            ".v4" => count = 4,
            _ if word.starts_with('.') => {
                let read = Type::ALL.into_iter().find(|t| t.name() == &word[1..]);
                ty = Some(
                    read.filter(|t| *t != Type::Pred)
                        .ok_or_else(|| (line, format!("`{word}` of a variable is not executed")))?,
                );
            }
            name => {
                let Some(ty) = ty else {
                    return Err((line, format!("variable `{name}` has no type")));
                };
                let element = u64::from(ty.bits() / 8) * count;
                let (bytes, init) = extent(p, ty, element, space, external)?;
                let align = align.unwrap_or(element);
                let dynamic = external && space == Space::Shared;
                let name_owned = name.to_owned();
                found.push((name, Variable { name: name_owned, space, bytes, align, dynamic, init }));
                if !(several && p.take(",")) {
                    return Ok(found);
                }
            }
        }
    }
}

/// `[4][8] = {…}` after a variable's name: its bytes, and the initial ones.
fn extent(
    p: &mut Parser,
    ty: Type,
    element: u64,
    space: Space,
    external: bool,
) -> Result<(u64, Vec<u8>), Wrong> {
    let line = p.line();
    let mut bytes = element;
    let mut open = false;
    while p.take("[") {
        if p.take("]") {
            open = true;
            continue;
        }
        let count = p.number("the extent of an array")?;
        bytes = bytes.checked_mul(count).ok_or((line, "the array is too large".to_owned()))?;
        p.expect("]")?;
    }
    let mut init = Vec::new();
    if p.take("=") {
        if !matches!(space, Space::Global | Space::Const) {
            return Err((line, "only `.global` and `.const` variables have initial values".to_owned()));
        }
        initial(p, ty, &mut init)?;
        if open {
            // The one extent that is left out is counted.
            bytes = bytes.max(1) * (init.len() as u64).div_ceil(bytes.max(1));
        }
        if init.len() as u64 > bytes {
            return Err((line, format!("{} initial bytes for a variable of {bytes}", init.len())));
        }
        init.resize(bytes as usize, 0);
    } else if open {
        if !(external && space == Space::Shared) {
            return Err((line, "only `.extern .shared` arrays may have no extent".to_owned()));
        }
        bytes = 0;
    }
    Ok((bytes, init))
}

fn initial(p: &mut Parser, ty: Type, init: &mut Vec<u8>) -> Result<(), Wrong> {
    if p.take("{") {
        while !p.take("}") {
            initial(p, ty, init)?;
            if !p.take(",") {
                p.expect("}")?;
                break;
            }
        }
        return Ok(());
    }
    let line = p.line();
    let minus = p.take("-");
    let word = p.word("an initial value")?;
    let number = word.starts_with(|c: char| c.is_ascii_digit());
    if !number {
        return Err((line, format!("the address `{word}` as an initial value is not executed")));
    }
    let bits = number::bits(word, minus, ty).map_err(|message| (line, message))?;
    init.extend_from_slice(&bits.to_le_bytes()[..(ty.bits() / 8).min(8) as usize]);
    Ok(())
}
