//! Text to spanned syntax tree, and the formatter.
//!
//! This is the only crate that knows pest. It knows no shape, no operator's meaning and no file: a [`SpecFile`] comes
//! from a string, and every error is a [`ddnnc_diag::Diagnostic`] in the user's words.

pub mod ast;
mod errors;
mod expr;
mod grammar;
mod parse;
mod recover;
mod scan;
mod tree;

pub use ast::*;
#[doc(hidden)]
pub use grammar::rule_names;
pub use parse::parse;
