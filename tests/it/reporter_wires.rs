//! Each further wire against a scripted collector: where it posts, what arrives, what the book says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use pillion::reporter::Config;
use pillion::reporter::Reason;
use pillion::reporter::Reporters;
use pillion::reporter::Sink;
use pillion::reporter::Snapshot;

use crate::support::collector::Collector;
use crate::support::collector::Down;
use crate::support::collector::Received;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::collector::Where;
use crate::support::spans::spans;

const LIMIT: Duration = Duration::from_secs(20);

/// Sends three spans through the reporter of this YAML, `{url}` standing for the collector; what arrived and the book.
async fn sent(yaml: &str, speaks: Speaks, script: Vec<Reply>) -> (Vec<Received>, Snapshot) {
    let collector = Collector::start(speaks, script, Reply::Accept).await;
    let yaml = yaml.replace("{url}", &collector.url());
    let config: Config = serde_saphyr::from_str(&yaml).unwrap();
    let reporters = Reporters::start(&[config], None, None).unwrap();
    for span in spans(0..3, 10) {
        reporters.report(span);
    }
    reporters.shutdown(LIMIT).await;
    let book = reporters.snapshot().remove(0);
    assert_eq!(book.accepted, 3);
    assert_eq!(book.exported + book.dropped_total(), 3, "{yaml}: {book:?}");
    (collector.received(), book)
}

#[tokio::test]
async fn zipkin_posts_lists_in_either_spelling() {
    let (json, proto) = ("application/json", "application/x-protobuf");
    for (more, path, content_type, first) in [
        ("", "/api/v2/spans", json, b'['),
        (", compression: gzip", "/api/v2/spans", json, b'['),
        (", encoding: proto3", "/api/v2/spans", proto, 0x0a),
        (
            ", encoding: thrift",
            "/api/v1/spans",
            "application/x-thrift",
            0x0c,
        ),
    ] {
        let yaml = &format!("zipkin: {{ endpoint: '{{url}}'{more} }}");
        let (received, book) = sent(yaml, Speaks::Http1, vec![]).await;
        assert_eq!(book.exported, 3, "{yaml}: {book:?}");
        assert_eq!(received[0].path, path);
        assert_eq!(received[0].headers["content-type"], content_type);
        assert_eq!(received[0].headers["b3"], "0", "not to be traced itself");
        let message = received[0].message();
        assert_eq!(message[0], first, "a list");
        if content_type == json {
            let list: Vec<Value> = serde_json::from_slice(&message).unwrap();
            let ids: Vec<_> = list
                .iter()
                .map(|span| span["id"].as_str().unwrap())
                .collect();
            assert_eq!(
                ids,
                ["0000000000000001", "0000000000000002", "0000000000000003"]
            );
        }
    }
}

#[tokio::test]
async fn zipkin_repeats_what_says_later_and_nothing_else() {
    let yaml = "zipkin: { endpoint: '{url}', retry: { initial: 10ms } }";
    let later = Reply::Status(503, vec![], "later");
    let (received, book) = sent(yaml, Speaks::Http1, vec![later]).await;
    assert_eq!((received.len(), book.exported), (2, 3));
    let never = Reply::Status(400, vec![], "Expected a JSON_V2 encoded list");
    let (received, book) = sent(yaml, Speaks::Http1, vec![never]).await;
    assert_eq!((received.len(), book.exported), (1, 0));
    assert!(
        book.last_error
            .as_deref()
            .is_some_and(|e| e.contains("JSON_V2")),
        "{book:?}"
    );
}

/// The gRPC frames of a body, none of them compressed.
fn frames(body: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    let mut rest = body;
    while let Some((head, behind)) = rest.split_first_chunk::<5>() {
        assert_eq!(head[0], 0, "not compressed");
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        frames.push(&behind[..len]);
        rest = &behind[len..];
    }
    assert!(rest.is_empty());
    frames
}

#[tokio::test]
async fn jaeger_grpc_posts_one_message_of_one_process() {
    for yaml in [
        "jaeger_grpc: { endpoint: '{url}', headers: { x-tenant: acme } }",
        "jaeger_grpc: { endpoint: '{url}/ignored', compression: gzip, headers: { x-tenant: acme } }",
    ] {
        let (received, book) = sent(yaml, Speaks::Http2, vec![]).await;
        assert_eq!((received.len(), book.exported), (1, 3), "{yaml}: {book:?}");
        assert_eq!(
            received[0].path,
            "/jaeger.api_v2.CollectorService/PostSpans"
        );
        assert_eq!(received[0].headers["x-tenant"], "acme");
        let message = received[0].message();
        assert!(
            message.windows(3).any(|bytes| bytes == b"svc"),
            "the process is in it"
        );
    }
    let full = Reply::Grpc(8, None, Where::Trailers);
    let yaml = "jaeger_grpc: { endpoint: '{url}', retry: { initial: 10ms } }";
    let (received, book) = sent(yaml, Speaks::Http2, vec![full]).await;
    let what = "the collector's queue was full, then had room";
    assert_eq!((received.len(), book.exported), (2, 3), "{what}: {book:?}");
}

#[tokio::test]
async fn skywalking_streams_or_posts_a_segment_for_each_span() {
    let yaml = "skywalking: { endpoint: '{url}', token: secret }";
    let (received, book) = sent(yaml, Speaks::Http2, vec![]).await;
    assert_eq!((received.len(), book.exported), (1, 3), "{book:?}");
    assert_eq!(
        received[0].path,
        "/skywalking.v3.TraceSegmentReportService/collect"
    );
    assert_eq!(received[0].headers["authentication"], "secret");
    assert_eq!(frames(&received[0].body).len(), 3);

    let yaml = "skywalking: { endpoint: '{url}', protocol: http }";
    let (received, book) = sent(yaml, Speaks::Http1, vec![]).await;
    assert_eq!(book.exported, 3, "{book:?}");
    assert_eq!(received[0].path, "/v3/segments");
    let list: Vec<Value> = serde_json::from_slice(&received[0].message()).unwrap();
    assert_eq!(list.len(), 3);
    assert_eq!(list[0]["spans"][0]["spanType"], 0, "an entry");
    assert_eq!(list[0]["serviceInstance"], "1");
    let refused = Reply::Grpc(16, None, Where::Headers);
    let yaml = "skywalking: { endpoint: '{url}' }";
    let (_, book) = sent(yaml, Speaks::Http2, vec![refused]).await;
    assert_eq!(book.exported, 0, "a wrong token");
}

#[tokio::test]
async fn datadog_puts_traces_with_their_number() {
    let yaml = "datadog: { endpoint: '{url}' }";
    let (received, book) = sent(yaml, Speaks::Http1, vec![]).await;
    assert_eq!(book.exported, 3, "{book:?}");
    assert_eq!(received[0].path, "/v0.4/traces");
    let headers = &received[0].headers;
    assert_eq!(headers["content-type"], "application/msgpack");
    assert_eq!(headers["x-datadog-trace-count"], "3");
    assert_eq!(headers["datadog-send-real-http-status"], "1");
    assert_eq!(
        received[0].body[..5],
        [0xdd, 0, 0, 0, 3],
        "an array of three traces"
    );
    let busy = Reply::Status(429, vec![("retry-after", "0".to_owned())], "");
    let yaml = "datadog: { endpoint: '{url}', retry: { initial: 10ms } }";
    let (received, book) = sent(yaml, Speaks::Http1, vec![busy]).await;
    assert_eq!((received.len(), book.exported), (2, 3));
}

#[tokio::test]
async fn xray_sends_a_datagram_for_each_span_and_notices_that_nobody_listens() {
    let daemon = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = daemon.local_addr().unwrap();
    let yaml = format!("xray: {{ endpoint: '{endpoint}' }}");
    let (_, book) = sent(&yaml, Speaks::Http1, vec![]).await;
    assert_eq!(book.exported, 3, "{book:?}");
    let mut buffer = vec![0; 64 << 10];
    for id in 1..=3 {
        let received = tokio::time::timeout(LIMIT, daemon.recv(&mut buffer)).await;
        let len = received.unwrap().unwrap();
        let text = std::str::from_utf8(&buffer[..len]).unwrap();
        let (header, document) = text.split_once('\n').unwrap();
        let header: Value = serde_json::from_str(header).unwrap();
        assert_eq!(header["format"], "json");
        let document: Value = serde_json::from_str(document).unwrap();
        assert_eq!(document["id"], format!("{id:016x}"));
        assert_eq!(document["name"], "svc");
    }
    drop(daemon);
    let (_, book) = sent(&yaml, Speaks::Http1, vec![]).await;
    assert!(book.exported < 3, "refusals are noticed: {book:?}");
}

#[tokio::test]
async fn failover_delivers_while_one_collector_answers() {
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = dead.local_addr().unwrap();
    drop(dead);
    for second in ["zipkin", "otlp"] {
        let yaml = format!(
            "failover: {{ members: [ {{ otlp: {{ endpoint: 'http://{nobody}' }} }}, \
             {{ {second}: {{ endpoint: '{{url}}' }} }} ], retry: {{ max_elapsed: 0 }} }}"
        );
        let (received, book) = sent(&yaml, Speaks::Http1, vec![]).await;
        assert_eq!(
            (received.len(), book.exported),
            (1, 3),
            "{second}: {book:?}"
        );
    }
    let yaml = format!(
        "failover: {{ members: [ {{ otlp: {{ endpoint: 'http://{nobody}' }} }}, \
         {{ zipkin: {{ endpoint: '{{url}}' }} }} ], retry: {{ initial: 10ms }} }}"
    );
    let later = Reply::Status(503, vec![], "later");
    let (received, book) = sent(&yaml, Speaks::Http1, vec![later]).await;
    assert_eq!(
        (received.len(), book.exported),
        (2, 3),
        "both failed once: {book:?}"
    );
}

/// Reports ten thousand spans a second for two seconds to a collector that takes a tenth of a second for each answer; what
/// the queue had no room for, and whether it was really as many a second.
async fn far_away(senders: usize) -> (u64, bool) {
    let slow = Reply::Slow(Duration::from_millis(100));
    let collector = Collector::start(Speaks::Http1, vec![], slow).await;
    let url = collector.url();
    let yaml = format!("otlp: {{ endpoint: '{url}', queue: {{ senders: {senders} }} }}");
    let config: Config = serde_saphyr::from_str(&yaml).unwrap();
    let reporters = Reporters::start(&[config], None, None).unwrap();
    let batch = spans(0..100, 10);
    let started = Instant::now();
    // No catching up: what the machine holds up is not made good in a burst.
    for _ in 0..200 {
        batch.iter().for_each(|span| reporters.report(span.clone()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let in_time = started.elapsed() < Duration::from_millis(2_600);
    reporters.shutdown(LIMIT).await;
    let book = reporters.snapshot().remove(0);
    assert_eq!(book.accepted, 20_000);
    assert_eq!(book.exported + book.dropped_for(Reason::QueueFull), 20_000);
    (book.dropped_for(Reason::QueueFull), in_time)
}

#[tokio::test]
async fn a_collector_far_away_gets_ten_thousand_spans_a_second() {
    let default = 4;
    assert_eq!(far_away(default).await.0, 0);
    let (lost, in_time) = far_away(1).await;
    assert!(lost > 0 || !in_time, "one send after another is enough");
}

/// A broker after a script: each connection is answered the topic's place, and each batch with the next of these errors.
async fn broker(errors: Vec<i16>) -> (u16, Arc<Mutex<Vec<i16>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::<Mutex<Vec<i16>>>::default();
    let (keys, errors) = (
        Arc::clone(&asked),
        Arc::new(Mutex::new(VecDeque::from(errors))),
    );
    tokio::spawn(async move {
        while let Ok((mut conn, _)) = listener.accept().await {
            let (keys, errors) = (Arc::clone(&keys), Arc::clone(&errors));
            tokio::spawn(async move {
                while let Ok(length) = conn.read_i32().await {
                    let mut request = vec![0; length as usize];
                    conn.read_exact(&mut request).await.unwrap();
                    let key = i16::from_be_bytes([request[0], request[1]]);
                    keys.lock().unwrap().push(key);
                    let mut answer = request[4..8].to_vec();
                    if key == METADATA {
                        answer.extend(b"\0\0\0\0\0\0\0\x01\0\0\0\x05\0\x09127.0.0.1");
                        answer.extend(i32::from(port).to_be_bytes());
                        answer.extend(
                            b"\xff\xff\xff\xff\0\0\0\x05\0\0\0\x01\0\0\0\x0cjaeger-spans\0",
                        );
                        answer.extend(b"\0\0\0\x01\0\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\0");
                    } else {
                        let error = errors.lock().unwrap().pop_front().unwrap_or(0);
                        answer.extend(b"\0\0\0\x01\0\x0cjaeger-spans\0\0\0\x01\0\0\0\0");
                        answer.extend(error.to_be_bytes());
                        answer.extend([0; 20]);
                    }
                    conn.write_i32(answer.len() as i32).await.unwrap();
                    conn.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    (port, asked)
}

const METADATA: i16 = 3;
const PRODUCE: i16 = 0;

#[tokio::test]
async fn kafka_asks_again_where_the_topic_is_and_splits_what_is_too_large() {
    let (not_leader, too_large, not_allowed, bad_time) = (6, 10, 29, 32);
    for (errors, expected, exported, why) in [
        (vec![], vec![METADATA, PRODUCE], 3, "taken"),
        (
            vec![not_leader],
            vec![METADATA, PRODUCE, METADATA, PRODUCE],
            3,
            "moved",
        ),
        (
            vec![too_large],
            vec![METADATA, PRODUCE, METADATA, PRODUCE, PRODUCE],
            3,
            "in halves",
        ),
        (vec![not_allowed], vec![METADATA, PRODUCE], 0, "refused"),
        (
            vec![bad_time, bad_time],
            vec![METADATA, PRODUCE, METADATA, PRODUCE, METADATA, PRODUCE],
            2,
            "one record costs itself alone",
        ),
    ] {
        let (port, asked) = broker(errors).await;
        let yaml =
            format!("kafka: {{ brokers: [ '127.0.0.1:{port}' ], retry: {{ initial: 10ms }} }}");
        let (_, book) = sent(&yaml, Speaks::Http1, vec![]).await;
        assert_eq!(book.exported, exported, "{why}: {book:?}");
        assert_eq!(*asked.lock().unwrap(), expected, "{why}");
    }
}

#[tokio::test]
async fn kafka_asks_the_next_broker_where_the_first_says_nothing() {
    // Connections wait in its backlog for ever.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (silent_port, (port, _)) = (silent.local_addr().unwrap().port(), broker(vec![]).await);
    let yaml = format!(
        "kafka: {{ brokers: [ '127.0.0.1:{silent_port}', '127.0.0.1:{port}' ], timeout: 1500ms, \
         retry: {{ max_elapsed: 0 }} }}"
    );
    let (_, book) = sent(&yaml, Speaks::Http1, vec![]).await;
    assert_eq!(book.exported, 3, "{book:?}");
}

#[tokio::test]
async fn kafka_without_a_broker_costs_what_the_retries_cost() {
    let down = Down::new();
    let yaml = format!(
        "kafka: {{ brokers: [ '{}' ], retry: {{ initial: 10ms, max_elapsed: 100ms }} }}",
        down.addr
    );
    let (_, book) = sent(&yaml, Speaks::Http1, vec![]).await;
    assert_eq!(book.exported, 0);
    let error = book.last_error.unwrap();
    assert!(error.starts_with("connection to 127.0.0.1:"), "{error}");
}
