//! The machine: what it computes, and every fault it reports, on small kernels written as PTX.

mod access;
mod barriers;
mod bench;
mod collective;
mod compiled;
mod copies;
mod divergence;
mod launch;
mod orders;
mod races;
mod source_lines;
mod warpgroup;
