//! The sampling rules of AWS X-Ray: followed through the daemon's questions, and matched as its own SDK matches them.
//!
//! The service is scripted with answers in the shape of its API reference; the SDK reads the same answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use http::HeaderMap;
use http::Method;
use http::Uri;
use serde_json::Value;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use pillion::model::TraceId;
use pillion::net::client::Client;
use pillion::sampling;
use pillion::sampling::Head;

use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::echo::Echo;
use crate::support::http as client;
use crate::support::jaeger::tools;
use crate::support::proxy::Pillion;
use crate::support::skip::skip;

const LIMIT: Duration = Duration::from_secs(20);

fn rule(name: &str, priority: u32, share: f64, fields: [&str; 4]) -> Value {
    let [service, host, method, path] = fields;
    json!({ "CreatedAt": 1_793_990_000, "ModifiedAt": 1_793_990_000, "SamplingRule": {
        "Attributes": {}, "FixedRate": share, "HTTPMethod": method, "Host": host, "Priority": priority,
        "ReservoirSize": 0, "ResourceARN": "*", "RuleARN": format!("arn:aws:xray:us-east-1:1:sampling-rule/{name}"),
        "RuleName": name, "ServiceName": service, "ServiceType": "*", "URLPath": path, "Version": 1,
    } })
}

fn rules(rules: &[Value]) -> Reply {
    says(&json!({ "NextToken": null, "SamplingRuleRecords": rules }))
}

fn targets(modified: u64, quota: u64) -> Reply {
    says(&json!({
        "LastRuleModification": modified,
        "SamplingTargetDocuments": [{
            "RuleName": "Default", "FixedRate": 0.0, "Interval": 10,
            "ReservoirQuota": quota, "ReservoirQuotaTTL": 4_000_000_000u64,
        }],
        "UnprocessedStatistics": [],
    }))
}

fn says(answer: &Value) -> Reply {
    let headers = vec![("content-type", "application/json".to_owned())];
    Reply::Status(200, headers, answer.to_string().leak())
}

fn asked(service: &Collector) -> Vec<(String, Value)> {
    let received = service.received().into_iter();
    received
        .map(|one| (one.path, serde_json::from_slice(&one.body).unwrap()))
        .collect()
}

/// Requests, and how many of them were sampled, by rule: all that was reported.
fn reported(service: &Collector) -> BTreeMap<String, (u64, u64)> {
    let mut sums = BTreeMap::<String, (u64, u64)>::new();
    for (_, body) in asked(service) {
        for document in body["SamplingStatisticsDocuments"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let sum = sums
                .entry(document["RuleName"].as_str().unwrap().to_owned())
                .or_default();
            sum.0 += document["RequestCount"].as_u64().unwrap();
            sum.1 += document["SampledCount"].as_u64().unwrap();
        }
    }
    sums
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_decide_by_request_and_what_was_decided_brings_new_grants() {
    let checkout = rule("checkout", 1, 1.0, ["shop", "*", "POST", "/checkout/*"]);
    let default = rule("Default", 10_000, 0.0, ["*"; 4]);
    let script = vec![
        rules(&[default.clone(), checkout]),
        // Changed since: they are asked for again at once.
        targets(3_999_999_999, 0),
        rules(&[default]),
    ];
    let service = Collector::start(Speaks::Http1, script, targets(0, 1)).await;
    let collector = Collector::start(Speaks::Http1, Vec::new(), Reply::Accept).await;
    let app = Echo::start().await;
    let pillion = Pillion::inbound_to(
        ([127, 0, 0, 1], app.port).into(),
        json!({
            "service": "shop",
            "sampling": { "xray": { "endpoint": service.url(), "report_interval": "1s" } },
            "reporters": [{ "otlp": { "endpoint": collector.url(), "queue": { "flush_interval": "10ms" } } }],
        }),
    );
    let port = pillion.inbound().port();
    let wait = async |what: &str, condition: &dyn Fn() -> bool| {
        let deadline = Instant::now() + LIMIT;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "not {what}: {:?}",
                asked(&service)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    wait("asked", &|| !asked(&service).is_empty()).await;
    while pillion
        .metric("pillion_sampler_updates_total", &["success"])
        .await
        < 1.0
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // All before the first report.
    client::post(port, "/checkout/1", "text/plain", b"x")
        .await
        .unwrap();
    client::get(port, "/checkout/1").await.unwrap();
    client::get(port, "/").await.unwrap();
    let by_rule = |service: &Collector, rule: &str| reported(service).get(rule).copied();
    wait("reported", &|| {
        by_rule(&service, "checkout") == Some((1, 1))
            && by_rule(&service, "Default") == Some((2, 0))
    })
    .await;
    wait("told", &|| collector.otlp_batches().concat().len() == 1).await;
    let rules_asked = |service: &Collector| {
        let asked = asked(service);
        asked
            .iter()
            .filter(|(path, _)| path == "/GetSamplingRules")
            .count()
    };
    wait("asked again", &|| rules_asked(&service) == 2).await;
    // The rule for checkouts is gone; the default one has nothing until the next report brings a grant of one a second.
    let deadline = Instant::now() + LIMIT;
    while collector.otlp_batches().concat().len() < 2 {
        client::post(port, "/checkout/1", "text/plain", b"x")
            .await
            .unwrap();
        assert!(Instant::now() < deadline, "no grant: {:?}", asked(&service));
    }
    let sampled = by_rule(&service, "checkout").unwrap().1;
    assert_eq!(sampled, 1, "{:?}", asked(&service));
}

/// Prints, for each request on its input, the name of the rule that the SDK applies, once it has read rules and targets.
const SDK: &str = r#"
import json, os, sys, time
host, port, requests = sys.argv[1], sys.argv[2], json.load(sys.stdin)
from aws_xray_sdk.core.sampling.sampler import DefaultSampler
sampler = DefaultSampler()
sampler._connector.setup_xray_client(host, port, None)
sampler._rule_poller._refresh_cache()
cache, now = sampler._cache, int(time.time())
print(json.dumps([cache.get_matched_rule(request, now).name for request in requests]))
targets, _ = sampler._connector.fetch_sampling_target(cache.rules)
assert targets["Default"]["quota"] == 1, targets
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_applies_the_same_rules() {
    let python = tools().map(|dir| dir.join("agents/bin/python"));
    let Some(python) = python.filter(|python| python.is_file()) else {
        skip("no aws-xray-sdk: run tests/interop/install.sh agents");
        return;
    };
    let known = [
        rule("Default", 10_000, 0.0, ["*"; 4]),
        rule("b-api", 20, 0.0, ["*", "*", "*", "/api/*"]),
        rule("a-api", 20, 0.0, ["*", "*", "get", "/api/v?/*"]),
        rule("other", 1, 0.0, ["warehouse", "*", "*", "*"]),
        rule("hosts", 30, 0.0, ["sh*", "*.example.com", "*", "*"]),
        rule("exact", 40, 0.0, ["shop", "localhost:8080", "*", "/"]),
        rule("nowhere", 2, 0.0, ["*", "*", "*", ""]),
        rule("stars", 25, 0.0, ["*", "*", "*", "*/a*b*c"]),
    ];
    let requests = [
        ("GET", "/api/v1/users", "x"),
        ("POST", "/api/v1/users", "x"),
        ("GET", "/api/v10/users", "x"),
        ("GET", "/API/V2/", "shop.example.com"),
        ("GET", "/apis", "shop.EXAMPLE.com"),
        ("GET", "/", "example.com"),
        ("DELETE", "/", "localhost:8080"),
        ("DELETE", "/", "localhost"),
        ("GET", "/x/aabbcc", "y"),
        ("GET", "/x/aabbccd", "y"),
    ];
    let theirs = Collector::start(Speaks::Http1, vec![rules(&known)], targets(0, 1)).await;
    let ours = Collector::start(Speaks::Http1, vec![rules(&known)], targets(0, 1)).await;

    let input: Vec<Value> = requests
        .iter()
        .map(|(method, path, host)| {
            json!({ "method": method, "path": path, "host": host, "service": "shop" })
        })
        .collect();
    let addr = theirs.addr;
    let printed = tokio::task::spawn_blocking(move || {
        let mut child = Command::new(python)
            .args(["-c", SDK, &addr.ip().to_string(), &addr.port().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin
            .write_all(json!(input).to_string().as_bytes())
            .unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    });
    let expected: Vec<String> = serde_json::from_slice(&printed.await.unwrap()).unwrap();

    let config = json!({ "xray": { "endpoint": ours.url(), "report_interval": "20ms" } });
    let config: sampling::Config = serde_json::from_value(config).unwrap();
    let built = sampling::build(&config, "shop", &Client::plain());
    let cancel = CancellationToken::new();
    let poller = built.poller.unwrap();
    let status = poller.status();
    let task = tokio::spawn(poller.run(cancel.clone()));
    let deadline = Instant::now() + LIMIT;
    while status.snapshot().updates_ok == 0 {
        assert!(Instant::now() < deadline, "{:?}", status.snapshot());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for ((method, path, host), expected) in requests.iter().zip(&expected) {
        let before = reported(&ours).get(expected).map_or(0, |sum| sum.0);
        let uri: Uri = path.parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("host", host.parse().unwrap());
        let method: Method = method.parse().unwrap();
        let request = Head {
            method: &method,
            uri: &uri,
            headers: &headers,
        };
        let trace_id = TraceId::from_halves(0, 1 << 62).unwrap();
        built
            .sampler
            .sample_request(trace_id, "x", request, Instant::now());
        while reported(&ours).get(expected).map_or(0, |sum| sum.0) != before + 1 {
            let reports = reported(&ours);
            assert!(
                Instant::now() < deadline,
                "{method} {path}: not {expected} but {reports:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    cancel.cancel();
    task.await.unwrap();
    let distinct: std::collections::BTreeSet<_> = expected.iter().collect();
    assert!(distinct.len() >= 6, "{expected:?}");
}
