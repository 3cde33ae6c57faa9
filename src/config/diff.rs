//! What a new configuration changes, and when each change takes effect.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Path;
use crate::config::print::snapshot;
use crate::config::schema::Reload;
use crate::config::schema::Schema;
use crate::config::tree::Config;

/// The keys in which two configurations differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// In the order of their names.
    pub changes: Vec<Change>,
}

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, written `reporters[1].otlp.endpoint`.
    pub path: String,
    /// When the new value takes effect.
    pub reload: Reload,
    /// The value before, in one line; `None` where there was none. Secrets are redacted.
    pub before: Option<String>,
}

/// Compares two configurations key by key.
pub fn diff(old: &Config, new: &Config) -> Diff {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten(&snapshot(old), Path::default(), &mut before);
    flatten(&snapshot(new), Path::default(), &mut after);
    let mut paths: Vec<&Path> = before
        .iter()
        .filter(|(path, value)| after.get(*path) != Some(*value))
        .map(|(path, _)| path)
        .collect();
    paths.extend(after.keys().filter(|path| !before.contains_key(*path)));
    paths.sort();
    let schema = Schema::get();
    let mut changes: Vec<Change> = paths
        .into_iter()
        .map(|path| Change {
            path: path.to_string(),
            reload: schema.reload(path),
            before: before
                .get(path)
                .map(|texts| texts.join(", ").replace(['\n', '\r'], " ")),
        })
        .collect();
    // Secrets look alike when printed; that they changed shows in the settings alone.
    let seen = changes.iter().any(|c| c.path.starts_with("reporters"));
    if old.reporters != new.reporters && !seen {
        changes.push(Change {
            path: "reporters".to_owned(),
            reload: schema.reload(&Path::parse("reporters")),
            before: None,
        });
    }
    Diff { changes }
}

impl Diff {
    /// True when nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes that wait for a restart.
    pub fn needs_restart(&self) -> impl Iterator<Item = &Change> {
        self.changes
            .iter()
            .filter(|change| change.reload == Reload::Restart)
    }
}

/// `log.level (live), workers (restart)`, or `nothing`.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        for (index, change) in self.changes.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} ({})", change.path, change.reload)?;
        }
        Ok(())
    }
}

/// The leaves below a value. Lists of plain values are one leaf: `[a, b]` became `[a]` is one change.
fn flatten(node: &Node, path: Path, leaves: &mut BTreeMap<Path, Vec<String>>) {
    match &node.kind {
        Kind::Map(entries) if !entries.is_empty() => {
            for entry in entries {
                flatten(&entry.value, path.join(&entry.key), leaves);
            }
        }
        Kind::List(items) if items.iter().any(|item| item.text().is_none()) => {
            for (index, item) in items.iter().enumerate() {
                flatten(item, path.index(index), leaves);
            }
        }
        Kind::List(items) => {
            let texts = items.iter().filter_map(Node::text).map(str::to_owned);
            leaves.insert(path, texts.collect());
        }
        Kind::Scalar(scalar) => {
            leaves.insert(path, vec![scalar.text.clone()]);
        }
        Kind::Null | Kind::Map(_) | Kind::Removed => {
            leaves.insert(path, Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::Sources;
    use crate::config::load::load_text;

    fn config(text: &str) -> Config {
        let loaded = load_text(&Sources::default(), Some(text.to_owned()));
        loaded.unwrap_or_else(|e| panic!("{e}")).config
    }

    #[test]
    fn changed_keys_are_listed_with_their_class() {
        for (old, new, changes) in [
            ("", "", "nothing"),
            ("", "workers: 2", "workers (restart)"),
            (
                "log: {level: info}",
                "log: {level: debug}",
                "log.level (live)",
            ),
            (
                "spans: {routes: [/a]}",
                "spans: {routes: [/a, /b]}\ntimeouts: {connect: 1s}",
                "spans.routes (new connections), timeouts.connect (new connections)",
            ),
            (
                "resource: {a: '1'}",
                "resource: {b: '1'}",
                "resource.a (restart), resource.b (restart)",
            ),
            (
                "reporters: [{otlp: {headers: {authorization: one}}}]\nsampling: constant",
                "reporters: [{otlp: {headers: {authorization: two}}}]\nsampling: constant",
                "reporters (live)",
            ),
        ] {
            let found = diff(&config(old), &config(new));
            assert_eq!(found.to_string(), changes);
            assert_eq!(found.is_empty(), changes == "nothing", "{found}");
        }
        let found = diff(&config(""), &config("workers: 2\nlog: {level: debug}"));
        let waiting: Vec<_> = found.needs_restart().map(|c| c.path.as_str()).collect();
        assert_eq!(waiting, ["workers"]);
    }
}
