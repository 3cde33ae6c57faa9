//! Pillion: a tracing sidecar proxy for unmodified services.
//!
//! The modules below stand in the order in which data meets them, from the composition root down to the model that
//! everything shares. A file names only modules of lower rows; `tests/it/layers.rs` holds that.

pub mod cli;

pub mod app;

pub mod config;

pub mod admin;
pub mod injector;

pub mod proxy;
pub mod receiver;

pub mod correlate;
pub mod detect;
pub mod tracer;

pub mod reporter;

pub mod propagation;
pub mod sampling;

pub mod codec;

pub mod net;
pub mod telemetry;

pub mod model;
