//! Text to spanned syntax tree, and the formatter.
//!
//! This is the only crate that knows pest. It knows no shape, no operator's meaning and no file: a [`SpecFile`] comes
//! from a string, and every error is a [`ddnnc_diag::Diagnostic`] in the user's words.

pub mod ast;
mod dump;
mod errors;
mod expr;
mod format;
mod grammar;
mod layout;
mod parse;
mod recover;
mod scan;
mod tree;

pub use ast::*;
pub use dump::dump;
pub use format::format;
#[doc(hidden)]
pub use grammar::{DECLARATIONS, rule_names};
pub use parse::parse;
