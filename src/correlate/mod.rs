//! Which inbound request caused this outbound one?
//!
//! Owns the table of inbound requests in flight and the layers of evidence that search it, cheapest and surest first.
//! A finished request is never a parent. A wrong parent is worse than none: contradiction and doubt give candidates,
//! not a parent. Knows contexts and header values, not sockets.

mod audit;
mod class;
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

use crate::model::HumanDuration;
use crate::model::SamplingState;
use crate::model::SpanContext;

pub use audit::Figures;
pub use class::Class;
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

/// How likely a paced call's parent must be right.
const LEAST_PACED: f64 = 0.995;
/// How likely what an event loop handled must be the cause in the mode `balanced`: as likely as it is after a thousand
/// audited calls that were right. The benchmark has not every way in which a program wakes itself.
const LEAST_AUDITED: f64 = 0.995;

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
    /// Identifiers in the path, the query, an id header or the start of a text body of an inbound request that recur in
    /// the head of the call. Values are compared as hashes and never kept.
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
    /// What the kernel knows: which inbound connection the sending thread was working on, and in the modes `balanced` and
    /// `eager` the event that it was handling. Needs the capabilities BPF and PERFMON and Linux 6.16 or later; nothing
    /// inside the program. In those modes each system call of the machine takes 30 to 170 ns longer.
    ///
    /// Default: `auto`. Reload: restart.
    pub kernel: Kernel,
    /// How sure evidence must be to give a call its parent. What is less sure becomes a span link.
    ///
    /// Default: `strict`. Reload: new connections.
    pub mode: Mode,
    /// Pacing, off by default: finds the cause in programs where nothing else can.
    pub pacing: Pacing,
}

/// How sure evidence must be: how likely the parent is right, by the benchmark and by what was audited since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In 999 of 1,000 cases: `exact` or `high`.
    #[default]
    Strict,
    /// In 99 of 100.
    Balanced,
    /// In 9 of 10.
    Eager,
}

/// Deliveries one at a time, so that what comes out of the program tells what caused it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pacing {
    /// The share of sampled requests that are paced: while the program works on one of them, what else is for the program
    /// waits. Needs to see the program's threads rest (`/proc`); where it does not, nothing is paced. Costs throughput. 0 is off.
    ///
    /// Unit: 0 to 1. Default: `0`. Reload: restart.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// How long the program may work on one delivery while others wait, at most `100ms`; one in four may take four times as
    /// long. If it takes longer its calls get no parent.
    ///
    /// Unit: duration. Default: `5ms`. Reload: restart.
    pub window: HumanDuration,
    /// How long a paced request may wait for its turn, then it is delivered as others are; the response to one of its calls
    /// four times as long.
    ///
    /// Unit: duration. Default: `50ms`. Reload: restart.
    pub patience: HumanDuration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            share: 0.0,
            window: HumanDuration::from_millis(5),
            patience: HumanDuration::from_millis(50),
        }
    }
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
            pacing: Pacing::default(),
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
    /// It came while nothing but what was for the request had been delivered to the program.
    Pacing,
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
    /// Likely; less often right than that, or other explanations were seen.
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
    /// How likely the parent is right; 0 when none is asserted.
    pub p: f64,
    /// Inbound requests that were possible parents.
    pub candidates: usize,
    /// Possible parents, oldest first, at most three; empty when a parent is asserted.
    pub links: Vec<SpanContext>,
    /// The decision that all candidates share, when no parent is asserted.
    pub agreed: Option<SamplingState>,
}

impl Method {
    /// Every method, for metrics.
    pub const ALL: [Self; 11] = [
        Self::Forwarded,
        Self::Values,
        Self::Shim,
        Self::Thread,
        Self::Lineage,
        Self::Runtime,
        Self::Pacing,
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
            Self::Pacing => "pacing",
            Self::Exclusive => "exclusive",
            Self::Contradicted => "contradicted",
            Self::Ended => "ended",
            Self::None => "none",
        }
    }
}

impl Method {
    /// How likely it is right when it points at one request, before anything was audited: what the linking benchmark
    /// showed, rounded down.
    fn prior(self) -> f64 {
        match self {
            Self::Forwarded | Self::Shim => 0.9999,
            Self::Thread | Self::Values | Self::Runtime => 0.9995,
            Self::Exclusive => 0.999,
            Self::Pacing => 0.997,
            Self::Lineage => 0.99,
            Self::Contradicted | Self::Ended | Self::None => 0.0,
        }
    }
}

impl Confidence {
    /// In words how likely a parent is right that the program did not name itself.
    fn of(p: f64) -> Self {
        match p >= Mode::Strict.least() {
            true => Self::High,
            false => Self::Low,
        }
    }

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
        // Balanced too: the audit may show that it is good enough.
        self != Self::Strict
    }

    /// How likely a parent must be right.
    fn least(self) -> f64 {
        match self {
            Self::Strict => 0.999,
            Self::Balanced => 0.99,
            Self::Eager => 0.9,
        }
    }

    /// True when evidence that is so likely right may give a call its parent.
    fn accepts(self, method: Method, p: f64) -> bool {
        let least = match method {
            // Who turns it on wants what it finds.
            Method::Pacing => self.least().min(LEAST_PACED),
            Method::Lineage if self == Self::Balanced => LEAST_AUDITED,
            _ => self.least(),
        };
        p >= least
    }
}
