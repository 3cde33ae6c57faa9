//! Each further wire against a scripted collector: where it posts, what arrives, what the book says.

use std::time::Duration;

use serde_json::Value;

use pillion::reporter::Config;
use pillion::reporter::Reporters;
use pillion::reporter::Sink;
use pillion::reporter::Snapshot;

use crate::support::collector::Collector;
use crate::support::collector::Received;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
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
    for (yaml, content_type) in [
        ("zipkin: { endpoint: '{url}' }", "application/json"),
        (
            "zipkin: { endpoint: '{url}', compression: gzip }",
            "application/json",
        ),
        (
            "zipkin: { endpoint: '{url}', encoding: proto3 }",
            "application/x-protobuf",
        ),
    ] {
        let (received, book) = sent(yaml, Speaks::Http1, vec![]).await;
        assert_eq!(book.exported, 3, "{yaml}: {book:?}");
        assert_eq!(received[0].path, "/api/v2/spans");
        assert_eq!(received[0].headers["content-type"], content_type);
        let message = received[0].message();
        if content_type == "application/json" {
            let list: Vec<Value> = serde_json::from_slice(&message).unwrap();
            let ids: Vec<_> = list
                .iter()
                .map(|span| span["id"].as_str().unwrap())
                .collect();
            assert_eq!(
                ids,
                ["0000000000000001", "0000000000000002", "0000000000000003"]
            );
        } else {
            assert_eq!(message[0], 0x0a, "a list of spans");
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
