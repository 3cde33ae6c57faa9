//! Spans of programs: what Jaeger's agent and collector, an OpenTelemetry Collector, Zipkin or SkyWalking would take
//! from the programs of this pod, on their usual ports.
//!
//! Whatever the wire, spans end in `Intake::take`, which hands them to the same reporters as spans of our own, under the
//! resource of the program that made them. Nothing is sampled again. Programs that ask for sampling strategies get those
//! of the backend that this sidecar follows.
//!
//! All of it runs on one thread of its own ([`Receivers`]): no request that is proxied waits for a decoder.

mod agent;
pub mod body;
mod calls;
mod clients;
mod config;
mod credits;
mod intake;
mod open;
pub mod otlp;
mod posts;
mod reply;
mod run;
mod server;
mod strategies;
mod udp;

pub use config::{Config, Jaeger, Listen, Otlp, SkyWalking, Zipkin};
pub use intake::Intake;
pub use open::{Bound, OpenError, open};
pub use run::Receivers;
pub use strategies::Strategies;
