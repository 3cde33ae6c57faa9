//! The kubelet's probes of a pod whose connections are redirected.
//!
//! HTTP and gRPC probes pass through the sidecar to the program; their `User-Agent` says that they are probes, and they
//! get no span. A TCP probe only connects, which the sidecar would allow whether or not the program listens: it becomes
//! an HTTP probe of the sidecar, which connects to the program and says what came of it.

use serde_json::Value;
use serde_json::json;

use super::annotations;
use super::decide::Redirect;
use super::patch::Draft;
use super::pod::Container;
use super::pod::Pod;

const PROBES: &[&str] = &["startupProbe", "livenessProbe", "readinessProbe"];
/// What the kubelet calls itself unless a probe says otherwise.
const PROBE_AGENT: &str = "kube-probe/";
const HOOK_AGENT: &str = "kube-lifecycle/";
/// Redirection leaves it alone unless it is named.
const SSH: u16 = 22;

/// Gives TCP probes to the sidecar, whose port for probes is `port`; the ports that it is to look at.
pub(super) fn rewrite(
    draft: &mut Draft,
    pod: &Pod<'_>,
    redirect: &Redirect,
    port: u16,
) -> Vec<u16> {
    let mut looked_at = Vec::new();
    for container in pod.lasting_containers() {
        for name in PROBES {
            let probe = container.at(&format!("/{name}"));
            let Some(target) = tcp_port(probe, container) else {
                continue;
            };
            if !is_redirected(redirect, target) {
                continue;
            }
            let mut probe = probe.clone();
            if let Some(members) = probe.as_object_mut() {
                members.remove("tcpSocket");
            }
            probe["httpGet"] = json!({ "path": format!("/tcp/{target}"), "port": port });
            draft.put(&container.pointer(), name, probe);
            if !looked_at.contains(&target) {
                looked_at.push(target);
            }
        }
    }
    looked_at
}

/// The port of a probe that only connects to this pod; its number or name is resolved.
fn tcp_port(probe: &Value, container: Container<'_>) -> Option<u16> {
    let tcp = probe.get("tcpSocket")?;
    if tcp["host"].as_str().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    match &tcp["port"] {
        Value::Number(number) => u16::try_from(number.as_u64()?).ok(),
        Value::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => container
                .ports()
                .find(|(_, port)| port["name"] == name.as_str())
                .map(|(number, _)| number),
        },
        _ => None,
    }
    .filter(|port| *port > 0)
}

fn is_redirected(redirect: &Redirect, port: u16) -> bool {
    let included = match redirect.inbound_ports.is_empty() {
        true => port != SSH,
        false => annotations::holds(&redirect.inbound_ports, port),
    };
    included && !annotations::holds(&redirect.exclude_inbound_ports, port)
}

/// The callers that are to get no span, when they are not those that never do: probes with a `User-Agent` of their own,
/// and hooks that call by HTTP.
pub(super) fn agents(pod: &Pod<'_>) -> Vec<String> {
    let mut agents = Vec::new();
    let mut add = |agent: &str| {
        if !agent.is_empty() && !agents.iter().any(|known| known == agent) {
            agents.push(agent.to_owned());
        }
    };
    for container in pod.lasting_containers() {
        for name in PROBES {
            let get = container.at(&format!("/{name}/httpGet"));
            add(agent(get).unwrap_or_default());
        }
        for hook in ["postStart", "preStop"] {
            let get = container.at(&format!("/lifecycle/{hook}/httpGet"));
            if get.is_object() {
                add(agent(get).unwrap_or(HOOK_AGENT));
            }
        }
    }
    if !agents.is_empty() {
        agents.insert(0, PROBE_AGENT.to_owned());
    }
    agents
}

fn agent(get: &Value) -> Option<&str> {
    let headers = get["httpHeaders"].as_array()?;
    let names_it = |header: &&Value| {
        let name = header["name"].as_str().unwrap_or_default();
        name.eq_ignore_ascii_case("user-agent")
    };
    headers.iter().find(names_it)?["value"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(container: Value, redirect: &Redirect) -> (Value, Vec<u16>) {
        let object = json!({ "spec": { "containers": [container] } });
        let mut draft = Draft::new(object.clone());
        let ports = rewrite(&mut draft, &Pod::new(&object, None), redirect, 15691);
        (draft.at("/spec/containers/0").unwrap().clone(), ports)
    }

    #[test]
    fn a_probe_that_only_connects_asks_the_sidecar() {
        let container = json!({
            "ports": [{ "name": "sql", "containerPort": 5432 }],
            "startupProbe": { "tcpSocket": { "port": "sql" }, "periodSeconds": 3 },
            "livenessProbe": { "tcpSocket": { "port": 5432 } },
            "readinessProbe": { "httpGet": { "path": "/", "port": 80 } },
        });
        let (changed, ports) = rewritten(container, &Redirect::default());
        assert_eq!(ports, [5432]);
        assert_eq!(
            changed["startupProbe"],
            json!({ "httpGet": { "path": "/tcp/5432", "port": 15691 }, "periodSeconds": 3 })
        );
        assert_eq!(changed["livenessProbe"]["httpGet"]["path"], "/tcp/5432");
        assert_eq!(changed["readinessProbe"]["httpGet"]["port"], 80);
    }

    #[test]
    fn probes_that_do_not_meet_the_sidecar_stay() {
        let list = |text: &str| vec![text.to_owned()];
        let included = Redirect {
            inbound_ports: list("8000-8100"),
            ..Redirect::default()
        };
        let excluded = Redirect {
            exclude_inbound_ports: list("80"),
            ..Redirect::default()
        };
        let all = Redirect::default();
        for (target, redirect, why) in [
            (json!({ "port": 80, "host": "db" }), &all, "another host"),
            (
                json!({ "port": "none" }),
                &all,
                "a port that the container does not name",
            ),
            (json!({ "port": -1 }), &all, "no port"),
            (json!({}), &all, "nothing"),
            (json!({ "port": 22 }), &all, "SSH is not redirected"),
            (
                json!({ "port": 80 }),
                &included,
                "not among those redirected",
            ),
            (json!({ "port": 80 }), &excluded, "excluded"),
        ] {
            let container = json!({ "livenessProbe": { "tcpSocket": target } });
            let (changed, ports) = rewritten(container.clone(), redirect);
            assert_eq!((changed, ports), (container, vec![]), "{why}");
        }
    }

    #[test]
    fn callers_with_names_of_their_own_are_told_apart() {
        let headers = json!([{ "name": "user-agent", "value": "health, check" }]);
        let object = json!({ "spec": { "containers": [{
            "livenessProbe": { "httpGet": { "port": 80, "httpHeaders": headers } },
            "readinessProbe": { "httpGet": { "port": 80 } },
            "lifecycle": { "preStop": { "httpGet": { "port": 80 } } },
        }] } });
        let found = agents(&Pod::new(&object, None));
        assert_eq!(found, ["kube-probe/", "health, check", "kube-lifecycle/"]);
        let object = json!({ "spec": { "containers": [{
            "readinessProbe": { "httpGet": { "port": 80 } },
        }] } });
        assert!(
            agents(&Pod::new(&object, None)).is_empty(),
            "the default does"
        );
    }
}
