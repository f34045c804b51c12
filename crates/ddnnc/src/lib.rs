//! The driver library and the command line.
