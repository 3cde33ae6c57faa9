//! Zipkin's first version into the model: edges of calls become kinds and times, hosts become endpoints.
//!
//! A span that holds both sides of a call becomes two, of which the server's is shared.
//! Source: jaeger-idl `thrift/zipkincore.thrift`; openzipkin/zipkin-api `zipkin-api.yaml`.

use std::net::IpAddr;
use std::net::Ipv4Addr;

use serde::Deserialize;

use crate::codec::DecodeError;
use crate::codec::Decoded;
use crate::codec::Limits;
use crate::codec::jaeger::Interner;
use crate::codec::limits::Budget;
use crate::codec::limits::check_json;
use crate::codec::thrift;
use crate::codec::thrift::Annotation;
use crate::codec::thrift::BinaryAnnotation;
use crate::codec::thrift::Host;
use crate::codec::thrift::ZipkinSpan;
use crate::codec::zipkin::received::Endpoint;
use crate::codec::zipkin::received::Plain;
use crate::codec::zipkin::received::address;
use crate::codec::zipkin::received::trace_id_of;
use crate::model::Attribute;
use crate::model::Kind;
use crate::model::SpanId;
use crate::model::Text;
use crate::model::TraceId;
use crate::model::Value;

/// The spans of an `emitZipkinBatch` or of a Thrift list.
pub fn received_v1(spans: Vec<ZipkinSpan>, intern: Interner<'_>) -> Decoded {
    let mut decoded = Decoded::default();
    for span in spans {
        match halves(span) {
            Some(halves) => {
                for half in halves {
                    decoded.add(Some(half), intern);
                }
            }
            None => decoded.rejected += 1,
        }
    }
    decoded
}

/// Reads the body of `/api/v1/spans` in Thrift.
///
/// # Errors
/// [`DecodeError`]: the whole list is refused.
pub fn decode_v1_thrift(
    bytes: &[u8],
    limits: Limits,
    intern: Interner<'_>,
) -> Result<Decoded, DecodeError> {
    Ok(received_v1(
        thrift::decode_zipkin_list(bytes, limits)?,
        intern,
    ))
}

/// Reads the body of `/api/v1/spans` in JSON.
///
/// # Errors
/// [`DecodeError`]: the whole list is refused.
pub fn decode_v1_json(
    bytes: &[u8],
    limits: Limits,
    intern: Interner<'_>,
) -> Result<Decoded, DecodeError> {
    check_json(bytes, limits)?;
    let list: Vec<JsonSpan> = serde_json::from_slice(bytes)
        .map_err(|_| DecodeError::Malformed("JSON_V1 encoded list"))?;
    let mut budget = Budget::new(limits);
    let mut spans = Vec::with_capacity(list.len());
    let mut rejected = 0;
    for span in list {
        budget.span()?;
        match span.plain() {
            Some(span) => spans.push(span),
            None => rejected += 1,
        }
    }
    let mut decoded = received_v1(spans, intern);
    decoded.rejected += rejected;
    Ok(decoded)
}

/// The edges of a call or a message, and the side that each belongs to.
const EDGES: [(&str, Kind); 6] = [
    ("cs", Kind::Client),
    ("cr", Kind::Client),
    ("ss", Kind::Server),
    ("sr", Kind::Server),
    ("ms", Kind::Producer),
    ("mr", Kind::Consumer),
];
/// Values that name the other side by their host alone.
const ADDRESSES: [&str; 3] = ["sa", "ca", "ma"];

/// One span, or the client's and the server's half of one.
fn halves(span: ZipkinSpan) -> Option<Vec<Plain>> {
    let trace_id = TraceId::from_halves(span.trace_id_high, span.trace_id)?;
    let id = SpanId::from_u64(span.id)?;
    let mut kinds: Vec<Kind> = Vec::new();
    for annotation in &span.annotations {
        let edge = EDGES.iter().find(|(name, _)| annotation.value == *name);
        if let Some((_, kind)) = edge
            && !kinds.contains(kind)
        {
            kinds.push(*kind);
        }
    }
    // The client's half leads: it is the one that the span's own times describe.
    kinds.sort_by_key(|kind| *kind != Kind::Client);
    if kinds.is_empty() {
        kinds.push(Kind::Internal);
    }
    let whole = |kind: Kind| {
        let (start, duration) = times(&span, kind);
        Plain {
            trace_id,
            id,
            parent: SpanId::from_u64(span.parent_id),
            kind,
            name: span.name.clone(),
            start,
            duration,
            local: local(&span, kind),
            remote: remote(&span, kind),
            annotations: Vec::new(),
            tags: Vec::new(),
            debug: span.debug,
            shared: false,
        }
    };
    let first = kinds.first().copied()?;
    let mut lead = whole(first);
    lead.annotations = span
        .annotations
        .iter()
        .filter(|annotation| !EDGES.iter().any(|(name, _)| annotation.value == *name))
        .map(|annotation| (micros(annotation.timestamp), annotation.value.to_string()))
        .collect();
    lead.tags = span.values.iter().filter_map(tag).collect();
    // The first version has no word for "shared": a server that joined the caller's span left its times to the caller.
    lead.shared = first == Kind::Server && span.timestamp == 0;
    if span.timestamp > 0 {
        lead.start = micros(span.timestamp);
    }
    if span.duration > 0 {
        lead.duration = micros(span.duration);
    }
    let mut halves = vec![lead];
    // Not more than the other side of the same call: a span of all kinds is nobody's.
    if first == Kind::Client && kinds.contains(&Kind::Server) {
        halves.push(Plain {
            shared: true,
            ..whole(Kind::Server)
        });
    }
    Some(halves)
}

fn micros(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Start and duration between the edges of this side.
fn times(span: &ZipkinSpan, kind: Kind) -> (u64, u64) {
    let edges = span.annotations.iter().filter(|annotation| {
        let edge = EDGES.iter().find(|(name, _)| annotation.value == *name);
        edge.is_some_and(|(_, side)| *side == kind)
    });
    let times: Vec<u64> = edges.map(|edge| micros(edge.timestamp)).collect();
    match (times.iter().min(), times.iter().max()) {
        (Some(first), Some(last)) => (*first, last - first),
        _ => {
            let first = span.annotations.iter().map(|edge| micros(edge.timestamp));
            (first.min().unwrap_or(0), 0)
        }
    }
}

/// The host of this side's edges; without any, the first that is named.
fn local(span: &ZipkinSpan, kind: Kind) -> Endpoint {
    let at_edge = span.annotations.iter().find(|annotation| {
        let edge = EDGES.iter().find(|(name, _)| annotation.value == *name);
        edge.is_some_and(|(_, side)| *side == kind) && annotation.host.is_some()
    });
    let in_values = || {
        let values = span.values.iter();
        let mut values = values.filter(|value| !ADDRESSES.contains(&value.key.as_str()));
        values.find_map(|value| value.host.as_ref())
    };
    let host = at_edge
        .and_then(|annotation| annotation.host.as_ref())
        .or_else(in_values)
        .or_else(|| span.annotations.iter().find_map(|a| a.host.as_ref()));
    host.map(endpoint).unwrap_or_default()
}

fn remote(span: &ZipkinSpan, kind: Kind) -> Endpoint {
    let key = match kind {
        Kind::Client => "sa",
        Kind::Server => "ca",
        Kind::Producer | Kind::Consumer => "ma",
        Kind::Internal => return Endpoint::default(),
    };
    let value = span.values.iter().find(|value| value.key == key);
    let host = value.and_then(|value| value.host.as_ref());
    host.map(endpoint).unwrap_or_default()
}

fn endpoint(host: &Host) -> Endpoint {
    let ipv4 = (host.ipv4 != 0).then(|| IpAddr::V4(Ipv4Addr::from_bits(host.ipv4)));
    Endpoint {
        service: host.service.clone(),
        address: ipv4.or_else(|| address(&host.ipv6)),
        port: host.port,
    }
}

/// `None`: an address of the other side, or a local component without a name.
fn tag(value: &BinaryAnnotation) -> Option<Attribute> {
    if ADDRESSES.contains(&value.key.as_str()) {
        return None;
    }
    let bytes = &value.value[..];
    let typed = match value.kind {
        0 => Value::Bool(bytes.first().is_some_and(|byte| *byte != 0)),
        2 => Value::I64(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        3 => Value::I64(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        4 => Value::I64(i64::from_be_bytes(bytes.try_into().ok()?)),
        5 => Value::F64(f64::from_be_bytes(bytes.try_into().ok()?)),
        6 => Value::Str(String::from_utf8_lossy(bytes).into()),
        _ => Value::Bytes(value.value[..].into()),
    };
    let empty = value.key == "lc" && bytes.is_empty();
    (!empty).then(|| Attribute {
        key: value.key.clone(),
        value: typed,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonSpan {
    trace_id: String,
    id: String,
    parent_id: Option<String>,
    name: Option<Text>,
    timestamp: Option<i64>,
    duration: Option<i64>,
    annotations: Option<Vec<JsonAnnotation>>,
    binary_annotations: Option<Vec<JsonBinaryAnnotation>>,
    debug: Option<bool>,
}

#[derive(Deserialize)]
struct JsonAnnotation {
    timestamp: i64,
    value: Text,
    endpoint: Option<JsonHost>,
}

#[derive(Deserialize)]
struct JsonBinaryAnnotation {
    key: Text,
    value: serde_json::Value,
    endpoint: Option<JsonHost>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonHost {
    service_name: Option<Text>,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<std::net::Ipv6Addr>,
    port: Option<i32>,
}

impl From<JsonHost> for Host {
    fn from(json: JsonHost) -> Self {
        Self {
            service: json.service_name.unwrap_or_default(),
            ipv4: json.ipv4.map_or(0, Ipv4Addr::to_bits),
            ipv6: json.ipv6.map_or_else(Default::default, |ip| {
                bytes::Bytes::copy_from_slice(&ip.octets())
            }),
            port: json
                .port
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(0),
        }
    }
}

impl JsonSpan {
    fn plain(self) -> Option<ZipkinSpan> {
        let trace_id = trace_id_of(&self.trace_id)?;
        let parent_id = match self.parent_id.filter(|id| !id.is_empty()) {
            Some(id) => SpanId::from_hex(id.as_bytes())?.to_u64(),
            None => 0,
        };
        let annotations = self.annotations.unwrap_or_default().into_iter();
        let values = self.binary_annotations.unwrap_or_default().into_iter();
        Some(ZipkinSpan {
            trace_id: trace_id.low(),
            trace_id_high: trace_id.high(),
            id: SpanId::from_hex(self.id.as_bytes())?.to_u64(),
            parent_id,
            name: self.name.unwrap_or_default(),
            annotations: annotations
                .map(|annotation| Annotation {
                    timestamp: annotation.timestamp,
                    value: annotation.value,
                    host: annotation.endpoint.map(Host::from),
                })
                .collect(),
            values: values
                .map(|value| {
                    let (kind, bytes) = typed(value.value);
                    BinaryAnnotation {
                        key: value.key,
                        value: bytes.into(),
                        kind,
                        host: value.endpoint.map(Host::from),
                    }
                })
                .collect(),
            debug: self.debug.unwrap_or(false),
            timestamp: self.timestamp.unwrap_or(0),
            duration: self.duration.unwrap_or(0),
        })
    }
}

/// A JSON value as the Thrift struct holds it.
fn typed(json: serde_json::Value) -> (i32, Vec<u8>) {
    use serde_json::Value as Json;
    match json {
        Json::Bool(value) => (0, vec![u8::from(value)]),
        Json::Number(number) => match number.as_i64() {
            Some(number) => (4, number.to_be_bytes().to_vec()),
            None => (
                5,
                number.as_f64().unwrap_or_default().to_be_bytes().to_vec(),
            ),
        },
        Json::String(text) => (6, text.into_bytes()),
        other => (6, other.to_string().into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::codec::thrift::Datagram;
    use crate::codec::thrift::Protocol;
    use crate::codec::thrift::decode_datagram;
    use crate::model::Span;

    fn json(text: &str) -> Vec<Span> {
        let decoded = decode_v1_json(text.as_bytes(), Limits::default(), &mut Arc::new);
        decoded.unwrap().spans
    }

    #[test]
    fn a_captured_datagram_becomes_a_servers_span() {
        let bytes =
            include_bytes!("../../../tests/data/jaeger/12-synthetic-emitzipkinbatch-compact.bin");
        let datagram = decode_datagram(bytes, Protocol::Compact, Limits::default()).unwrap();
        let Datagram::Zipkin(spans) = datagram else {
            panic!("{datagram:?}");
        };
        let decoded = received_v1(spans, &mut Arc::new);
        let span = &decoded.spans[0];
        assert_eq!(decoded.spans.len(), 1);
        assert_eq!((span.kind, span.name.as_str()), (Kind::Server, "get"));
        assert_eq!(span.resource.service, "zk-demo");
        assert_eq!(
            span.context.trace_id.low() as i64,
            -8_603_657_889_541_918_977
        );
        assert_eq!(span.context.span_id.to_u64(), 1_234_605_616_436_508_552);
        assert_eq!(span.duration_nanos(), 1_500_000);
        assert_eq!(span.start, Timestamp(1_700_000_000_000_000_000));
        let path = span.attribute("http.path").and_then(Value::as_str);
        assert_eq!(path, Some("/x"));
        assert!(span.events.is_empty(), "edges are no events");
    }

    use crate::model::Timestamp;

    #[test]
    fn a_server_that_left_the_times_to_the_caller_shares_its_span() {
        for (times, expected) in [("", false), (r#""timestamp":110,"#, true)] {
            let text = format!(
                r#"[{{"traceId":"1","id":"2",{times}"annotations":[{{"timestamp":110,"value":"sr"}},{{"timestamp":130,"value":"ss"}}]}}]"#
            );
            let spans = json(&text);
            let own = spans[0].attribute(crate::codec::zipkin::SHARED).is_none();
            assert_eq!(own, expected, "{text}");
            assert_eq!(spans[0].duration_nanos(), 20_000);
        }
    }

    #[test]
    fn a_span_with_both_sides_of_a_call_becomes_two() {
        let spans = json(
            r#"[{"traceId":"1","id":"2","parentId":"3","name":"get","timestamp":100,"duration":50,"annotations":[
                {"timestamp":100,"value":"cs","endpoint":{"serviceName":"a","ipv4":"10.0.0.1"}},
                {"timestamp":110,"value":"sr","endpoint":{"serviceName":"b","port":80}},
                {"timestamp":120,"value":"half way"},
                {"timestamp":130,"value":"ss","endpoint":{"serviceName":"b"}},
                {"timestamp":150,"value":"cr","endpoint":{"serviceName":"a"}}],
              "binaryAnnotations":[{"key":"sa","value":true,"endpoint":{"serviceName":"b"}},
                {"key":"n","value":7},{"key":"error","value":"bad"}]}]"#,
        );
        let [client, server] = &spans[..] else {
            panic!("{spans:?}");
        };
        assert_eq!((client.kind, server.kind), (Kind::Client, Kind::Server));
        assert_eq!(client.context.span_id, server.context.span_id);
        assert_eq!(
            (client.duration_nanos(), server.duration_nanos()),
            (50_000, 20_000)
        );
        assert_eq!(
            (&*client.resource.service, &*server.resource.service),
            ("a", "b")
        );
        assert_eq!(client.attribute("n"), Some(&Value::I64(7)));
        let peer = client.attribute("peer.service").and_then(Value::as_str);
        assert_eq!(peer, Some("b"));
        assert_eq!(client.events[0].name, "half way");
        assert!(matches!(&client.status, crate::model::Status::Error(text) if text == "bad"));
        assert_eq!(
            server.attribute(crate::codec::zipkin::SHARED),
            Some(&Value::Bool(true))
        );
    }

    #[test]
    fn malformed_lists_are_refused_and_spans_without_ids_counted() {
        for (text, why) in [
            ("{}", "no list"),
            ("[{}]", "no ids"),
            (r#"[{"traceId":1,"id":2}]"#, "ids are numbers"),
            ("[", "cut short"),
        ] {
            let result = decode_v1_json(text.as_bytes(), Limits::default(), &mut Arc::new);
            assert!(result.is_err(), "{why}");
        }
        let decoded = decode_v1_json(
            br#"[{"traceId":"0","id":"1"},{"traceId":"1","id":"x"}]"#,
            Limits::default(),
            &mut Arc::new,
        );
        assert_eq!(decoded.unwrap().rejected, 2);
        let lying = [0x0c, 0x7f, 0xff, 0xff, 0xff];
        assert!(decode_v1_thrift(&lying, Limits::default(), &mut Arc::new).is_err());
    }
}
