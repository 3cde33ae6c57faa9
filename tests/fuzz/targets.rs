//! One function for every parser of foreign bytes: it may refuse its input, but never panic, hang or take much memory.
//!
//! Adding one: its function below, its row in [`TARGETS`], a folder `corpus/{name}` with at least one input that is
//! accepted. The fuzzer (`fuzz_targets/target.rs`) and the test suite (`tests/it/fuzz_corpus.rs`) both walk the table.
//! An input that once crashed stays in the corpus.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

use pillion::codec::Limits;
use pillion::codec::jaeger;
use pillion::codec::jaeger_proto;
use pillion::codec::jaeger_strategy::Answer;
use pillion::codec::jaeger_strategy::Spelling;
use pillion::codec::kafka;
use pillion::codec::otlp;
use pillion::codec::skywalking;
use pillion::codec::thrift;
use pillion::codec::thrift::Datagram;
use pillion::codec::thrift::Protocol;
use pillion::codec::zipkin;
use pillion::config;
use pillion::detect::Hello;
use pillion::detect::MAX_HELLO;
use pillion::detect::MAX_PROXY_HEADER;
use pillion::detect::ProxyHeader;
use pillion::detect::Sniff;
use pillion::detect::client_hello as read_hello;
use pillion::detect::proxy_header as read_proxy_header;
use pillion::detect::sniff;
use pillion::injector::Injector;
use pillion::injector::Loads;
use pillion::injector::Unless;
use pillion::model::Span;
use pillion::net::grpc;
use pillion::propagation::Config;
use pillion::propagation::FORMATS;
use pillion::propagation::Propagator;
use pillion::sampling::parse_strategy;
use pillion::sampling::xray;

/// A parser under test.
pub(crate) struct Target {
    /// The folder of its corpus.
    pub(crate) name: &'static str,
    /// Feeds the parser and says whether it accepted; panics when an invariant breaks.
    pub(crate) run: fn(&[u8]) -> bool,
}

/// Every parser, sorted by name.
#[rustfmt::skip]
pub(crate) static TARGETS: &[Target] = &[
    Target { name: "admission_review", run: admission_review },
    Target { name: "client_hello", run: client_hello },
    Target { name: "config", run: config },
    Target { name: "detect", run: detect },
    Target { name: "grpc_frames", run: grpc_frames },
    Target { name: "jaeger_post_spans", run: jaeger_post_spans },
    Target { name: "jaeger_strategy", run: jaeger_strategy },
    Target { name: "kafka_answers", run: kafka_answers },
    Target { name: "otlp_json", run: otlp_json },
    Target { name: "otlp_protobuf", run: otlp_protobuf },
    Target { name: "propagation", run: propagation },
    Target { name: "propagation_config", run: propagation_config },
    Target { name: "proxy_header", run: proxy_header },
    Target { name: "sampling_strategy", run: sampling_strategy },
    Target { name: "skywalking_json", run: skywalking_json },
    Target { name: "skywalking_segment", run: skywalking_segment },
    Target { name: "thrift_binary", run: thrift_binary },
    Target { name: "thrift_compact", run: thrift_compact },
    Target { name: "xray_sampling", run: xray_sampling },
    Target { name: "zipkin_json", run: zipkin_json },
    Target { name: "zipkin_proto", run: zipkin_proto },
    Target { name: "zipkin_v1_json", run: zipkin_v1_json },
    Target { name: "zipkin_v1_thrift", run: zipkin_v1_thrift },
];

/// What one foreign request may carry here: small, so that a parser without bounds shows.
const LIMITS: Limits = Limits {
    spans: 1000,
    parts: 10_000,
};

/// What an API server asks about a pod. The answer is bounded by the question, and JSON.
fn admission_review(data: &[u8]) -> bool {
    fn variables(dir: &str, env: &BTreeMap<String, String>) -> Vec<(&'static str, String)> {
        let held = env.get("NODE_OPTIONS").map_or("", String::as_str);
        vec![("NODE_OPTIONS", format!("{held} {dir}"))]
    }
    let loads = Loads {
        shims: variables,
        preload: Some(variables),
    };
    let injector = Injector::new(Default::default(), loads).unwrap();
    let Ok(answer) = injector.review(data, Unless::Refused) else {
        return false;
    };
    assert!(answer.body.len() < 64 * 1024 + 16 * data.len());
    assert!(serde_json::from_slice::<serde_json::Value>(&answer.body).is_ok());
    true
}

/// The first bytes of a TLS connection. What is not whole by then is given up.
fn client_hello(data: &[u8]) -> bool {
    match read_hello(data) {
        Hello::Whole(hello) => {
            let names = hello.alpn.iter().chain(&hello.server_name);
            assert!(
                names
                    .into_iter()
                    .all(|name| name.is_ascii() && !name.is_empty())
            );
            true
        }
        Hello::NeedMore => {
            assert!(data.len() <= MAX_HELLO);
            false
        }
        Hello::Malformed => false,
    }
}

/// The header of the PROXY protocol, either version.
fn proxy_header(data: &[u8]) -> bool {
    match read_proxy_header(data) {
        ProxyHeader::Whole { len, .. } => {
            assert!(len <= data.len() && len <= MAX_PROXY_HEADER);
            assert_eq!(read_proxy_header(&data[..len]), read_proxy_header(data));
            true
        }
        ProxyHeader::NeedMore => {
            assert!(data.len() < MAX_PROXY_HEADER);
            false
        }
        ProxyHeader::Malformed => false,
    }
}

/// The configuration file. A refusal says why.
fn config(data: &[u8]) -> bool {
    let (process, thread) = (std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(format!("pillion-fuzz-{process}-{thread:?}.yaml"));
    fs::write(&path, data).expect("the temporary folder is writable");
    let sources = config::Sources {
        file: Some(path.clone()),
        ..config::Sources::default()
    };
    let result = config::load(&sources);
    fs::remove_file(path).ok();
    match &result {
        Ok(loaded) => assert!(!loaded.print().is_empty()),
        Err(errors) => assert!(!errors.is_empty() && errors.lines().len() >= errors.len()),
    }
    result.is_ok()
}

/// The first bytes of a connection: once there is an answer, more bytes never change it.
fn detect(data: &[u8]) -> bool {
    let data = data.get(..600).unwrap_or(data);
    let answers = (0..=data.len()).map(|len| sniff(&data[..len]));
    let mut settled = answers.skip_while(|answer| *answer == Sniff::NeedMore);
    let first = settled.next();
    assert!(
        settled.all(|later| Some(later) == first),
        "the answer {first:?} changes"
    );
    matches!(first, Some(Sniff::Http1 | Sniff::Http2 | Sniff::Tls))
}

/// OTLP's JSON export request.
fn otlp_json(data: &[u8]) -> bool {
    let decoded = otlp::decode_json(data, LIMITS);
    decoded.is_ok_and(|decoded| written_and_read_again(decoded.spans))
}

/// OTLP's protobuf export request.
fn otlp_protobuf(data: &[u8]) -> bool {
    let decoded = otlp::decode(data, LIMITS);
    decoded.is_ok_and(|decoded| written_and_read_again(decoded.spans))
}

fn written_and_read_again(spans: Vec<Span>) -> bool {
    assert!(spans.len() <= LIMITS.spans);
    let spans: Vec<_> = spans.into_iter().map(Arc::new).collect();
    let mut bytes = BytesMut::new();
    otlp::encode(&spans, &mut bytes);
    let again = otlp::decode(&bytes, Limits::default()).expect("own spans are readable");
    assert_eq!(again.spans.len(), spans.len());
    !spans.is_empty()
}

/// The answer of a sampling server.
fn sampling_strategy(data: &[u8]) -> bool {
    parse_strategy(data).is_ok()
}

/// Jaeger's Thrift in binary form: datagram and HTTP body.
fn thrift_binary(data: &[u8]) -> bool {
    thrift_in(data, Protocol::Binary)
}

/// Jaeger's Thrift in compact form: datagram and HTTP body.
fn thrift_compact(data: &[u8]) -> bool {
    thrift_in(data, Protocol::Compact)
}

fn thrift_in(data: &[u8], protocol: Protocol) -> bool {
    let message = thrift::decode_message(data, protocol, LIMITS).map(|message| message.batch);
    let batch = thrift::decode_batch(data, protocol, LIMITS);
    let mut n_spans = 0;
    for batch in message.into_iter().chain(batch) {
        assert!(batch.spans.len() <= LIMITS.spans);
        for span in &batch.spans {
            assert!(thrift::span_len(span, protocol).is_ok());
            n_spans += 1;
        }
        written_and_read_again(jaeger::received(batch, &mut Arc::new).spans);
    }
    if let Ok(Datagram::Zipkin(spans)) = thrift::decode_datagram(data, protocol, LIMITS) {
        n_spans += spans.len();
        // A span with both sides of a call becomes two.
        let received = zipkin::received_v1(spans, &mut Arc::new).spans;
        assert!(received.len() <= 2 * LIMITS.spans);
    }
    n_spans > 0
}

/// A stream of gRPC messages: what was cut from it is not longer than allowed.
fn grpc_frames(data: &[u8]) -> bool {
    let mut frames = grpc::Frames::new(1_000);
    let mut n_messages = 0;
    for bytes in data.chunks(7) {
        frames.push(bytes);
        while let Ok(Some(message)) = frames.pop() {
            assert!(message.bytes.len() <= 1_000);
            n_messages += 1;
        }
    }
    n_messages > 0
}

/// Jaeger's `PostSpansRequest`.
fn jaeger_post_spans(data: &[u8]) -> bool {
    let Ok(batches) = jaeger_proto::decode(data, LIMITS) else {
        return false;
    };
    let mut accepted = false;
    for batch in batches {
        let spans = jaeger::received(batch, &mut Arc::new).spans;
        accepted |= written_and_read_again(spans);
    }
    accepted
}

/// What a Kafka broker answers, to the question of the number it begins with.
fn kafka_answers(data: &[u8]) -> bool {
    let number = data
        .first_chunk()
        .map_or(0, |number| i32::from_be_bytes(*number));
    kafka::metadata_response(data, number).is_ok()
        | kafka::produce_response(data, number).is_ok()
        | kafka::sasl_response(data, number).is_ok()
}

/// What X-Ray answers to a question for rules, or to a report of what they decided.
fn xray_sampling(data: &[u8]) -> bool {
    xray::parse_rules(data).is_ok() || xray::parse_targets(data).is_ok()
}

/// A sampling strategy on its way through, in JSON or protobuf.
fn jaeger_strategy(data: &[u8]) -> bool {
    let mut accepted = false;
    for answer in [Answer::from_json(data), Answer::from_proto(data)] {
        let Ok(answer) = answer else { continue };
        assert!(Answer::from_proto(&answer.to_proto()).is_ok());
        for spelling in [Spelling::Name, Spelling::Number] {
            assert!(!answer.to_json(spelling).is_empty());
        }
        accepted = true;
    }
    accepted
}

/// SkyWalking's segments in JSON.
fn skywalking_json(data: &[u8]) -> bool {
    let decoded = skywalking::decode_json(data, LIMITS, &mut Arc::new);
    decoded.is_ok_and(|decoded| written_and_read_again(decoded.spans))
}

/// SkyWalking's segment and collection of segments in protobuf.
fn skywalking_segment(data: &[u8]) -> bool {
    let collection = skywalking::decode_collection(data, LIMITS, &mut Arc::new);
    assert!(collection.is_err() || collection.is_ok_and(|c| c.spans.len() <= LIMITS.spans));
    let decoded = skywalking::decode_segment(data, LIMITS, &mut Arc::new);
    decoded.is_ok_and(|decoded| written_and_read_again(decoded.spans))
}

/// Zipkin's list in JSON.
fn zipkin_json(data: &[u8]) -> bool {
    let decoded = zipkin::decode_json(data, LIMITS, &mut Arc::new);
    decoded.is_ok_and(|decoded| written_and_read_again(decoded.spans))
}

/// Zipkin's list in proto3.
fn zipkin_proto(data: &[u8]) -> bool {
    let decoded = zipkin::decode_proto(data, LIMITS, &mut Arc::new);
    decoded.is_ok_and(|decoded| written_and_read_again(decoded.spans))
}

/// The list of Zipkin's first version in JSON.
fn zipkin_v1_json(data: &[u8]) -> bool {
    let decoded = zipkin::decode_v1_json(data, LIMITS, &mut Arc::new);
    decoded.is_ok_and(|decoded| !decoded.spans.is_empty())
}

/// The list of Zipkin's first version in Thrift.
fn zipkin_v1_thrift(data: &[u8]) -> bool {
    let decoded = zipkin::decode_v1_thrift(data, LIMITS, &mut Arc::new);
    decoded.is_ok_and(|decoded| !decoded.spans.is_empty())
}

/// Lines `name: value` become headers; what is read must survive being written.
fn propagation(data: &[u8]) -> bool {
    let mut headers = header_block(data);
    let names: Vec<_> = FORMATS.iter().map(|format| format.name()).collect();
    let (config, _) = Config::from_list(&names.join(","));
    let propagator = Propagator::new(&config);
    let first = propagator.extract(&headers);
    let Some(parent) = first.extracted.parent else {
        return false;
    };
    propagator.inject(&parent, &mut headers);
    let second = propagator.extract(&headers);
    assert!(!second.conflict, "own headers disagree: {headers:?}");
    let read_back = second.extracted.parent.expect("own headers are readable");
    assert_eq!(
        (read_back.trace_id, read_back.span_id),
        (parent.trace_id, parent.span_id)
    );
    assert_eq!(read_back.state.is_sampled(), parent.state.is_sampled());
    assert_eq!(read_back.trace_state, parent.trace_state);
    true
}

/// The list in `OTEL_PROPAGATORS`.
fn propagation_config(data: &[u8]) -> bool {
    let (config, unknown) = Config::from_list(&String::from_utf8_lossy(data));
    for error in unknown {
        assert!(!error.to_string().is_empty());
    }
    assert!(config.inject.len() <= FORMATS.len());
    !config.inject.is_empty()
}

/// Reads `name: value` lines into headers and skips what no HTTP library would let through.
fn header_block(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(256) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}
