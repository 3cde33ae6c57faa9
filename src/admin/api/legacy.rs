//! Jaeger's first query API: `/api/{services,operations,traces,dependencies}`, for its UI up to 2.14 and older tools.
//!
//! Every answer wears one envelope, errors too. Source: field sheet on Jaeger, section 11.

use http::StatusCode;
use serde_json::Value;
use serde_json::json;

use crate::admin::Store;
use crate::admin::api::encode;
use crate::admin::api::params;
use crate::admin::api::params::BadParam;
use crate::admin::api::params::Params;
use crate::admin::graph;
use crate::admin::respond;
use crate::admin::respond::Answer;
use crate::admin::search::Query;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const DEFAULT_LIMIT: u64 = 100;
/// Most traces in one answer.
pub(super) const MAX_LIMIT: u64 = 1_500;

/// Answers what lies under `/api/`; `None` when nothing has this path.
pub(super) fn find(rest: &str, params: &Params, store: &Store) -> Option<Answer> {
    let parts: Vec<_> = rest.split('/').collect();
    let answer = match parts.as_slice() {
        ["services"] => Ok(services(store)),
        ["services", service, "operations"] => Ok(operation_names(service, store)),
        ["operations"] => operations(params, store),
        ["traces"] => traces(params, store),
        ["traces", id] => trace(id, store),
        ["dependencies"] => dependencies(params, store),
        _ => return None,
    };
    Some(answer.unwrap_or_else(|error| refuse(StatusCode::BAD_REQUEST, &error.to_string())))
}

/// Reads the search parameters that Jaeger's first API and the page share.
///
/// # Errors
/// Names the first parameter that is not understood.
pub(super) fn query(params: &Params) -> Result<Query, BadParam> {
    let mut tags: Vec<_> = params.tags("tags")?.collect();
    for tag in params.all("tag") {
        tags.push(match tag.split_once(':') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => return Err(BadParam::new("tag", "not key:value")),
        });
    }
    let query = Query {
        service: params.one("service").map(str::to_owned),
        operation: params.one("operation").map(str::to_owned),
        tags,
        min_duration: params.duration(&["minDuration"])?,
        max_duration: params.duration(&["maxDuration"])?,
        from: params.epoch("start", MICROSECOND)?,
        until: params.epoch("end", MICROSECOND)?,
        ..Query::default()
    };
    if let (Some(min), Some(max)) = (query.min_duration, query.max_duration)
        && max < min
    {
        return Err(BadParam::new("maxDuration", "less than minDuration"));
    }
    if let (Some(from), Some(until)) = (query.from, query.until)
        && until < from
    {
        return Err(BadParam::new("start", "after end"));
    }
    Ok(query)
}

/// Reads `limit`, 1 to [`MAX_LIMIT`].
pub(super) fn limit(params: &Params, names: &[&str]) -> Result<usize, BadParam> {
    match params.number(names)? {
        Some(0) => Err(BadParam::new("limit", "must be greater than 0")),
        given => Ok(given.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT) as usize),
    }
}

fn services(store: &Store) -> Answer {
    let names = store.services();
    envelope(json!(names), names.len())
}

fn operation_names(service: &str, store: &Store) -> Answer {
    let operations = store.operations(&params::segment(service));
    let mut names: Vec<_> = operations.into_iter().map(|o| o.name).collect();
    names.dedup();
    envelope(json!(names), names.len())
}

fn operations(params: &Params, store: &Store) -> Result<Answer, BadParam> {
    let Some(service) = params.one("service") else {
        return Err(BadParam::Missing("service"));
    };
    let kind = params.one("spanKind");
    let operations: Vec<_> = store
        .operations(service)
        .into_iter()
        .filter(|operation| kind.is_none_or(|kind| kind == operation.kind))
        .map(|operation| json!({ "name": operation.name, "spanKind": operation.kind }))
        .collect();
    let total = operations.len();
    Ok(envelope(json!(operations), total))
}

fn traces(params: &Params, store: &Store) -> Result<Answer, BadParam> {
    let limit = limit(params, &["limit"])?;
    let query = query(params)?;
    let mut traces = Vec::new();
    let mut errors = Vec::new();
    let ids: Vec<_> = params.all("traceID").collect();
    if ids.is_empty() {
        if query.service.is_none() {
            return Err(BadParam::Missing("service"));
        }
        traces = store.find(limit, |spans| query.matches(spans));
    }
    for id in ids {
        match store.trace(params::trace_id(id)?) {
            Some(trace) => traces.push(trace),
            None => errors.push(json!({ "msg": "trace not found", "traceID": id })),
        }
    }
    let errors = if errors.is_empty() {
        Value::Null
    } else {
        json!(errors)
    };
    let data: Vec<_> = traces.iter().map(encode::jaeger).collect();
    Ok(respond::json(&json!({
        "data": data, "total": 0, "limit": 0, "offset": 0, "errors": errors,
    })))
}

fn trace(id: &str, store: &Store) -> Result<Answer, BadParam> {
    let id = params::trace_id(&params::segment(id))?;
    Ok(match store.trace(id) {
        Some(trace) => envelope(json!([encode::jaeger(&trace)]), 0),
        None => refuse(StatusCode::NOT_FOUND, "trace not found"),
    })
}

fn dependencies(params: &Params, store: &Store) -> Result<Answer, BadParam> {
    let until = params.epoch("endTs", MILLISECOND)?;
    let lookback = params.number(&["lookback"])?;
    let window = Query {
        from: until.zip(lookback).map(|(mut until, lookback)| {
            until.0 = until.0.saturating_sub(lookback.saturating_mul(MILLISECOND));
            until
        }),
        until,
        ..Query::default()
    };
    let service = params.one("service");
    let links: Vec<_> = links(&window, store)
        .into_iter()
        .filter(|link| {
            service.is_none_or(|service| link["parent"] == service || link["child"] == service)
        })
        .collect();
    Ok(envelope(json!(links), 0))
}

/// Calls between services that sent spans: what Jaeger calls dependencies.
pub(super) fn links(window: &Query, store: &Store) -> Vec<Value> {
    let graph = graph::build(&store.find(usize::MAX, |spans| window.matches(spans)));
    let outside = |name: &str| {
        graph
            .nodes
            .iter()
            .any(|node| node.outside && node.name == name)
    };
    graph
        .edges
        .iter()
        .filter(|edge| !outside(&edge.child))
        .map(|edge| {
            json!({ "parent": edge.parent, "child": edge.child, "callCount": edge.calls.calls })
        })
        .collect()
}

fn envelope(data: Value, total: usize) -> Answer {
    respond::json(&json!({
        "data": data, "total": total, "limit": 0, "offset": 0, "errors": null,
    }))
}

fn refuse(status: StatusCode, message: &str) -> Answer {
    let error = json!({ "code": status.as_u16(), "msg": message });
    let body = json!({ "data": null, "total": 0, "limit": 0, "offset": 0, "errors": [error] });
    respond::json_under(status, &body)
}
