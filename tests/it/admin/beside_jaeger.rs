//! The query API beside a real Jaeger v2: the same spans into both, the same questions to both, the same answers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::admin::Admin;
use crate::admin::seed;
use crate::support::http;
use crate::support::jaeger::Jaeger;
use crate::support::jaeger::Sampling;

const HELLO: &str = "0000000000001000";
const UNLINKED: &str = "abcd0000000000000000000000000001";
/// Jaeger 2.20 knows the older spelling alone.
const TIMES: &str =
    "query.start_time_min=2026-11-20T00:00:00Z&query.start_time_max=2026-11-21T00:00:00Z";

#[tokio::test]
async fn both_answer_alike() {
    let Some(jaeger) = Jaeger::start(Sampling::File(json!({}))).await else {
        return;
    };
    let both = Both {
        admin: Admin::start().await,
        jaeger,
    };
    both.seed().await;

    for path in [
        "/api/services".to_owned(),
        "/api/services/hello/operations".to_owned(),
        "/api/operations?service=hello".to_owned(),
        "/api/operations?service=hello&spanKind=client".to_owned(),
        "/api/operations".to_owned(),
        "/api/traces/77".to_owned(),
        "/api/traces?service=nobody&start=1&end=1895165654000000".to_owned(),
        "/api/traces".to_owned(),
        "/api/v3/services".to_owned(),
        "/api/v3/operations?service=hello".to_owned(),
        "/api/v3/traces/77".to_owned(),
        format!("/api/v3/traces?query.service_name=nobody&query.num_traces=9&{TIMES}"),
    ] {
        let (theirs, ours) = both.ask(&path).await;
        assert_eq!(ours, theirs, "{path}");
    }
    let path = "/api/dependencies?endTs=1795170000000&lookback=86400000";
    let (mut theirs, ours) = both.ask(path).await;
    // Work inside one service is no call in our graph; Jaeger's memory store counts each local child.
    let links = theirs.1["data"].as_array_mut().unwrap();
    links.retain(|link| link["parent"] != link["child"]);
    assert_eq!(ours, theirs, "{path}");

    for path in [
        "/api/traces/xyz",
        "/api/traces?service=a&minDuration=5",
        "/api/v3/traces/xyz",
        "/api/v3/traces",
    ] {
        let (theirs, ours) = both.ask(path).await;
        assert_eq!(ours.0, theirs.0, "the wording may differ: {path}");
        assert_eq!(shape(&ours.1), shape(&theirs.1), "{path}");
    }
    let found = "/api/traces?service=publisher&operation=GET+/publish&minDuration=1us&start=1&end=1895165654000000";
    for path in [
        format!("/api/traces/{HELLO}"),
        format!("/api/traces/{UNLINKED}"),
        found.to_owned(),
    ] {
        let (theirs, ours) = both.ask(&path).await;
        assert_eq!(ours.0, 200, "{path}");
        assert_eq!(first_api(&ours.1), first_api(&theirs.1), "{path}");
    }
    let found = format!("/api/v3/traces?query.service_name=publisher&query.num_traces=1&{TIMES}");
    for path in [
        format!("/api/v3/traces/{HELLO}"),
        format!("/api/v3/traces/{UNLINKED}"),
        found,
    ] {
        let (theirs, ours) = both.ask(&path).await;
        assert_eq!(ours.0, 200, "{path}");
        assert_eq!(current_api(&ours.1), current_api(&theirs.1), "{path}");
    }
}

struct Both {
    admin: Admin,
    jaeger: Jaeger,
}

impl Both {
    async fn seed(&self) {
        let mut spans = seed::hello(0x1000, seed::START, &mut fastrand::Rng::with_seed(7));
        let candidates = [(0x1000, 0x10_0001), (2, 2)];
        let unlinked = 0xabcd_0000_0000_0000_0000_0000_0000_0001;
        spans.extend(seed::unlinked(unlinked, seed::START, candidates));
        let body = seed::request(&spans);
        self.admin.seed(&body).await;
        let json = "application/json";
        let body = body.to_string();
        let port = self.jaeger.ports.otlp_http;
        let sent = http::post(port, "/v1/traces", json, body.as_bytes()).await;
        assert_eq!(sent.unwrap().status, 200);
        let limit = Duration::from_secs(10);
        self.jaeger.wait_for_trace(HELLO, 5, limit).await;
        self.jaeger.wait_for_trace(UNLINKED, 1, limit).await;
    }

    /// Status and body of Jaeger, then ours, both [`sorted`].
    async fn ask(&self, path: &str) -> ((u16, Value), (u16, Value)) {
        let theirs = http::get(self.jaeger.ports.query_http, path).await.unwrap();
        let ours = self.admin.get(path).await;
        let theirs = (theirs.status, sorted(theirs.json()));
        (theirs, (ours.status, sorted(ours.json())))
    }
}

/// Lists in one order, numbers in one spelling: 2 and 2.0 are the same in JSON.
fn sorted(mut value: Value) -> Value {
    match &mut value {
        Value::Number(number) => return json!(number.as_f64()),
        Value::Array(list) => {
            for item in list.iter_mut() {
                *item = sorted(item.take());
            }
            list.sort_by_key(Value::to_string);
        }
        Value::Object(map) => {
            for item in map.values_mut() {
                *item = sorted(item.take());
            }
        }
        _ => {}
    }
    value
}

/// The value with every text and number blanked.
fn shape(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(shape).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), shape(value)))
            .collect(),
        Value::Null => Value::Null,
        _ => json!("…"),
    }
}

/// Spans by id, with the service in place of the process number, without what only one of the two can know.
fn first_api(answer: &Value) -> BTreeMap<String, Value> {
    let mut spans = BTreeMap::new();
    for trace in answer["data"].as_array().unwrap() {
        for span in trace["spans"].as_array().unwrap() {
            let mut span = span.clone();
            let map = span.as_object_mut().unwrap();
            map.remove("flags");
            let process = map.remove("processID").unwrap();
            let process = &trace["processes"][process.as_str().unwrap()];
            map.insert("process".to_owned(), process.clone());
            let tags = map["tags"].as_array_mut().unwrap();
            // We write our own version beside our own scope.
            tags.retain(|tag| tag["key"] != "otel.scope.version");
            spans.insert(map["spanID"].as_str().unwrap().to_owned(), sorted(span));
        }
    }
    spans
}

/// Spans by id from OTLP, without flags, which Jaeger keeps as they came.
fn current_api(answer: &Value) -> BTreeMap<String, Value> {
    let mut spans = BTreeMap::new();
    for group in answer["result"]["resourceSpans"].as_array().unwrap() {
        for scope in group["scopeSpans"].as_array().unwrap() {
            assert_eq!(scope["scope"]["name"], "pillion");
            for span in scope["spans"].as_array().unwrap() {
                let mut span = span.clone();
                let map = span.as_object_mut().unwrap();
                map.remove("flags");
                // An absent status, an empty one and null say the same in proto3 JSON.
                map.retain(|_, value| !value.is_null() && *value != json!({}));
                map.insert("resource".to_owned(), group["resource"].clone());
                let links = map.get_mut("links").and_then(Value::as_array_mut);
                for link in links.into_iter().flatten() {
                    link.as_object_mut().unwrap().remove("flags");
                }
                spans.insert(map["spanId"].as_str().unwrap().to_owned(), sorted(span));
            }
        }
    }
    spans
}
