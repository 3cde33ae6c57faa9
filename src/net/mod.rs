//! Sockets, TLS, draining, header maps and the small HTTP client that reporters and pollers share.

pub mod client;
pub mod drain;
pub mod evidence;
pub mod grpc;
pub mod headers;
pub mod kernel;
pub mod listen;
pub mod memory;
pub mod netns;
pub mod original_dst;
pub mod peek;
mod places;
pub mod privilege;
pub mod process;
pub mod rest;
pub mod rewind;
pub mod rules;
pub mod sock_diag;
pub mod source;
pub mod splice;
pub mod tls;
pub mod value;
