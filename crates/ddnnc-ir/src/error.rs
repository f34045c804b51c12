//! What can be wrong with a graph.

use crate::ValueType;

/// An error of building, reading, checking or evaluating a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum IrError {
    /// Operand types that an operator cannot take.
    #[error("{op}: {message}")]
    Type {
        /// The operator's mnemonic.
        op: &'static str,
        /// What does not fit, with the shapes in it.
        message: String,
        /// The operand that is to blame, where one is.
        operand: Option<usize>,
        /// The operand that it disagrees with, where there is one.
        against: Option<usize>,
    },
    /// A value with more elements than any machine holds.
    #[error("{op}: a value of type {ty} is too large")]
    TooLarge {
        /// The operator's mnemonic.
        op: &'static str,
        /// The type.
        ty: ValueType,
    },
    /// An operator added as a source that is none.
    #[error("{op} is not a source")]
    NotASource {
        /// The operator's mnemonic.
        op: &'static str,
    },
    /// The graph has a cycle.
    #[error("the graph has a cycle")]
    Cycle,
    /// A rule of the verifier is broken.
    #[error("{node}: {message}")]
    Invalid {
        /// The node, in printed form.
        node: String,
        /// The rule.
        message: String,
    },
    /// Text that is no graph.
    #[error("line {line}, column {column}: {message}")]
    Parse {
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What was expected.
        message: String,
    },
    /// Operators on the path of the loss that have no gradient rule.
    #[error("no gradient rule for: {}", operators.join(", "))]
    NoGradient {
        /// Each operator with its origin.
        operators: Vec<String>,
    },
    /// A value that evaluation needs and was not given, or of another type.
    #[error("{name}: {message}")]
    Feed {
        /// The input, parameter or state.
        name: String,
        /// What is wrong.
        message: String,
    },
}
