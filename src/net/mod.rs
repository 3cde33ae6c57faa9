//! Sockets, TLS, draining and the small HTTP client that reporters and pollers share.

pub mod client;
pub mod drain;
pub mod listen;
pub mod rewind;
pub mod tls;
