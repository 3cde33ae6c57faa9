//! Whether a trace that starts here is recorded: one sampler per file, one decision type.
//!
//! Samplers decide local roots only; a parent's decision is never asked again. They know nothing of spans or headers.
//! Deciding takes no lock that another thread holds and allocates nothing; time is an argument.
//!
//! Adding a sampler is one new file and two neighbouring lines here: its `mod` and its row in `samplers!`.

mod bucket;
pub mod constant;
mod per_operation;
mod poller;
pub mod probabilistic;
mod rate;
pub mod rate_limiting;
pub mod remote;
mod source;
mod strategy;
pub mod xray;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::Method;
use http::Uri;

use crate::model::TraceId;
use crate::net::client::Client;

pub use bucket::Bucket;
pub use per_operation::PerOperation;
pub use poller::{PollError, PollOutcome, Poller, Status, StatusSnapshot};
pub use rate::{Probability, RangeError, TracesPerSecond};
pub use source::Source;
pub use strategy::{OperationRates, Strategy, StrategyError, parse_strategy};

/// Decides whether a new trace is recorded. Called on the request path: no waiting, no input or output.
pub trait Sampler: Send + Sync + std::fmt::Debug {
    /// Decides for a root span of this operation (the span name).
    fn sample(&self, trace_id: TraceId, operation: &str, now: Instant) -> Decision;

    /// The same for a trace that this request begins.
    fn sample_request(
        &self,
        trace_id: TraceId,
        operation: &str,
        request: Head<'_>,
        now: Instant,
    ) -> Decision {
        let _whatever_it_is = request;
        self.sample(trace_id, operation, now)
    }

    /// Operations that have rates or credits of their own.
    fn operations(&self) -> usize {
        0
    }

    /// One short line for people: what kind of sampler with what numbers.
    fn description(&self) -> String {
        format!("{self:?}")
    }
}

/// The head of the request that a trace begins with.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target, as it came.
    pub uri: &'a Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// A sampler's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Record and report.
    pub sampled: bool,
    /// `sampler.type`: `const`, `probabilistic`, `ratelimiting` or `lowerbound`.
    pub kind: &'static str,
    /// `sampler.param`.
    pub param: Param,
}

/// `sampler.param`, typed as Jaeger's clients type it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Param {
    /// For `const`.
    Bool(bool),
    /// Probability or traces per second.
    F64(f64),
}

/// A row of the family's table.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The key that chooses this sampler in the configuration.
    pub name: &'static str,
    /// A configuration that chooses it, as JSON (which is YAML too).
    pub example: &'static str,
}

/// A sampler ready for use and, where its rates come from elsewhere, the task that fetches them.
#[derive(Debug)]
pub struct Built {
    /// Shared by all threads.
    pub sampler: Arc<dyn Sampler>,
    /// Present for samplers that follow a backend; someone must run it. Dropping it leaves the last rates in force.
    pub poller: Option<Poller>,
}

/// What a poller asks again and again. What an answer says is taken over before it is returned.
trait Follow: Send + Sync {
    /// Asks once.
    fn ask(&mut self) -> Asking<'_>;

    /// Who is asked.
    fn target(&self) -> &Uri;
}

type Asking<'a> = Pin<Box<dyn Future<Output = Result<(), PollError>> + Send + 'a>>;

/// What programs are told that ask this sidecar for their sampling strategy.
#[derive(Debug, Clone, Copy)]
pub enum Told<'a> {
    /// To record this share of their traces.
    Probability(Probability),
    /// To record so many traces a second.
    Limit(TracesPerSecond),
    /// What this backend says for their name.
    Backend(&'a remote::Config),
}

/// What samplers are built from besides their configuration.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    service: &'a str,
    client: &'a Client,
}

macro_rules! samplers {
    ($($(#[$doc:meta])* $variant:ident($module:ident),)*) => {
        /// Which sampler decides, and its settings: exactly one of these keys.
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Config {
            $($(#[$doc])* $variant($module::Config),)*
        }

        /// Every sampler that can be configured.
        pub static KINDS: &[Kind] = &[
            $(Kind { name: stringify!($module), example: $module::EXAMPLE },)*
        ];

        impl Config {
            /// The sampler's name, as configuration spells it.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Config::$variant(_) => stringify!($module),)*
                }
            }

            /// What programs are told that ask for a strategy of their own.
            pub fn told(&self) -> Told<'_> {
                match self {
                    $(Config::$variant(config) => config.told(),)*
                }
            }
        }

        /// Builds the configured sampler for this service.
        pub fn build(config: &Config, service: &str, client: &Client) -> Built {
            let parts = Parts { service, client };
            match config {
                $(Config::$variant(config) => $module::build(config, parts),)*
            }
        }
    };
}

samplers! {
    /// Every trace, or none.
    Constant(constant),
    /// A share of all traces.
    Probabilistic(probabilistic),
    /// At most so many traces a second.
    RateLimiting(rate_limiting),
    /// What the tracing backend says, asked again and again.
    Remote(remote),
    /// The sampling rules of AWS X-Ray, asked for through its daemon.
    Xray(xray),
}

impl Built {
    /// A sampler whose rates never change by themselves.
    fn fixed(sampler: impl Sampler + 'static) -> Self {
        Self {
            sampler: Arc::new(sampler),
            poller: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_example_is_accepted_builds_and_decides() {
        let mut names = HashSet::new();
        let trace_id = TraceId::from_halves(0, 1).unwrap();
        for kind in KINDS {
            assert!(names.insert(kind.name), "{} twice", kind.name);
            let config: Config = serde_json::from_str(kind.example).unwrap();
            let text = serde_json::to_value(&config).unwrap();
            assert!(text.get(kind.name).is_some(), "{text}");
            assert_eq!(serde_json::from_value::<Config>(text).unwrap(), config);
            let built = build(&config, "shop", &Client::plain());
            let decision = built.sampler.sample(trace_id, "GET", Instant::now());
            let description = built.sampler.description();
            assert!(!description.is_empty() && !decision.kind.is_empty());
        }
    }

    #[test]
    fn empty_settings_mean_the_defaults_and_unknown_ones_are_refused() {
        for kind in KINDS {
            let empty = format!(r#"{{"{}": {{}}}}"#, kind.name);
            assert!(serde_json::from_str::<Config>(&empty).is_ok(), "{empty}");
            let unknown = format!(r#"{{"{}": {{"no_such_key": 1}}}}"#, kind.name);
            let error = serde_json::from_str::<Config>(&unknown).unwrap_err();
            assert!(error.to_string().contains("no_such_key"), "{error}");
        }
    }

    #[test]
    fn settings_outside_their_range_are_refused() {
        for (text, why) in [
            (r#"{"probabilistic": {"rate": 1.5}}"#, "above one"),
            (r#"{"probabilistic": {"rate": -0.5}}"#, "negative"),
            (r#"{"probabilistic": {"rate": "half"}}"#, "no number"),
            (
                r#"{"rate_limiting": {"traces_per_second": -1}}"#,
                "negative",
            ),
            (r#"{"remote": {"initial_rate": 2}}"#, "above one"),
            (r#"{"remote": {"poll_interval": "0"}}"#, "would never pause"),
            (r#"{"remote": {"timeout": "0"}}"#, "would never succeed"),
            (r#"{"remote": {"endpoint": "backend:5778"}}"#, "no scheme"),
            (
                r#"{"remote": {"endpoint": "ftp://backend/"}}"#,
                "other scheme",
            ),
            (
                r#"{"remote": {"endpoint": "http://u:p@backend/"}}"#,
                "credentials",
            ),
            (
                r#"{"xray": {"endpoint": "grpc://a:2000"}}"#,
                "not over gRPC",
            ),
            (r#"{"xray": {"report_interval": "0"}}"#, "would never pause"),
            (r#"{"adaptive": {}}"#, "no such sampler"),
        ] {
            assert!(
                serde_json::from_str::<Config>(text).is_err(),
                "{why}: {text}"
            );
        }
    }
}
