//! `OTEL_*` and `JAEGER_*`: the variables that programs in this field are configured with.
//!
//! What a variable says goes into the tree below `PILLION_*` and flags, above the file. Where variables of both families
//! speak of the same thing, `OTEL_*` wins and one warning names the losers. Empty means unset. A bad value is a warning
//! and counts as unset, as the OpenTelemetry specification asks; these variables may be meant for somebody else too.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use crate::config::env::Assignment;
use crate::config::error::Problem;
use crate::config::jaeger_env;
use crate::config::kubernetes_env;
use crate::config::node::Entry;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Origin;
use crate::config::node::Path;
use crate::config::otel_env;

/// Applies the variables to the tree and returns what is wrong with them.
pub(crate) fn apply(tree: &mut Node, env: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut standard = Standard {
        env,
        tree,
        warnings: Vec::new(),
        claims: Vec::new(),
        losers: Vec::new(),
    };
    otel_env::apply(&mut standard);
    jaeger_env::apply(&mut standard);
    kubernetes_env::apply(&mut standard);
    standard.report_losers();
    standard.warnings
}

/// What a variable is about; two families must not mix within one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Enabled,
    Service,
    Resource,
    Propagation,
    Sampling,
    Reporters,
}

/// The variables on their way into the tree.
pub(super) struct Standard<'a> {
    env: &'a BTreeMap<String, String>,
    tree: &'a mut Node,
    warnings: Vec<Problem>,
    /// Who spoke of a subject first: `OTEL` or `JAEGER`, and the variable.
    claims: Vec<(Subject, String)>,
    losers: Vec<(String, String)>,
}

impl<'a> Standard<'a> {
    /// The value of a variable, trimmed; `None` when unset or empty.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        let text = self.env.get(name)?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// True when something is set under this key of the mapping at `path`.
    pub(super) fn has(&self, path: &str, key: &str) -> bool {
        let node = self.tree.at(&Path::parse(path).join(key));
        node.is_some_and(|node| node.kind != Kind::Null)
    }

    /// The value as a number or whatever else; a bad one is a warning.
    pub(super) fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(_) => {
                self.bad(name, format!("expected {expected}, found {text:?}"));
                None
            }
        }
    }

    /// A bad value that counts as unset.
    pub(super) fn bad(&mut self, name: &str, why: impl Display) {
        self.warn(name, format!("{name} is ignored: {why}"));
    }

    /// Anything else worth saying about a variable.
    pub(super) fn warn(&mut self, name: &str, message: String) {
        self.warnings.push(Problem {
            message,
            path: Path::default(),
            origin: Some(Origin::Env(name.to_owned())),
            help: None,
        });
    }

    /// Reserves a subject for the family of `name`. False when the other family has it already.
    pub(super) fn claim(&mut self, subject: Subject, name: &str) -> bool {
        let family = |name: &str| name.split('_').next().map(str::to_owned);
        let holder = self.claims.iter().find(|(s, _)| *s == subject);
        match holder {
            Some((_, other)) if family(other) != family(name) => {
                self.losers.push((other.clone(), name.to_owned()));
                false
            }
            Some(_) => true,
            None => {
                self.claims.push((subject, name.to_owned()));
                true
            }
        }
    }

    /// Sets a key to a text from a variable.
    pub(super) fn set(&mut self, path: &str, name: &str, text: impl Into<String>) {
        Assignment::plain(path, Origin::Env(name.to_owned()), text).apply(self.tree);
    }

    /// Sets a list of words.
    pub(super) fn set_words(&mut self, path: &str, name: &str, words: &[&str]) {
        let origin = Origin::Env(name.to_owned());
        let items = words.iter().map(|word| Node::plain(origin.clone(), *word));
        let value = Node {
            kind: Kind::List(items.collect()),
            origin,
        };
        let path = Path::parse(path);
        Assignment { path, value }.apply(self.tree);
    }

    /// Sets one key of a mapping whose keys are the user's, dots and all.
    pub(super) fn set_entry(&mut self, path: &str, key: &str, name: &str, text: &str) {
        let value = Node::plain(Origin::Env(name.to_owned()), text);
        let path = Path::parse(path).join(key);
        Assignment { path, value }.apply(self.tree);
    }

    /// Makes sure that the choice at `path` is made, keeping what is configured below it already.
    pub(super) fn choose(&mut self, path: &str, name: &str) {
        let path = Path::parse(path);
        let chosen = self.tree.at(&path).map(|node| &node.kind);
        if !matches!(chosen, Some(Kind::Map(_))) {
            let value = Node::empty(Origin::Env(name.to_owned()));
            Assignment { path, value }.apply(self.tree);
        }
    }

    /// Leaves exactly the reporters that the environment names, each given as kind and variable. Those of the file that
    /// are of such a kind stay as they are.
    pub(super) fn set_reporters(&mut self, kinds: &[(&'static str, &str)], name: &str) {
        let old = self
            .tree
            .key("reporters")
            .map(Node::list)
            .unwrap_or_default();
        let mut items = Vec::new();
        for (kind, name) in kinds {
            let before = items.len();
            items.extend(old.iter().filter(|node| is_kind(node, kind)).cloned());
            if items.len() == before {
                items.push(reporter(kind, name));
            }
        }
        let value = Node {
            origin: Origin::Env(name.to_owned()),
            kind: Kind::List(items),
        };
        self.tree.set(&Path::parse("reporters").0, value);
    }

    /// Adds a reporter of a kind unless there is one.
    pub(super) fn add_reporter(&mut self, kind: &'static str, name: &str) {
        let mut items = match self.tree.key("reporters") {
            Some(node) => node.list().to_vec(),
            None => Vec::new(),
        };
        if items.iter().any(|node| is_kind(node, kind)) {
            return;
        }
        items.push(reporter(kind, name));
        let value = Node {
            origin: Origin::Env(name.to_owned()),
            kind: Kind::List(items),
        };
        self.tree.set(&Path::parse("reporters").0, value);
    }

    /// Paths of all reporters of these kinds, such as `reporters[0].otlp`; of every kind when none is named.
    pub(super) fn reporters(&self, kinds: &[&str]) -> Vec<String> {
        let items = self
            .tree
            .key("reporters")
            .map(Node::list)
            .unwrap_or_default();
        items
            .iter()
            .enumerate()
            .filter_map(|(index, node)| Some((index, kind_of(node)?)))
            .filter(|(_, kind)| kinds.is_empty() || kinds.contains(kind))
            .map(|(index, kind)| format!("reporters[{index}].{kind}"))
            .collect()
    }

    /// Sets one key of every reporter of these kinds; says so when there is none.
    pub(super) fn set_in_reporters(&mut self, kinds: &[&str], key: &str, name: &str, text: &str) {
        let reporters = self.reporters(kinds);
        if reporters.is_empty() && !kinds.is_empty() {
            let kinds = crate::config::nearest::one_of(kinds);
            self.warn(
                name,
                format!("{name} has no effect: there is no reporter {kinds}"),
            );
        }
        for reporter in reporters {
            self.set(&format!("{reporter}.{key}"), name, text);
        }
    }

    fn report_losers(&mut self) {
        let Some((winner, loser)) = self.losers.first().cloned() else {
            return;
        };
        let mut names: Vec<&str> = self.losers.iter().map(|(_, l)| l.as_str()).collect();
        names.dedup();
        let message = format!(
            "{} ignored: OTEL_* variables such as {winner} say the same and win",
            match names.as_slice() {
                [one] => format!("{one} is"),
                many => format!("{} are", many.join(", ")),
            }
        );
        self.warn(&loser, message);
    }
}

fn kind_of(node: &Node) -> Option<&str> {
    match &node.kind {
        Kind::Map(entries) => entries.first().map(|entry| entry.key.as_str()),
        _ => node.text(),
    }
}

fn is_kind(node: &Node, kind: &str) -> bool {
    kind_of(node) == Some(kind)
}

fn reporter(kind: &str, name: &str) -> Node {
    let origin = Origin::Env(name.to_owned());
    let entry = Entry {
        key: kind.to_owned(),
        key_origin: origin.clone(),
        value: Node::empty(origin.clone()),
    };
    Node {
        origin,
        kind: Kind::Map(vec![entry]),
    }
}

/// `k=v,k=v`; `None` when a part has no `=` or no key. Values are handed over as written.
pub(super) fn pairs(text: &str) -> Option<Vec<(&str, &str)>> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (key, value) = part.split_once('=')?;
            let key = key.trim();
            (!key.is_empty()).then_some((key, value.trim()))
        })
        .collect()
}

/// Percent-decoding; `None` when the bytes are no UTF-8 or a `%` stands alone.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    parts.next();
    let escapes = parts.all(|part| {
        let hex = part.get(..2);
        hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    let decoded = percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .ok()?;
    escapes.then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests;
