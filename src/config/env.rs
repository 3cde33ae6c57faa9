//! `PILLION_*`: every key of the tree as an environment variable.
//!
//! The name is the path in capitals with `__` between the keys: `PILLION_SHUTDOWN__DRAIN_TIMEOUT`,
//! `PILLION_REPORTERS__0__OTLP__ENDPOINT`. Where no list is on the way one `_` does as well:
//! `PILLION_SHUTDOWN_DRAIN_TIMEOUT`. Lists are written `a,b` or `[a, b]`, mappings `k=v,k=v` or `{k: v}`. Empty means
//! unset.

use std::collections::BTreeMap;

use crate::config::error::Problem;
use crate::config::nearest::nearest;
use crate::config::node::Entry;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Origin;
use crate::config::node::Path;
use crate::config::node::Scalar;
use crate::config::node::Step;
use crate::config::schema::Schema;
use crate::config::schema::Shape;
use crate::config::yaml;

/// What every name starts with.
pub(crate) const PREFIX: &str = "PILLION_";
/// Names the configuration file; not part of the tree.
pub(crate) const FILE: &str = "PILLION_CONFIG";

/// One value for one place in the tree.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assignment {
    /// Where it goes.
    pub(crate) path: Path,
    /// The value with its origin.
    pub(crate) value: Node,
}

impl Assignment {
    /// A plain scalar for a path written `a.b[0].c`.
    pub(crate) fn plain(path: &str, origin: Origin, text: impl Into<String>) -> Self {
        Self {
            path: Path::parse(path),
            value: Node::plain(origin, text),
        }
    }

    /// Puts the value into the tree; a choice made there before gives way.
    pub(crate) fn apply(self, tree: &mut Node) {
        let schema = Schema::get();
        for (index, step) in self.path.0.iter().enumerate() {
            let before = self.path.0.get(..index).unwrap_or_default();
            let Step::Key(key) = step else { continue };
            if schema.shape(before) != Some(Shape::Choice) {
                continue;
            }
            if let Some(node) = tree.at_mut(before).filter(|node| node.key(key).is_none()) {
                *node = Node::empty(self.value.origin.clone());
            }
        }
        tree.set(&self.path.0, self.value);
    }
}

/// Reads every `PILLION_*` variable. The second list holds what is no setting, as warnings.
pub(crate) fn read(env: &BTreeMap<String, String>) -> (Vec<Assignment>, Vec<Problem>) {
    let mut assignments = Vec::new();
    let mut warnings = Vec::new();
    for (name, text) in env {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if text.is_empty() || name == FILE || is_service_link(rest) || is_for_tests(rest) {
            continue;
        }
        let origin = Origin::Env(name.clone());
        match resolve(rest) {
            Some(path) => {
                let shape = Schema::get().shape(&path.0).unwrap_or(Shape::Scalar);
                assignments.push(Assignment {
                    path,
                    value: value(text, shape, &origin),
                });
            }
            None => warnings.push(Problem {
                message: format!("{name} is no setting and is ignored"),
                path: Path::default(),
                origin: Some(origin),
                help: suggestion(rest),
            }),
        }
    }
    // Parents before children, so that a whole list does not wipe out one of its elements.
    assignments.sort_by(|a, b| {
        a.path
            .0
            .len()
            .cmp(&b.path.0.len())
            .then(a.path.cmp(&b.path))
    });
    (assignments, warnings)
}

/// The variable that sets a path.
pub(crate) fn name(path: &Path) -> String {
    let steps: Vec<String> = path
        .0
        .iter()
        .map(|step| match step {
            Step::Key(key) => key.to_ascii_uppercase(),
            Step::Index(index) => index.to_string(),
        })
        .collect();
    format!("{PREFIX}{}", steps.join("__"))
}

fn resolve(rest: &str) -> Option<Path> {
    let schema = Schema::get();
    let steps: Vec<Step> = rest
        .split("__")
        .map(|part| match part.parse() {
            Ok(index) => Step::Index(index),
            Err(_) => Step::Key(part.to_ascii_lowercase()),
        })
        .collect();
    if schema.shape(&steps).is_some() {
        return Some(Path(steps));
    }
    let flat = rest.replace("__", "_");
    schema
        .paths()
        .into_iter()
        .find(|path| flat_name(path) == flat)
}

fn flat_name(path: &Path) -> String {
    name(path).trim_start_matches(PREFIX).replace("__", "_")
}

fn suggestion(rest: &str) -> Option<String> {
    let names: Vec<String> = Schema::get().paths().iter().map(name).collect();
    let bare = names.iter().filter_map(|n| n.strip_prefix(PREFIX));
    nearest(rest, bare).map(|near| format!("did you mean {PREFIX}{near}?"))
}

/// Kubernetes tells every container about a Service named `pillion` in such variables.
fn is_service_link(rest: &str) -> bool {
    let port = rest.starts_with("PORT_") && (rest.contains("_TCP") || rest.contains("_UDP"));
    rest == "PORT"
        || port
        || rest == "SERVICE_HOST"
        || rest == "SERVICE_PORT"
        || rest.starts_with("SERVICE_PORT_")
}

/// Switches of the test suite, which starts this program too.
fn is_for_tests(rest: &str) -> bool {
    rest.starts_with("TEST_") || rest.starts_with("FUZZ_")
}

fn value(text: &str, shape: Shape, origin: &Origin) -> Node {
    let flow = text.trim_start().starts_with(['[', '{']);
    if flow
        && shape != Shape::Scalar
        && let Ok(mut node) = yaml::parse(text)
    {
        relabel(&mut node, origin);
        return node;
    }
    let kind = match shape {
        Shape::List if !flow => Kind::List(
            split(text)
                .map(|item| Node::plain(origin.clone(), item))
                .collect(),
        ),
        Shape::Map if !flow && text.contains('=') => Kind::Map(
            split(text)
                .filter_map(|item| item.split_once('='))
                .map(|(key, value)| Entry {
                    key: key.trim().to_owned(),
                    key_origin: origin.clone(),
                    value: Node::plain(origin.clone(), value.trim()),
                })
                .collect(),
        ),
        _ => Kind::Scalar(Scalar {
            text: text.trim().to_owned(),
            ..Scalar::default()
        }),
    };
    Node {
        origin: origin.clone(),
        kind,
    }
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|t| !t.is_empty())
}

fn relabel(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.kind {
        Kind::List(items) => {
            for item in items {
                relabel(item, origin);
            }
        }
        Kind::Map(entries) => {
            for entry in entries {
                entry.key_origin = origin.clone();
                relabel(&mut entry.value, origin);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn env(name: &str, value: &str) -> BTreeMap<String, String> {
        [(name.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn names_find_their_place() {
        for (name, path) in [
            ("PILLION_APP", "app"),
            ("PILLION_SHUTDOWN__DRAIN_TIMEOUT", "shutdown.drain_timeout"),
            ("PILLION_SHUTDOWN_DRAIN_TIMEOUT", "shutdown.drain_timeout"),
            ("PILLION_LOG_LEVEL", "log.level"),
            (
                "PILLION_REPORTERS__0__OTLP__ENDPOINT",
                "reporters[0].otlp.endpoint",
            ),
        ] {
            let (found, warnings) = read(&env(name, "x"));
            assert_eq!(warnings, [], "{name}");
            assert_eq!(found.first().unwrap().path.to_string(), path, "{name}");
        }
    }

    #[test]
    fn what_is_no_setting_is_a_warning_or_somebody_elses() {
        let (found, warnings) = read(&env("PILLION_SHUTDOWN__DELAI", "5s"));
        assert!(found.is_empty());
        assert_eq!(
            warnings.first().unwrap().help.as_deref(),
            Some("did you mean PILLION_SHUTDOWN__DELAY?")
        );
        for (name, value) in [
            ("PILLION_SERVICE_HOST", "10.0.0.1"),
            ("PILLION_PORT_15690_TCP_ADDR", "10.0.0.1"),
            ("PILLION_PORT", "tcp://10.0.0.1:80"),
            ("PILLION_CONFIG", "x.yaml"),
            ("PILLION_TEST_REQUIRE", "1"),
            ("PILLION_APP", ""),
        ] {
            assert_eq!(read(&env(name, value)), (vec![], vec![]), "{name}");
        }
    }

    #[test]
    fn lists_and_mappings_are_written_two_ways() {
        for (text, length) in [("b3,jaeger", 2), ("[b3, jaeger]", 2), ("b3", 1)] {
            let (found, _) = read(&env("PILLION_PROPAGATION__EXTRACT", text));
            assert_eq!(found[0].value.list().len(), length, "{text}");
        }
        for text in ["a=1,b.c=2", "{a: 1, b.c: 2}"] {
            let (found, _) = read(&env("PILLION_RESOURCE", text));
            assert_eq!(
                found[0].value.key("b.c").unwrap().text(),
                Some("2"),
                "{text}"
            );
        }
    }

    #[test]
    fn one_underscore_is_never_ambiguous() {
        let mut seen = BTreeSet::new();
        for path in Schema::get().paths() {
            assert!(seen.insert(flat_name(&path)), "{path} shares its name");
        }
    }
}
