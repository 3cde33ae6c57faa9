//! What the pod's own containers gain: variables, and the volume with what their runtimes load.
//!
//! A variable that a container sets already stays in force; ours is added to it. What its image sets is not known here.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::json;

use super::Loads;
use super::Variables;
use super::decide::Plan;
use super::patch::Draft;
use super::pod::Container;
use super::pod::Pod;
use super::sidecar;

/// Under this name goes on what a container's variable took from elsewhere.
const HELD: &str = "_PILLION_HELD_";

/// Changes the containers; what could not be done, in words.
pub(super) fn apply(draft: &mut Draft, pod: &Pod<'_>, plan: &Plan, loads: &Loads) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut wanted = Vec::new();
    if plan.shims {
        wanted.push(loads.shims);
    }
    if plan.preload {
        wanted.extend(loads.preload);
        if loads.preload.is_none() {
            warnings.push("this build of pillion has no preload library".to_owned());
        }
    }
    for container in pod.containers() {
        if !wanted.is_empty() {
            load(draft, container, &wanted, &mut warnings);
        }
        if plan.redirect.is_none() {
            name_the_proxy(draft, container, &mut warnings);
        }
    }
    warnings
}

/// Mounts the directory of shims and points the program at what it is to load from there.
fn load(
    draft: &mut Draft,
    container: Container<'_>,
    wanted: &[Variables],
    warnings: &mut Vec<String>,
) {
    let variables = |env: &BTreeMap<String, String>| -> Vec<(&'static str, String)> {
        let each = |wanted: &Variables| wanted(sidecar::SHIMS_DIR, env);
        wanted.iter().flat_map(each).collect()
    };
    let names = variables(&BTreeMap::new());
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
        let shared = names.iter().map(|(name, _)| *name);
        let shared: Vec<&str> = shared.filter(|name| !name.starts_with('_')).collect();
        warnings.push(format!(
            "container {} takes variables from elsewhere (envFrom): {} are not looked for there",
            container.name(),
            shared.join(", ")
        ));
    }
    let env = format!("{pointer}/env");
    let mut found: Vec<_> = names
        .iter()
        .map(|(name, _)| (container.variable(name), *name))
        .collect();
    // From behind, as inserting moves what comes after; what is new goes to the end.
    found.sort_by_key(|(held, _)| std::cmp::Reverse(held.map(|(index, _)| index)));
    for (held, name) in found {
        let value = |held: Option<&str>| {
            let env = held.map(|held| (name.to_owned(), held.to_owned()));
            let ours = variables(&env.into_iter().collect());
            let ours = ours.into_iter().find(|(other, _)| *other == name);
            let value = ours.map_or_else(String::new, |(_, value)| value);
            json!({ "name": name, "value": value })
        };
        let Some((index, held)) = held else {
            draft.push(&env, value(None));
            continue;
        };
        match source(held) {
            Source::Text(text) => draft.put(&env, &index.to_string(), value(Some(text))),
            Source::Reference => {
                // It goes on under another name, which ours refers to; what refers to it comes later.
                let other = format!("{HELD}{name}");
                let mut renamed = held.clone();
                renamed["name"] = json!(other);
                draft.put(&env, &index.to_string(), renamed);
                draft.insert(&env, index + 1, value(Some(&format!("$({other})"))));
            }
            Source::Optional => warnings.push(format!(
                "container {}: {name} may be missing where it comes from, so nothing is added to it",
                container.name()
            )),
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
