//! The OTLP receiver: real exporters' requests, both encodings, and what it refuses.

use std::io::Write;
use std::time::Duration;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;
use pillion::admin::Hooks;
use pillion::admin::view;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::admin::Admin;
use crate::admin::seed;

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");
const GZIP: (&str, &str) = ("content-encoding", "gzip");

/// Captures of OpenTelemetry Python 1.45.1 and JavaScript 0.223.1 exporters.
const PYTHON: &[u8] = include_bytes!("../../data/otlp/01-python-1.45.1-http-protobuf.body.bin");
const PYTHON_GZIP: &[u8] =
    include_bytes!("../../data/otlp/02-python-1.45.1-http-protobuf-gzip.body.bin");
const JAVASCRIPT: &[u8] =
    include_bytes!("../../data/otlp/03-js-0.223.1-http-json-chunked.body.json");

/// Headers, body, expected status, reason.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], u16, &'a str);

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn held(admin: &Admin) -> usize {
    admin.store.as_ref().unwrap().stats().spans
}

#[tokio::test]
async fn real_exporters_are_understood() {
    let admin = Admin::start().await;
    let plain = admin.post("/v1/traces", &[PROTOBUF], PYTHON).await;
    assert_eq!(
        (plain.status, plain.body.len()),
        (200, 0),
        "an empty message"
    );
    assert_eq!(plain.header("content-type"), "application/x-protobuf");
    let held_first = held(&admin);
    assert!(held_first >= 2);

    let zipped = admin
        .post("/v1/traces", &[PROTOBUF, GZIP], PYTHON_GZIP)
        .await;
    assert_eq!(zipped.status, 200);
    assert!(held(&admin) > held_first);

    let before = held(&admin);
    let json = admin.post("/v1/traces", &[JSON], JAVASCRIPT).await;
    assert_eq!((json.status, json.text().as_str()), (200, "{}"));
    assert_eq!(json.header("content-type"), "application/json");
    assert_eq!(held(&admin), before + 2);

    let trace = admin
        .get("/api/traces/0af7651916cd43dd8448eb211c80319c")
        .await
        .json();
    assert!(trace["data"][0]["processes"].to_string().contains("svc-a"));
}

#[tokio::test]
async fn chunked_bodies_and_parameters_of_the_type_are_taken() {
    let admin = Admin::start().await;
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: Application/JSON; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
        admin.addr,
        JAVASCRIPT.len()
    );
    let request = [head.as_bytes(), JAVASCRIPT, b"\r\n0\r\n\r\n"].concat();
    assert_eq!(admin.raw(&request).await.status, 200);
    assert_eq!(held(&admin), 2);
}

#[tokio::test]
async fn spans_without_valid_ids_are_rejected_in_part() {
    let admin = Admin::start().await;
    let place = seed::Place {
        trace: 1,
        id: 1,
        parent: 0,
        start: seed::START,
        duration: 1,
    };
    let good = seed::span("a", "GET", 2, &place, json!({}));
    let bad = good.clone().with("spanId", json!("0000000000000000"));
    let body = seed::request(&[good, bad]).to_string();
    let answer = admin.post("/v1/traces", &[JSON], body.as_bytes()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["partialSuccess"]["rejectedSpans"], "1");
    assert_eq!(held(&admin), 1);
}

#[tokio::test]
async fn bad_requests_are_refused_and_leave_nothing() {
    let admin = Admin::start().await;
    let bomb = gzip(&vec![0; 64 << 20]);
    let many = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}]}}]}}]}}"#,
        vec!["{}"; 100_000].join(",")
    );
    let deep = "[".repeat(100_000);
    let cut = &PYTHON[..PYTHON.len() - 3];
    let oversize = vec![b' '; (4 << 20) + 1];
    let zipped_junk = gzip(b"junk that is no message");
    let cases: &[Case<'_>] = &[
        (&[PROTOBUF], b"\xff\xff\xff", 400, "junk protobuf"),
        (&[PROTOBUF], cut, 400, "cut short"),
        (&[JSON], b"{", 400, "cut JSON"),
        (&[JSON], b"\"text\"", 400, "a text"),
        (&[JSON], deep.as_bytes(), 400, "nested 100,000 deep"),
        (&[JSON], many.as_bytes(), 413, "100,000 spans"),
        (&[PROTOBUF, GZIP], b"no gzip", 400, "gzip in name only"),
        (&[PROTOBUF, GZIP], &zipped_junk, 400, "zipped junk"),
        (
            &[PROTOBUF, GZIP],
            &PYTHON_GZIP[..100],
            400,
            "gzip cut short",
        ),
        (&[PROTOBUF, GZIP], &bomb, 413, "64 MiB in 64 KiB"),
        (&[PROTOBUF], &oversize, 413, "more than 4 MiB"),
        (
            &[("content-type", "text/plain")],
            PYTHON,
            415,
            "another type",
        ),
        (&[], PYTHON, 415, "no type"),
        (
            &[PROTOBUF, ("content-encoding", "br")],
            PYTHON,
            415,
            "another encoding",
        ),
    ];
    for (headers, body, status, why) in cases {
        let answer = admin.post("/v1/traces", headers, body).await;
        assert_eq!(answer.status, *status, "{why}: {}", answer.text());
        assert_eq!(held(&admin), 0, "{why}");
    }
    let message = admin.post("/v1/traces", &[JSON], b"{").await.json();
    assert_eq!(message["code"], 3, "google.rpc.Status");
    assert!(message["message"].is_string());
    assert_eq!(admin.send("GET", "/v1/traces", &[], b"").await.status, 405);
    assert_eq!(
        admin.post("/v1/traces", &[PROTOBUF], b"").await.status,
        200,
        "an empty request"
    );
    assert_eq!(
        admin.post("/v1/traces", &[PROTOBUF], PYTHON).await.status,
        200,
        "still serving"
    );
}

#[tokio::test]
async fn the_receiver_can_be_switched_off() {
    let closed = view::Config {
        otlp: false,
        ..view::Config::default()
    };
    let admin = Admin::with(Hooks::default(), closed).await;
    assert_eq!(
        admin.post("/v1/traces", &[PROTOBUF], PYTHON).await.status,
        404
    );
    assert_eq!(admin.get("/traces").await.status, 200);
}

#[tokio::test]
async fn slow_senders_cannot_pile_up_batches() {
    let admin = Admin::start().await;
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 4000000\r\n\r\n{{",
        admin.addr
    );
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut conn = TcpStream::connect(admin.addr).await.unwrap();
        conn.write_all(head.as_bytes()).await.unwrap();
        slow.push(conn);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let until = async |status: u16| loop {
        let answer = admin.post("/v1/traces", &[PROTOBUF], PYTHON).await;
        if answer.status == status {
            return answer;
        }
        assert!(Instant::now() < deadline, "still {}", answer.status);
    };
    let busy = until(503).await;
    assert_eq!(busy.header("retry-after"), "1");
    assert_eq!(busy.header("content-type"), "application/x-protobuf");
    assert_eq!(admin.get("/livez").await.status, 200, "probes go on");
    drop(slow);
    until(200).await;
}
