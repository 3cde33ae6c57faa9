//! AWS X-Ray segment documents, as its daemon takes them: a header line and one JSON document a datagram.
//!
//! A server or root span is a segment; a span with a parent in this process is a subsegment that travels by itself.
//! 4xx is an error, 429 a throttle besides, 5xx or any other failure a fault; attributes are metadata, and those whose key
//! and value X-Ray can index are annotations too. Trace ids are written in its grouping whatever their first digits say.
//! Source: AWS X-Ray Developer Guide, "Segment documents", "Sending segment documents to X-Ray".

use serde_json::Map;
use serde_json::Value as Json;
use serde_json::json;

use crate::codec::text_value::http_method;
use crate::codec::text_value::http_status;
use crate::codec::text_value::http_url;
use crate::codec::text_value::peer;
use crate::codec::text_value::text_at;
use crate::codec::text_value::text_of;
use crate::model::Event;
use crate::model::Kind;
use crate::model::Span;
use crate::model::Status;
use crate::model::Timestamp;
use crate::model::Value;

/// What stands before every document.
const HEADER: &str = "{\"format\": \"json\", \"version\": 1}\n";

/// One datagram for this span.
pub fn encode(span: &Span) -> Vec<u8> {
    let mut datagram = HEADER.as_bytes().to_vec();
    // Writing a JSON value into a Vec cannot fail.
    datagram.extend(serde_json::to_vec(&document(span)).unwrap_or_default());
    datagram
}

fn document(span: &Span) -> Json {
    let is_subsegment = span.parent.is_some() && !span.remote_parent || is_outgoing(span);
    let is_subsegment = is_subsegment && span.parent.is_some();
    let trace = span.context.trace_id.to_string();
    let (seconds, random) = trace.split_at_checked(8).unwrap_or_default();
    let mut document = json!({
        "name": name(span),
        "id": span.context.span_id.to_string(),
        "trace_id": format!("1-{seconds}-{random}"),
        "start_time": seconds_of(span.start),
        "end_time": seconds_of(span.end),
    });
    if let Some(parent) = span.parent {
        document["parent_id"] = json!(parent.to_string());
    }
    if is_subsegment {
        document["type"] = json!("subsegment");
    }
    if is_outgoing(span) && is_subsegment {
        document["namespace"] = json!("remote");
    }
    outcome(span, &mut document);
    if let Some(http) = http(span) {
        document["http"] = http;
    }
    let annotations = annotations(span);
    if !annotations.is_empty() {
        document["annotations"] = Json::Object(annotations);
    }
    let attributes = span.resource.attributes.iter().chain(&span.attributes);
    let mut metadata: Map<_, _> = attributes
        .map(|attribute| (attribute.key.to_string(), json_of(&attribute.value)))
        .collect();
    if !span.events.is_empty() {
        metadata.insert("events".to_owned(), span.events.iter().map(event).collect());
    }
    if !metadata.is_empty() {
        document["metadata"] = json!({ "default": metadata });
    }
    if let Some(version) = text_at(&span.resource.attributes, "service.version") {
        document["service"] = json!({ "version": version });
    }
    document
}

fn is_outgoing(span: &Span) -> bool {
    matches!(span.kind, Kind::Client | Kind::Producer)
}

/// The service, or for calls the host called; characters that X-Ray refuses become underscores.
fn name(span: &Span) -> String {
    let host = peer(span)
        .filter(|_| is_outgoing(span))
        .map(|(host, _)| host);
    let name = host.unwrap_or_else(|| span.resource.service.to_string());
    let allowed = |c: char| c.is_alphanumeric() || " _.:/%&#=+\\-@".contains(c);
    let name: String = name.chars().take(200).collect();
    let name = name.replace(|c| !allowed(c), "_");
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name
    }
}

/// Seconds with as many digits as fit.
fn seconds_of(time: Timestamp) -> f64 {
    time.micros() as f64 / 1e6
}

fn outcome(span: &Span, document: &mut Json) {
    let status = http_status(span).unwrap_or(0);
    let failed = matches!(span.status, Status::Error(_));
    match status {
        400..500 => document["error"] = json!(true),
        500.. => document["fault"] = json!(true),
        _ if failed => document["fault"] = json!(true),
        _ => {}
    }
    if status == 429 {
        document["throttle"] = json!(true);
    }
    let Status::Error(description) = &span.status else {
        return;
    };
    let kind = text_at(&span.attributes, "error.type");
    if let Some(kind) = kind.filter(|_| status < 400) {
        let exception = json!({
            "id": span.context.span_id.to_string(),
            "type": kind,
            "message": description.as_str(),
        });
        document["cause"] = json!({ "exceptions": [exception] });
    }
}

fn http(span: &Span) -> Option<Json> {
    let at = |key| text_at(&span.attributes, key);
    let method = http_method(span)?;
    let mut request = Map::new();
    request.insert("method".to_owned(), json!(method));
    let url = http_url(span).or_else(|| {
        let scheme = at("url.scheme").unwrap_or_else(|| "http".to_owned());
        Some(format!(
            "{scheme}://{}{}",
            at("server.address")?,
            at("url.path")?
        ))
    });
    for (key, value) in [
        ("url", url),
        ("user_agent", at("user_agent.original")),
        ("client_ip", at("client.address")),
    ] {
        if let Some(value) = value {
            request.insert(key.to_owned(), json!(value));
        }
    }
    let mut http = json!({ "request": request });
    if let Some(status) = http_status(span) {
        http["response"] = json!({ "status": status });
    }
    Some(http)
}

/// What X-Ray can search by: keys of letters, digits and underscores, short values, the first 50.
fn annotations(span: &Span) -> Map<String, Json> {
    const MAX: usize = 50;
    const MAX_VALUE: usize = 250;
    let fits = |value: &Value| match value {
        Value::Str(text) => !text.is_empty() && text.chars().count() <= MAX_VALUE,
        Value::Bool(_) | Value::I64(_) | Value::F64(_) => true,
        Value::Bytes(_) | Value::StrList(_) => false,
    };
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    span.attributes
        .iter()
        .filter(|attribute| fits(&attribute.value))
        .take(MAX)
        .map(|attribute| {
            let key = attribute.key.replace(|c| !is_word(c), "_");
            (key, json_of(&attribute.value))
        })
        .collect()
}

fn json_of(value: &Value) -> Json {
    match value {
        Value::Str(text) => json!(text.as_str()),
        Value::Bool(value) => json!(value),
        Value::I64(number) => json!(number),
        Value::F64(number) => json!(number),
        Value::Bytes(_) => json!(text_of(value)),
        Value::StrList(texts) => texts.iter().map(|text| json!(text.as_str())).collect(),
    }
}

fn event(event: &Event) -> Json {
    let attributes: Map<_, _> = event
        .attributes
        .iter()
        .map(|attribute| (attribute.key.to_string(), json_of(&attribute.value)))
        .collect();
    json!({ "time": seconds_of(event.time), "name": event.name.as_str(), "attributes": attributes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::bare_span;
    use crate::codec::tests::full_span;
    use crate::model::Attribute;

    fn read(datagram: &[u8]) -> Json {
        let (header, document) =
            datagram.split_at(datagram.iter().position(|b| *b == b'\n').unwrap());
        let header: Json = serde_json::from_slice(header).unwrap();
        assert_eq!(header, json!({ "format": "json", "version": 1 }));
        serde_json::from_slice(document).unwrap()
    }

    #[test]
    fn a_servers_span_is_a_segment_with_the_fields_a_real_one_has() {
        let captured = read(include_bytes!(
            "../../tests/data/xray/01-aws-xray-sdk-python-2.15.0-udp-segment.bin"
        ));
        let mut span = full_span();
        span.kind = Kind::Server;
        span.attributes
            .push(Attribute::new("url.full", "http://a/users/7"));
        let ours = read(&encode(&span));
        for key in [
            "name",
            "id",
            "trace_id",
            "start_time",
            "end_time",
            "http",
            "annotations",
        ] {
            let kind = |value: &Json| std::mem::discriminant(value);
            assert_eq!(kind(&ours[key]), kind(&captured[key]), "{key}");
        }
        assert_eq!(ours["trace_id"], "1-0af76519-16cd43dd8448eb211c80319c");
        assert_eq!(ours["parent_id"], "b29a2a6e589ef16b");
        assert_eq!(ours.get("type"), None);
        assert_eq!(
            ours["http"]["request"],
            json!({ "method": "GET", "url": "http://a/users/7" })
        );
        assert_eq!(ours["http"]["response"]["status"], 503);
        assert_eq!((&ours["fault"], ours.get("error")), (&json!(true), None));
        assert_eq!(ours["annotations"]["http_response_status_code"], 503);
        assert_eq!(ours["metadata"]["default"]["list"], json!(["a", "b", ""]));
        assert_eq!(ours["start_time"], 1_795_165_654.108_055);
    }

    #[test]
    fn a_call_below_a_span_is_a_remote_subsegment_named_after_its_host() {
        let mut span = full_span();
        span.remote_parent = false;
        span.attributes
            .push(Attribute::new("server.address", "stock:(1)"));
        let document = read(&encode(&span));
        assert_eq!(document["type"], "subsegment");
        assert_eq!(document["namespace"], "remote");
        assert_eq!(document["name"], "stock:_1_");
        let mut alone = bare_span();
        alone.kind = Kind::Client;
        let document = read(&encode(&alone));
        assert_eq!(document.get("type"), None, "nothing to be below of");
        assert_eq!(document["name"], "unknown");
        assert_eq!(document.get("service"), None, "no version is known");
        alone
            .attributes
            .push(Attribute::new("peer.service", "stock"));
        assert_eq!(read(&encode(&alone))["name"], "stock");
    }

    #[test]
    fn spans_of_older_tracers_have_their_request_and_outcome_too() {
        let mut span = bare_span();
        span.kind = Kind::Server;
        for (key, value) in [("http.method", "GET"), ("http.url", "http://a/")] {
            span.attributes.push(Attribute::new(key, value));
        }
        span.attributes
            .push(Attribute::new("http.status_code", 404.0));
        let document = read(&encode(&span));
        assert_eq!(
            document["http"],
            json!({ "request": { "method": "GET", "url": "http://a/" }, "response": { "status": 404 } })
        );
        assert_eq!(document["error"], true);
    }

    #[test]
    fn statuses_are_errors_throttles_and_faults() {
        for (status, expected) in [
            (200, (false, false, false)),
            (404, (true, false, false)),
            (429, (true, true, false)),
            (503, (false, false, true)),
        ] {
            let mut span = bare_span();
            span.attributes
                .push(Attribute::new("http.response.status_code", status));
            let document = read(&encode(&span));
            let is = |key: &str| document.get(key) == Some(&json!(true));
            assert_eq!(
                (is("error"), is("throttle"), is("fault")),
                expected,
                "{status}"
            );
        }
        let mut span = bare_span();
        span.status = Status::Error("no answer".into());
        span.attributes
            .push(Attribute::new("error.type", "timeout"));
        let document = read(&encode(&span));
        assert_eq!(document["fault"], true);
        assert_eq!(document["cause"]["exceptions"][0]["type"], "timeout");
    }
}
