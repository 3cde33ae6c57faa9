//! Reads what the service answers: JSON bytes in, checked rules and grants out.
//!
//! Unknown keys are skipped. Rules of a kind that the SDKs do not know either (another version, one resource alone, by
//! attributes) are left out; a share outside its range refuses the whole answer.

use serde::Deserialize;

use crate::sampling::Probability;
use crate::sampling::StrategyError;

/// Rules of one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In the order of the answer.
    pub rules: Vec<Found>,
    /// What to ask for the following ones with.
    pub next: Option<String>,
}

/// A rule as the service keeps it. Patterns know `*` and `?`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "named as in the service's reference")]
pub struct Found {
    pub name: String,
    pub priority: i64,
    pub share: Probability,
    pub reservoir_size: i64,
    pub host: String,
    pub method: String,
    pub path: String,
    pub service: String,
    pub service_type: String,
}

/// Grants of one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Targets {
    /// By rule.
    pub targets: Vec<Target>,
    /// When rules were last changed, in seconds since 1970.
    pub modified: Option<f64>,
}

/// What a rule may do until the next report.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The rule's name.
    pub name: String,
    /// What is recorded beyond the grant; `None`: as before.
    pub share: Option<Probability>,
    /// Traces a second; `None`: as before.
    pub quota: Option<u32>,
    /// When the grant ends, in seconds since 1970; `None`: as before.
    pub until: Option<f64>,
}

/// Reads the answer to `POST /GetSamplingRules`.
///
/// # Errors
/// Not JSON of that shape, or a share that is none.
pub fn parse_rules(body: &[u8]) -> Result<Page, StrategyError> {
    let answer: RulesAnswer = serde_json::from_slice(body).map_err(StrategyError::Shape)?;
    let records = answer.sampling_rule_records.into_iter();
    let known = records.map(|record| record.sampling_rule).filter(|rule| {
        let attributes = rule.attributes.as_ref();
        rule.version == 1
            && rule.resource_arn == "*"
            && !rule.service_type.is_empty()
            && attributes.is_none_or(serde_json::Map::is_empty)
    });
    let rules = known.map(|rule| {
        Ok(Found {
            share: share(rule.fixed_rate)?,
            name: rule.rule_name,
            priority: rule.priority,
            reservoir_size: rule.reservoir_size,
            host: rule.host,
            method: rule.http_method,
            path: rule.url_path,
            service: rule.service_name,
            service_type: rule.service_type,
        })
    });
    Ok(Page {
        rules: rules.collect::<Result<_, _>>()?,
        next: answer.next_token.filter(|token| !token.is_empty()),
    })
}

/// Reads the answer to `POST /SamplingTargets`.
///
/// # Errors
/// Not JSON of that shape, or a share that is none.
pub fn parse_targets(body: &[u8]) -> Result<Targets, StrategyError> {
    let answer: TargetsAnswer = serde_json::from_slice(body).map_err(StrategyError::Shape)?;
    let targets = answer.sampling_target_documents.into_iter().map(|target| {
        Ok(Target {
            share: target.fixed_rate.map(share).transpose()?,
            quota: target
                .reservoir_quota
                .and_then(|quota| u32::try_from(quota).ok()),
            until: target.reservoir_quota_ttl,
            name: target.rule_name,
        })
    });
    Ok(Targets {
        targets: targets.collect::<Result<_, _>>()?,
        modified: answer.last_rule_modification,
    })
}

fn share(rate: f64) -> Result<Probability, StrategyError> {
    Probability::new(rate).map_err(|source| StrategyError::Range {
        field: "FixedRate",
        source,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RulesAnswer {
    sampling_rule_records: Vec<Record>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    sampling_rule: Rule,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Rule {
    rule_name: String,
    priority: i64,
    fixed_rate: f64,
    reservoir_size: i64,
    host: String,
    #[serde(rename = "HTTPMethod")]
    http_method: String,
    #[serde(rename = "URLPath")]
    url_path: String,
    service_name: String,
    #[serde(default)]
    service_type: String,
    #[serde(rename = "ResourceARN", default)]
    resource_arn: String,
    #[serde(default)]
    version: i64,
    attributes: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TargetsAnswer {
    #[serde(default)]
    sampling_target_documents: Vec<TargetDocument>,
    last_rule_modification: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TargetDocument {
    rule_name: String,
    fixed_rate: Option<f64>,
    reservoir_quota: Option<i64>,
    #[serde(rename = "ReservoirQuotaTTL")]
    reservoir_quota_ttl: Option<f64>,
}
