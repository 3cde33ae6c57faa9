//! Composition root: configuration to listeners, tasks, reload and drain.
//!
//! One control thread (the caller's) runs reporters, pollers, admin and signals on a single-threaded runtime; each
//! worker thread runs its own single-threaded runtime with its own sockets and pools. Nothing but this module knows
//! everything.

mod admin;
mod build;
mod demo;
mod exec;
mod injector;
mod ledger;
mod linking;
mod program;
mod receivers;
mod run;
mod sampling;
mod shims;
mod systemd;
mod worker;

pub use demo::DemoError;
pub use demo::DemoOptions;
pub use demo::Sidecar;
pub use demo::demo;
pub use demo::demo_service;
pub use demo::demo_sidecar;
pub use exec::ExecError;
pub use exec::Network;
pub use exec::exec;
pub use injector::injector;
pub use run::RunError;
pub use run::Running;
pub use run::run;
pub use shims::ShimError;
pub use shims::has_library as has_preload_library;
pub use shims::write_to as write_shims;
