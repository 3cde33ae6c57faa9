//! Jaeger's current query API under `/api/v3/`: parameters in camelCase or, older, snake_case; traces as OTLP JSON.
//!
//! Source: the gateway of Jaeger v2.20 (`jaegerquery`, `apiv3`), its parameters and recorded answers.

use http::StatusCode;
use serde_json::Value;
use serde_json::json;

use crate::admin::Store;
use crate::admin::Trace;
use crate::admin::api::encode;
use crate::admin::api::legacy;
use crate::admin::api::params;
use crate::admin::api::params::BadParam;
use crate::admin::api::params::Params;
use crate::admin::respond;
use crate::admin::respond::Answer;
use crate::admin::search::Query;
use crate::admin::search::Summary;

const SERVICE: &[&str] = &["query.serviceName", "query.service_name"];
const OPERATION: &[&str] = &["query.operationName", "query.operation_name"];
const TIME_MIN: &[&str] = &["query.startTimeMin", "query.start_time_min"];
const TIME_MAX: &[&str] = &["query.startTimeMax", "query.start_time_max"];
const DURATION_MIN: &[&str] = &["query.durationMin", "query.duration_min"];
const DURATION_MAX: &[&str] = &["query.durationMax", "query.duration_max"];
const DEPTH: &[&str] = &[
    "query.searchDepth",
    "query.search_depth",
    "query.num_traces",
];

/// Answers what lies under `/api/v3/`; `None` when nothing has this path.
pub(super) fn find(rest: &str, params: &Params, store: &Store) -> Option<Answer> {
    let parts: Vec<_> = rest.split('/').collect();
    let answer = match parts.as_slice() {
        ["services"] => Ok(respond::json(&json!({ "services": store.services() }))),
        ["operations"] => operations(params, store),
        ["trace-summaries"] => summaries(params, store),
        ["traces"] => search(params, store).map(|found| traces(&found)),
        ["traces", id] => trace(id, params, store),
        ["dependencies"] => dependencies(params, store),
        _ => return None,
    };
    Some(answer.unwrap_or_else(|error| refuse(StatusCode::BAD_REQUEST, &error.to_string())))
}

fn operations(params: &Params, store: &Store) -> Result<Answer, BadParam> {
    let kind = params.any(&["spanKind", "span_kind"]);
    let operations: Vec<_> = params
        .one("service")
        .map(|service| store.operations(service))
        .unwrap_or_default()
        .into_iter()
        .filter(|operation| kind.is_none_or(|(_, kind)| kind == operation.kind))
        .map(|operation| json!({ "name": operation.name, "spanKind": operation.kind }))
        .collect();
    Ok(respond::json(&json!({ "operations": operations })))
}

fn search(params: &Params, store: &Store) -> Result<Vec<Trace>, BadParam> {
    let limit = legacy::limit(params, DEPTH)?;
    let from = params.time(TIME_MIN)?;
    let until = params.time(TIME_MAX)?;
    if from.is_none() {
        return Err(BadParam::Missing("query.startTimeMin"));
    }
    if until.is_none() {
        return Err(BadParam::Missing("query.startTimeMax"));
    }
    let query = Query {
        service: params.any(SERVICE).map(|(_, name)| name.to_owned()),
        operation: params.any(OPERATION).map(|(_, name)| name.to_owned()),
        tags: params.tags("query.attributes")?.collect(),
        min_duration: params.duration(DURATION_MIN)?,
        max_duration: params.duration(DURATION_MAX)?,
        from,
        until,
        ..Query::default()
    };
    Ok(store.find(limit, |spans| query.matches(spans)))
}

fn summaries(params: &Params, store: &Store) -> Result<Answer, BadParam> {
    let found = search(params, store)?;
    let summaries: Vec<_> = found
        .iter()
        .filter_map(|trace| Some((trace, Summary::of(trace)?)))
        .map(|(trace, summary)| summary_json(trace, &summary))
        .collect();
    Ok(respond::json(&json!({ "summaries": summaries })))
}

fn summary_json(trace: &Trace, summary: &Summary) -> Value {
    let services: Vec<_> = summary
        .services
        .iter()
        .map(|(name, (spans, errors))| {
            json!({ "name": name, "spanCount": spans, "errorSpanCount": errors })
        })
        .collect();
    json!({
        "traceId": trace.id.hex().as_str(),
        "rootServiceName": summary.root.resource.service,
        "rootOperationName": summary.root.name,
        "minStartTimeUnixNano": summary.start.0.to_string(),
        "maxEndTimeUnixNano": summary.end.0.to_string(),
        "spanCount": summary.spans,
        "errorSpanCount": summary.errors,
        "orphanSpanCount": summary.orphans,
        "services": services,
    })
}

fn traces(found: &[Trace]) -> Answer {
    if found.is_empty() {
        return refuse(StatusCode::NOT_FOUND, "No traces found");
    }
    respond::json(&json!({ "result": encode::otlp(found) }))
}

fn trace(id: &str, params: &Params, store: &Store) -> Result<Answer, BadParam> {
    let id = params::trace_id(&params::segment(id))?;
    // Checked as Jaeger does, though one trace is small enough to be read without them.
    params.time(&["startTime", "start_time"])?;
    params.time(&["endTime", "end_time"])?;
    Ok(traces(store.trace(id).as_slice()))
}

fn dependencies(params: &Params, store: &Store) -> Result<Answer, BadParam> {
    let from = params.time(&["startTime", "start_time"])?;
    let until = params.time(&["endTime", "end_time"])?;
    let (Some(from), Some(until)) = (from, until) else {
        return Err(BadParam::Missing(match from {
            None => "startTime",
            Some(_) => "endTime",
        }));
    };
    if until <= from {
        return Err(BadParam::new("endTime", "not after startTime"));
    }
    let window = Query {
        from: Some(from),
        until: Some(until),
        ..Query::default()
    };
    let dependencies = legacy::links(&window, store);
    Ok(respond::json(&json!({ "dependencies": dependencies })))
}

fn refuse(status: StatusCode, message: &str) -> Answer {
    let error = json!({ "httpCode": status.as_u16(), "message": message });
    respond::json_under(status, &json!({ "error": error }))
}
