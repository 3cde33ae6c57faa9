//! Everything that needs more than one module, in one test program.

#![allow(
    clippy::unwrap_used,
    clippy::string_slice,
    reason = "an expectation that fails is how a test fails"
)]

mod admin;
mod layers;
mod remote_sampling;
mod support;
mod tls;
mod view_page;
