//! Everything that needs more than one module, in one test program.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod layers;
mod remote_sampling;
mod support;
