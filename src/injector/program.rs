//! What the pod's own containers gain: variables, and the volume with what their runtimes load.
//!
//! A variable that a container sets already stays in force; ours is added to it. What its image sets is not known here.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::json;

use super::Variables;
use super::decide::Plan;
use super::patch::Draft;
use super::pod::Container;
use super::pod::Pod;
use super::sidecar;

/// Under this name goes on what a container's variable took from elsewhere.
const HELD: &str = "_PILLION_HELD_";

/// Changes the containers; what could not be done, in words.
pub(super) fn apply(
    draft: &mut Draft,
    pod: &Pod<'_>,
    plan: &Plan,
    shims: &Variables,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for container in pod.containers() {
        if plan.shims {
            load_shims(draft, container, shims, &mut warnings);
        }
        if plan.redirect.is_none() {
            name_the_proxy(draft, container, &mut warnings);
        }
    }
    warnings
}

fn load_shims(
    draft: &mut Draft,
    container: Container<'_>,
    shims: &Variables,
    warnings: &mut Vec<String>,
) {
    let pointer = container.pointer();
    let mount = json!({
        "name": sidecar::SHIMS_VOLUME,
        "mountPath": sidecar::SHIMS_DIR,
        "readOnly": true,
    });
    draft.push(&format!("{pointer}/volumeMounts"), mount);
    if container
        .at("/envFrom")
        .as_array()
        .is_some_and(|from| !from.is_empty())
    {
        warnings.push(format!(
            "container {} takes variables from elsewhere (envFrom): NODE_OPTIONS, PYTHONPATH and RUBYOPT are not looked for there",
            container.name()
        ));
    }
    let env = format!("{pointer}/env");
    for (name, _) in shims(sidecar::SHIMS_DIR, &BTreeMap::new()) {
        let value = |held: Option<&str>| {
            let env = held.map(|held| (name.to_owned(), held.to_owned()));
            let variables = shims(sidecar::SHIMS_DIR, &env.into_iter().collect());
            let found = variables.into_iter().find(|(other, _)| *other == name);
            found.map_or_else(String::new, |(_, value)| value)
        };
        match container.variable(name) {
            None => draft.push(&env, json!({ "name": name, "value": value(None) })),
            Some((index, held)) => match source(held) {
                Source::Text(text) => {
                    let entry = json!({ "name": name, "value": value(Some(text)) });
                    put(draft, &env, index, name, entry);
                }
                Source::Reference => {
                    // It goes on under another name, which ours then refers to.
                    let other = format!("{HELD}{name}");
                    let mut renamed = held.clone();
                    renamed["name"] = json!(other);
                    put(draft, &env, index, name, renamed);
                    let ours = value(Some(&format!("$({other})")));
                    draft.push(&env, json!({ "name": name, "value": ours }));
                }
                Source::Optional => warnings.push(format!(
                    "container {}: {name} may be missing where it comes from, so nothing is added to it",
                    container.name()
                )),
            },
        }
    }
}

/// Where a variable's value comes from.
enum Source<'a> {
    Text(&'a str),
    /// Another object or a field, known when the container starts.
    Reference,
    /// The same, or nothing.
    Optional,
}

fn source(variable: &Value) -> Source<'_> {
    let Some(from) = variable.get("valueFrom").and_then(Value::as_object) else {
        return Source::Text(variable["value"].as_str().unwrap_or_default());
    };
    match from.values().any(|from| from["optional"] == true) {
        true => Source::Optional,
        false => Source::Reference,
    }
}

/// Replaces a variable at the place where it stands by now: what refers to it must come after it.
fn put(draft: &mut Draft, env: &str, index: usize, name: &str, entry: Value) {
    let held = draft.at(&format!("{env}/{index}/name"));
    debug_assert_eq!(held.and_then(Value::as_str), Some(name));
    draft.put(env, &index.to_string(), entry);
}

/// `HTTP_PROXY`, where the container names no other proxy.
fn name_the_proxy(draft: &mut Draft, container: Container<'_>, warnings: &mut Vec<String>) {
    let names = ["HTTP_PROXY", "http_proxy"];
    if names.iter().any(|name| container.variable(name).is_some()) {
        let name = container.name();
        warnings.push(format!(
            "container {name} has an HTTP_PROXY of its own, which stays: its calls are not traced"
        ));
        return;
    }
    let proxy = format!("http://127.0.0.1:{}", sidecar::OUTBOUND);
    let env = format!("{}/env", container.pointer());
    for name in names {
        draft.push(&env, json!({ "name": name, "value": proxy }));
    }
    // Node.js looks at them only with this one.
    if container.variable("NODE_USE_ENV_PROXY").is_none() {
        draft.push(&env, json!({ "name": "NODE_USE_ENV_PROXY", "value": "1" }));
    }
}
