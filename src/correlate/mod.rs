//! Which inbound request caused this outbound one?
//!
//! Owns the table of inbound requests in flight and the layers of evidence that search it, cheapest and surest first.
//! A finished request is never a parent. A wrong parent is worse than none: contradiction and doubt give candidates,
//! not a parent. Knows contexts and header values, not sockets.

mod audit;
mod find;
mod in_flight;
mod shape;
mod token;
mod values;
mod windows;

use std::path::PathBuf;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::model::SamplingState;
use crate::model::SpanContext;

pub use audit::Figures;
pub use find::Call;
pub use find::Witness;
pub use find::find;
pub use in_flight::Arrival;
pub use in_flight::InFlight;
pub use in_flight::Inbound;
pub use in_flight::InboundGuard;
pub use shape::Shape;
pub use token::Carried;
pub use token::TOKEN;
pub use token::Token;
pub use values::Values;
pub use windows::Learned;

/// The header that many programs already pass on by themselves.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Which evidence may assert a parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Trace headers or `x-request-id` of an inbound request that reappear on the outbound one.
    ///
    /// Default: `true`. Reload: new connections.
    pub forwarded: bool,
    /// Exactly one inbound request is in flight.
    ///
    /// Default: `true`. Reload: new connections.
    pub exclusive: bool,
    /// Identifiers in the path, the query or an id header of an inbound request that recur in the head of the call.
    /// Values are compared as hashes and never kept.
    ///
    /// Default: `true`. Reload: new connections.
    pub values: bool,
    /// The token of a start-up shim: requests to the program get the header `pillion-token`, which the shim inside it
    /// puts on the calls they cause and which is taken off again. `pillion exec --shims` turns it on.
    ///
    /// Default: `false`. Reload: new connections.
    pub shims: bool,
    /// The thread that sends the call: a small library in the program tells which inbound connection the thread was
    /// serving. `pillion exec --preload` turns it on and loads the library.
    ///
    /// Default: `false`. Reload: restart.
    pub preload: bool,
    /// A Unix socket at which programs that we do not start get the memory that the library of `preload` writes: in a
    /// directory that we share with them, as in a pod. They load the library of `pillion shims --to DIR` with
    /// `LD_PRELOAD` and find the socket with `_PILLION_EVIDENCE=unix:PATH`.
    ///
    /// Unit: path. Default: none. Reload: restart.
    pub preload_socket: Option<PathBuf>,
    /// What the kernel knows: which inbound connection the sending thread was working on, and in the mode `eager` the
    /// event that it was handling. Needs the capabilities BPF and PERFMON and Linux 6.16 or later; nothing inside the
    /// program. In the mode `eager` each system call of the machine takes 30 to 170 ns longer.
    ///
    /// Default: `auto`. Reload: restart.
    pub kernel: Kernel,
    /// How sure evidence must be to give a call its parent. What is less sure becomes a span link.
    ///
    /// Default: `strict`. Reload: new connections.
    pub mode: Mode,
}

/// How sure evidence must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// `exact` or `high`.
    #[default]
    Strict,
    /// `low` is enough.
    Eager,
}

/// Whether to ask the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// Where that is permitted; else the log says once what it would need.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Start only where it is permitted.
    Required,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            forwarded: true,
            exclusive: true,
            values: true,
            shims: false,
            preload: false,
            preload_socket: None,
            kernel: Kernel::Auto,
            mode: Mode::Strict,
        }
    }
}

/// The evidence that asserted the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A trace header or request id that the program passed on.
    Forwarded,
    /// An identifier that recurs.
    Values,
    /// The token of a shim in the program.
    Shim,
    /// The thread that sent the call was serving the request.
    Thread,
    /// The event that the sending thread was handling belonged to the request.
    Lineage,
    /// The task that sent the call was working on the request, as a probe in its runtime saw.
    Runtime,
    /// Exactly one request in flight.
    Exclusive,
    /// Evidence for different requests: no parent.
    Contradicted,
    /// The request that caused the call has ended: no parent.
    Ended,
    /// Nothing asserted a parent.
    None,
}

/// How sure the evidence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// No parent asserted.
    None,
    /// Likely; other explanations were seen.
    Low,
    /// Right in at least 999 of 1,000 cases of the linking benchmark.
    High,
    /// The program said so.
    Exact,
}

/// What the layers found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The parent, when one is asserted.
    pub parent: Option<SpanContext>,
    /// By which evidence.
    pub method: Method,
    /// How sure.
    pub confidence: Confidence,
    /// Inbound requests that were possible parents.
    pub candidates: usize,
    /// Possible parents, oldest first, at most three; empty when a parent is asserted.
    pub links: Vec<SpanContext>,
    /// The decision that all candidates share, when no parent is asserted.
    pub agreed: Option<SamplingState>,
}

impl Method {
    /// Every method, for metrics.
    pub const ALL: [Self; 10] = [
        Self::Forwarded,
        Self::Values,
        Self::Shim,
        Self::Thread,
        Self::Lineage,
        Self::Runtime,
        Self::Exclusive,
        Self::Contradicted,
        Self::Ended,
        Self::None,
    ];

    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Values => "value",
            Self::Shim => "shim",
            Self::Thread => "thread",
            Self::Lineage => "lineage",
            Self::Runtime => "runtime",
            Self::Exclusive => "exclusive",
            Self::Contradicted => "contradicted",
            Self::Ended => "ended",
            Self::None => "none",
        }
    }
}

impl Method {
    /// How sure it is when it points at one request.
    fn confidence(self) -> Confidence {
        match self {
            Self::Lineage => Confidence::Low,
            _ => Confidence::High,
        }
    }
}

impl Confidence {
    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::High => "high",
            Self::Low => "low",
            Self::None => "none",
        }
    }
}

impl Mode {
    /// True when the event that a thread handles is asked for.
    pub fn follows_events(self) -> bool {
        self.accepts(Method::Lineage.confidence())
    }

    /// True when evidence of this confidence may give a call its parent.
    fn accepts(self, confidence: Confidence) -> bool {
        let least = match self {
            Self::Strict => Confidence::High,
            Self::Eager => Confidence::Low,
        };
        confidence >= least
    }
}
