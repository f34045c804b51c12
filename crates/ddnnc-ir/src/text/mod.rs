//! The textual form of a graph: one operator a line, in topological order, values numbered as they are printed.
//!
//! ```text
//! graph "tiny" {
//!   v0 = input name="image" : f32[8,3,4,4]
//!   v1, v2 = channel_stats(v0) : f32[3], f32[3] @ "net.bn1" [full, r20]
//!   n3 = output(v1) name="mean" after v2
//! }
//! ```
//!
//! A line is: results, `=`, operator, operands in parentheses (where it has any), attributes `name=value`, `:` and the
//! result types, `after` and what it must follow, `@` and the origin's path, the origin's nets in brackets. A sink has
//! no results: it is named by an `n` number. Numbers run through the whole graph. `//` begins a comment that ends with
//! the line; reading drops it. What is printed reads back as the same graph and prints to the same bytes.

mod attributes;
mod cursor;
mod parse;
mod print;

pub use parse::{parse, parse_verified};
pub(crate) use print::describe;
pub use print::print;
