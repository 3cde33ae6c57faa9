//! The data path: requests in, requests out, upstream connections, and what goes on the spans of both.
//!
//! One request path serves HTTP/1 and HTTP/2, inbound and outbound; versions differ where bytes are framed (hyper) and
//! where targets are written (`target`). Nothing here waits for a reporter. A worker's connections never leave its
//! thread. Failures become answers in `respond` alone.

mod body;
pub mod config;
mod error;
mod exchange;
mod expect;
mod flow;
mod forward;
mod guard;
pub mod habits;
mod headers;
mod interim;
pub mod listener;
mod metered;
pub mod pacing;
mod patience;
mod phase;
mod plain;
mod preamble;
mod redirect;
mod relay;
mod respond;
pub mod shared;
mod stall;
mod target;
mod tcp;
mod traced;
mod tunnel;
pub mod upstream;
