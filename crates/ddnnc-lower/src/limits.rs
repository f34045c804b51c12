//! How large a model may be: bounds on the compiler's own time, memory and stack.

/// Blocks of all stages of all nets together.
pub(crate) const BLOCKS: usize = 10_000;
/// Operators of all nets together.
pub(crate) const OPERATORS: usize = 200_000;
/// Blocks that call one another.
pub(crate) const BLOCK_DEPTH: usize = 32;
/// Expressions evaluated for one file.
pub(crate) const STEPS: usize = 2_000_000;
/// Expressions that wait for one another.
pub(crate) const EVAL_DEPTH: usize = 1_500;
/// Nets of one file.
pub(crate) const NETS: usize = 1_000;
/// Parameters and `let`s that one body sees, or parameters of one block.
pub(crate) const LOCALS: usize = 256;
/// Segments and stages of one backbone, and entries of one `at = […]`.
pub(crate) const PARTS: usize = 1_000;
/// Phases of one file.
pub(crate) const PHASES: usize = 100;
/// Epochs of all phases together.
pub(crate) const EPOCHS: i64 = 1_000_000;
/// Terms of the loss, in each phase.
pub(crate) const TERMS: usize = 10_000;
/// Teachers of one set.
pub(crate) const TEACHERS: usize = 100;
/// The largest batch whose distances a `relation` compares: 67 million, in gigabytes of workspace.
pub(crate) const SAMPLES_OF_DISTANCES: usize = 8192;
/// The largest batch whose angles a `relation` compares: 69 thousand million, some minutes of a step.
pub(crate) const SAMPLES_OF_ANGLES: usize = 4096;
/// Errors beyond which names that may have been meant are no longer searched for.
pub(crate) const SUGGESTIONS: usize = 200;
/// Errors shown, and warnings.
pub(crate) const ERRORS: usize = 100;
/// Stack of the thread that lowers: enough for [`EVAL_DEPTH`] in an unoptimised build.
pub(crate) const STACK: usize = 64 << 20;
/// The largest extent or kernel that an argument may ask for.
pub(crate) const EXTENT: i64 = 1 << 30;
/// The largest batch.
pub(crate) const BATCH: i64 = 65_536;
