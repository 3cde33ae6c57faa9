//! `remote`: the rates come from the tracing backend and change while we run.
//!
//! This file owns the settings and the sampler that stands for whatever the backend said last; `poller.rs` does the
//! asking. Before the first answer, traces are sampled with a small probability. An answer of another kind replaces what
//! was there, one of the same kind changes it in place, so that credits of rate limits survive.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Response;
use http::Uri;
use http::uri::PathAndQuery;
use http::uri::Scheme;

use crate::codec::jaeger_strategy;
use crate::model::HostPort;
use crate::model::HumanDuration;
use crate::model::TraceId;
use crate::sampling::Asking;
use crate::sampling::Built;
use crate::sampling::Decision;
use crate::sampling::Follow;
use crate::sampling::Parts;
use crate::sampling::PerOperation;
use crate::sampling::PollError;
use crate::sampling::Poller;
use crate::sampling::Probability;
use crate::sampling::Sampler;
use crate::sampling::Source;
use crate::sampling::Strategy;
use crate::sampling::Told;
use crate::sampling::parse_strategy;
use crate::sampling::probabilistic::Probabilistic;
use crate::sampling::rate_limiting::RateLimiting;

pub(super) const EXAMPLE: &str =
    r#"{"remote": {"endpoint": "http://jaeger:5778/sampling", "poll_interval": "60s"}}"#;

/// Follow the strategies of a tracing backend (Jaeger's remote sampling).
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where strategies are asked for; over HTTP `?service=NAME` is added. Jaeger's port 5778
    /// (`http://jaeger:5778/sampling`) or an older collector (`http://collector:14268/api/sampling`); over gRPC Jaeger's
    /// port 5779 (`grpc://jaeger:5779`) or an older collector's 14250.
    ///
    /// Unit: URL with scheme `http`, `https`, `grpc` or `grpcs`. Default: `http://127.0.0.1:5778/sampling`. Reload: live.
    pub endpoint: Endpoint,
    /// Time between two questions, varied by up to a tenth either way so that many sidecars do not ask at once.
    ///
    /// Unit: duration. Default: `60s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub poll_interval: HumanDuration,
    /// Longest wait for an answer.
    ///
    /// Unit: duration. Default: `10s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub timeout: HumanDuration,
    /// How many operations that the backend did not list get a guaranteed rate of their own.
    ///
    /// Unit: count, together with those listed. Default: `2000`. Reload: live.
    pub max_operations: usize,
    /// The share of traces recorded until the backend has answered for the first time.
    ///
    /// Unit: probability from 0 to 1. Default: `0.001`. Reload: live.
    pub initial_rate: Probability,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::from_static("http://127.0.0.1:5778/sampling"),
            poll_interval: HumanDuration::from_secs(60),
            timeout: HumanDuration::from_secs(10),
            max_operations: 2000,
            initial_rate: Probability::INITIAL,
        }
    }
}

impl Config {
    pub(super) fn told(&self) -> Told<'_> {
        Told::Backend(self)
    }
}

/// How a backend is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `http`, `https`.
    Http,
    /// `grpc`, `grpcs`.
    Grpc,
}

/// An absolute `http`, `https`, `grpc` or `grpcs` URL without credentials.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Endpoint(Uri);

/// Why a URL was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a usable endpoint: {why}")]
pub struct EndpointError {
    text: String,
    why: &'static str,
}

/// Whatever the backend said last.
#[derive(Debug)]
pub struct Remote {
    active: ArcSwap<Active>,
    max_operations: usize,
}

#[derive(Debug)]
enum Active {
    Probabilistic(Probabilistic),
    RateLimiting(RateLimiting),
    PerOperation(PerOperation),
}

pub(super) fn build(config: &Config, parts: Parts<'_>) -> Built {
    let sampler = Arc::new(Remote::new(config.initial_rate, config.max_operations));
    Built {
        poller: Some(poller(config, parts, Arc::clone(&sampler))),
        sampler,
    }
}

fn poller(config: &Config, parts: Parts<'_>, remote: Arc<Remote>) -> Poller {
    let source = Source::new(config, parts.client);
    let (target, service) = (source.target().clone(), parts.service.to_owned());
    let ask = move || {
        let (source, service) = (source.clone(), service.clone());
        async move { source.ask(&service).await }
    };
    let backend = Backend {
        ask,
        target,
        remote: Arc::clone(&remote),
    };
    Poller::new(config.poll_interval.0, Box::new(backend), remote)
}

/// A backend that is asked for this service's strategy.
pub(super) struct Backend<F> {
    pub(super) ask: F,
    pub(super) target: Uri,
    pub(super) remote: Arc<Remote>,
}

impl<F, A> Follow for Backend<F>
where
    F: Fn() -> A + Send + Sync,
    A: Future<Output = Result<Response<Bytes>, PollError>> + Send,
{
    fn ask(&mut self) -> Asking<'_> {
        Box::pin(async {
            let answer = (self.ask)().await?;
            self.remote
                .take(&answer, tokio::time::Instant::now().into_std())
        })
    }

    fn target(&self) -> &Uri {
        &self.target
    }
}

impl Remote {
    /// Starts with this probability.
    pub fn new(initial_rate: Probability, max_operations: usize) -> Self {
        let initial = Active::Probabilistic(Probabilistic::new(initial_rate));
        Self {
            active: ArcSwap::from_pointee(initial),
            max_operations,
        }
    }

    /// Takes over a strategy. Called by one task at a time.
    pub fn apply(&self, strategy: &Strategy, now: Instant) {
        let active = self.active.load();
        let next = match (strategy, &**active) {
            (Strategy::PerOperation(rates), Active::PerOperation(sampler)) => {
                return sampler.update(rates, now);
            }
            (Strategy::PerOperation(rates), _) => {
                Active::PerOperation(PerOperation::new(rates, self.max_operations))
            }
            (Strategy::RateLimiting(rate), Active::RateLimiting(sampler)) => {
                if sampler.rate() == *rate {
                    return;
                }
                Active::RateLimiting(sampler.with_rate(*rate, now))
            }
            (Strategy::RateLimiting(rate), _) => Active::RateLimiting(RateLimiting::new(*rate)),
            (Strategy::Probabilistic(rate), _) => Active::Probabilistic(Probabilistic::new(*rate)),
        };
        self.active.store(Arc::new(next));
    }

    /// Takes over what a backend answered.
    fn take(&self, answer: &Response<Bytes>, now: Instant) -> Result<(), PollError> {
        if !answer.status().is_success() {
            return Err(PollError::Refused(answer.status()));
        }
        let strategy = parse_strategy(answer.body()).map_err(PollError::Strategy)?;
        self.apply(&strategy, now);
        Ok(())
    }
}

impl Sampler for Remote {
    fn sample(&self, trace_id: TraceId, operation: &str, now: Instant) -> Decision {
        match &**self.active.load() {
            Active::Probabilistic(sampler) => sampler.sample(trace_id, operation, now),
            Active::RateLimiting(sampler) => sampler.sample(trace_id, operation, now),
            Active::PerOperation(sampler) => sampler.sample(trace_id, operation, now),
        }
    }

    fn description(&self) -> String {
        match &**self.active.load() {
            Active::Probabilistic(sampler) => sampler.description(),
            Active::RateLimiting(sampler) => sampler.description(),
            Active::PerOperation(sampler) => sampler.description(),
        }
    }

    fn operations(&self) -> usize {
        match &**self.active.load() {
            Active::PerOperation(sampler) => sampler.operations(),
            _ => 0,
        }
    }
}

impl Endpoint {
    /// A URL that is right.
    pub(super) fn from_static(text: &'static str) -> Self {
        Self(Uri::from_static(text))
    }

    /// Whom to ask, with the scheme's port where none is written.
    pub fn host_port(&self) -> HostPort {
        let host = self.0.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let default = match self.0.scheme_str() {
            Some("https") => 443,
            _ => 80,
        };
        HostPort::new(host, self.0.port_u16().unwrap_or(default))
    }

    /// How to ask, and the URL to send the question to.
    pub fn target(&self) -> (Transport, Uri) {
        let scheme = match self.0.scheme_str() {
            Some("grpc") => Scheme::HTTP,
            Some("grpcs") => Scheme::HTTPS,
            _ => return (Transport::Http, self.0.clone()),
        };
        let mut parts = self.0.clone().into_parts();
        parts.scheme = Some(scheme);
        parts.path_and_query = Some(PathAndQuery::from_static(jaeger_strategy::METHOD));
        // All three parts are there; the URL as written would be refused by name.
        let target = Uri::from_parts(parts).unwrap_or_else(|_| self.0.clone());
        (Transport::Grpc, target)
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        let check = |uri: &Uri| match (uri.scheme_str(), uri.authority()) {
            (Some(_), Some(authority)) if authority.as_str().contains('@') => {
                Err("credentials do not belong in the URL")
            }
            (Some("http" | "https"), Some(_)) => Ok(()),
            (Some("grpc" | "grpcs"), Some(authority)) if authority.port().is_none() => {
                Err("the port is missing, such as in grpc://jaeger:5779")
            }
            (Some("grpc" | "grpcs"), Some(_)) => Ok(()),
            _ => Err("write a full URL, such as http://jaeger:5778/sampling"),
        };
        let uri: Result<Uri, _> = text.parse();
        match uri
            .map_err(|_| "not a URL")
            .and_then(|uri| check(&uri).map(|()| uri))
        {
            Ok(uri) => Ok(Self(uri)),
            Err(why) => Err(EndpointError {
                // Whoever writes credentials there must not find them in a log.
                text: match text.rsplit_once('@') {
                    Some((_, place)) => format!("<redacted>@{place}"),
                    None => text,
                },
                why,
            }),
        }
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::OperationRates;
    use crate::sampling::TracesPerSecond;

    fn remote() -> Remote {
        Remote::new(Probability::INITIAL, 2000)
    }

    fn limit(rate: f64) -> Strategy {
        Strategy::RateLimiting(TracesPerSecond::new(rate).unwrap())
    }

    fn per_operation(lower_bound: f64) -> Strategy {
        Strategy::PerOperation(OperationRates {
            default: Probability::ZERO,
            lower_bound: TracesPerSecond::new(lower_bound).unwrap(),
            operations: Vec::new(),
        })
    }

    fn sampled(remote: &Remote, now: Instant) -> bool {
        let unlikely = TraceId::from_halves(0, u64::MAX >> 1).unwrap();
        remote.sample(unlikely, "GET", now).sampled
    }

    #[test]
    fn starts_with_the_initial_probability() {
        assert_eq!(remote().description(), "probabilistic 0.001");
    }

    #[test]
    fn another_kind_replaces_and_the_same_kind_keeps_credits() {
        let now = Instant::now();
        for (strategy, changed) in [
            (limit(1.0), limit(2.0)),
            (limit(1.0), limit(1.0)),
            (per_operation(1.0), per_operation(1.0)),
            (per_operation(1.0), per_operation(0.5)),
        ] {
            let remote = remote();
            remote.apply(&strategy, now);
            assert!(sampled(&remote, now), "{strategy:?}");
            assert!(!sampled(&remote, now), "{strategy:?}");
            remote.apply(&changed, now);
            assert!(
                !sampled(&remote, now),
                "{strategy:?} to {changed:?} gave credit away"
            );
            remote.apply(&Strategy::Probabilistic(Probability::ONE), now);
            assert!(sampled(&remote, now));
            remote.apply(&strategy, now);
            assert!(sampled(&remote, now), "a new sampler starts full");
        }
    }

    #[test]
    fn endpoints_survive_writing_and_reading() {
        for (text, transport, target) in [
            (
                "https://collector:14268/api/sampling?tenant=a",
                Transport::Http,
                "https://collector:14268/api/sampling?tenant=a",
            ),
            (
                "grpc://jaeger:5779",
                Transport::Grpc,
                "http://jaeger:5779/jaeger.api_v2.SamplingManager/GetSamplingStrategy",
            ),
            (
                "grpcs://jaeger:14250/ignored",
                Transport::Grpc,
                "https://jaeger:14250/jaeger.api_v2.SamplingManager/GetSamplingStrategy",
            ),
        ] {
            let endpoint: Endpoint = serde_json::from_value(text.into()).unwrap();
            assert_eq!(endpoint.target(), (transport, target.parse().unwrap()));
            // A URL without a path gets its slash.
            let written = serde_json::to_value(&endpoint).unwrap();
            assert_eq!(written.as_str().unwrap().trim_end_matches('/'), text);
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_repeated() {
        for url in ["http://me:secret@x:2000", "http://me:sec ret@x:2000"] {
            let error = Endpoint::try_from(url.to_owned()).unwrap_err().to_string();
            assert!(
                !error.contains("sec") && error.contains("@x:2000"),
                "{error}"
            );
        }
    }
}
