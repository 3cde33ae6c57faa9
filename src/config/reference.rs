//! Every key with its documentation and default, as a configuration file: `config/full.yaml` and `schema --yaml`.
//!
//! Written from the schema and the defaults, so it cannot go stale. What is absent by default (TLS, reporters, routes,
//! the other samplers) follows as commented-out lines.

use serde_json::Value;

use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::print::flow;
use crate::config::print::quoted;
use crate::config::print::snapshot;
use crate::config::schema::Schema;
use crate::config::schema::Shape;
use crate::config::tree::Config;

const WIDTH: usize = 100;
/// Nesting beyond this is left out; nothing is nested so deep.
const MAX_DEPTH: usize = 8;

/// The reference as a file that loads to the defaults.
pub fn reference() -> String {
    let mut writer = Writer {
        schema: Schema::get(),
        out: "\
# yaml-language-server: $schema=schema.json
#
# Every setting with its meaning and its default. Loading this file changes nothing; copy what you need.
# Lines behind `# ` show what can be written where nothing is set by default.
"
        .to_owned(),
    };
    if let Kind::Map(entries) = snapshot(&Config::default()).kind {
        for entry in &entries {
            writer.out.push('\n');
            if let Some(schema) = writer.schema.property(writer.schema.root(), &entry.key) {
                writer.key(&entry.key, schema, Some(&entry.value), Place::default());
            }
        }
    }
    writer.out
}

struct Writer {
    schema: &'static Schema,
    out: String,
}

/// Where a line goes: its indentation and whether it is commented out.
#[derive(Clone, Copy, Default)]
struct Place {
    indent: usize,
    /// The column of the comment sign, when the line is commented out.
    off: Option<usize>,
    depth: usize,
}

impl Place {
    fn inside(self) -> Self {
        Self {
            indent: self.indent + 2,
            depth: self.depth + 1,
            ..self
        }
    }

    fn commented(self) -> Self {
        Self {
            off: Some(self.off.unwrap_or(self.indent)),
            ..self
        }
    }

    /// What stands before the text of a line.
    fn start(self) -> String {
        match self.off {
            None => " ".repeat(self.indent),
            Some(column) => format!(
                "{}# {}",
                " ".repeat(column),
                " ".repeat(self.indent.saturating_sub(column))
            ),
        }
    }
}

impl Writer {
    fn key(&mut self, key: &str, schema: &'static Value, value: Option<&Node>, place: Place) {
        self.documentation(schema, place);
        let shape = self.schema.shape_of(schema);
        let nested = match value.map(|node| &node.kind) {
            Some(Kind::Map(entries)) => {
                matches!(shape, Shape::Keys | Shape::Choice) && !entries.is_empty()
            }
            Some(_) => false,
            None => shape == Shape::Keys,
        };
        if !nested {
            let text = match value {
                Some(node) => with_entries(node),
                None => self
                    .default_text(schema)
                    .unwrap_or_else(|| "...".to_owned()),
            };
            self.line(place, &format!("{key}: {text}"));
            self.alternatives(key, schema, shape, place);
            return;
        }
        self.line(place, &format!("{key}:"));
        if shape == Shape::Choice {
            self.choices(schema, value, place.inside());
        } else {
            self.children(schema, value, place.inside());
        }
    }

    fn children(&mut self, schema: &'static Value, value: Option<&Node>, place: Place) {
        if place.depth > MAX_DEPTH {
            return;
        }
        if let Some(Kind::Map(entries)) = value.map(|node| &node.kind) {
            for entry in entries {
                if let Some(schema) = self.schema.property(schema, &entry.key) {
                    self.key(&entry.key, schema, Some(&entry.value), place);
                }
            }
            return;
        }
        for (key, schema) in self.schema.children(schema) {
            self.key(&key, schema, None, place);
        }
    }

    /// The choice that is made, and the others commented out.
    fn choices(&mut self, schema: &'static Value, value: Option<&Node>, place: Place) {
        for (key, alternative) in self.schema.children(schema) {
            let chosen = value.and_then(|node| node.key(&key));
            let place = if chosen.is_some() {
                place
            } else {
                place.commented()
            };
            self.documentation(self.schema.alternative(schema, &key), place);
            self.line(place, &format!("{key}:"));
            self.children(alternative, chosen, place.inside());
        }
    }

    /// What could stand where nothing stands: keys of an absent part, an element of an empty list.
    fn alternatives(&mut self, key: &str, schema: &'static Value, shape: Shape, place: Place) {
        let place = place.commented();
        match shape {
            Shape::Keys => {
                self.line(place, &format!("{key}:"));
                self.children(schema, None, place.inside());
            }
            Shape::List => {
                let Some(items) = self.schema.items(schema) else {
                    return;
                };
                let inside = place.inside();
                match self.schema.shape_of(items) {
                    Shape::Keys => {
                        self.line(place, &format!("{key}:"));
                        let mut first = true;
                        for (key, schema) in self.schema.children(items) {
                            self.element(&key, schema, first, inside);
                            first = false;
                        }
                    }
                    Shape::Choice => {
                        self.line(place, &format!("{key}:"));
                        for (key, schema) in self.schema.children(items) {
                            self.documentation(self.schema.alternative(items, &key), inside);
                            self.line(inside, &format!("- {key}:"));
                            self.children(schema, None, inside.inside().inside());
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// One key of a list element that is a mapping; the first carries the dash.
    fn element(&mut self, key: &str, schema: &'static Value, first: bool, place: Place) {
        if !first {
            return self.key(key, schema, None, place.inside());
        }
        self.documentation(schema, place);
        let text = self
            .default_text(schema)
            .unwrap_or_else(|| "...".to_owned());
        self.line(place, &format!("- {key}: {text}"));
    }

    fn default_text(&self, schema: &Value) -> Option<String> {
        schema.get("default").map(json)
    }

    fn documentation(&mut self, schema: &Value, place: Place) {
        let own = schema.get("description");
        let text = own.or_else(|| self.schema.inner(schema).get("description"));
        let Some(text) = text.and_then(Value::as_str) else {
            return;
        };
        let start = place.start();
        for paragraph in text.split("\n\n") {
            let mut line = String::new();
            for word in paragraph.split_whitespace() {
                if !line.is_empty() && start.len() + 3 + line.len() + word.len() > WIDTH {
                    self.out.push_str(&format!("{start}# {line}\n"));
                    line.clear();
                }
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            self.out.push_str(&format!("{start}# {line}\n"));
        }
    }

    fn line(&mut self, place: Place, text: &str) {
        self.out.push_str(&format!("{}{text}\n", place.start()));
    }
}

/// A value in one line, a mapping with what is in it.
fn with_entries(node: &Node) -> String {
    let Kind::Map(entries) = &node.kind else {
        return flow(node);
    };
    let entries = entries.iter();
    let entries = entries.map(|entry| format!("{}: {}", quoted(&entry.key), flow(&entry.value)));
    format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
}

/// A default of the schema as YAML in one line.
fn json(value: &Value) -> String {
    match value {
        Value::String(text) if text.parse::<f64>().is_ok() => value.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(json).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(entries) => {
            let entry =
                |(key, value): (&String, &Value)| format!("{}: {}", quoted(key), json(value));
            let entries: Vec<String> = entries.iter().map(entry).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}
