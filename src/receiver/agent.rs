//! What Jaeger's agent answers over HTTP: strategies, baggage restrictions, credits.
//!
//! `/sampling` spells the strategy's type as a name, `/` as a number: each is what the clients that ask there understand.
//! Source: jaeger v1.67 `internal/sampling/http/handler.go`, v1.62 `cmd/agent/app/httpserver`.

use std::time::Instant;

use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::codec::jaeger_strategy::Spelling;
use crate::receiver::reply;
use crate::receiver::reply::Reply;
use crate::receiver::server::Shared;

/// Longest name of a service that is passed on.
const MAX_NAME: usize = 512;

/// Answers a GET on the agent's port.
pub(super) async fn answer(path: &str, query: &str, shared: &Shared) -> Reply {
    match path {
        "/sampling" => strategy(query, Spelling::Name, shared).await,
        "/" => strategy(query, Spelling::Number, shared).await,
        "/baggageRestrictions" => baggage(query, shared),
        "/credits" => credits(query, shared),
        _ => reply::text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// The strategy of the one service that the query names.
pub(super) async fn strategy(query: &str, spelling: Spelling, shared: &Shared) -> Reply {
    let Some(service) = service(query) else {
        return without_service();
    };
    let strategies = shared.strategies.load_full();
    match strategies.of(&service).await {
        Ok(answer) => reply::of(StatusCode::OK, "application/json", answer.to_json(spelling)),
        Err(why) => reply::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("collector error: {why}"),
        ),
    }
}

/// The one service that is named.
fn service(query: &str) -> Option<String> {
    let mut services = values(query, "service");
    match (services.next(), services.next()) {
        (Some(service), None) if service.len() <= MAX_NAME => Some(service),
        _ => None,
    }
}

fn without_service() -> Reply {
    reply::text(
        StatusCode::BAD_REQUEST,
        "'service' parameter must be provided once",
    )
}

/// Without restrictions the answer is the agent's: an empty list would forbid all baggage.
fn baggage(query: &str, shared: &Shared) -> Reply {
    if service(query).is_none() {
        return without_service();
    }
    if shared.jaeger.baggage.is_empty() {
        return reply::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "collector error: baggage not implemented",
        );
    }
    let list: Vec<_> = shared
        .jaeger
        .baggage
        .iter()
        .map(|(key, length)| json!({ "baggageKey": key, "maxValueLength": length }))
        .collect();
    json_reply(&json!(list))
}

fn credits(query: &str, shared: &Shared) -> Reply {
    if service(query).is_none() {
        return without_service();
    }
    let client = values(query, "uuid").next().unwrap_or_default();
    if client.is_empty() || client.len() > MAX_NAME {
        return reply::text(
            StatusCode::BAD_REQUEST,
            "'uuid' parameter must be provided once",
        );
    }
    let (mut credits, now) = (shared.credits.lock(), Instant::now());
    let balances: Vec<_> = values(query, "operations")
        .filter(|operation| operation.len() <= MAX_NAME)
        .map(|operation| {
            let balance = credits.give(&client, &operation, now);
            json!({ "operation": operation, "balance": balance })
        })
        .collect();
    json_reply(&json!({ "balances": balances }))
}

fn json_reply(value: &serde_json::Value) -> Reply {
    reply::of(
        StatusCode::OK,
        "application/json",
        value.to_string().into_bytes(),
    )
}

/// The values of a query's parameter.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    query
        .split('&')
        .filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
        .map(|value| {
            let spaced = value.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_found_by_name() {
        let query = "service=my%20shop+1&x&operations=a%26b&operations=c&serviced=no";
        assert_eq!(service(query).unwrap(), "my shop 1");
        let operations: Vec<_> = values(query, "operations").collect();
        assert_eq!(operations, ["a&b", "c"]);
        for (query, why) in [
            ("", "none"),
            ("services=a", "another name"),
            ("service=a&service=b", "twice"),
        ] {
            assert!(service(query).is_none(), "{why}");
        }
    }
}
