//! Spans as SkyWalking segments, protobuf and JSON from the same structs.
//!
//! In JSON too kinds are numbers: SkyWalking's backend reads names and numbers, the OpenTelemetry Collector numbers alone.
//! Each span is a segment of its own (see the folder's first paragraph) with span number 0; its parent is a reference: the
//! caller's own words where a `sw8` header brought them, else the segment that the parent's ids make. Times are
//! milliseconds. Source: apache/skywalking-data-collect-protocol `language-agent/Tracing.proto`; skywalking
//! `docs/en/api/trace-data-protocol-v3.md`.

use std::sync::Arc;

use prost::Message;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de::Error as _;

use crate::codec::skywalking::carried;
use crate::codec::skywalking::segment_text;
use crate::codec::skywalking::trace_text;
use crate::codec::text_value::http_method;
use crate::codec::text_value::peer;
use crate::codec::text_value::text_at;
use crate::codec::text_value::text_of;
use crate::model;
use crate::model::Attribute;
use crate::model::Kind;
use crate::model::Status;

/// Each span as one protobuf `SegmentObject`, for the stream `TraceSegmentReportService/collect`.
pub fn encode_segments(spans: &[Arc<model::Span>]) -> Vec<Vec<u8>> {
    let segments = spans.iter().map(|span| Segment::of(span));
    segments.map(|segment| segment.encode_to_vec()).collect()
}

/// The spans as a JSON list of segments, for `/v3/segments`.
pub fn encode_json(spans: &[Arc<model::Span>]) -> Vec<u8> {
    let segments: Vec<_> = spans.iter().map(|span| Segment::of(span)).collect();
    // Writing plain structs into a Vec cannot fail.
    serde_json::to_vec(&segments).unwrap_or_default()
}

#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Segment {
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub(super) trace_id: String,
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub(super) trace_segment_id: String,
    #[prost(message, repeated, tag = "3")]
    #[serde(deserialize_with = "or_default")]
    pub(super) spans: Vec<Span>,
    #[prost(string, tag = "4")]
    #[serde(deserialize_with = "or_default")]
    pub(super) service: String,
    #[prost(string, tag = "5")]
    #[serde(deserialize_with = "or_default")]
    pub(super) service_instance: String,
}

#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Span {
    #[prost(int32, tag = "1")]
    #[serde(deserialize_with = "whole")]
    pub(super) span_id: i32,
    #[prost(int32, tag = "2")]
    #[serde(deserialize_with = "whole")]
    pub(super) parent_span_id: i32,
    #[prost(int64, tag = "3")]
    #[serde(deserialize_with = "whole")]
    pub(super) start_time: i64,
    #[prost(int64, tag = "4")]
    #[serde(deserialize_with = "whole")]
    pub(super) end_time: i64,
    #[prost(message, repeated, tag = "5")]
    #[serde(deserialize_with = "or_default")]
    pub(super) refs: Vec<Reference>,
    #[prost(string, tag = "6")]
    #[serde(deserialize_with = "or_default")]
    pub(super) operation_name: String,
    #[prost(string, tag = "7")]
    #[serde(deserialize_with = "or_default")]
    pub(super) peer: String,
    #[prost(int32, tag = "8")]
    #[serde(deserialize_with = "type_number")]
    pub(super) span_type: i32,
    #[prost(int32, tag = "9")]
    #[serde(deserialize_with = "layer_number")]
    pub(super) span_layer: i32,
    #[prost(int32, tag = "10")]
    #[serde(deserialize_with = "whole")]
    pub(super) component_id: i32,
    #[prost(bool, tag = "11")]
    #[serde(deserialize_with = "or_default")]
    pub(super) is_error: bool,
    #[prost(message, repeated, tag = "12")]
    #[serde(deserialize_with = "or_default")]
    pub(super) tags: Vec<Pair>,
    #[prost(message, repeated, tag = "13")]
    #[serde(deserialize_with = "or_default")]
    pub(super) logs: Vec<Log>,
    #[prost(bool, tag = "14")]
    #[serde(deserialize_with = "or_default")]
    pub(super) skip_analysis: bool,
}

#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Reference {
    #[prost(int32, tag = "1")]
    #[serde(deserialize_with = "reference_number")]
    pub(super) ref_type: i32,
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub(super) trace_id: String,
    #[prost(string, tag = "3")]
    #[serde(deserialize_with = "or_default")]
    pub(super) parent_trace_segment_id: String,
    #[prost(int32, tag = "4")]
    #[serde(deserialize_with = "whole")]
    pub(super) parent_span_id: i32,
    #[prost(string, tag = "5")]
    #[serde(deserialize_with = "or_default")]
    pub(super) parent_service: String,
    #[prost(string, tag = "6")]
    #[serde(deserialize_with = "or_default")]
    pub(super) parent_service_instance: String,
    #[prost(string, tag = "7")]
    #[serde(deserialize_with = "or_default")]
    pub(super) parent_endpoint: String,
    #[prost(string, tag = "8")]
    #[serde(deserialize_with = "or_default")]
    pub(super) network_address_used_at_peer: String,
}

#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Pair {
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Log {
    #[prost(int64, tag = "1")]
    #[serde(deserialize_with = "whole")]
    pub(super) time: i64,
    #[prost(message, repeated, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub(super) data: Vec<Pair>,
}

const CROSS_PROCESS: i32 = 0;
const CROSS_THREAD: i32 = 1;
const HTTP: i32 = 3;
/// Numbers of SkyWalking's component list: an HTTP server, an HTTP client.
const HTTP_SERVER: i32 = 4001;
const HTTP_CLIENT: i32 = 2;
/// What stands for a caller of whom nothing is known.
const UNKNOWN: &str = "unknown_service";

impl Segment {
    fn of(span: &model::Span) -> Self {
        let context = &span.context;
        let instance = text_at(&span.resource.attributes, "service.instance.id");
        let mut segment = Self {
            trace_id: trace_text(context),
            trace_segment_id: segment_text(context.trace_id, context.span_id),
            spans: Vec::new(),
            service: span.resource.service.to_string(),
            service_instance: instance.unwrap_or_else(|| "unknown".to_owned()),
        };
        let refs = segment.reference(span).into_iter().collect();
        segment.spans.push(Span::of(span, refs));
        segment
    }

    fn reference(&self, span: &model::Span) -> Option<Reference> {
        let parent = span.parent?;
        let known = carried(&span.context).filter(|known| known.span_id() == parent);
        if let Some(known) = known.filter(|_| span.remote_parent) {
            return Some(Reference {
                ref_type: CROSS_PROCESS,
                trace_id: known.trace,
                parent_trace_segment_id: known.segment,
                parent_span_id: known.span,
                parent_service: known.service,
                parent_service_instance: known.instance,
                parent_endpoint: known.endpoint,
                network_address_used_at_peer: known.peer,
            });
        }
        let (ref_type, service, instance) = if span.remote_parent {
            (CROSS_PROCESS, UNKNOWN, UNKNOWN)
        } else {
            (
                CROSS_THREAD,
                self.service.as_str(),
                self.service_instance.as_str(),
            )
        };
        Some(Reference {
            ref_type,
            trace_id: self.trace_id.clone(),
            parent_trace_segment_id: segment_text(span.context.trace_id, parent),
            parent_span_id: 0,
            parent_service: service.to_owned(),
            parent_service_instance: instance.to_owned(),
            parent_endpoint: "/".to_owned(),
            network_address_used_at_peer: String::new(),
        })
    }
}

impl Span {
    fn of(span: &model::Span, refs: Vec<Reference>) -> Self {
        let is_http = http_method(span).is_some();
        let (span_type, component_id) = match span.kind {
            Kind::Server | Kind::Consumer => (0, HTTP_SERVER),
            Kind::Client | Kind::Producer => (1, HTTP_CLIENT),
            Kind::Internal => (2, 0),
        };
        // An exit span without a peer is refused; an entry span has none.
        let peer = match (span_type, peer(span)) {
            (1, Some((host, Some(port)))) => format!("{host}:{port}"),
            (1, Some((host, None))) => host,
            (1, None) => "unknown".to_owned(),
            _ => String::new(),
        };
        Self {
            span_id: 0,
            parent_span_id: -1,
            start_time: millis(span.start),
            end_time: millis(span.end),
            refs,
            operation_name: span.name.to_string(),
            peer,
            span_type,
            span_layer: if is_http { HTTP } else { 0 },
            component_id: if is_http { component_id } else { 0 },
            is_error: matches!(span.status, Status::Error(_)),
            tags: pairs(&span.attributes),
            logs: span.events.iter().map(log).collect(),
            skip_analysis: false,
        }
    }
}

fn millis(time: model::Timestamp) -> i64 {
    (time.0 / 1_000_000) as i64
}

/// Attributes as tags; those that SkyWalking searches by go under its own names.
fn pairs(attributes: &[Attribute]) -> Vec<Pair> {
    let named = |attribute: &Attribute| Pair {
        key: match attribute.key.as_str() {
            "http.request.method" => "http.method".to_owned(),
            "http.response.status_code" => "http.status_code".to_owned(),
            "url.full" | "http.url" => "url".to_owned(),
            key => key.to_owned(),
        },
        value: text_of(&attribute.value),
    };
    attributes.iter().map(named).collect()
}

fn log(event: &model::Event) -> Log {
    let mut data = vec![Pair {
        key: "event".to_owned(),
        value: event.name.to_string(),
    }];
    data.extend(pairs(&event.attributes));
    Log {
        time: millis(event.time),
        data,
    }
}

/// Agents write `null` for what they leave out.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A word in JSON: an enum's name, or a number, which protobuf's JSON may write as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Text(String),
    Number(i64),
}

fn whole<'de, D: Deserializer<'de>, T: TryFrom<i64> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    let number = match Option::deserialize(deserializer)? {
        None => return Ok(T::default()),
        Some(Word::Number(number)) => Some(number),
        Some(Word::Text(text)) => text.parse().ok(),
    };
    let fitting = number.and_then(|number| T::try_from(number).ok());
    fitting.ok_or_else(|| D::Error::custom("not a number that fits"))
}

fn number_of<'de, D: Deserializer<'de>>(deserializer: D, names: &[&str]) -> Result<i32, D::Error> {
    // What is not known counts as the first: unknown layers, entry spans.
    let number = match Option::deserialize(deserializer)? {
        None => None,
        Some(Word::Number(number)) => i32::try_from(number).ok(),
        Some(Word::Text(name)) => names
            .iter()
            .position(|known| *known == name)
            .and_then(|place| i32::try_from(place).ok()),
    };
    Ok(number.unwrap_or(0))
}

fn type_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    number_of(deserializer, &["Entry", "Exit", "Local"])
}

fn layer_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    let names = [
        "Unknown",
        "Database",
        "RPCFramework",
        "Http",
        "MQ",
        "Cache",
        "FAAS",
    ];
    number_of(deserializer, &names)
}

fn reference_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    number_of(deserializer, &["CrossProcess", "CrossThread"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::skywalking;
    use crate::codec::tests::full_span;
    use crate::model::SpanId;

    #[test]
    fn a_real_agents_segment_is_read_to_its_last_byte() {
        let body = include_bytes!(
            "../../../tests/data/skywalking/01-python-agent-1.2.0-segmentobject.bin"
        );
        let segment = Segment::decode(&body[..]).unwrap();
        assert_eq!(
            (segment.service.as_str(), segment.spans.len()),
            ("sw-demo", 2)
        );
        assert_eq!(
            (segment.spans[0].span_type, segment.spans[0].span_layer),
            (1, 3)
        );
        assert_eq!(segment.spans[1].tags[0].key, "http.method");
        assert_eq!(
            segment.encode_to_vec().len(),
            body.len(),
            "no field was passed over"
        );
    }

    #[test]
    fn a_span_is_a_segment_that_refers_to_its_parent() {
        let mut span = full_span();
        span.attributes
            .push(Attribute::new("server.address", "stock"));
        span.attributes.push(Attribute::new("server.port", 80_i64));
        let body = encode_json(&[Arc::new(span.clone())]);
        let list: serde_json::Value = serde_json::from_slice(&body).unwrap();
        for (path, expected) in [
            ("/0/traceId", "0af7651916cd43dd8448eb211c80319c"),
            (
                "/0/traceSegmentId",
                "0af7651916cd43dd8448eb211c80319c.3181893396.3294962071",
            ),
            ("/0/service", "svc-a"),
            ("/0/spans/0/peer", "stock:80"),
            ("/0/spans/0/operationName", "GET /users/{id}"),
            (
                "/0/spans/0/refs/0/parentTraceSegmentId",
                "0af7651916cd43dd8448eb211c80319c.2996447854.1486811499",
            ),
            ("/0/spans/0/tags/0/key", "http.method"),
            ("/0/spans/0/tags/1/value", "503"),
            ("/0/spans/0/logs/0/data/0/value", "step\nwith a line break"),
        ] {
            let found = list.pointer(path).and_then(|value| value.as_str());
            assert_eq!(found, Some(expected), "{path}");
        }
        assert_eq!(list[0]["spans"][0]["startTime"], 1_795_165_654_108_i64);
        assert_eq!(list[0]["spans"][0]["parentSpanId"], -1);
        assert_eq!(list[0]["spans"][0]["spanType"], 1);
        assert_eq!(list[0]["spans"][0]["spanLayer"], HTTP);
        assert_eq!(list[0]["spans"][0]["refs"][0]["refType"], CROSS_PROCESS);
        assert_eq!(list[0]["spans"][0]["isError"], true);
        let protobuf = encode_segments(&[Arc::new(span)]);
        assert_eq!(
            Segment::decode(&protobuf[0][..]).unwrap().spans[0].peer,
            "stock:80"
        );
    }

    #[test]
    fn a_callers_own_words_become_the_reference() {
        let header = "1-YS5iLmM=-ZC5lLmY=-3-cw==-aQ==-L2U=-cDox";
        let caller = skywalking::Reference::parse(header).unwrap();
        let mut span = full_span();
        span.context.carried = [(skywalking::SW8, header.into())].into_iter().collect();
        span.context.trace_id = caller.trace_id().unwrap();
        span.parent = Some(caller.span_id());
        let segment = Segment::of(&span);
        let reference = &segment.spans[0].refs[0];
        assert_eq!(segment.trace_id, "a.b.c");
        assert_eq!(reference.parent_trace_segment_id, "d.e.f");
        assert_eq!(
            (reference.parent_span_id, reference.parent_service.as_str()),
            (3, "s")
        );
        // The next span of ours below hangs on the one above.
        span.remote_parent = false;
        span.parent = SpanId::from_u64(9);
        let segment = Segment::of(&span);
        let reference = &segment.spans[0].refs[0];
        assert_eq!(reference.ref_type, CROSS_THREAD);
        assert!(reference.parent_trace_segment_id.ends_with(".0.9"));
        assert_eq!(reference.parent_service, "svc-a");
    }
}
