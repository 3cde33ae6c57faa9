//! The injector as a process: how it starts, what it says when it cannot, what it takes over while it runs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use crate::injector::NAME;
use crate::injector::Webhook;
use crate::injector::client;
use crate::injector::data;
use crate::injector::issue;
use crate::injector::recorded;
use crate::injector::write_config;
use crate::support::netns::has;
use crate::support::pillion::Pillion;
use crate::support::pillion::scrub;

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn changed_certificates_and_settings_are_taken_over() {
    let mut webhook = Webhook::start(json!({ "image": "pillion:1" }));
    let found = webhook.recorded("deployment-1.29").await;
    assert_eq!(found.container("pillion")["image"], "pillion:1");
    assert!(found.container("pillion").get("imagePullPolicy").is_none());

    issue(webhook.dir.path());
    webhook.process.stderr_line("certificate reloaded");
    // Only a client of the new CA gets through now.
    webhook.client = client(webhook.dir.path());
    webhook.recorded("deployment-1.29").await;
    let (_, metrics) = webhook.get("/metrics").await;
    let counted = r#"pillion_tls_reloads_total{peer="downstream",result="success"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");

    // The image that redirects follows.
    let settings = json!({ "image": "pillion:2", "image_pull_policy": "always" });
    write_config(webhook.dir.path(), settings);
    let began = Instant::now();
    loop {
        let found = webhook.recorded("deployment-1.29").await;
        let redirect = found.container("pillion-redirect");
        if redirect["image"] == "pillion:2-redirect" && redirect["imagePullPolicy"] == "Always" {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "{redirect}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // Neither a bad certificate nor a bad setting harms.
    std::fs::write(webhook.dir.path().join("tls.crt"), "no certificate").unwrap();
    write_config(webhook.dir.path(), json!({ "image": "" }));
    webhook
        .process
        .stderr_line("certificate not reloaded, the old one stays");
    webhook
        .process
        .stderr_line("configuration not reloaded, the old one stays");
    let found = webhook.recorded("deployment-1.29").await;
    assert_eq!(found.container("pillion")["image"], "pillion:2");
    webhook.process.stop();
}

#[test]
fn what_it_cannot_start_with_is_told_with_its_place() {
    let dir = TempDir::new().unwrap();
    issue(dir.path());
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (cert, key) = (file("tls.crt"), file("tls.key"));
    std::fs::write(file("a.yaml"), "injector:\n  imag: x\n").unwrap();
    std::fs::write(
        file("b.yaml"),
        "injector:\n  exclude_outbound_ports: [web]\n",
    )
    .unwrap();
    std::fs::write(
        file("c.yaml"),
        "injector:\n  resources: { limits: { memory: lots } }\n",
    )
    .unwrap();
    std::fs::write(file("d.yaml"), "injector:\n  capabilities: all\n").unwrap();
    let other = TempDir::new().unwrap();
    issue(other.path());
    let other = other.path().join("tls.key").to_str().unwrap().to_owned();
    for (args, status, message) in [
        (vec![], 78, "cert_file must be set".to_owned()),
        (
            vec!["--cert-file", "/nowhere.pem", "--key-file", &key],
            78,
            "cannot read /nowhere.pem".to_owned(),
        ),
        (
            vec!["--cert-file", &cert, "--key-file", &other],
            78,
            format!("the key in {other} does not belong to the certificate in {cert}"),
        ),
        (vec!["-c", &file("a.yaml")], 78, "a.yaml:2:3".to_owned()),
        (
            vec!["-c", &file("b.yaml")],
            78,
            "\"web\" is no port or range of ports".to_owned(),
        ),
        (
            vec!["-c", &file("c.yaml")],
            78,
            "\"lots\" is no quantity such as 100m or 64Mi".to_owned(),
        ),
        (vec!["-c", &file("d.yaml")], 78, "restricted".to_owned()),
        (
            vec!["--listen", "nowhere"],
            2,
            "the port is missing".to_owned(),
        ),
        (
            vec![
                "--listen",
                "192.0.2.1:1",
                "--cert-file",
                &cert,
                "--key-file",
                &key,
            ],
            1,
            "cannot listen on 192.0.2.1:1".to_owned(),
        ),
    ] {
        let mut process = Pillion::start(&[&["injector"], &args[..]].concat());
        let ended = process.wait();
        let said = process.stderr();
        assert_eq!(ended.code(), Some(status), "{args:?}: {said}");
        assert!(said.contains(&message), "{args:?}: {said}");
    }
}

#[test]
fn help_tells_what_it_is_for() {
    let mut process = Pillion::start(&["injector", "--help"]);
    assert!(process.wait().success());
    let help = process.stdout();
    for text in [
        "Serves the admission webhook",
        "/mutate/namespace",
        "pillion.dev/inject: \"true\"",
        "--cert-file <FILE>",
        "--listen <HOST:PORT>",
        "[default: 0.0.0.0:15643]",
        "--image <IMAGE>",
    ] {
        assert!(help.contains(text), "no {text}:\n{help}");
    }
}

#[tokio::test]
async fn either_version_of_http_is_spoken_to_a_client_that_is_not_ours() {
    if !has("curl") {
        return;
    }
    let webhook = Webhook::start(json!({}));
    let url = format!("https://{NAME}:{}/mutate", webhook.port);
    let resolve = format!("{NAME}:{}:127.0.0.1", webhook.port);
    let ca = webhook.dir.path().join("ca.crt");
    let body = format!("@{}", data("job-1.29.json").display());
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let mut curl = Command::new("curl");
        scrub(&mut curl);
        let output = curl
            .args([
                "-sS",
                flag,
                "--max-time",
                "20",
                "--noproxy",
                "*",
                "--resolve",
                &resolve,
            ])
            .args([
                "-H",
                "content-type: application/json",
                "--data-binary",
                &body,
            ])
            .args(["-w", "%{http_version}", "--cacert"])
            .args([&ca, Path::new(&url)])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(said.contains(r#""patchType":"JSONPatch""#), "{said}");
        assert!(said.ends_with(&format!("}}{version}")), "{flag}: {said}");
    }
}

#[tokio::test]
async fn it_leaves_in_order() {
    let mut webhook = Webhook::start(json!({}));
    // A connection that stays open does not keep it.
    let review = recorded("deployment-1.29");
    webhook.review("/mutate", &review).await;
    webhook.process.stop();
    let log = webhook.process.stderr();
    let asked = &review["request"];
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let namespace = text(&asked["namespace"]);
    let prefix = text(&asked["object"]["metadata"]["generateName"]);
    let pod = format!("{namespace}/{prefix}*");
    assert!(
        log.contains("\"pod injected\"") && log.contains(&pod),
        "{log}"
    );
    assert!(
        log.contains("SIGTERM: stopping") && log.contains("\"stopped\""),
        "{log}"
    );
}
