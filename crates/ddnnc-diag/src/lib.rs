//! Spans, the source map, diagnostics and their one renderer.
//!
//! A [`Diagnostic`] is what every front-end error is: one terse message, labels that point into source text, and
//! hints that say the way out. It is rendered in one place, [`render`]. This crate knows neither the grammar nor the
//! graph IR.

mod code;
mod diagnostic;
mod render;
mod source;

pub use code::Code;
pub use diagnostic::{Diagnostic, Label, Severity, did_you_mean};
pub use render::render;
pub use source::{SourceId, SourceMap, Span};
