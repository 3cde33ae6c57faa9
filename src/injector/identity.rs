//! Who a pod is: the name of its service, and the attributes of its resource.
//!
//! What is not known before the pod runs comes from the downward API, by variables that Kubernetes puts into others.
//!
//! Source: OpenTelemetry semantic conventions, "Kubernetes attributes" and "Specify resource attributes using Kubernetes
//! annotations"; Kubernetes, "Define Dependent Environment Variables".

use std::collections::BTreeMap;

use super::pod::Owner;
use super::pod::Pod;

/// Annotations that OpenTelemetry gives a meaning: the rest of the name is an attribute.
const RESOURCE: &str = "resource.opentelemetry.io/";
/// Jobs of a CronJob are named after the minute they were due, in minutes since the Unix epoch: of 2017 to 2055.
const CRON_MINUTES: std::ops::Range<u32> = 25_000_000..45_000_000;

/// The downward API's part: variables of the sidecar and the fields that they hold.
pub(super) const FIELDS: &[(&str, &str)] = &[
    ("POD_NAME", "metadata.name"),
    ("POD_UID", "metadata.uid"),
    ("POD_NAMESPACE", "metadata.namespace"),
    ("NODE_NAME", "spec.nodeName"),
];

/// Values for the variables of the sidecar, as Kubernetes reads them: `$(NAME)` stands for another variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// For `OTEL_SERVICE_NAME`.
    pub(super) service: String,
    /// For `OTEL_RESOURCE_ATTRIBUTES`.
    pub(super) attributes: String,
}

/// Of a pod whose program is `container`; `named` is the name that the pod chose for its service.
pub(super) fn of(pod: &Pod<'_>, named: Option<&str>, container: &str) -> Identity {
    let owners = owners(pod);
    let service = named
        .or_else(|| pod.annotation("resource.opentelemetry.io/service.name"))
        .or_else(|| pod.label("app.kubernetes.io/instance"))
        .or_else(|| pod.label("app.kubernetes.io/name"))
        .filter(|name| !name.is_empty())
        .or_else(|| Some(owners.first()?.1))
        .or_else(|| pod.own_name())
        .unwrap_or(container);
    Identity {
        service: literal(service),
        attributes: attributes(pod, &owners, container),
    }
}

fn attributes(pod: &Pod<'_>, owners: &[(&str, &str)], container: &str) -> String {
    let container = encoded(container);
    let mut all: BTreeMap<String, String> = [
        ("k8s.pod.name", "$(POD_NAME)"),
        ("k8s.pod.uid", "$(POD_UID)"),
        ("k8s.namespace.name", "$(POD_NAMESPACE)"),
        ("k8s.node.name", "$(NODE_NAME)"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    let instance = format!("$(POD_NAMESPACE).$(POD_NAME).{container}");
    all.insert("service.instance.id".into(), instance);
    all.insert("k8s.container.name".into(), container);
    for (key, name) in owners {
        all.insert((*key).to_owned(), encoded(name));
    }
    if let Some(version) = pod.label("app.kubernetes.io/version") {
        all.insert("service.version".into(), encoded(version));
    }
    for (name, value) in pod.annotations() {
        // The name of the service has a variable of its own.
        let key = name.strip_prefix(RESOURCE).unwrap_or_default();
        if !key.is_empty() && key != "service.name" {
            all.insert(encoded(key), encoded(value));
        }
    }
    let pairs: Vec<String> = all
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// Who made the pod, and who made that, as attributes; the first is the one that people know.
fn owners<'a>(pod: &Pod<'a>) -> Vec<(&'static str, &'a str)> {
    let Some(Owner { kind, name }) = pod.owner() else {
        return Vec::new();
    };
    match kind {
        "ReplicaSet" => {
            let hash = pod.label("pod-template-hash");
            let deployment = hash
                .and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'))
                .filter(|deployment| !deployment.is_empty());
            let replica_set = ("k8s.replicaset.name", name);
            match deployment {
                Some(deployment) => vec![("k8s.deployment.name", deployment), replica_set],
                None => vec![replica_set],
            }
        }
        "Job" => {
            let cron = name.rsplit_once('-').filter(|(cron, minutes)| {
                let minutes = minutes.parse().is_ok_and(|n| CRON_MINUTES.contains(&n));
                minutes && !cron.is_empty()
            });
            match cron {
                Some((cron, _)) => vec![("k8s.cronjob.name", cron), ("k8s.job.name", name)],
                None => vec![("k8s.job.name", name)],
            }
        }
        "DaemonSet" => vec![("k8s.daemonset.name", name)],
        "StatefulSet" => vec![("k8s.statefulset.name", name)],
        // A node owns the pods that its kubelet runs by itself.
        "Node" => Vec::new(),
        _ => vec![("pillion.owner.name", name)],
    }
}

/// A value that Kubernetes does not take for a reference to another variable.
pub(super) fn literal(text: &str) -> String {
    text.replace("$(", "$$(")
}

/// As values of `OTEL_RESOURCE_ATTRIBUTES` are written: percent-encoded (W3C Baggage).
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:/@+".contains(byte);
    let mut out = String::new();
    for byte in text.bytes() {
        match plain(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use serde_json::json;

    use super::*;

    fn identity(metadata: Value, named: Option<&str>) -> Identity {
        let object = json!({ "metadata": metadata });
        of(&Pod::new(&object, Some("shop")), named, "app")
    }

    fn owned(kind: &str, name: &str) -> Value {
        json!({
            "generateName": "pod-",
            "labels": { "pod-template-hash": "7d4b9c6f5d" },
            "ownerReferences": [
                { "kind": "Other", "name": "other" },
                { "kind": kind, "name": name, "controller": true },
            ],
        })
    }

    #[test]
    fn services_are_named_after_what_people_know() {
        for (kind, name, service, attribute) in [
            (
                "ReplicaSet",
                "cart-api-7d4b9c6f5d",
                "cart-api",
                "k8s.deployment.name=cart-api",
            ),
            ("ReplicaSet", "alone", "alone", "k8s.replicaset.name=alone"),
            (
                "Job",
                "report-29391840",
                "report",
                "k8s.cronjob.name=report",
            ),
            (
                "Job",
                "import-20260131",
                "import-20260131",
                "k8s.job.name=import-20260131",
            ),
            ("Job", "import", "import", "k8s.job.name=import"),
            ("DaemonSet", "agent", "agent", "k8s.daemonset.name=agent"),
            ("StatefulSet", "db", "db", "k8s.statefulset.name=db"),
            ("Rollout", "x", "x", "pillion.owner.name=x"),
            ("Node", "node-1", "pod", "k8s.container.name=app"),
        ] {
            let identity = identity(owned(kind, name), None);
            assert_eq!(identity.service, service, "{kind}/{name}");
            let mut pairs = identity.attributes.split(',');
            assert!(pairs.any(|pair| pair == attribute), "{identity:?}");
        }
    }

    #[test]
    fn names_are_asked_for_in_the_order_of_the_convention() {
        let mut metadata = json!({
            "name": "pod",
            "annotations": { "resource.opentelemetry.io/service.name": "b" },
            "labels": { "app.kubernetes.io/instance": "c", "app.kubernetes.io/name": "d" },
            "ownerReferences": [{ "kind": "StatefulSet", "name": "e" }],
        });
        assert_eq!(identity(metadata.clone(), Some("a")).service, "a");
        for (name, pointer) in [
            ("b", "/annotations"),
            ("c", "/labels/app.kubernetes.io~1instance"),
            ("d", "/labels"),
            ("e", "/ownerReferences"),
            ("pod", "/name"),
            ("app", ""),
        ] {
            assert_eq!(identity(metadata.clone(), None).service, name);
            *metadata.pointer_mut(pointer).unwrap() = Value::Null;
        }
    }

    #[test]
    fn what_a_pod_says_of_itself_is_encoded() {
        let metadata = json!({
            "name": "p",
            "labels": { "app.kubernetes.io/version": "1.0+x" },
            "annotations": {
                "resource.opentelemetry.io/team": "a,b=$(POD_UID) ü",
                "resource.opentelemetry.io/k8s.node.name": "mine",
                "resource.opentelemetry.io/service.name": "x $(HOME)",
            },
        });
        let Identity {
            service,
            attributes,
        } = identity(metadata, None);
        assert_eq!(service, "x $$(HOME)");
        assert_eq!(
            attributes,
            "k8s.container.name=app,k8s.namespace.name=$(POD_NAMESPACE),k8s.node.name=mine,k8s.pod.name=$(POD_NAME),\
             k8s.pod.uid=$(POD_UID),service.instance.id=$(POD_NAMESPACE).$(POD_NAME).app,service.version=1.0+x,\
             team=a%2Cb%3D%24%28POD_UID%29%20%C3%BC"
        );
    }
}
