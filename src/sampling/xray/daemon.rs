//! Asks the daemon for rules, and tells it what was decided by them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::Request;
use http::Response;
use http::Uri;
use http::header;
use http_body_util::Full;
use serde_json::json;

use crate::net::client::Client;
use crate::sampling::Asking;
use crate::sampling::Follow;
use crate::sampling::PollError;
use crate::sampling::StrategyError;
use crate::sampling::xray::Config;
use crate::sampling::xray::Fetched;
use crate::sampling::xray::XRay;
use crate::sampling::xray::parse_rules;
use crate::sampling::xray::parse_targets;

/// Rules that are kept; the service allows 25 unless asked for more.
const MAX_RULES: usize = 1_000;
/// Pages of rules that are read.
const MAX_PAGES: usize = 20;
const MAX_ANSWER: usize = 4 << 20;
const AGENT: &str = concat!("pillion/", env!("CARGO_PKG_VERSION"));

/// The daemon that is asked.
pub(super) struct Daemon {
    client: Client,
    target: Uri,
    timeout: Duration,
    rules_interval: Duration,
    client_id: String,
    sampler: Arc<XRay>,
    /// `None`: at once.
    next_rules: Option<Instant>,
}

impl Follow for Daemon {
    fn ask(&mut self) -> Asking<'_> {
        Box::pin(self.poll())
    }

    fn target(&self) -> &Uri {
        &self.target
    }
}

impl Daemon {
    pub(super) fn new(config: &Config, client: &Client, sampler: Arc<XRay>) -> Self {
        Self {
            client: client.clone(),
            target: config.endpoint.target().1,
            timeout: config.timeout.0,
            rules_interval: config.rules_interval.0,
            // As the SDKs do: 96 random bits for each start.
            client_id: format!("{:016x}{:08x}", fastrand::u64(..), fastrand::u32(..)),
            sampler,
            next_rules: None,
        }
    }

    async fn poll(&mut self) -> Result<(), PollError> {
        let now = Instant::now();
        if self.next_rules.is_none_or(|next| next <= now) {
            self.fetch_rules().await?;
            self.next_rules = Some(now + self.rules_interval);
        }
        self.report().await
    }

    async fn fetch_rules(&self) -> Result<(), PollError> {
        let mut found = Vec::new();
        let mut question = json!({});
        let mut fetched = None;
        for _ in 0..MAX_PAGES {
            let (answer, at) = self.post("/GetSamplingRules", &question).await?;
            fetched = Some(at);
            let mut page = parse_rules(answer.body()).map_err(PollError::Strategy)?;
            found.append(&mut page.rules);
            let Some(next) = page.next else { break };
            question = json!({ "NextToken": next });
        }
        found.truncate(MAX_RULES);
        // There is a default rule always; an answer without any is no reason to forget those that are known.
        if let Some(fetched) = fetched.filter(|_| !found.is_empty()) {
            self.sampler.load(found, fetched);
        }
        Ok(())
    }

    /// Says what was decided since the last report and takes over what that brings.
    async fn report(&mut self) -> Result<(), PollError> {
        let rules = self.sampler.rules.load_full();
        let Some(fetched) = rules.fetched else {
            return Ok(());
        };
        let there = fetched.there + fetched.here.elapsed().as_secs_f64();
        let mut taken = Vec::new();
        let mut documents = Vec::new();
        for rule in &rules.rules {
            let counts = &rule.counts;
            let requests = counts.requests.swap(0, Ordering::Relaxed);
            if requests == 0 {
                continue;
            }
            let sampled = counts.sampled.swap(0, Ordering::Relaxed);
            let borrowed = counts.borrowed.swap(0, Ordering::Relaxed);
            documents.push(json!({
                "RuleName": rule.order.1,
                "ClientID": self.client_id,
                "Timestamp": there as u64,
                "RequestCount": requests,
                "SampledCount": sampled,
                "BorrowCount": borrowed,
            }));
            taken.push((counts, requests, sampled, borrowed));
        }
        if documents.is_empty() {
            return Ok(());
        }
        let question = json!({ "SamplingStatisticsDocuments": documents });
        let answer = self.post("/SamplingTargets", &question).await;
        let (answer, at) = answer.inspect_err(|_| {
            // What was not heard is said again.
            for (counts, requests, sampled, borrowed) in taken {
                counts.requests.fetch_add(requests, Ordering::Relaxed);
                counts.sampled.fetch_add(sampled, Ordering::Relaxed);
                counts.borrowed.fetch_add(borrowed, Ordering::Relaxed);
            }
        })?;
        let targets = parse_targets(answer.body()).map_err(PollError::Strategy)?;
        self.sampler.grant(&targets.targets, at);
        if targets
            .modified
            .is_some_and(|modified| modified > fetched.there)
        {
            self.next_rules = None;
        }
        Ok(())
    }

    async fn post(
        &self,
        path: &'static str,
        question: &serde_json::Value,
    ) -> Result<(Response<Bytes>, Fetched), PollError> {
        let base = self.target.to_string();
        let request = Request::post(format!("{}{path}", base.trim_end_matches('/')))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, AGENT)
            .body(Full::new(question.to_string().into()))
            .map_err(PollError::Request)?;
        let answer = self.client.send(request, self.timeout, MAX_ANSWER).await;
        let answer = answer.map_err(PollError::Exchange)?;
        if !answer.status().is_success() {
            return Err(PollError::Refused(answer.status()));
        }
        let date = answer.headers().get(header::DATE);
        let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let there = date
            .and_then(|date| date.duration_since(UNIX_EPOCH).ok())
            .ok_or(PollError::Strategy(StrategyError::Undated))?;
        let here = Instant::now();
        let there = there.as_secs_f64();
        Ok((answer, Fetched { here, there }))
    }
}
