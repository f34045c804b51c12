//! Names, shapes and pairings: from the syntax tree of a spec to a [`ddnnc_ir::Model`].
//!
//! [`lower`] works in four steps, each in modules of its own:
//!
//! 1. *names*: one namespace for all declarations, and a walk through every body that finds names nothing declares and
//!    calls whose arguments do not fit, also where nothing is evaluated (`names`, `check`, `signature`).
//! 2. *traces*: every sub-net, exit and network is evaluated into a straight list of operators with shapes per sample
//!    (`eval`, `apply`, `operators`, `trace`, `nets`).
//! 3. *public names*: which sub-nets see the same value at a norm, and so share it (`naming`); what is shared has one shape
//!    (`sharing`).
//! 4. *the graph*: every net is emitted on its own, then the losses (`losses`, `teachers`, `terms`, `emit`, `ensembles`) of the
//!    phase that is asked for (`phases`, `order`); merging what the nets have in common is a pass's work.
//!
//! An error never stops the search for further ones: what could not be computed is *poison*, and poison is silent. Work
//! is bounded by the limits in `limits`, whatever the tree.
//!
//! This crate knows neither passes nor devices, and reads no file.

mod apply;
mod args;
mod check;
mod diags;
mod emit;
mod ensembles;
mod eval;
mod limits;
mod losses;
mod lowering;
mod names;
mod naming;
mod nets;
mod operators;
mod order;
mod phases;
mod plan;
mod recipe;
mod recurrent;
mod relations;
mod settings;
mod sharing;
mod signature;
mod teachers;
mod terms;
mod trace;
mod value;
mod vocabulary;

pub use lowering::{Lowered, Options, lower};
pub use vocabulary::{Callable, vocabulary};
