//! Variables that a pod's downward API fills: who this pod is.
//!
//! There is no standard for their names; these are the ones that Kubernetes' own examples and common charts use. They
//! are believed inside a cluster only, and give way to everything else that names the service or the resource.
//!
//! Source: OpenTelemetry semantic conventions, "Kubernetes attributes" and "Specify resource attributes using
//! Kubernetes annotations" (order of names for the service).

use crate::config::standard_env::Standard;

/// Set by Kubernetes in every container.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
const POD_NAME: &[&str] = &["POD_NAME", "K8S_POD_NAME"];
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("k8s.pod.name", POD_NAME),
    ("k8s.pod.uid", &["POD_UID", "K8S_POD_UID"]),
    ("k8s.namespace.name", &["POD_NAMESPACE", "K8S_NAMESPACE"]),
    ("k8s.node.name", &["NODE_NAME", "K8S_NODE_NAME"]),
    (
        "k8s.container.name",
        &["CONTAINER_NAME", "K8S_CONTAINER_NAME"],
    ),
];
/// What Kubernetes makes random name parts from: no vowels, no digits that look like letters.
const RANDOM: &str = "bcdfghjklmnpqrstvwxz2456789";

/// Fills what neither the file nor another variable has set.
pub(super) fn apply(env: &mut Standard<'_>) {
    if env.text(IN_CLUSTER).is_none() {
        return;
    }
    for (attribute, names) in ATTRIBUTES {
        let set = names.iter().find(|name| env.text(name).is_some());
        if let Some(name) = set.filter(|_| !env.has("resource", attribute)) {
            let value = env.text(name).unwrap_or_default();
            env.set_entry("resource", attribute, name, value);
        }
    }
    let pod = POD_NAME.iter().find(|name| env.text(name).is_some());
    if let Some(name) = pod.filter(|_| !env.has("", "service")) {
        let owner = owner(env.text(name).unwrap_or_default());
        env.set("service", name, owner);
    }
}

/// The name of what made a pod: a deployment's pod is `NAME-HASH-RANDOM`, a stateful set's `NAME-NUMBER`, a daemon
/// set's or job's `NAME-RANDOM`. Any other name is its own owner.
fn owner(pod: &str) -> &str {
    let Some((rest, last)) = pod.rsplit_once('-') else {
        return pod;
    };
    if last.bytes().all(|b| b.is_ascii_digit()) && !last.is_empty() {
        return rest;
    }
    if last.len() != 5 || !is_random(last) {
        return pod;
    }
    match rest.rsplit_once('-') {
        Some((name, hash)) if (8..=10).contains(&hash.len()) && is_random(hash) => name,
        _ => rest,
    }
}

fn is_random(text: &str) -> bool {
    text.chars().all(|c| RANDOM.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_named_after_their_owner() {
        for (pod, name) in [
            ("cart-api-7d4b9c6f5d-x2x9k", "cart-api"),
            ("cart-7d4b9c6f-x2x9k", "cart"),
            ("db-0", "db"),
            ("db-primary-12", "db-primary"),
            ("agent-4xk2p", "agent"),
            ("cart", "cart"),
            ("cart-stage", "cart-stage"),
            ("", ""),
        ] {
            assert_eq!(owner(pod), name, "{pod}");
        }
    }
}
