//! Every instruction that is executed, over edge values, against references written from the words of the PTX ISA.

mod exact;
mod suite;
mod table;

use suite::Suite;

/// Declares the parts: each is a module with a function `cases`, and a test of its own.
macro_rules! parts {
    ($($part:ident)*) => {
        $(mod $part;

        #[test]
        fn $part() {
            $part::cases(&mut Suite::running());
        })*

        fn all(suite: &mut Suite) {
            $($part::cases(suite);)*
        }
    };
}

parts! { integers bits floats halves approximations comparisons conversions memory warp matrices warpgroup }

/// What the decoder takes and no part checks.
#[test]
fn every_instruction_is_checked() {
    let mut suite = Suite::listing();
    all(&mut suite);
    let missing: Vec<String> =
        ddnnc_emu::instructions().into_iter().filter(|name| !suite.seen.contains(name)).collect();
    assert!(missing.is_empty(), "no test executes {missing:?}");
}
