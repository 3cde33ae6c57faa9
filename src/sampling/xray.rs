//! `xray`: the sampling rules of AWS X-Ray, fetched through its daemon and shared with every other tracer that follows them.
//!
//! Rules are tried by priority; the first that matches the request decides. Its reservoir goes first: so many traces a
//! second as the service granted, or one while there is no grant. Beyond that a fixed share of the traces is recorded. What
//! was decided is reported each ten seconds, and the service answers with new grants. Without rules, or an hour after the
//! last, traces are recorded as by the SDKs' own rule: one a second and a twentieth of the others.
//!
//! The service's times are compared with the `Date` of its own answers, so a wrong clock here grants nothing.
//!
//! Source: aws-xray-sdk-python 2.15 `core/sampling/`; AWS X-Ray API reference, `GetSamplingRules` and `GetSamplingTargets`.

mod answers;
mod daemon;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use http::header;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;

use crate::model::HumanDuration;
use crate::model::TraceId;
use crate::sampling::Built;
use crate::sampling::Decision;
use crate::sampling::Head;
use crate::sampling::Param;
use crate::sampling::Parts;
use crate::sampling::Poller;
use crate::sampling::Probability;
use crate::sampling::Sampler;
use crate::sampling::Told;
use crate::sampling::TracesPerSecond;
use crate::sampling::probabilistic::Probabilistic;
use crate::sampling::remote::Endpoint;
use crate::sampling::remote::Transport;
use crate::sampling::xray::daemon::Daemon;

pub use answers::{Found, Page, Target, Targets, parse_rules, parse_targets};

pub(super) const EXAMPLE: &str = r#"{"xray": {"endpoint": "http://127.0.0.1:2000"}}"#;

/// Follow the sampling rules of AWS X-Ray.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The X-Ray daemon, or the `awsxrayproxy` of an OpenTelemetry Collector, which signs the questions.
    ///
    /// Unit: URL with scheme `http` or `https`. Default: `http://127.0.0.1:2000`. Reload: live.
    #[serde(deserialize_with = "over_http")]
    pub endpoint: Endpoint,
    /// What this service runs on, for rules that name it, such as `AWS::ECS::Container`. Empty: rules of every kind apply.
    ///
    /// Unit: text. Default: empty. Reload: live.
    pub service_type: String,
    /// Time between two reports of what was decided, which bring new grants.
    ///
    /// Unit: duration. Default: `10s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub report_interval: HumanDuration,
    /// Time between two questions for the rules themselves; a change that the service tells of is fetched with the
    /// next report.
    ///
    /// Unit: duration. Default: `5m`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub rules_interval: HumanDuration,
    /// Longest wait for an answer.
    ///
    /// Unit: duration. Default: `10s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub timeout: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::from_static("http://127.0.0.1:2000"),
            service_type: String::new(),
            report_interval: HumanDuration::from_secs(10),
            rules_interval: HumanDuration::from_secs(300),
            timeout: HumanDuration::from_secs(10),
        }
    }
}

impl Config {
    /// Jaeger's clients know no rules by path: one trace a second, as without rules here.
    pub(super) fn told(&self) -> Told<'_> {
        Told::Limit(TracesPerSecond::ONE)
    }
}

fn over_http<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Endpoint, D::Error> {
    let endpoint = Endpoint::deserialize(deserializer)?;
    match endpoint.target().0 {
        Transport::Http => Ok(endpoint),
        Transport::Grpc => Err(D::Error::custom("the X-Ray daemon speaks HTTP")),
    }
}

/// How long rules stand after they were last fetched.
const LIFETIME: Duration = Duration::from_secs(3600);
/// What is recorded without rules, beyond one trace a second.
const SHARE_WITHOUT_RULES: f64 = 0.05;

pub(super) fn build(config: &Config, parts: Parts<'_>) -> Built {
    let sampler = Arc::new(XRay::new(parts.service, &config.service_type));
    let daemon = Daemon::new(config, parts.client, Arc::clone(&sampler));
    let interval = config.report_interval.0;
    let poller = Poller::new(interval, Box::new(daemon), Arc::clone(&sampler) as _);
    Built {
        sampler,
        poller: Some(poller),
    }
}

/// The rules in force.
#[derive(Debug)]
struct XRay {
    service: String,
    service_type: String,
    epoch: Instant,
    rules: ArcSwap<Rules>,
    without_rules: Local,
}

#[derive(Debug, Default)]
struct Rules {
    /// By priority, then name.
    rules: Vec<Rule>,
    /// `None` before the first.
    fetched: Option<Fetched>,
}

/// When rules came, by both clocks.
#[derive(Debug, Clone, Copy)]
struct Fetched {
    here: Instant,
    /// Seconds since 1970.
    there: f64,
}

#[derive(Debug, Clone)]
struct Rule {
    order: (i64, String),
    host: String,
    method: String,
    path: String,
    service: String,
    service_type: String,
    share: Probabilistic,
    /// One trace a second while there is no grant.
    may_borrow: bool,
    grant: Option<Grant>,
    /// Goes with the rule's name, whatever becomes of the rest.
    counts: Arc<Counts>,
}

/// So many traces a second, until then.
#[derive(Debug, Clone, Copy)]
struct Grant {
    quota: u32,
    until: Instant,
}

/// What a rule decided since the last report, and in this second.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    sampled: AtomicU64,
    borrowed: AtomicU64,
    taken_now: Second,
    borrowed_now: Second,
}

/// How often something happened in the second that it happened in last: the second in the upper half.
#[derive(Debug, Default)]
struct Second(AtomicU64);

impl Second {
    /// Counts one more, unless there were as many already.
    fn take(&self, second: u32, most: u32) -> bool {
        let taken = |state: u64| {
            let so_far = if state >> 32 == u64::from(second) {
                state as u32
            } else {
                0
            };
            (so_far < most).then(|| (u64::from(second) << 32) | u64::from(so_far + 1))
        };
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }
}

/// The rule that the SDKs bring along.
#[derive(Debug)]
struct Local {
    first: Second,
    share: Probabilistic,
}

impl XRay {
    fn new(service: &str, service_type: &str) -> Self {
        let share = Probability::new(SHARE_WITHOUT_RULES).unwrap_or(Probability::ZERO);
        Self {
            service: service.to_owned(),
            service_type: service_type.to_owned(),
            epoch: Instant::now(),
            rules: ArcSwap::default(),
            without_rules: Local {
                first: Second::default(),
                share: Probabilistic::new(share),
            },
        }
    }

    fn decide(
        &self,
        trace_id: TraceId,
        operation: &str,
        asked: Asked<'_>,
        now: Instant,
    ) -> Decision {
        let second = now.saturating_duration_since(self.epoch).as_secs() as u32 + 1;
        let rules = self.rules.load();
        let fresh = rules
            .fetched
            .is_some_and(|at| now.saturating_duration_since(at.here) <= LIFETIME);
        let rule = rules
            .rules
            .iter()
            .find(|rule| fresh && rule.matches(&asked));
        let Some(rule) = rule else {
            if self.without_rules.first.take(second, 1) {
                return by_reservoir(1);
            }
            return self.without_rules.share.sample(trace_id, operation, now);
        };
        rule.decide(trace_id, operation, second, now)
    }

    fn asked<'a>(&'a self, request: Option<Head<'a>>) -> Asked<'a> {
        let host = |head: Head<'a>| match head.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => head.headers.get(header::HOST)?.to_str().ok(),
        };
        Asked {
            host: request.and_then(host).unwrap_or_default(),
            method: request.map_or("", |head| head.method.as_str()),
            path: request.map_or("", |head| head.uri.path()),
            service: &self.service,
            service_type: &self.service_type,
        }
    }

    /// Takes over a list of rules; those that stay keep their counts and grants.
    fn load(&self, found: Vec<Found>, fetched: Fetched) {
        let before = self.rules.load();
        let mut rules: Vec<Rule> = found.into_iter().map(Rule::new).collect();
        for rule in &mut rules {
            let old = before.rules.iter().find(|old| old.order.1 == rule.order.1);
            if let Some(old) = old {
                rule.grant = old.grant;
                rule.counts = Arc::clone(&old.counts);
            }
        }
        rules.sort_by(|one, other| one.order.cmp(&other.order));
        self.rules.store(Arc::new(Rules {
            rules,
            fetched: Some(fetched),
        }));
    }

    /// Takes over new grants and shares.
    fn grant(&self, targets: &[Target], at: Fetched) {
        let before = self.rules.load();
        let mut rules = before.rules.clone();
        for rule in &mut rules {
            let Some(target) = targets.iter().find(|target| target.name == rule.order.1) else {
                continue;
            };
            if let Some(share) = target.share {
                rule.share = Probabilistic::new(share);
            }
            let quota = target.quota.or(rule.grant.map(|grant| grant.quota));
            let until = match target.until {
                Some(until) => at.moment(until),
                None => rule.grant.map(|grant| grant.until),
            };
            rule.grant = quota
                .zip(until)
                .map(|(quota, until)| Grant { quota, until });
        }
        self.rules.store(Arc::new(Rules {
            rules,
            fetched: before.fetched,
        }));
    }
}

impl Sampler for XRay {
    fn sample(&self, trace_id: TraceId, operation: &str, now: Instant) -> Decision {
        self.decide(trace_id, operation, self.asked(None), now)
    }

    fn sample_request(
        &self,
        trace_id: TraceId,
        operation: &str,
        request: Head<'_>,
        now: Instant,
    ) -> Decision {
        self.decide(trace_id, operation, self.asked(Some(request)), now)
    }

    fn description(&self) -> String {
        match self.rules.load().rules.len() {
            0 => "xray, no rules yet".to_owned(),
            rules => format!("xray, {rules} rules"),
        }
    }

    fn operations(&self) -> usize {
        self.rules.load().rules.len()
    }
}

fn by_reservoir(quota: u32) -> Decision {
    Decision {
        sampled: true,
        kind: "ratelimiting",
        param: Param::F64(f64::from(quota)),
    }
}

impl Fetched {
    /// When it is that time there; `None` beyond what clocks can say.
    fn moment(&self, there: f64) -> Option<Instant> {
        let left = Duration::try_from_secs_f64((there - self.there).max(0.0)).ok()?;
        self.here.checked_add(left.min(LIFETIME))
    }
}

/// What rules are matched with. Empty: not known, which every rule matches.
struct Asked<'a> {
    host: &'a str,
    method: &'a str,
    path: &'a str,
    service: &'a str,
    service_type: &'a str,
}

impl Rule {
    fn new(found: Found) -> Self {
        Self {
            share: Probabilistic::new(found.share),
            may_borrow: found.reservoir_size > 0,
            order: (found.priority, found.name),
            host: found.host,
            method: found.method,
            path: found.path,
            service: found.service,
            service_type: found.service_type,
            grant: None,
            counts: Arc::default(),
        }
    }

    fn matches(&self, asked: &Asked<'_>) -> bool {
        let fields = [
            (&self.host, asked.host),
            (&self.method, asked.method),
            (&self.path, asked.path),
            (&self.service, asked.service),
            (&self.service_type, asked.service_type),
        ];
        self.order.1 == "Default"
            || fields
                .iter()
                .all(|(pattern, text)| text.is_empty() || matches(pattern, text))
    }

    fn decide(&self, trace_id: TraceId, operation: &str, second: u32, now: Instant) -> Decision {
        let counts = &self.counts;
        counts.requests.fetch_add(1, Ordering::Relaxed);
        match self.grant.filter(|grant| grant.until >= now) {
            Some(Grant { quota, .. }) => {
                if counts.taken_now.take(second, quota) {
                    counts.sampled.fetch_add(1, Ordering::Relaxed);
                    return by_reservoir(quota);
                }
            }
            None => {
                if self.may_borrow && counts.borrowed_now.take(second, 1) {
                    counts.borrowed.fetch_add(1, Ordering::Relaxed);
                    return by_reservoir(1);
                }
            }
        }
        let decision = self.share.sample(trace_id, operation, now);
        if decision.sampled {
            counts.sampled.fetch_add(1, Ordering::Relaxed);
        }
        decision
    }
}

/// True when the text is of this form: `*` stands for any characters, `?` for one, letters match in either case.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut place) = (0, 0);
    // Where the last star stood and how far it reaches: one star is tried at a time, so there is no blow-up.
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(at) {
        match pattern.get(place) {
            Some(b'*') => {
                star = Some((place, at));
                place += 1;
            }
            Some(expected) if *expected == b'?' || expected.eq_ignore_ascii_case(byte) => {
                at += 1;
                place += 1;
            }
            _ => {
                let Some((starred, reached)) = star else {
                    return false;
                };
                star = Some((starred, reached + 1));
                (place, at) = (starred + 1, reached + 1);
            }
        }
    }
    pattern.iter().skip(place).all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests;
