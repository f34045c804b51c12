//! The command line as a user sees it: the built binary, its output, its files and its exit status.

mod bad_input;
mod cascade;
mod commands;
mod common;
mod cuda;
mod onnx;
mod outputs;
mod passes;
mod phases;
mod pictures;
mod profile;
mod saved_program;
mod weights;
mod xml;
