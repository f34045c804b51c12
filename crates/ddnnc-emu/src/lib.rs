//! A CUDA driver without a GPU: PTX executed on the CPU, and every access checked.
//!
//! As a Rust library it is a [`Machine`] that runs modules that [`parse`] has read; as a shared library it answers as
//! `libcuda.so.1`, so that any program that loads the driver at run time (through cudarc, for one) runs on it unchanged.
//! `docs/emulator.md` describes it as a tool of its own.

mod access;
mod accumulators;
mod agreement;
mod alu;
mod atomics;
mod block;
mod body;
mod clocks;
mod collective;
mod copies;
mod declaration;
mod decode;
mod decode_arithmetic;
mod decode_memory;
mod decode_moves;
mod decode_warp;
mod decode_warpgroup;
mod descriptor;
mod driver;
mod fault;
mod fragments;
mod grid;
pub mod inst;
mod install;
mod instruction;
mod lexer;
mod machine;
mod matrix;
mod memory;
mod moves;
mod names;
mod number;
mod order;
mod parse;
mod program;
mod registers;
mod shared;
mod source;
mod stub;
mod tile;
mod warp;
mod warpgroup;
mod watched;

pub use decode::{instructions, modifiers_without_effect};
pub use driver::Report;
pub use fault::{Fault, FaultKind};
pub use install::{install, last_fault, report};
pub use machine::{LaunchReport, Machine, ModuleId, Options, Properties};
pub use order::Order;
pub use parse::{ParseError, parse};
pub use source::{Loc, Position, SourceFile, SourcePlace};
