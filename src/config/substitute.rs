//! `${NAME}` and `${NAME:-default}` inside scalars.
//!
//! Replaced after parsing, so a value can never add keys, lines or comments. `$$` writes one dollar sign; a dollar sign
//! before anything but `{` stays as it is.

use std::collections::BTreeMap;

use crate::config::error::Problem;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Path;

/// What is wrong with a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReferenceError {
    /// No such variable and no default.
    #[error("environment variable {0} is not set")]
    Undefined(String),
    /// `${` without `}`.
    #[error("`${{` without a closing brace")]
    Open,
    /// Not a variable name.
    #[error("{0:?} is not the name of an environment variable")]
    Name(String),
}

/// Replaces the references in every scalar of the tree. A scalar with a bad reference is passed over from then on.
pub(crate) fn substitute(tree: &mut Node, env: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    walk(tree, &Path::default(), env, &mut problems);
    problems
}

fn walk(node: &mut Node, path: &Path, env: &BTreeMap<String, String>, problems: &mut Vec<Problem>) {
    match &mut node.kind {
        Kind::Null | Kind::Removed => {}
        Kind::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, &path.index(index), env, problems);
            }
        }
        Kind::Map(entries) => {
            for entry in entries {
                walk(&mut entry.value, &path.join(&entry.key), env, problems);
            }
        }
        Kind::Scalar(scalar) => {
            if !scalar.text.contains('$') {
                return;
            }
            match expand(&scalar.text, env) {
                Ok(text) if text == scalar.text => {}
                Ok(text) if text.is_empty() && !scalar.quoted => node.kind = Kind::Null,
                Ok(text) => scalar.template = Some(std::mem::replace(&mut scalar.text, text)),
                Err(error) => {
                    problems.push(Problem {
                        path: path.clone(),
                        origin: Some(node.origin.clone()),
                        help: error.help(),
                        message: error.to_string(),
                    });
                    node.kind = Kind::Removed;
                }
            }
        }
    }
}

impl ReferenceError {
    fn help(&self) -> Option<String> {
        match self {
            Self::Undefined(name) => {
                Some(format!("write ${{{name}:-default}} if it may be missing"))
            }
            _ => Some("write $$ for a dollar sign".to_owned()),
        }
    }
}

fn expand(text: &str, env: &BTreeMap<String, String>) -> Result<String, ReferenceError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let Some(after) = after.strip_prefix('{') else {
            out.push('$');
            rest = after;
            continue;
        };
        let (inner, after) = after.split_once('}').ok_or(ReferenceError::Open)?;
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        if !is_name(name) {
            return Err(ReferenceError::Name(name.to_owned()));
        }
        match (env.get(name).filter(|v| !v.is_empty()), default) {
            (Some(value), _) => out.push_str(value),
            (None, Some(default)) => out.push_str(default),
            // Set but empty: the user asked for nothing.
            (None, None) if env.contains_key(name) => {}
            (None, None) => return Err(ReferenceError::Undefined(name.to_owned())),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> BTreeMap<String, String> {
        [
            ("HOST", "jaeger"),
            ("EMPTY", ""),
            ("SNEAKY", "x\nadmin: {}"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
    }

    #[test]
    fn references_are_replaced() {
        for (text, expanded) in [
            ("http://${HOST}:4318", "http://jaeger:4318"),
            ("${HOST}${HOST}", "jaegerjaeger"),
            ("${NONE:-localhost}", "localhost"),
            ("${EMPTY:-localhost}", "localhost"),
            ("${NONE:-}", ""),
            ("a${EMPTY}b", "ab"),
            ("$$HOST $${HOST}", "$HOST ${HOST}"),
            ("5$ and $x", "5$ and $x"),
            ("${SNEAKY}", "x\nadmin: {}"),
        ] {
            assert_eq!(expand(text, &env()).unwrap(), expanded, "{text}");
        }
    }

    #[test]
    fn bad_references_are_refused() {
        for (text, why) in [
            ("${NONE}", "environment variable NONE is not set"),
            ("${HOST", "`${` without a closing brace"),
            ("${}", "\"\" is not the name of an environment variable"),
            ("${1A}", "\"1A\" is not the name of an environment variable"),
        ] {
            assert_eq!(expand(text, &env()).unwrap_err().to_string(), why);
        }
    }
}
