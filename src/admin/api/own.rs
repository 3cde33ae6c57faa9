//! What the page itself asks, and `/traces`: recent spans as plain OTLP JSON for people with curl.
//!
//! Lists carry the store's version as `ETag`, so that a page that polls gets 304 while nothing happens.

use http::HeaderMap;
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
use crate::admin::graph;
use crate::admin::respond;
use crate::admin::respond::Answer;
use crate::admin::search;
use crate::admin::search::Query;
use crate::admin::search::Scope;
use crate::admin::search::Summary;

/// Traces that the service graph is built from, the newest.
const GRAPH_TRACES: usize = 5_000;

/// Answers a path outside Jaeger's APIs; `None` when nothing has it.
pub(super) fn find(
    path: &str,
    params: &Params,
    headers: &HeaderMap,
    store: &Store,
) -> Option<Answer> {
    let question: fn(&Params, &Store) -> Result<Answer, BadParam> = match path {
        "/traces" => traces,
        "/view/summaries" => summaries,
        "/view/graph" => graph,
        "/view/services" => services,
        _ => return download(path.strip_prefix("/view/download/")?, store),
    };
    let version = store.version();
    if let Some(answer) = respond::unchanged(&version, headers) {
        return Some(answer);
    }
    Some(match question(params, store) {
        Ok(answer) => respond::tagged(answer, &version),
        Err(error) => respond::text(StatusCode::BAD_REQUEST, error.to_string()),
    })
}

fn traces(params: &Params, store: &Store) -> Result<Answer, BadParam> {
    let limit = legacy::limit(params, &["limit"])?;
    let query = query(params)?;
    let found = store.find(limit, |spans| query.matches(spans));
    Ok(respond::json(&encode::otlp(&found)))
}

/// Jaeger's parameters, with no service required, `error=true`, and `has=KEY` for the presence of a tag.
fn query(params: &Params) -> Result<Query, BadParam> {
    let mut query = legacy::query(params)?;
    let present = params.all("has").filter(|key| !key.is_empty());
    query.tags.extend(present.map(|key| (key.to_owned(), None)));
    query.errors = params.one("error") == Some("true");
    query.scope = match query.operation {
        Some(_) => Scope::Span,
        None => Scope::Trace,
    };
    Ok(query)
}

fn summaries(params: &Params, store: &Store) -> Result<Answer, BadParam> {
    let limit = legacy::limit(params, &["limit"])?;
    let query = query(params)?;
    let found = store.find(limit, |spans| query.matches(spans));
    let traces: Vec<_> = found.iter().filter_map(summary).collect();
    Ok(respond::json(
        &json!({ "traces": traces, "held": store.stats() }),
    ))
}

fn summary(trace: &Trace) -> Option<Value> {
    let summary = Summary::of(trace)?;
    let services: Vec<_> = summary
        .services
        .iter()
        .map(|(name, (spans, errors))| json!({ "name": name, "spans": spans, "errors": errors }))
        .collect();
    let attribute = |key| {
        let value = summary.root.attribute(key)?;
        Some(search::display(value).into_owned())
    };
    Some(json!({
        "traceId": trace.id.hex().as_str(),
        "service": summary.root.resource.service,
        "operation": summary.root.name,
        "path": attribute("url.path"),
        "status": attribute("http.response.status_code"),
        "startMicros": summary.start.micros(),
        "durationNanos": summary.end.0.saturating_sub(summary.start.0),
        "spans": summary.spans,
        "errors": summary.errors,
        "orphans": summary.orphans,
        "refused": trace.refused,
        "services": services,
    }))
}

fn graph(params: &Params, store: &Store) -> Result<Answer, BadParam> {
    let query = query(params)?;
    let found = store.find(GRAPH_TRACES, |spans| query.matches(spans));
    let graph = graph::build(&found);
    Ok(respond::json(&json!({
        "nodes": graph.nodes, "edges": graph.edges, "traces": found.len(), "held": store.stats(),
    })))
}

/// Every service with its operations, for the search form.
fn services(_: &Params, store: &Store) -> Result<Answer, BadParam> {
    let services: Vec<_> = store
        .services()
        .into_iter()
        .map(|name| {
            let mut operations: Vec<_> = store
                .operations(&name)
                .into_iter()
                .map(|o| o.name)
                .collect();
            operations.dedup();
            json!({ "name": name, "operations": operations })
        })
        .collect();
    Ok(respond::json(
        &json!({ "services": services, "held": store.stats() }),
    ))
}

/// `jaeger/ID.json`, which Jaeger's page takes as an upload, or `otlp/ID.json`.
fn download(rest: &str, store: &Store) -> Option<Answer> {
    let (form, name) = rest.split_once('/')?;
    let id = params::trace_id(name.strip_suffix(".json")?).ok()?;
    let trace = store.trace(id)?;
    let (body, suffix) = match form {
        "jaeger" => (json!({ "data": [encode::jaeger(&trace)] }), "jaeger"),
        "otlp" => (encode::otlp(std::slice::from_ref(&trace)), "otlp"),
        _ => return None,
    };
    Some(respond::attachment(
        respond::json(&body),
        &format!("trace-{}-{suffix}.json", id.hex().as_str()),
    ))
}
