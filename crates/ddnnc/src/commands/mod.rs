//! One file and one function for each command.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod compile;
pub(crate) mod data;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod fmt;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod opt;
pub(crate) mod predict;
pub(crate) mod report;
pub(crate) mod step;
pub(crate) mod train;
