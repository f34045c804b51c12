//! Logic, shifts, bit fields, bytes, moves and selections.

use crate::integers::{edges, number};
use crate::suite::Expect::Bits;
use crate::suite::{Suite, mask, pairs, singles, triples};
use ddnnc_emu::inst::Type;

const AMOUNTS: [u64; 12] = [0, 1, 5, 15, 16, 17, 31, 32, 33, 63, 64, 0xffff_ffff];

fn bit(value: u64, at: u32) -> u64 {
    value >> at & 1
}

pub fn cases(suite: &mut Suite) {
    logic(suite);
    shifts(suite);
    counts(suite);
    fields(suite);
    words(suite);
    moves(suite);
    packs(suite);
}

fn logic(suite: &mut Suite) {
    for ty in [Type::Pred, Type::B16, Type::B32, Type::B64] {
        let values = if ty == Type::Pred { vec![0, 1] } else { edges(ty) };
        let two = pairs(&values, &values);
        for (op, f) in [
            ("and", (|a, b| a & b) as fn(u64, u64) -> u64),
            ("or", |a, b| a | b),
            ("xor", |a, b| a ^ b),
        ] {
            let instruction = format!("{op}.{} %d, %a, %b;", ty.name());
            suite.check(&instruction, ty, &[ty; 2], &two, |v| Bits(mask(f(v[0], v[1]), ty)));
        }
        let one = singles(&values);
        suite.check(&format!("not.{} %d, %a;", ty.name()), ty, &[ty], &one, |v| Bits(mask(!v[0], ty)));
        if ty != Type::Pred {
            suite.check(&format!("cnot.{} %d, %a;", ty.name()), ty, &[ty], &one, |v| Bits(u64::from(v[0] == 0)));
        }
    }
}

fn shifts(suite: &mut Suite) {
    for ty in [Type::B16, Type::B32, Type::B64] {
        let values = pairs(&edges(ty), &AMOUNTS);
        suite.check(&format!("shl.{} %d, %a, %b;", ty.name()), ty, &[ty, Type::U32], &values, |v| {
            // Amounts beyond the width are the width.
            Bits(if v[1] >= u64::from(ty.bits()) { 0 } else { mask(v[0] << v[1], ty) })
        });
    }
    use Type::{B16, B32, B64, S16, S32, S64, U16, U32, U64};
    for ty in [B16, B32, B64, U16, U32, U64, S16, S32, S64] {
        let values = pairs(&edges(ty), &AMOUNTS);
        suite.check(&format!("shr.{} %d, %a, %b;", ty.name()), ty, &[ty, Type::U32], &values, |v| {
            let amount = v[1].min(u64::from(ty.bits()));
            Bits(mask((number(v[0], ty) >> amount) as u64, ty))
        });
    }
    let values = triples(&edges(Type::B32)[3..9], &edges(Type::B32)[4..], &AMOUNTS);
    for left in [true, false] {
        for clamp in [true, false] {
            let instruction = format!(
                "shf.{}.{}.b32 %d, %a, %b, %c;",
                if left { "l" } else { "r" },
                if clamp { "clamp" } else { "wrap" }
            );
            suite.check(&instruction, Type::B32, &[Type::B32; 3], &values, |v| {
                let n = if clamp { v[2].min(32) } else { v[2] & 31 };
                let both = u128::from(v[1] << 32 | v[0]);
                Bits(mask(if left { ((both << n) >> 32) as u64 } else { (both >> n) as u64 }, Type::B32))
            });
        }
    }
}

fn counts(suite: &mut Suite) {
    for ty in [Type::B32, Type::B64] {
        let mut values = edges(ty);
        values.extend((0..ty.bits()).map(|i| 1u64 << i));
        let values = singles(&values);
        let (name, width) = (ty.name(), ty.bits());
        suite.check(&format!("popc.{name} %d, %a;"), Type::U32, &[ty], &values, |v| {
            Bits((0..width).map(|i| bit(v[0], i)).sum())
        });
        suite.check(&format!("clz.{name} %d, %a;"), Type::U32, &[ty], &values, |v| {
            Bits((0..width).rev().take_while(|i| bit(v[0], *i) == 0).count() as u64)
        });
        suite.check(&format!("brev.{name} %d, %a;"), ty, &[ty], &values, |v| {
            Bits((0..width).map(|i| bit(v[0], i) << (width - 1 - i)).sum())
        });
    }
    for ty in [Type::U32, Type::S32, Type::U64, Type::S64] {
        let mut values = edges(ty);
        values.extend((0..ty.bits()).flat_map(|i| [1u64 << i, mask(!(1u64 << i), ty)]));
        let values = singles(&values);
        for amount in [false, true] {
            let instruction = format!("bfind{}.{} %d, %a;", if amount { ".shiftamt" } else { "" }, ty.name());
            suite.check(&instruction, Type::U32, &[ty], &values, |v| {
                let msb = ty.bits() - 1;
                let negative = ty.is_signed() && bit(v[0], msb) == 1;
                let a = if negative { !v[0] } else { v[0] };
                let found = (0..=msb).rev().find(|i| bit(a, *i) == 1);
                Bits(found.map_or(0xffff_ffff, |i| u64::from(if amount { msb - i } else { i })))
            });
        }
    }
}

fn fields(suite: &mut Suite) {
    const PLACES: [u64; 9] = [0, 1, 7, 31, 32, 40, 63, 255, 256 + 3];
    for ty in [Type::U32, Type::S32, Type::U64, Type::S64] {
        let values: Vec<Vec<u64>> = triples(&edges(ty), &PLACES, &PLACES);
        suite.check(&format!("bfe.{} %d, %a, %b, %c;", ty.name()), ty, &[ty, Type::U32, Type::U32], &values, |v| {
            let msb = ty.bits() - 1;
            let (position, length) = ((v[1] & 0xff) as u32, (v[2] & 0xff) as u32);
            let sign = if !ty.is_signed() || length == 0 { 0 } else { bit(v[0], (position + length - 1).min(msb)) };
            let place = |i| if i < length && position + i <= msb { bit(v[0], position + i) } else { sign };
            Bits((0..=msb).map(|i| place(i) << i).sum())
        });
    }
    for ty in [Type::B32, Type::B64] {
        let values: Vec<Vec<u64>> = pairs(&edges(ty)[4..10], &edges(ty)[4..10])
            .into_iter()
            .flat_map(|ab| pairs(&PLACES, &PLACES).into_iter().map(move |pl| [ab.clone(), pl].concat()))
            .collect();
        let operands = [ty, ty, Type::U32, Type::U32];
        suite.check(&format!("bfi.{} %d, %a, %b, %c, %e;", ty.name()), ty, &operands, &values, |v| {
            let msb = ty.bits() - 1;
            let (position, length) = ((v[2] & 0xff) as u32, (v[3] & 0xff) as u32);
            let mut f = v[1];
            for i in (0..length).take_while(|i| position + i <= msb) {
                f = f & !(1 << (position + i)) | bit(v[0], i) << (position + i);
            }
            Bits(f)
        });
    }
}

fn words(suite: &mut Suite) {
    let values = triples(&edges(Type::B32)[4..10], &edges(Type::B32)[4..10], &edges(Type::B32)[4..10]);
    for table in [0u32, 1, 0x80, 0xe8, 0x96, 0xca, 0x3c, 0xff] {
        suite.check(&format!("lop3.b32 %d, %a, %b, %c, {table:#x};"), Type::B32, &[Type::B32; 3], &values, |v| {
            let place = |i| u64::from(table >> (bit(v[0], i) << 2 | bit(v[1], i) << 1 | bit(v[2], i)) & 1);
            Bits((0..32).map(|i| place(i) << i).sum())
        });
    }
    let selections = [0x3210, 0x7654, 0x0123, 0xba98, 0xfedc, 0x5410, 0x8f3c, 0xffff_3210];
    let values = triples(&[0x7f80_01ff, 0x8899_aabb], &[0x0102_8384, 0xfffe_7d7c], &selections);
    suite.check("prmt.b32 %d, %a, %b, %c;", Type::B32, &[Type::B32; 3], &values, |v| {
        let source = v[1] << 32 | v[0];
        let byte = |i: u32| {
            let control = v[2] >> (4 * i) & 0xf;
            let byte = source >> (8 * (control & 7)) & 0xff;
            if control >> 3 == 0 { byte } else { byte.wrapping_shr(7) * 0xff }
        };
        Bits((0..4).map(|i| byte(i) << (8 * i)).sum())
    });
}

fn moves(suite: &mut Suite) {
    use Type::{B16, B32, B64, F32, F64, Pred, S16, S32, S64, U16, U32, U64};
    for ty in [Pred, B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64] {
        let values = if ty == Pred { vec![0, 1] } else { edges(ty) };
        let one = singles(&values);
        suite.check(&format!("mov.{} %d, %a;", ty.name()), ty, &[ty], &one, |v| Bits(v[0]));
        if ty == Pred {
            suite.check("mov.pred %d, 1;", ty, &[], &one, |_| Bits(1));
            continue;
        }
        let three: Vec<Vec<u64>> = triples(&values, &values, &[0, 1]);
        suite.check(&format!("selp.{} %d, %a, %b, %c;", ty.name()), ty, &[ty, ty, Pred], &three, |v| {
            Bits(if v[2] == 1 { v[0] } else { v[1] })
        });
    }
    suite.check("mov.f32 %d, 0f7FC12345;", F32, &[], &[vec![], vec![]], |_| Bits(0x7fc1_2345));
    let threads: Vec<Vec<u64>> = (0..200).map(|i| vec![i]).collect();
    // The suite runs blocks of 128 threads.
    for (name, f) in [
        ("%tid.x", (|i| i % 128) as fn(u64) -> u64),
        ("%ctaid.x", |i| i / 128),
        ("%ntid.x", |_| 128),
        ("%nctaid.x", |_| 2),
        ("%laneid", |i| i % 32),
        ("%warpid", |i| i % 128 / 32),
        ("%lanemask_eq", |i| 1 << (i % 32)),
        ("%lanemask_lt", |i| (1 << (i % 32)) - 1),
        ("%lanemask_le", |i| (2 << (i % 32)) - 1),
        ("%lanemask_ge", |i| 0xffff_ffff & !((1 << (i % 32)) - 1)),
        ("%lanemask_gt", |i| 0xffff_ffff & !((2 << (i % 32)) - 1)),
    ] {
        suite.check(&format!("mov.u32 %d, {name};"), U32, &[U32], &threads, |v| Bits(f(v[0])));
        suite.check(&format!("add.u32 %d, {name}, 5;"), U32, &[U32], &threads, |v| {
            Bits(mask(f(v[0]) + 5, U32))
        });
    }
}

/// Packing and unpacking of vectors, 128 bits among them.
fn packs(suite: &mut Suite) {
    let values = pairs(&edges(Type::B64), &edges(Type::B64));
    let mut check = |body: &str, ty: Type, f: &dyn Fn(&[u64]) -> u64| {
        suite.check_block(body, ty, &[Type::B64, Type::B64], &values, |v| Bits(f(v)));
    };
    check("{ .reg .b32 x, y; mov.b64 {x, y}, %a; mov.b64 %d, {y, x}; }", Type::B64, &|v| v[0].rotate_left(32));
    check("{ .reg .b32 x; mov.b64 {_, x}, %a; mov.b32 %d, x; }", Type::B32, &|v| v[0] >> 32);
    check(
        "{ .reg .b16 x, y, z, w; mov.b64 {x, y, z, w}, %a; mov.b64 %d, {w, z, y, x}; }",
        Type::B64,
        &|v| (0..4).map(|i| (v[0] >> (16 * i) & 0xffff) << (48 - 16 * i)).sum(),
    );
    check(
        "{ .reg .b16 x, y; .reg .b32 t; mov.b64 {t, _}, %a; mov.b32 {x, y}, t; mov.b32 %d, {y, x}; }",
        Type::B32,
        &|v| u64::from((v[0] as u32).rotate_left(16)),
    );
    check(
        "{ .reg .b8 x, y; .reg .b16 t; mov.b64 {t, _, _, _}, %a; mov.b16 {x, y}, t; mov.b16 %d, {y, x}; }",
        Type::B16,
        &|v| u64::from((v[0] as u16).rotate_left(8)),
    );
    check(
        "{ .reg .b8 x, y, z, w; .reg .b32 t; mov.b64 {t, _}, %a; mov.b32 {x, y, z, w}, t; mov.b32 %d, {w, z, y, x}; }",
        Type::B32,
        &|v| u64::from((v[0] as u32).swap_bytes()),
    );
    check(
        "{ .reg .b128 q, r; .reg .b64 x; mov.b128 q, {%a, %b}; mov.b128 r, q; mov.b128 {_, x}, r; mov.b64 %d, x; }",
        Type::B64,
        &|v| v[1],
    );
    check("{ .reg .b16 x; mov.b64 {x, _, _, _}, %a; mov.b32 %d, {x, -2}; }", Type::B32, &|v| {
        v[0] & 0xffff | 0xfffe_0000
    });
}
