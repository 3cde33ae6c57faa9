//! The configuration as written: a tree that still knows where every value came from.
//!
//! File, environment and flags each become such a tree; they are laid over one another before anything is decoded, so
//! a problem found later can name the line, variable or flag to change.

use std::fmt;

/// One value with its origin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Where the value was written.
    pub(crate) origin: Origin,
    /// The value.
    pub(crate) kind: Kind,
}

/// The shape of a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Nothing written, `~` or `null`.
    Null,
    /// Was wrong, has been reported, and is passed over so that the rest can be checked.
    Removed,
    /// Any scalar. Its type is decided by the setting that reads it.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in written order, keys unique.
    Map(Vec<Entry>),
}

/// A scalar as text.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Scalar {
    /// The text after unescaping and substitution.
    pub(crate) text: String,
    /// True for quoted and block text, which is never read as a number or truth value.
    pub(crate) quoted: bool,
    /// The text before `${NAME}` was replaced; `None` when nothing was. What was replaced may be a secret.
    pub(crate) template: Option<String>,
}

/// One `key: value` of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: String,
    /// Where the key was written.
    pub(crate) key_origin: Origin,
    /// The value.
    pub(crate) value: Node,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In the configuration file.
    File(Place),
    /// In this environment variable.
    Env(String),
    /// In this flag, with its dashes.
    Flag(&'static str),
    /// Nowhere: it follows from other settings, for the reason given.
    Derived(&'static str),
}

/// A place in a file: first line and first column are 1, columns and length count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// Line.
    pub(crate) line: usize,
    /// Column.
    pub(crate) column: usize,
    /// Characters to underline; 0 when unknown.
    pub(crate) len: usize,
}

/// The way from the root of the tree to a value, printed as `reporters[1].otlp.endpoint`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub(crate) struct Path(pub(crate) Vec<Step>);

/// One step of a [`Path`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

impl Node {
    /// An empty mapping.
    pub(crate) fn empty(origin: Origin) -> Self {
        Self {
            origin,
            kind: Kind::Map(Vec::new()),
        }
    }

    /// A scalar that has no quotes, so that its setting decides the type.
    pub(crate) fn plain(origin: Origin, text: impl Into<String>) -> Self {
        Self {
            origin,
            kind: Kind::Scalar(Scalar {
                text: text.into(),
                ..Scalar::default()
            }),
        }
    }

    /// The value at `path`.
    pub(crate) fn at(&self, path: &Path) -> Option<&Node> {
        path.0.iter().try_fold(self, |node, step| node.child(step))
    }

    /// Where a reader would look for the value at `path`: its text, or the key above it when it spans lines.
    pub(crate) fn origin_of(&self, path: &Path) -> Option<&Origin> {
        let node = self.at(path)?;
        let (last, before) = path.0.split_last()?;
        if matches!(node.kind, Kind::Map(_) | Kind::List(_))
            && let Step::Key(key) = last
        {
            let parent = self.at(&Path(before.to_vec()))?;
            return parent.entry(key).map(|entry| &entry.key_origin);
        }
        Some(&node.origin)
    }

    /// The value under a key, when this is a mapping that has it.
    pub(crate) fn key(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry of a key, when this is a mapping that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        let Kind::Map(entries) = &self.kind else {
            return None;
        };
        entries.iter().find(|entry| entry.key == key)
    }

    /// The scalar text, when this is a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// The elements, when this is a list.
    pub(crate) fn list(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    fn child(&self, step: &Step) -> Option<&Node> {
        match step {
            Step::Key(key) => self.key(key),
            Step::Index(index) => self.list().get(*index),
        }
    }

    /// Puts `value` at `path`, making the mappings and list elements on the way.
    ///
    /// A list grows by one element at most: an index further out is taken as the next one. What stood at `path` is
    /// replaced.
    pub(crate) fn set(&mut self, path: &[Step], value: Node) {
        let Some((step, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        let origin = value.origin.clone();
        match step {
            Step::Key(key) => {
                if !matches!(self.kind, Kind::Map(_)) {
                    *self = Node::empty(origin.clone());
                }
                if let Kind::Map(entries) = &mut self.kind {
                    let index = entries.iter().position(|e| e.key == *key);
                    let index = index.unwrap_or_else(|| {
                        entries.push(Entry {
                            key: key.clone(),
                            key_origin: origin.clone(),
                            value: Node {
                                origin,
                                kind: Kind::Null,
                            },
                        });
                        entries.len() - 1
                    });
                    if let Some(entry) = entries.get_mut(index) {
                        entry.value.set(rest, value);
                    }
                }
            }
            Step::Index(index) => {
                if !matches!(self.kind, Kind::List(_)) {
                    self.kind = Kind::List(Vec::new());
                    self.origin = origin.clone();
                }
                if let Kind::List(items) = &mut self.kind {
                    let index = (*index).min(items.len());
                    if index == items.len() {
                        items.push(Node {
                            origin,
                            kind: Kind::Null,
                        });
                    }
                    if let Some(item) = items.get_mut(index) {
                        item.set(rest, value);
                    }
                }
            }
        }
    }

    /// The value at `path`, to change it.
    pub(crate) fn at_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        let Some((step, rest)) = path.split_first() else {
            return Some(self);
        };
        let child = match (&mut self.kind, step) {
            (Kind::Map(entries), Step::Key(key)) => {
                &mut entries.iter_mut().find(|e| e.key == *key)?.value
            }
            (Kind::List(items), Step::Index(index)) => items.get_mut(*index)?,
            _ => return None,
        };
        child.at_mut(rest)
    }

    /// What a reader would call this value: `the text "abc"`, `the number 5`, `a list`.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::Null | Kind::Removed => "nothing".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
            Kind::Scalar(scalar) => {
                let text = scalar.template.as_ref().unwrap_or(&scalar.text);
                let text = shorten(text);
                if scalar.quoted || scalar.template.is_some() {
                    format!("the text {text:?}")
                } else if text == "true" || text == "false" {
                    format!("`{text}`")
                } else if text.parse::<f64>().is_ok() {
                    format!("the number {text}")
                } else {
                    format!("the text {text:?}")
                }
            }
        }
    }
}

/// The text, cut after 60 characters.
pub(crate) fn shorten(text: &str) -> String {
    if text.chars().count() <= 60 {
        return text.to_owned();
    }
    text.chars().take(57).chain("...".chars()).collect()
}

impl Path {
    /// Reads `reporters[1].otlp.endpoint`. Anything is a path; keys with dots cannot be written this way.
    pub(crate) fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        for part in text.split('.').filter(|part| !part.is_empty()) {
            let mut pieces = part.split('[');
            let key = pieces.next().unwrap_or_default();
            if !key.is_empty() {
                steps.push(Step::Key(key.to_owned()));
            }
            for piece in pieces {
                if let Ok(index) = piece.trim_end_matches(']').parse() {
                    steps.push(Step::Index(index));
                }
            }
        }
        Self(steps)
    }

    /// This path and one more key.
    pub(crate) fn join(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    /// This path and one more list index.
    pub(crate) fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(n) => write!(f, "[{n}]")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(place) => write!(f, "file, line {}", place.line),
            Self::Env(name) => write!(f, "environment, {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Derived(why) => write!(f, "derived, {why}"),
        }
    }
}
