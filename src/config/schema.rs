//! The JSON schema of the configuration, and what the loader learns from it: which keys exist, what shape a value has,
//! and how a changed key takes effect.
//!
//! The reload class comes from the word after `Reload:` in a field's documentation, so that the text people read and
//! the program's behaviour cannot part.
//!
//! The schema is made from the structs in debug builds; a release has it as the text that a debug build wrote, instead of
//! half a megabyte of code that makes it.

use std::fmt;
use std::sync::OnceLock;

use serde_json::Value;

use crate::config::node::Path;
use crate::config::node::Step;
use crate::config::tree::Config;

/// The JSON schema, indented, with a final line break.
pub fn text() -> String {
    let mut text = format!("{:#}", Schema::get().root);
    text.push('\n');
    text
}

/// When a changed key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reload {
    /// At once, for requests on open connections too.
    Live,
    /// For connections accepted from then on.
    NewConnections,
    /// After a restart only.
    Restart,
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::NewConnections => "new connections",
            Self::Restart => "restart",
        })
    }
}

/// What can be written for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Text, number or truth value.
    Scalar,
    /// A list.
    List,
    /// Keys of the user's choice.
    Map,
    /// Known keys.
    Keys,
    /// One key of several that exclude each other.
    Choice,
}

fn made() -> Value {
    let mut root = schemars::schema_for!(Config).to_value();
    if let Some(root) = root.as_object_mut() {
        root.insert("title".to_owned(), Value::from("Pillion"));
    }
    root
}

fn written() -> Value {
    serde_json::from_str(include_str!("../../config/schema.json")).unwrap_or_default()
}

/// The schema as a tree to look things up in.
#[derive(Debug)]
pub(crate) struct Schema {
    root: Value,
}

impl Schema {
    /// The one schema of this program.
    pub(crate) fn get() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| Schema {
            root: match cfg!(debug_assertions) {
                true => made(),
                false => written(),
            },
        })
    }

    /// The schema of the whole.
    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    /// The schema of a known key.
    pub(super) fn property<'a>(&'a self, schema: &'a Value, key: &str) -> Option<&'a Value> {
        let found = self.children(schema).into_iter().find(|(k, _)| k == key);
        found.map(|(_, child)| child)
    }

    /// The part of a choice that offers `key`, with the documentation of that alternative.
    pub(super) fn alternative<'a>(&'a self, schema: &'a Value, key: &str) -> &'a Value {
        let all = self.inner(schema).get("oneOf").and_then(Value::as_array);
        let offers = |one: &&Value| one.get("properties").is_some_and(|p| p.get(key).is_some());
        all.into_iter().flatten().find(offers).unwrap_or(schema)
    }

    /// The schema of a list's elements.
    pub(super) fn items<'a>(&'a self, schema: &'a Value) -> Option<&'a Value> {
        self.inner(schema).get("items")
    }

    /// What the value at a path looks like; `None` when there can be none.
    pub(crate) fn shape(&self, path: &[Step]) -> Option<Shape> {
        Some(self.shape_of(self.find(path, |_| ())?))
    }

    /// The least and the greatest number that can be written at a path.
    pub(crate) fn bounds(&self, path: &Path) -> (Option<f64>, Option<f64>) {
        let bound = |name: &str| self.inner(self.find(&path.0, |_| ())?).get(name)?.as_f64();
        (bound("minimum"), bound("maximum"))
    }

    /// The documentation of the innermost key on the way to `path` that says how a change takes effect.
    pub(crate) fn reload(&self, path: &Path) -> Reload {
        let mut class = None;
        self.find(&path.0, |schema| {
            if let Some(found) = stated(schema) {
                class = Some(found);
            }
        });
        class.unwrap_or(Reload::Restart)
    }

    /// Every path without list elements, parents before children.
    pub(crate) fn paths(&self) -> Vec<Path> {
        let mut paths = Vec::new();
        self.collect(&self.root, &Path::default(), &mut paths);
        paths
    }

    fn collect(&self, schema: &Value, path: &Path, paths: &mut Vec<Path>) {
        for (key, child) in self.children(schema) {
            let path = path.join(&key);
            if path.0.len() < 12 {
                paths.push(path.clone());
                self.collect(child, &path, paths);
            }
        }
    }

    fn find<'a>(&'a self, path: &[Step], mut visit: impl FnMut(&'a Value)) -> Option<&'a Value> {
        let mut schema = &self.root;
        for step in path {
            schema = self.child(schema, step)?;
            visit(schema);
        }
        Some(schema)
    }

    fn child<'a>(&'a self, schema: &'a Value, step: &Step) -> Option<&'a Value> {
        let inner = self.inner(schema);
        match step {
            Step::Index(_) => inner.get("items"),
            Step::Key(key) => {
                let named = self.children(schema).into_iter().find(|(k, _)| k == key);
                named
                    .map(|(_, child)| child)
                    .or_else(|| inner.get("additionalProperties").filter(|v| v.is_object()))
            }
        }
    }

    /// Known keys with their schemas: properties, or the alternatives of a choice.
    pub(super) fn children<'a>(&'a self, schema: &'a Value) -> Vec<(String, &'a Value)> {
        let inner = self.inner(schema);
        let mut found = Vec::new();
        let alternatives = inner.get("oneOf").and_then(Value::as_array);
        let alternatives = alternatives.into_iter().flatten();
        for object in std::iter::once(inner).chain(alternatives) {
            let properties = object.get("properties").and_then(Value::as_object);
            found.extend(
                properties
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| (k.clone(), v)),
            );
        }
        found
    }

    pub(super) fn shape_of(&self, schema: &Value) -> Shape {
        let inner = self.inner(schema);
        let is = |name: &str| match inner.get("type") {
            Some(Value::String(text)) => text == name,
            Some(Value::Array(names)) => names.iter().any(|n| n == name),
            _ => false,
        };
        if is("array") {
            Shape::List
        } else if inner.get("properties").is_some() {
            Shape::Keys
        } else if is("object") {
            Shape::Map
        } else if !self.children(schema).is_empty() {
            Shape::Choice
        } else {
            Shape::Scalar
        }
    }

    /// The schema behind references and behind "this or nothing".
    pub(super) fn inner<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..8 {
            let reference = schema.get("$ref").and_then(Value::as_str);
            let target = reference
                .and_then(|r| r.strip_prefix("#/$defs/"))
                .and_then(|name| self.root.get("$defs")?.get(name));
            let option = schema
                .get("anyOf")
                .and_then(Value::as_array)
                .and_then(|all| {
                    all.iter()
                        .find(|one| one.get("type").and_then(Value::as_str) != Some("null"))
                });
            match target.or(option) {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema
    }
}

fn stated(schema: &Value) -> Option<Reload> {
    let text = schema.get("description")?.as_str()?;
    let (_, after) = text.rsplit_once("Reload:")?;
    let after = after.split_whitespace().collect::<Vec<_>>().join(" ");
    [
        ("live", Reload::Live),
        ("new connections", Reload::NewConnections),
        ("restart", Reload::Restart),
    ]
    .into_iter()
    .find(|(word, _)| after.starts_with(word))
    .map(|(_, class)| class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_the_schema_that_is_made_here() {
        assert!(
            written() == made(),
            "stale: run `cargo run -- schema > config/schema.json`"
        );
    }

    #[test]
    fn shapes_and_classes_are_read_from_the_schema() {
        let schema = Schema::get();
        for (path, shape) in [
            ("app", Some(Shape::Scalar)),
            ("inbound", Some(Shape::Keys)),
            ("resource", Some(Shape::Map)),
            ("resource.anything", Some(Shape::Scalar)),
            ("reporters", Some(Shape::List)),
            ("reporters[3]", Some(Shape::Choice)),
            ("reporters[3].otlp", Some(Shape::Keys)),
            ("sampling", Some(Shape::Choice)),
            ("shutdown.drain_timeout", Some(Shape::Scalar)),
            ("nothing", None),
            ("app.below", None),
        ] {
            assert_eq!(schema.shape(&Path::parse(path).0), shape, "{path}");
        }
        for (path, class) in [
            ("log.level", Reload::Live),
            ("spans.routes[2]", Reload::NewConnections),
            ("workers", Reload::Restart),
        ] {
            assert_eq!(schema.reload(&Path::parse(path)), class, "{path}");
        }
    }

    #[test]
    fn every_key_says_how_a_change_takes_effect() {
        let schema = Schema::get();
        let mut silent = Vec::new();
        for path in schema.paths() {
            let mut said = false;
            schema.find(&path.0, |s| said |= stated(s).is_some());
            let shape = schema.shape(&path.0);
            if !said && matches!(shape, Some(Shape::Scalar | Shape::List | Shape::Map)) {
                silent.push(path.to_string());
            }
        }
        assert!(silent.is_empty(), "no `Reload:` line for {silent:?}");
    }
}
