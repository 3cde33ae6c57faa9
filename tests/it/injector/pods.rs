//! Pods of every shape: what they become, that Kubernetes takes it, and that a second time changes nothing.

use serde_json::Value;
use serde_json::json;

use crate::injector::Reviewed;
use crate::injector::Webhook;
use crate::injector::data;
use crate::injector::recorded;
use crate::injector::variable;
use crate::support::kubernetes;

/// The recordings: file, path and outcome by the table in `tests/data/admission/README.md`.
fn table() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(data("README.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let files = std::fs::read_dir(data(".")).unwrap();
    let mut names: Vec<String> = files
        .filter_map(|file| file.unwrap().file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()))
        .collect();
    names.sort();
    let mut found = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row
            .split('|')
            .map(|cell| cell.trim_matches([' ', '`']))
            .collect();
        let before = found.len();
        for name in &names {
            let (shape, _) = name.rsplit_once('-').unwrap();
            if shape == cells[0] {
                found.push((name.clone(), cells[1].to_owned(), cells[2].to_owned()));
            }
        }
        assert!(found.len() > before, "no recording of {}", cells[0]);
    }
    found
}

#[tokio::test]
async fn every_patched_pod_is_what_kubernetes_takes_and_patching_again_changes_nothing() {
    let webhook = Webhook::start(json!({ "image_pull_policy": "if_not_present" }));
    let (mut patched, mut plain) = (Vec::new(), Vec::new());
    for (name, path, outcome) in table() {
        let mut review = recorded(&name);
        let first = webhook.review(&path, &review).await;
        assert_eq!(first.outcome(), outcome, "{name}: {:?}", first.warnings());
        let changes = ["injected", "skipped", "invalid"].contains(&&*outcome);
        assert_eq!(!first.operations.is_empty(), changes, "{name}");
        let containers = first.names("containers").len() + first.names("initContainers").len();
        if ["skipped", "invalid"].contains(&&*outcome) {
            let pod = &review["request"]["object"];
            assert_eq!(
                first.object["spec"], pod["spec"],
                "{name}: only told, not changed"
            );
            let [warning, ..] = first.warnings()[..] else {
                panic!("{name} has no warning")
            };
            let reason = warning.strip_prefix("pillion is not injected: ").unwrap();
            let status = format!("not injected: {reason}");
            assert_eq!(
                first.object["metadata"]["annotations"]["pillion.dev/status"],
                status
            );
        }
        review["request"]["object"] = first.object.clone();
        let again = webhook.review(&path, &review).await;
        assert_eq!(again.operations, Vec::<Value>::new(), "{name}: again");
        assert_eq!(
            again.names("containers").len() + again.names("initContainers").len(),
            containers
        );
        match name.starts_with("plain-") {
            true => plain.push(first.object),
            false => patched.push(first.object),
        }
    }
    assert!(patched.len() + plain.len() >= 20);
    kubernetes::validate(&patched, &kubernetes::VERSIONS);
    let with_old = [&["1.25"], &kubernetes::VERSIONS[..]].concat();
    kubernetes::validate(&plain, &with_old);
}

#[test]
fn every_recorded_question_is_in_the_table() {
    let listed: Vec<String> = table()
        .into_iter()
        .map(|(name, ..)| name + ".json")
        .collect();
    for entry in std::fs::read_dir(data("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || listed.contains(&name), "{name}");
    }
}

#[tokio::test]
async fn a_native_sidecar_comes_first_and_may_do_nothing() {
    let webhook = Webhook::start(json!({
        "env": { "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318" },
        "exclude_outbound_ports": ["9999"],
    }));
    let found = webhook.recorded("init-containers-1.29").await;
    assert_eq!(
        found.names("initContainers"),
        [
            "pillion-redirect",
            "pillion-shims",
            "pillion",
            "migrate",
            "warm-up"
        ]
    );
    let sidecar = found.container("pillion");
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(
        sidecar["startupProbe"]["httpGet"],
        json!({ "path": "/readyz", "port": 15691 })
    );
    assert_eq!(
        sidecar["image"],
        concat!("pillion:", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        sidecar["securityContext"],
        json!({
            "runAsNonRoot": true,
            "runAsUser": 15606,
            "runAsGroup": 15606,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        })
    );
    assert_eq!(
        variable(sidecar, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        "http://collector:4318"
    );
    assert_eq!(variable(sidecar, "OTEL_SERVICE_NAME"), "orders");
    let attributes = variable(sidecar, "OTEL_RESOURCE_ATTRIBUTES");
    assert!(
        attributes.contains("k8s.deployment.name=orders,"),
        "{attributes}"
    );
    assert!(
        attributes.contains("k8s.pod.name=$(POD_NAME),"),
        "{attributes}"
    );
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let ours = ["pillion", "pillion-redirect", "pillion-shims"];
    for name in ours {
        let mounts = found.container(name)["volumeMounts"].as_array().unwrap();
        let hidden = mounts
            .iter()
            .find(|mount| mount["mountPath"] == token)
            .unwrap();
        assert_eq!(hidden["name"], "pillion-no-token", "{name} gets no token");
    }
    let redirect = found.container("pillion-redirect");
    let capabilities = &redirect["securityContext"]["capabilities"];
    assert_eq!(
        capabilities,
        &json!({ "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] })
    );
    assert_eq!(
        redirect["args"],
        json!([
            "redirect",
            "install",
            "--exclude-uids=15606",
            "--exclude-gids=15606",
            "--exclude-inbound-ports=15691",
            "--exclude-outbound-ports=9999",
        ])
    );
}

#[tokio::test]
async fn shims_join_what_containers_set_already() {
    let webhook = Webhook::start(json!({}));
    let found = webhook.recorded("init-containers-1.29").await;
    let orders = &found.container("orders")["env"];
    assert_eq!(
        orders,
        &json!([
            { "name": "NODE_OPTIONS", "value": "--enable-source-maps --require=/pillion-shims/node/pillion.js" },
            { "name": "_PILLION_HELD_PYTHONPATH", "valueFrom": { "configMapKeyRef": { "name": "orders", "key": "path" } } },
            { "name": "PYTHONPATH", "value": "/pillion-shims/python:$(_PILLION_HELD_PYTHONPATH)" },
            { "name": "LD_PRELOAD", "value": "/usr/lib/libjemalloc.so.2:/pillion-shims/libpillion_thread.so" },
            { "name": "AFTER", "value": "$(PYTHONPATH)" },
            { "name": "RUBYOPT", "value": "-r/pillion-shims/ruby/pillion.rb" },
            { "name": "JAVA_TOOL_OPTIONS", "value": "-javaagent:/pillion-shims/java/pillion.jar" },
            { "name": "_PILLION_EVIDENCE", "value": "unix:/pillion-shims/evidence.sock" },
        ])
    );
    let worker = &found.container("worker")["env"];
    assert_eq!(
        worker[0]["valueFrom"]["secretKeyRef"]["optional"], true,
        "left as it was"
    );
    assert_eq!(worker.as_array().unwrap().len(), 6, "{worker}");
    let warnings = found.warnings().join("\n");
    assert!(
        warnings.contains("container worker: RUBYOPT may be missing"),
        "{warnings}"
    );
    assert!(
        warnings.contains("container worker takes variables from elsewhere"),
        "{warnings}"
    );
    let mount = json!({ "name": "pillion-shims", "mountPath": "/pillion-shims", "readOnly": true });
    for name in ["orders", "worker"] {
        let mounts = found.container(name)["volumeMounts"].as_array().unwrap();
        assert!(mounts.contains(&mount), "{name}");
    }
    let sidecar = found.container("pillion");
    for (name, value) in [
        ("PILLION_LINKING__SHIMS", "true"),
        ("PILLION_LINKING__PRELOAD", "true"),
        (
            "PILLION_LINKING__PRELOAD_SOCKET",
            "/pillion-shims/evidence.sock",
        ),
    ] {
        assert_eq!(variable(sidecar, name), value, "{name}");
    }
    let mounts = sidecar["volumeMounts"].as_array().unwrap();
    let writable = json!({ "name": "pillion-shims", "mountPath": "/pillion-shims" });
    assert!(mounts.contains(&writable), "the socket is made there");
}

#[tokio::test]
async fn probes_reach_the_program_or_ask_the_sidecar_about_it() {
    let webhook = Webhook::start(json!({}));
    let found = webhook.recorded("deployment-tcp-grpc-probes-1.36").await;
    let sql = found.container("sql");
    let asked = json!({ "path": "/tcp/5432", "port": 15691 });
    assert_eq!(sql["startupProbe"]["httpGet"], asked);
    assert_eq!(
        sql["startupProbe"]["failureThreshold"], 30,
        "the rest stays"
    );
    assert_eq!(sql["readinessProbe"]["httpGet"], asked);
    assert_eq!(
        sql["livenessProbe"]["grpc"]["port"], 9000,
        "gRPC passes through"
    );
    let sidecar = found.container("pillion");
    assert_eq!(variable(sidecar, "PILLION_ADMIN__TCP_PROBES"), "5432");
    assert_eq!(variable(sidecar, "OTEL_SERVICE_NAME"), "ledger");
    assert_eq!(
        variable(sidecar, "PILLION_SPANS__IGNORE_USER_AGENTS"),
        "",
        "the default does"
    );

    let found = webhook.recorded("deployment-probe-agent-1.33").await;
    let agents = variable(
        found.container("pillion"),
        "PILLION_SPANS__IGNORE_USER_AGENTS",
    );
    let agents: Value = serde_json::from_str(agents).unwrap();
    assert_eq!(
        agents,
        json!(["kube-probe/", "front, probe", "kube-lifecycle/"])
    );

    let found = webhook.recorded("own-sidecar-1.33").await;
    let queue = found.container("queue");
    assert_eq!(queue["startupProbe"]["httpGet"]["path"], "/tcp/6379");
}

#[tokio::test]
async fn the_plain_form_waits_at_both_ends() {
    let webhook = Webhook::start(json!({ "native_sidecar": false }));
    let found = webhook.recorded("plain-deployment-1.27").await;
    assert_eq!(
        found.names("initContainers"),
        ["wait", "pillion-redirect"],
        "its own first"
    );
    assert_eq!(found.names("containers"), ["pillion", "web"]);
    let sidecar = found.container("pillion");
    assert_eq!(
        sidecar["lifecycle"],
        json!({
            "postStart": { "exec": { "command": ["/pillion", "healthcheck", "--wait=60s"] } },
            "preStop": { "exec": { "command": ["/pillion", "drain", "--after=3s", "--timeout=53s"] } },
        })
    );
    assert!(sidecar.get("restartPolicy").is_none() && sidecar.get("startupProbe").is_none());
    let annotations = &found.object["metadata"]["annotations"];
    assert_eq!(
        annotations["kubectl.kubernetes.io/default-container"],
        "web"
    );
    assert!(found.warnings().is_empty());

    for name in ["plain-job-1.27", "job-1.29"] {
        let found = webhook.recorded(name).await;
        let warnings = found.warnings().join("\n");
        assert!(
            warnings.contains("POST http://127.0.0.1:15690/quitquitquit"),
            "{name}: {warnings}"
        );
    }
}

#[tokio::test]
async fn the_rules_are_made_from_the_settings_of_all_sidecars() {
    let webhook = Webhook::start(json!({ "env": {
        "PILLION_ADMIN__LISTEN": "127.0.0.1:2001",
        "PILLION_INBOUND__REDIRECT__LISTEN": "[::]:1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.example:4318",
    } }));
    let found = webhook.recorded("deployment-1.36").await;
    let redirect = found.container("pillion-redirect");
    assert_eq!(
        variable(redirect, "PILLION_ADMIN__LISTEN"),
        "127.0.0.1:2001",
        "a port that is not to be redirected"
    );
    let held = variable(redirect, "PILLION_INBOUND__REDIRECT__LISTEN");
    assert_eq!(held, "[::]:15607", "what the pod needs wins");
    let names = redirect["env"].as_array().unwrap().iter();
    let names: Vec<&str> = names.filter_map(|entry| entry["name"].as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[tokio::test]
async fn a_pod_chooses_for_itself() {
    let webhook = Webhook::start(json!({ "exclude_outbound_ports": ["6379", "25"] }));
    let found = webhook.recorded("everything-1.36").await;
    let redirect = found.container("pillion-redirect");
    assert_eq!(
        redirect["image"],
        "registry.example:5000/pillion:9-redirect"
    );
    assert_eq!(
        redirect["args"],
        json!([
            "redirect",
            "install",
            "--exclude-uids=15606",
            "--exclude-gids=15606",
            "--inbound-ports=8443,9000-9010",
            "--exclude-inbound-ports=15691,9005",
            "--outbound-ports=1-9999",
            "--exclude-outbound-ports=6379,25,5432",
            "--exclude-outbound-cidrs=10.96.0.0/12,fd00::/8",
        ])
    );
    let sidecar = found.container("pillion");
    assert_eq!(sidecar["image"], "registry.example:5000/pillion:9");
    assert_eq!(
        sidecar["resources"],
        json!({ "requests": { "cpu": "50m" }, "limits": { "memory": "512Mi" } })
    );
    let security = &sidecar["securityContext"];
    assert_eq!(
        (&security["runAsUser"], &security["runAsGroup"]),
        (&json!(0), &json!(15606))
    );
    let capabilities = json!({ "drop": ["ALL"], "add": ["BPF", "PERFMON", "SYS_PTRACE"] });
    assert_eq!(security["capabilities"], capabilities);
    assert_eq!(
        variable(sidecar, "PILLION_CONFIG"),
        "/etc/pillion/config.yaml"
    );
    assert_eq!(
        variable(redirect, "PILLION_CONFIG"),
        "/etc/pillion/config.yaml"
    );
    assert_eq!(variable(sidecar, "PILLION_LOG__LEVEL"), "debug");
    assert!(variable(sidecar, "OTEL_RESOURCE_ATTRIBUTES").contains("k8s.container.name=pay"));
    let volumes = found.object["spec"]["volumes"].as_array().unwrap();
    let config = json!({ "name": "pillion-config", "configMap": { "name": "pay-pillion" } });
    assert!(volumes.contains(&config), "{volumes:?}");
    let pay = found.container("pay");
    assert_eq!(pay["readinessProbe"]["httpGet"]["path"], "/tcp/8443");
    assert_eq!(
        pay["livenessProbe"]["tcpSocket"]["port"], 9005,
        "an excluded port"
    );
    let metadata = &found.object["metadata"];
    assert_eq!(metadata["labels"]["pillion.dev/injected"], "true");
    assert_eq!(
        metadata["annotations"]["prometheus.io/scrape"], "false",
        "its own choice stays"
    );
    assert!(metadata["annotations"].get("prometheus.io/port").is_none());
}

#[tokio::test]
async fn without_redirection_programs_get_a_proxy() {
    let webhook = Webhook::start(json!({ "redirect": false }));
    let found = webhook.recorded("deployment-1.29").await;
    assert_eq!(found.names("initContainers"), ["pillion"]);
    let web = found.container("web");
    assert_eq!(variable(web, "HTTP_PROXY"), "http://127.0.0.1:15601");
    assert_eq!(variable(web, "NODE_USE_ENV_PROXY"), "1");
    let sidecar = found.container("pillion");
    assert_eq!(variable(sidecar, "PILLION_APP"), "127.0.0.1:8080");
    assert!(
        sidecar["ports"]
            .as_array()
            .unwrap()
            .contains(&json!({ "name": "pillion-in", "containerPort": 15606 }))
    );
    assert_eq!(
        web["livenessProbe"]["httpGet"]["port"], "http",
        "not redirected, not changed"
    );

    let found = webhook.recorded("no-redirect-1.33").await;
    assert_eq!(
        variable(found.container("ship"), "HTTP_PROXY"),
        "http://proxy:3128"
    );
    let warnings = found.warnings().join("\n");
    assert!(
        warnings.contains("container ship has an HTTP_PROXY of its own"),
        "{warnings}"
    );
}

#[tokio::test]
async fn what_cannot_be_injected_says_why() {
    let webhook = Webhook::start(json!({}));
    for (name, reason) in [
        (
            "host-network-1.29",
            "the pod uses the network of its node (hostNetwork)",
        ),
        (
            "windows-node-selector-1.29",
            "the pod is for nodes with Windows",
        ),
        ("windows-os-1.33", "the pod is for nodes with Windows"),
        ("windows-affinity-1.36", "the pod is for nodes with Windows"),
        (
            "mesh-1.33",
            "istio-proxy redirects the connections of the pod already",
        ),
        (
            "misspelt-1.33",
            "pillion.dev/capabilities: \"all\" is neither restricted nor bpf; \
             pillion.dev/exclude-outbound-ports: \"http\" is no port or range of ports such as 8000-8100",
        ),
    ] {
        let found = webhook.recorded(name).await;
        let expected = format!("pillion is not injected: {reason}");
        assert_eq!(found.warnings(), [expected], "{name}");
    }
    let changed = |pointer: &str, value: Value| {
        let mut review = recorded("deployment-1.29");
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        review["request"]["object"].pointer_mut(parent).unwrap()[key] = value;
        review
    };
    for (pointer, value, warning) in [
        (
            "/spec/containers/0/ports",
            json!([{ "containerPort": 15690 }]),
            "container web uses port 15690, which is pillion's",
        ),
        (
            "/metadata/annotations",
            json!({ "pillion.dev/inject": "true", "pillion.dev/container": "wep" }),
            "the pod has no container \"wep\"",
        ),
        (
            "/spec/containers/0/securityContext",
            json!({ "runAsUser": 15606 }),
            "container web runs as user 15606, as pillion does: its calls are not traced",
        ),
        (
            "/spec/containers/0/securityContext",
            json!({ "runAsUser": 1000, "runAsGroup": 15606 }),
            "container web runs as group 15606, as pillion does: its calls are not traced",
        ),
        (
            "/spec/securityContext",
            json!({ "runAsGroup": 15606 }),
            "container web runs as group 15606, as pillion does: its calls are not traced",
        ),
        (
            "/metadata/annotations",
            json!({ "pillion.dev/inject": "true", "pillion.dev/shim": "true" }),
            "pillion.dev/shim is no annotation that pillion knows",
        ),
        ("/spec/containers", json!([]), "the pod has no containers"),
        ("/spec/containers", json!("x"), "the pod has no containers"),
    ] {
        let Reviewed { response, .. } = webhook.review("/mutate", &changed(pointer, value)).await;
        let warnings = response["warnings"].to_string();
        let warning = warning.replace('"', "\\\"");
        assert!(warnings.contains(&warning), "{warnings} has no {warning}");
    }
}
