//! What can go wrong between a model and its program.

use ddnnc_ir::IrError;

/// An error of the pipeline, of planning, or of reading a program.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PassError {
    /// Building, differentiating or reading a graph failed.
    #[error(transparent)]
    Ir(#[from] IrError),
    /// A pass left a graph that breaks a rule of the verifier.
    #[error("after the pass {pass}: {source}")]
    Broken {
        /// The pass.
        pass: String,
        /// The rule.
        source: IrError,
    },
    /// The goal needs a gradient and the model has no `loss.total`.
    #[error("the model has no loss to train on")]
    NoLoss,
    /// A name that stands for two things, or for one of another type.
    #[error("`{name}`: {message}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// A name that no pass has.
    #[error("there is no pass `{name}`")]
    NoPass {
        /// The name.
        name: String,
    },
    /// Passes in an order that they cannot run in.
    #[error("the pass `{first}` must come before `{second}`")]
    Order {
        /// What must come first.
        first: String,
        /// What must come after it.
        second: String,
    },
    /// Bytes that are no program.
    #[error("not a program: {0}")]
    Program(String),
}
