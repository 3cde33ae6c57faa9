//! A [`Node`] tree to typed settings, reporting every mistake instead of the first.
//!
//! Deserialisation stops at the first mistake by its nature. So the mistaken value is noted, passed over (its default
//! stands in) and the tree decoded again, until nothing is wrong. Trees are small; a file with five mistakes costs six
//! passes. Mistakes that only follow from a value passed over are not reported.

use std::collections::HashSet;

use serde::de::DeserializeOwned;

use crate::config::error::Problem;
use crate::config::nearest::nearest;
use crate::config::nearest::one_of;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Origin;
use crate::config::node::Path;
use crate::config::node::Scalar;
use crate::config::reader::Decoder;
use crate::config::reader::What;

/// More mistakes than this are not looked for.
const MAX_PROBLEMS: usize = 100;

/// What could be decoded, and what could not.
pub(crate) struct Decoded<T> {
    /// The settings, with defaults where a value was passed over. `None` when not even that worked.
    pub(crate) value: Option<T>,
    /// The mistakes, in the order of the file where they have one.
    pub(crate) problems: Vec<Problem>,
    /// The tree with mistaken values marked [`Kind::Removed`].
    pub(crate) tree: Node,
}

/// Decodes `tree`, passing over what is wrong.
pub(crate) fn decode<T: DeserializeOwned>(mut tree: Node) -> Decoded<T> {
    let mut problems = Vec::new();
    let mut rounds = HashSet::new();
    loop {
        let error = match T::deserialize(Decoder { node: &tree }) {
            Ok(value) => {
                problems.sort_by_key(Problem::order);
                return Decoded {
                    value: Some(value),
                    problems,
                    tree,
                };
            }
            Err(error) => error,
        };
        let path = Path(error.path.into_iter().rev().collect());
        if let Some(problem) = describe(&tree, &path, error.what, error.at) {
            problems.push(problem);
        }
        let enough = problems.len() >= MAX_PROBLEMS;
        let removed = tree.at_mut(&path.0).map(|node| node.kind = Kind::Removed);
        if path.0.is_empty() || removed.is_none() || !rounds.insert(path) || enough {
            problems.sort_by_key(Problem::order);
            return Decoded {
                value: None,
                problems,
                tree,
            };
        }
    }
}

fn describe(tree: &Node, path: &Path, what: What, at: Option<Origin>) -> Option<Problem> {
    let node = tree.at(path)?;
    let mut problem = Problem {
        message: String::new(),
        path: path.clone(),
        origin: at.or_else(|| tree.origin_of(path).cloned()),
        help: None,
    };
    match what {
        What::Damaged => return None,
        What::UnknownKey { key, expected } => {
            let parent = Path(path.0.iter().rev().skip(1).rev().cloned().collect());
            problem.message = if parent.0.is_empty() {
                format!("unknown key `{key}`")
            } else {
                format!("unknown key `{key}` in `{parent}`")
            };
            problem.help = Some(suggestion(&key, expected));
        }
        What::UnknownChoice { word, expected } => {
            problem.message = format!("`{word}` is not one of {}", one_of(expected));
            problem.help = nearest(&word, expected.iter().copied())
                .map(|near| format!("did you mean `{near}`?"));
        }
        What::Missing(key) => {
            let entry = node.entry(key);
            if entry.is_some_and(|e| e.value.kind == Kind::Removed) {
                return None;
            }
            problem.message = format!("`{key}` is missing");
        }
        What::Value { message, help } => {
            problem.message = hide(node, message);
            problem.help = help;
        }
    }
    Some(problem)
}

fn suggestion(key: &str, expected: &[&'static str]) -> String {
    if let Some(near) = nearest(key, expected.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    match expected {
        [] => "this mapping takes no keys".to_owned(),
        keys => format!("known here: {}", keys.join(", ")),
    }
}

/// A value that came out of `${NAME}` may be a secret: messages show the reference instead.
fn hide(node: &Node, message: String) -> String {
    match &node.kind {
        Kind::Scalar(Scalar {
            text,
            template: Some(template),
            ..
        }) if !text.is_empty() => message.replace(text.as_str(), template),
        _ => message,
    }
}

#[cfg(test)]
mod tests;
