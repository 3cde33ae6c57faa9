//! The trace export messages as structs: for JSON, for collectors' answers, and as the plain counterpart in tests.
//!
//! Field numbers are frozen by opentelemetry-proto v1; JSON names are its lowerCamelCase ones, ids in JSON are hex and
//! 64-bit integers decimal text.

use std::sync::Arc;

use crate::codec::otlp::SCOPE_NAME;
use crate::codec::otlp::SCOPE_VERSION;
use crate::codec::otlp::SERVICE_NAME;
use crate::codec::otlp::encode::kind_number;
use crate::codec::otlp::encode::span_flags;
use crate::codec::otlp::json;
use crate::model;

/// `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExportTraceServiceRequest {
    /// One entry a resource.
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// `ExportTraceServiceResponse`: empty when everything was accepted.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExportTraceServiceResponse {
    /// Present when spans were rejected or a warning is given.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_success: Option<ExportTracePartialSuccess>,
}

/// Which part of a request was not accepted.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExportTracePartialSuccess {
    /// Spans rejected; never to be sent again. Zero with a message is a warning.
    #[prost(int64, tag = "1")]
    #[serde(with = "json::i64_text")]
    pub rejected_spans: i64,
    /// Why, for people.
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// Spans of one resource.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceSpans {
    /// What produced the spans.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// One entry a scope.
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// A resource.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resource {
    /// `service.name` among them.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// Spans of one instrumentation scope.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScopeSpans {
    /// Who made them.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// The spans.
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

/// An instrumentation scope.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstrumentationScope {
    /// Library or program.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// What else is known of it.
    #[prost(message, repeated, tag = "3")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<KeyValue>,
}

/// A span.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Span {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "json::hex")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "json::hex")]
    pub span_id: Vec<u8>,
    /// W3C form.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace_state: String,
    /// 8 bytes; empty on roots.
    #[prost(bytes = "vec", tag = "4")]
    #[serde(with = "json::hex", skip_serializing_if = "Vec::is_empty")]
    pub parent_span_id: Vec<u8>,
    /// Low-cardinality name.
    #[prost(string, tag = "5")]
    pub name: String,
    /// 0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    #[prost(int32, tag = "6")]
    pub kind: i32,
    /// Nanoseconds since the epoch.
    #[prost(fixed64, tag = "7")]
    #[serde(with = "json::u64_text")]
    pub start_time_unix_nano: u64,
    /// Nanoseconds since the epoch.
    #[prost(fixed64, tag = "8")]
    #[serde(with = "json::u64_text")]
    pub end_time_unix_nano: u64,
    /// Unique keys.
    #[prost(message, repeated, tag = "9")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<KeyValue>,
    /// In time order.
    #[prost(message, repeated, tag = "11")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// Related spans.
    #[prost(message, repeated, tag = "13")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// Absent: unset.
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
    /// W3C flags and remoteness of the parent.
    #[prost(fixed32, tag = "16")]
    pub flags: u32,
}

/// An event.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    /// Nanoseconds since the epoch.
    #[prost(fixed64, tag = "1")]
    #[serde(with = "json::u64_text")]
    pub time_unix_nano: u64,
    /// What happened.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Details.
    #[prost(message, repeated, tag = "3")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<KeyValue>,
}

/// A link.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Link {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "json::hex")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "json::hex")]
    pub span_id: Vec<u8>,
    /// Details.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<KeyValue>,
}

/// How a span ended.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// For errors.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// 0 unset, 1 ok, 2 error.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// An attribute.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyValue {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// A value of any kind.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(from = "json::AnyValue", into = "json::AnyValue")]
pub struct AnyValue {
    /// `None`: empty.
    #[prost(oneof = "any_value::Value", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub value: Option<any_value::Value>,
}

/// The kinds of [`AnyValue`].
pub mod any_value {
    /// One kind.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Value {
        /// Text.
        #[prost(string, tag = "1")]
        String(String),
        /// Boolean.
        #[prost(bool, tag = "2")]
        Bool(bool),
        /// Integer.
        #[prost(int64, tag = "3")]
        Int(i64),
        /// Float.
        #[prost(double, tag = "4")]
        Double(f64),
        /// List.
        #[prost(message, tag = "5")]
        Array(super::ArrayValue),
        /// Map.
        #[prost(message, tag = "6")]
        Kvlist(super::KeyValueList),
        /// Bytes.
        #[prost(bytes = "vec", tag = "7")]
        Bytes(Vec<u8>),
    }
}

/// A list of values.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ArrayValue {
    /// The items.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<AnyValue>,
}

/// A map of values.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct KeyValueList {
    /// The entries.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<KeyValue>,
}

impl ExportTraceServiceRequest {
    /// Builds the messages for these spans, grouped by resource in order of first appearance.
    pub fn of(spans: &[Arc<model::Span>]) -> Self {
        let mut groups: Vec<(&Arc<model::Resource>, Vec<Span>)> = Vec::new();
        for span in spans {
            let message = span_message(span);
            match groups
                .iter_mut()
                .rev()
                .find(|(resource, _)| *resource == &span.resource)
            {
                Some((_, spans)) => spans.push(message),
                None => groups.push((&span.resource, vec![message])),
            }
        }
        let resource_spans = groups
            .into_iter()
            .map(|(resource, spans)| ResourceSpans {
                resource: Some(resource_message(resource)),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope_message(resource)),
                    spans,
                }],
            })
            .collect();
        Self { resource_spans }
    }
}

fn resource_message(resource: &model::Resource) -> Resource {
    let service = (!resource.service.is_empty()).then(|| KeyValue {
        key: SERVICE_NAME.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::String(resource.service.to_string())),
        }),
    });
    Resource {
        attributes: service
            .into_iter()
            .chain(attribute_messages(&resource.attributes))
            .collect(),
    }
}

fn scope_message(resource: &model::Resource) -> InstrumentationScope {
    match &resource.scope {
        None => InstrumentationScope {
            name: SCOPE_NAME.to_owned(),
            version: SCOPE_VERSION.to_owned(),
            attributes: Vec::new(),
        },
        Some(scope) => InstrumentationScope {
            name: scope.name.to_string(),
            version: scope.version.to_string(),
            attributes: attribute_messages(&scope.attributes).collect(),
        },
    }
}

fn span_message(span: &model::Span) -> Span {
    Span {
        trace_id: span.context.trace_id.bytes().to_vec(),
        span_id: span.context.span_id.bytes().to_vec(),
        trace_state: span.context.trace_state.as_str().to_owned(),
        parent_span_id: span.parent.map_or(Vec::new(), |id| id.bytes().to_vec()),
        name: span.name.to_string(),
        kind: kind_number(span.kind),
        start_time_unix_nano: span.start.0,
        end_time_unix_nano: span.end.0,
        attributes: attribute_messages(&span.attributes).collect(),
        events: span
            .events
            .iter()
            .map(|event| Event {
                time_unix_nano: event.time.0,
                name: event.name.to_string(),
                attributes: attribute_messages(&event.attributes).collect(),
            })
            .collect(),
        links: span
            .links
            .iter()
            .map(|link| Link {
                trace_id: link.trace_id.bytes().to_vec(),
                span_id: link.span_id.bytes().to_vec(),
                attributes: attribute_messages(&link.attributes).collect(),
            })
            .collect(),
        status: match &span.status {
            model::Status::Unset => None,
            model::Status::Ok => Some(Status {
                message: String::new(),
                code: 1,
            }),
            model::Status::Error(description) => Some(Status {
                message: description.to_string(),
                code: 2,
            }),
        },
        flags: span_flags(span),
    }
}

fn attribute_messages(attributes: &[model::Attribute]) -> impl Iterator<Item = KeyValue> {
    attributes.iter().map(|attribute| KeyValue {
        key: attribute.key.to_string(),
        value: Some(AnyValue {
            value: Some(value_message(&attribute.value)),
        }),
    })
}

fn value_message(value: &model::Value) -> any_value::Value {
    use any_value::Value;
    match value {
        model::Value::Str(text) => Value::String(text.to_string()),
        model::Value::Bool(value) => Value::Bool(*value),
        model::Value::I64(number) => Value::Int(*number),
        model::Value::F64(number) => Value::Double(*number),
        model::Value::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
        model::Value::StrList(texts) => Value::Array(ArrayValue {
            values: texts
                .iter()
                .map(|text| AnyValue {
                    value: Some(Value::String(text.to_string())),
                })
                .collect(),
        }),
    }
}
