//! `${NAME}` and `${NAME:-default}` inside scalars.
//!
//! Replaced after parsing, so a value can never add keys, lines or comments. `$$` writes one dollar sign; a dollar sign
//! before anything but `{` stays as it is.

use std::collections::BTreeMap;

use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Origin;

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

/// Replaces the references in every scalar below `node`; calls `problem` for each that cannot be.
pub(crate) fn substitute(
    node: &mut Node,
    env: &BTreeMap<String, String>,
    problem: &mut dyn FnMut(&Origin, ReferenceError),
) {
    match &mut node.kind {
        Kind::Null | Kind::Removed => {}
        Kind::List(items) => {
            for item in items {
                substitute(item, env, problem);
            }
        }
        Kind::Map(entries) => {
            for entry in entries {
                substitute(&mut entry.value, env, problem);
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
                Err(error) => problem(&node.origin, error),
            }
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
        [("HOST", "jaeger"), ("EMPTY", ""), ("SNEAKY", "x\nadmin: {}")]
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
