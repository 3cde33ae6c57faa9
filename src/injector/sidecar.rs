//! The containers that a pod gets: the sidecar, and before it those that redirect connections and lay out shims.

use serde_json::Value;
use serde_json::json;

use super::annotations;
use super::config::Capabilities;
use super::config::Config;
use super::decide::Plan;
use super::decide::Redirect;
use super::identity;
use super::patch::Draft;
use super::pod::Pod;
use super::probes;
use crate::net::evidence::offer;

/// The sidecar. A pod that has a container of this name is left alone.
pub(super) const NAME: &str = "pillion";
/// The program in the image.
const PROGRAM: &str = "/pillion";
pub(super) const SHIMS_VOLUME: &str = "pillion-shims";
pub(super) const SHIMS_DIR: &str = "/pillion-shims";
const CONFIG_VOLUME: &str = "pillion-config";
const CONFIG_DIR: &str = "/etc/pillion";
/// Stands where Kubernetes would mount the service account's token, so that it does not.
const TOKEN_VOLUME: &str = "pillion-no-token";
const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

const INBOUND: u16 = 15606;
pub(super) const OUTBOUND: u16 = 15601;
const OUTBOUND_REDIRECT: u16 = 15602;
const INBOUND_REDIRECT: u16 = 15607;
const ADMIN: u16 = 15690;
/// Probes and metrics, for the kubelet and Prometheus.
const PROBES: u16 = 15691;
/// Every port of the sidecar.
pub(super) const PORTS: &[u16] = &[
    INBOUND,
    OUTBOUND,
    OUTBOUND_REDIRECT,
    INBOUND_REDIRECT,
    ADMIN,
    PROBES,
];

/// Of a pod that says nothing about it, in seconds.
const GRACE_PERIOD: u64 = 30;
/// What the sidecar itself needs at the end, in seconds: the default of `shutdown.flush_timeout`, and a little.
const OWN_END: u64 = 7;
/// How long a plain sidecar waits before it looks whether requests are in flight, in seconds: endpoints are withdrawn
/// meanwhile.
const DRAIN_AFTER: u64 = 3;

/// Adds containers and volumes.
pub(super) fn apply(draft: &mut Draft, pod: &Pod<'_>, plan: &Plan, config: &Config) {
    let looked_at = match &plan.redirect {
        Some(redirect) => probes::rewrite(draft, pod, redirect, PROBES),
        None => Vec::new(),
    };
    let mut before = Vec::new();
    if let Some(redirect) = &plan.redirect {
        before.push(redirection(plan, redirect, config));
    }
    if plan.loads() {
        before.push(shims(plan, config));
    }
    let sidecar = sidecar(pod, plan, config, &looked_at);
    if plan.native {
        // In front: the pod's own init containers call through a sidecar that runs.
        before.push(sidecar);
        for (index, container) in before.into_iter().enumerate() {
            draft.insert("/spec/initContainers", index, container);
        }
    } else {
        // At the end: while the pod's own init containers run, nobody takes what is redirected.
        for container in before {
            draft.push("/spec/initContainers", container);
        }
        // In front: the kubelet starts the others when the hook behind its start is through.
        draft.insert("/spec/containers", 0, sidecar);
    }
    volumes(draft, plan);
}

/// Says on the pod what became of it.
pub(super) fn mark(draft: &mut Draft, plan: &Plan) {
    let mut parts = vec![match plan.native {
        true => "native sidecar",
        false => "plain sidecar",
    }];
    parts.push(match plan.redirect {
        Some(_) => "redirect",
        None => "HTTP_PROXY",
    });
    if plan.shims {
        parts.push("shims");
    }
    if plan.preload {
        parts.push("preload");
    }
    if plan.capabilities != Capabilities::Restricted {
        parts.push(plan.capabilities.name());
    }
    let version = env!("CARGO_PKG_VERSION");
    let status = format!("injected by {version}: {}", parts.join(", "));
    draft.annotate(annotations::STATUS, &status);
    draft.put(
        "/metadata/labels",
        annotations::INJECTED_LABEL,
        json!("true"),
    );
    let scraped = draft.at("/metadata/annotations/prometheus.io~1scrape");
    if scraped.is_none() {
        draft.annotate("prometheus.io/scrape", "true");
        draft.annotate("prometheus.io/port", &PROBES.to_string());
        draft.annotate("prometheus.io/path", "/metrics");
    }
    let default_container = "kubectl.kubernetes.io/default-container";
    let first = draft.at("/spec/containers/1/name").and_then(Value::as_str);
    if let Some(name) = first.filter(|_| !plan.native).map(str::to_owned)
        && draft
            .at("/metadata/annotations/kubectl.kubernetes.io~1default-container")
            .is_none()
    {
        draft.annotate(default_container, &name);
    }
}

fn sidecar(pod: &Pod<'_>, plan: &Plan, config: &Config, looked_at: &[u16]) -> Value {
    let mut ports = vec![json!({ "name": "pillion-metrics", "containerPort": PROBES })];
    if plan.app_port.is_some() {
        ports.push(json!({ "name": "pillion-in", "containerPort": INBOUND }));
    }
    let ready = json!({ "path": "/readyz", "port": PROBES });
    let mut container = container(NAME, &plan.image, &["run"], config);
    container["ports"] = ports.into();
    container["env"] = variables(plan, config, looked_at).into();
    container["resources"] = resources(plan);
    container["securityContext"] = security(plan.capabilities, config);
    let mut mounts = mounts(plan);
    if plan.preload {
        // For the socket.
        mounts.push(json!({ "name": SHIMS_VOLUME, "mountPath": SHIMS_DIR }));
    }
    container["volumeMounts"] = mounts.into();
    container["readinessProbe"] = json!({ "httpGet": ready, "periodSeconds": 5 });
    if plan.native {
        container["restartPolicy"] = json!("Always");
        container["startupProbe"] =
            json!({ "httpGet": ready, "periodSeconds": 1, "failureThreshold": 60 });
    } else {
        let grace = pod.at("/spec/terminationGracePeriodSeconds").as_u64();
        let wait = grace.unwrap_or(GRACE_PERIOD).saturating_sub(OWN_END);
        let after = DRAIN_AFTER.min(wait);
        let exec = |args: &[&str]| {
            let command: Vec<&str> = [PROGRAM].iter().chain(args).copied().collect();
            json!({ "exec": { "command": command } })
        };
        let (after, wait) = (format!("--after={after}s"), format!("--timeout={wait}s"));
        container["lifecycle"] = json!({
            "postStart": exec(&["healthcheck", "--wait=60s"]),
            "preStop": exec(&["drain", &after, &wait]),
        });
    }
    container
}

fn container(name: &str, image: &str, args: &[&str], config: &Config) -> Value {
    let mut container = json!({
        "name": name,
        "image": image,
        "args": args,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if let Some(policy) = config.image_pull_policy {
        container["imagePullPolicy"] = json!(policy.name());
    }
    container
}

/// The init container that writes the rules.
fn redirection(plan: &Plan, redirect: &Redirect, config: &Config) -> Value {
    let user = config.user.to_string();
    let mut untouched = vec![PROBES.to_string()];
    untouched.extend(redirect.exclude_inbound_ports.iter().cloned());
    let lists = [
        ("--exclude-uids", vec![user.clone()]),
        ("--exclude-gids", vec![user]),
        ("--inbound-ports", redirect.inbound_ports.clone()),
        ("--exclude-inbound-ports", untouched),
        ("--outbound-ports", redirect.outbound_ports.clone()),
        (
            "--exclude-outbound-ports",
            redirect.exclude_outbound_ports.clone(),
        ),
        (
            "--exclude-outbound-cidrs",
            redirect.exclude_outbound_cidrs.clone(),
        ),
    ];
    let lists = lists.iter().filter(|(_, items)| !items.is_empty());
    let flags = lists.map(|(flag, items)| format!("{flag}={}", items.join(",")));
    let args: Vec<String> = ["redirect".to_owned(), "install".to_owned()]
        .into_iter()
        .chain(flags)
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut container = container("pillion-redirect", &plan.redirect_image, &args, config);
    // The ports of the listeners come from the configuration, as for the sidecar.
    container["env"] = settings_of_all(plan, config).into();
    container["resources"] = resources(plan);
    container["securityContext"] = json!({
        "runAsNonRoot": false,
        "runAsUser": 0,
        "runAsGroup": 0,
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    container["volumeMounts"] = mounts(plan).into();
    container
}

/// The init container that lays out the shims and the library.
fn shims(plan: &Plan, config: &Config) -> Value {
    let args = ["shims", "--to", SHIMS_DIR];
    let mut container = container("pillion-shims", &plan.image, &args, config);
    container["resources"] = resources(plan);
    container["securityContext"] = security(Capabilities::Restricted, config);
    container["volumeMounts"] = json!([
        { "name": SHIMS_VOLUME, "mountPath": SHIMS_DIR },
        { "name": TOKEN_VOLUME, "mountPath": TOKEN_DIR, "readOnly": true },
    ]);
    container
}

fn resources(plan: &Plan) -> Value {
    json!({ "requests": plan.resources.requests, "limits": plan.resources.limits })
}

fn security(capabilities: Capabilities, config: &Config) -> Value {
    let restricted = capabilities == Capabilities::Restricted;
    // Kubernetes gives added capabilities to root alone. The group then tells the sidecar's connections apart.
    let user = if restricted { config.user } else { 0 };
    let mut capabilities = json!({ "drop": ["ALL"] });
    if !restricted {
        capabilities["add"] = json!(["BPF", "PERFMON", "SYS_PTRACE"]);
    }
    json!({
        "runAsNonRoot": restricted,
        "runAsUser": user,
        "runAsGroup": config.user,
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": capabilities,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

fn variable(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

fn redirect_variables(plan: &Plan) -> Vec<Value> {
    let listen = |port: u16| format!("[::]:{port}");
    let mut all = vec![
        variable(
            "PILLION_INBOUND__REDIRECT__LISTEN",
            &listen(INBOUND_REDIRECT),
        ),
        variable(
            "PILLION_OUTBOUND__REDIRECT__LISTEN",
            &listen(OUTBOUND_REDIRECT),
        ),
    ];
    if plan.config.is_some() {
        let file = format!("{CONFIG_DIR}/config.yaml");
        all.push(variable("PILLION_CONFIG", &file));
    }
    all
}

/// With what all sidecars are told, so that the rules know its ports.
fn settings_of_all(plan: &Plan, config: &Config) -> Vec<Value> {
    let mut all = redirect_variables(plan);
    for (name, value) in &config.env {
        let held = all.iter().any(|held| held["name"] == name.as_str());
        if name.starts_with("PILLION_") && !held {
            all.push(variable(name, value));
        }
    }
    all
}

fn variables(plan: &Plan, config: &Config, looked_at: &[u16]) -> Vec<Value> {
    let field = |(name, path): &(&str, &str)| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut all: Vec<Value> = identity::FIELDS.iter().map(field).collect();
    let mut set = |name: &str, value: &str| {
        let entry = variable(name, value);
        match all.iter_mut().find(|held| held["name"] == name) {
            Some(held) => *held = entry,
            None => all.push(entry),
        }
    };
    set("OTEL_SERVICE_NAME", &plan.identity.service);
    set("OTEL_RESOURCE_ATTRIBUTES", &plan.identity.attributes);
    set("PILLION_ADMIN__PROBE_LISTEN", &format!("[::]:{PROBES}"));
    set("PILLION_LOG__FORMAT", "json");
    for (name, value) in &config.env {
        match name.as_str() {
            "OTEL_RESOURCE_ATTRIBUTES" => {
                set(name, &format!("{value},{}", plan.identity.attributes));
            }
            _ => set(name, value),
        }
    }
    // What the pod says wins over what is meant for all of them.
    match &plan.redirect {
        Some(_) => {
            for entry in redirect_variables(plan) {
                let text = |key: &str| entry[key].as_str().unwrap_or_default();
                set(text("name"), text("value"));
            }
        }
        None => {
            if let Some(port) = plan.app_port {
                set("PILLION_APP", &format!("127.0.0.1:{port}"));
            }
            if plan.config.is_some() {
                set("PILLION_CONFIG", &format!("{CONFIG_DIR}/config.yaml"));
            }
        }
    }
    if !looked_at.is_empty() {
        let ports: Vec<String> = looked_at.iter().map(u16::to_string).collect();
        set("PILLION_ADMIN__TCP_PROBES", &ports.join(","));
    }
    if !plan.ignored_agents.is_empty() {
        // A list as YAML: an agent may hold a comma.
        let agents = json!(plan.ignored_agents).to_string();
        set(
            "PILLION_SPANS__IGNORE_USER_AGENTS",
            &identity::literal(&agents),
        );
    }
    if plan.shims {
        set("PILLION_LINKING__SHIMS", "true");
    }
    if plan.preload {
        let socket = format!("{SHIMS_DIR}/{}", offer::NAME);
        set("PILLION_LINKING__PRELOAD", "true");
        set("PILLION_LINKING__PRELOAD_SOCKET", &socket);
    }
    if let Some(level) = &plan.log_level {
        set("PILLION_LOG__LEVEL", level);
    }
    all
}

fn mounts(plan: &Plan) -> Vec<Value> {
    let mount =
        |name: &str, path: &str| json!({ "name": name, "mountPath": path, "readOnly": true });
    let mut all = vec![mount(TOKEN_VOLUME, TOKEN_DIR)];
    if plan.config.is_some() {
        all.push(mount(CONFIG_VOLUME, CONFIG_DIR));
    }
    all
}

fn volumes(draft: &mut Draft, plan: &Plan) {
    // In memory, as volumes on a node's disk keep the cluster autoscaler from emptying the node.
    let in_memory = |size: &str| json!({ "medium": "Memory", "sizeLimit": size });
    let mut add = |volume: Value| draft.push("/spec/volumes", volume);
    add(json!({ "name": TOKEN_VOLUME, "emptyDir": in_memory("1Mi") }));
    if plan.loads() {
        add(json!({ "name": SHIMS_VOLUME, "emptyDir": in_memory("8Mi") }));
    }
    if let Some(name) = &plan.config {
        add(json!({ "name": CONFIG_VOLUME, "configMap": { "name": name } }));
    }
}
