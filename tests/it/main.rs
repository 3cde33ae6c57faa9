//! Everything that needs more than one module, in one test program.

mod layers;
mod remote_sampling;
mod support;
