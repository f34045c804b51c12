//! The graph IR of one training step: types, operators, builder, printer, parser, verifier, gradients and the f64
//! reference evaluator.
//!
//! A [`Graph`] is a directed acyclic graph of [`Op`]s. A [`Value`] is one result of one operator; it exists from the
//! moment its node is added until the node is removed, and only nodes of the same graph may refer to it. Types are
//! static: every value has a dtype and a shape with the batch in it, found by [`infer`] from the operands' types.
//! A graph describes one step: it reads inputs, parameters and states as they stand at the step's start, and its sinks
//! (outputs and stores) are what the step leaves behind.
//!
//! A [`Model`] is a forward graph with the tables around it: parameters, states, nets, loss terms and the recipe of
//! training.
//!
//! This crate knows neither the language nor any device.

mod error;
mod gradient;
mod graph;
mod group;
pub mod infer;
mod model;
mod op;
mod optimizer;
mod random;
mod recipe;
pub mod reference;
mod text;
mod types;
mod verify;

pub use error::IrError;
pub use gradient::{differentiate, has_gradient, reach_trained};
pub use graph::{Edge, Graph, Node, NodeId, Origin, Value};
pub use group::{
    Group, GroupKind, Local, Step, is_convolution, is_pointwise, is_reduction, is_update, is_vector_step,
};
pub use model::{Init, Mode, Model, Net, NetKind, Pairing, Parameter, Phase, State, Term, Weight};
pub use op::{BinaryKind, Conv, Op, Pool, ReduceKind, UnaryKind};
pub use optimizer::{append_optimizer, order_stores};
pub use random::dropout_keeps;
pub use recipe::{
    Augment, Curriculum, Data, Dataset, Optimizer, Order, Pace, Precision, Recipe, Schedule, ScheduleKind,
};
pub use text::{parse, parse_verified, print};
pub use types::{DType, Layout, MAX_ELEMENTS, Shape, ValueType};
pub use verify::verify;
