//! What `GET /linking` says of each layer: in force or not, and what it would need, after a reload too.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::linking::bench::apps;
use crate::linking::bench::backend;
use crate::linking_hostile::linking;
use crate::support::apps::free_port;
use crate::support::http;
use crate::support::pillion::LIMIT;
use crate::support::pillion::Pillion;
use crate::support::skip::skip;

fn write(file: &Path, kernel: &str, mode: &str) {
    let settings = json!({
        "app": "127.0.0.1:1",
        "inbound": { "listen": "127.0.0.1:0" },
        "outbound": { "listen": "127.0.0.1:0" },
        "admin": { "listen": "127.0.0.1:0" },
        "linking": { "kernel": kernel, "mode": mode },
    });
    std::fs::write(file, settings.to_string()).unwrap();
}

/// What a layer needs; `None`: it is in force.
fn needs(state: &Value, layer: &str) -> Option<String> {
    let layers = state["layers"].as_array().unwrap();
    let found = layers.iter().find(|found| found["layer"] == layer);
    let found = found.unwrap_or_else(|| panic!("no {layer}: {state}"));
    let needs = found["needs"].as_str();
    assert_eq!(found["active"], needs.is_none(), "{found}");
    needs.map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_only_a_start_brings_is_not_in_force_after_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    for kernel in ["auto", "off"] {
        write(&file, kernel, "strict");
        let pillion = Pillion::start(&["run", "--log-format=json", "-c", file.to_str().unwrap()]);
        let admin = SocketAddr::from(([127, 0, 0, 1], pillion.port("admin")));
        // Asked beside the start.
        pillion.stderr_line("privileges for linking");
        let state = linking(admin);
        let thread = needs(&state, "thread, kernel");
        let lineage = needs(&state, "lineage, kernel").unwrap();
        assert!(lineage.starts_with("linking.mode"), "{lineage}");
        let runtime = needs(&state, "runtime, kernel").unwrap();
        match &thread {
            None => assert_eq!(
                runtime,
                "a program with a runtime that is known: see probes"
            ),
            Some(why) => assert_eq!(runtime, *why),
        }
        if kernel == "off" {
            assert_eq!(thread.as_deref(), Some("linking.kernel is off"));
        }
        write(&file, kernel, "eager");
        let answer = http::post(admin.port(), "/reload", "text/plain", b"").await;
        assert!(answer.unwrap().status < 300);
        let deadline = Instant::now() + LIMIT;
        while linking(admin)["mode"] != "eager" {
            assert!(Instant::now() < deadline, "{}", pillion.stderr());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let state = linking(admin);
        let expected = match thread {
            None => "a restart: linking.mode was strict at the start".to_owned(),
            Some(why) => why,
        };
        assert_eq!(needs(&state, "lineage, kernel"), Some(expected));
        assert_eq!(needs(&state, "exclusive"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_audited_is_told_by_layer_and_operation() {
    let app = apps::named("python-threads").unwrap();
    let (port, route) = (free_port(), free_port());
    let command = match app.command(port) {
        Ok(command) => command,
        Err(reason) => return skip(&reason),
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let settings = json!({
        "app": format!("127.0.0.1:{port}"),
        "inbound": { "listen": "127.0.0.1:0" },
        "outbound": { "listen": "127.0.0.1:0" },
        "routes": [{ "listen": format!("127.0.0.1:{route}"), "to": backend::start().await.to_string() }],
        "admin": { "listen": "127.0.0.1:0" },
        "linking": { "kernel": "off" },
    });
    std::fs::write(&file, settings.to_string()).unwrap();
    let mut args = vec!["exec", "--shims", "--log-format=json", "-c"];
    args.extend([file.to_str().unwrap(), "--"]);
    args.extend(command.iter().map(|part| part.to_str().unwrap()));
    let variables = [
        ("PORT", port.to_string()),
        ("BACKEND", format!("http://127.0.0.1:{route}")),
        ("OUT", "fresh".to_owned()),
    ];
    let variables = variables
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let pillion = Pillion::start_with(&args, &variables);
    let admin = SocketAddr::from(([127, 0, 0, 1], pillion.port("admin")));
    let inbound = pillion.port("inbound");
    crate::support::apps::listening(port).await;
    let audited = || {
        let state = linking(admin);
        let mut layers = state["audit"].as_array().unwrap().iter();
        let shim = layers.find(|figures| figures["method"] == "shim");
        shim.unwrap().clone()
    };
    let deadline = Instant::now() + LIMIT;
    // A request that is alone and calls as the one before did tells that the shim is right.
    for n in 0.. {
        for pattern in ["one", "sleep"] {
            let path = format!("/{pattern}/00c0ffee{n}");
            assert_eq!(http::get(inbound, &path).await.unwrap().status, 200);
            // Long enough for the next request to come to a program at rest.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
        let shim = audited();
        let operations = shim["operations"].as_array().unwrap();
        let right = |name: &str| {
            let mut operations = operations.iter();
            let of = operations.find(|of| of["operation"] == name)?;
            assert_eq!(of["wrong"], 0, "{of}");
            of["right"].as_u64()
        };
        if let (Some(one), Some(two)) = (right("GET /one/*"), right("GET /sleep/*")) {
            assert_eq!(shim["right"], one + two, "{shim}");
            assert_eq!(shim["demoted_operations"], 0);
            return;
        }
        assert!(Instant::now() < deadline, "{}", linking(admin));
    }
}
