//! What is no question: clear answers, and the next question is answered as ever.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use serde_json::json;

use crate::injector::Webhook;
use crate::injector::recorded;

const JSON: &str = "application/json";

#[tokio::test]
async fn foreign_bodies_get_clear_errors_and_harm_nobody() {
    let webhook = Webhook::start(json!({}));
    let good = recorded("deployment-1.29");
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut review = good.clone();
        change(&mut review);
        review.to_string()
    };
    let huge = format!("[\"{}\"]", "x".repeat(5 << 20));
    let deep = "{\"a\":".repeat(10_000);
    for (kind, body, status, message) in [
        (JSON, "", 400, "the body is no AdmissionReview: EOF"),
        (
            JSON,
            "no json",
            400,
            "the body is no AdmissionReview: expected",
        ),
        (JSON, "\u{0}\u{1}", 400, "the body is no AdmissionReview"),
        (JSON, "[]", 400, "the body is no AdmissionReview: invalid"),
        (JSON, &deep, 400, "recursion limit"),
        (JSON, &huge, 413, "the review is larger than 4 MiB"),
        ("text/plain", "{}", 415, "content type application/json"),
        (
            JSON,
            &changed(&|review| review["kind"] = json!("Pod")),
            400,
            "kind \"Pod\"",
        ),
        (
            JSON,
            &changed(&|review| review["apiVersion"] = json!("admission.k8s.io/v1beta1")),
            400,
            "version \"admission.k8s.io/v1beta1\" is not spoken here, only admission.k8s.io/v1",
        ),
        (
            JSON,
            &changed(&|review| review["request"] = json!(null)),
            400,
            "the AdmissionReview has no request",
        ),
        (
            JSON,
            &changed(&|review| review["request"]["uid"] = json!("")),
            400,
            "the request has no uid",
        ),
        (
            JSON,
            &changed(&|review| review["request"]["object"] = json!(null)),
            400,
            "the request has no object",
        ),
        (
            JSON,
            &changed(&|review| review["request"]["kind"] = json!("Pod")),
            400,
            "invalid type: string \"Pod\"",
        ),
    ] {
        let (found, text) = webhook.send("POST", "/mutate", kind, body.as_bytes()).await;
        let start: String = body.chars().take(60).collect();
        assert_eq!(found, status, "{start}: {text}");
        assert!(text.contains(message), "{start}: {text}");
        let next = webhook.review("/mutate", &good).await;
        assert_eq!(next.outcome(), "injected", "after {start}");
    }
    let (_, metrics) = webhook.get("/metrics").await;
    assert!(
        metrics.contains("pillion_injector_reviews_total{outcome=\"failed\"} 13"),
        "{metrics}"
    );
    assert!(
        metrics.contains("pillion_injector_reviews_total{outcome=\"injected\"} 13"),
        "{metrics}"
    );
}

#[tokio::test]
async fn pods_of_any_shape_pass() {
    let webhook = Webhook::start(json!({}));
    for spec in [
        json!(null),
        json!(7),
        json!({ "containers": [null, 7, { "name": 7, "env": "x", "ports": {} }] }),
        json!({ "containers": [{ "name": "a", "env": [{ "name": "NODE_OPTIONS", "valueFrom": 3 }] }] }),
        json!({ "containers": [{ "name": "a" }], "initContainers": "x", "volumes": 3 }),
        json!({ "containers": [{ "name": "a", "livenessProbe": { "tcpSocket": { "port": 70000 } } }] }),
    ] {
        for metadata in [
            json!({ "annotations": { "pillion.dev/inject": "true", "pillion.dev/shims": "true" } }),
            json!({ "annotations": { "pillion.dev/inject": 7 }, "labels": [], "ownerReferences": {} }),
            json!(3),
        ] {
            let mut review = recorded("deployment-1.29");
            let object = &mut review["request"]["object"];
            object["spec"] = spec.clone();
            object["metadata"] = metadata;
            webhook.review("/mutate/namespace", &review).await;
        }
    }
}

#[tokio::test]
async fn other_objects_and_operations_are_let_through() {
    let webhook = Webhook::start(json!({}));
    for (pointer, value, said) in [
        (
            "/request/operation",
            json!("UPDATE"),
            "this is UPDATE of v1/Pod",
        ),
        (
            "/request/kind",
            json!({ "group": "apps", "version": "v1", "kind": "Deployment" }),
            "this is CREATE of apps/v1/Deployment",
        ),
    ] {
        let mut review = recorded("deployment-1.29");
        *review.pointer_mut(pointer).unwrap() = value;
        let found = webhook.review("/mutate", &review).await;
        assert!(found.operations.is_empty());
        assert!(
            found.warnings()[0].ends_with(said),
            "{:?}",
            found.warnings()
        );
    }
}

#[tokio::test]
async fn paths_and_methods_are_told() {
    let webhook = Webhook::start(json!({}));
    for (method, path, status, text) in [
        ("GET", "/healthz", 200, "ok\n"),
        ("GET", "/livez", 200, "ok\n"),
        ("GET", "/readyz", 200, "ready\n"),
        ("GET", "/mutate", 405, "method not allowed, use POST\n"),
        (
            "POST",
            "/healthz",
            405,
            "method not allowed, use GET, HEAD\n",
        ),
        (
            "GET",
            "/",
            404,
            "not found; here are /mutate, /mutate/namespace, /healthz, /livez, /readyz and /metrics\n",
        ),
    ] {
        let found = webhook.send(method, path, JSON, b"").await;
        assert_eq!(found, (status, text.to_owned()), "{method} {path}");
    }
}

#[tokio::test]
async fn plain_http_silence_and_half_a_review_disturb_nobody() {
    let webhook = Webhook::start(json!({}));
    let connect = || TcpStream::connect(("127.0.0.1", webhook.port)).unwrap();
    let mut plain = connect();
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    // An alert, or nothing; in any case the end.
    plain.read_to_end(&mut answer).ok();
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    let silent: Vec<TcpStream> = (0..50).map(|_| connect()).collect();
    let found = webhook.recorded("deployment-1.29").await;
    assert_eq!(found.outcome(), "injected");
    drop(silent);
}
