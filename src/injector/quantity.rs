//! Amounts of processor time and memory, as Kubernetes writes them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

/// What a container asks for and what it may use at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// What is set aside on the node.
    ///
    /// Unit: quantity by resource. Default: `{cpu: 10m, memory: 32Mi}`. Reload: live.
    pub requests: BTreeMap<String, String>,
    /// What may be used at most. No processor limit: throttling a proxy delays every request of the program.
    ///
    /// Unit: quantity by resource. Default: `{memory: 256Mi}`. Reload: live.
    pub limits: BTreeMap<String, String>,
}

impl Default for Resources {
    fn default() -> Self {
        let entry = |name: &str, amount: &str| (name.to_owned(), amount.to_owned());
        Self {
            requests: [entry("cpu", "10m"), entry("memory", "32Mi")].into(),
            limits: [entry("memory", "256Mi")].into(),
        }
    }
}

impl Resources {
    /// Of an annotation: JSON as in a container's `resources`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            #[serde(default)]
            requests: BTreeMap<String, String>,
            #[serde(default)]
            limits: BTreeMap<String, String>,
        }
        let Written { requests, limits } = serde_json::from_str(text).map_err(|error| {
            format!(r#"not JSON such as {{"limits":{{"memory":"128Mi"}}}}: {error}"#)
        })?;
        let resources = Self { requests, limits };
        resources.check().map(|()| resources)
    }

    /// # Errors
    /// The first amount that is none.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, amount) in self.requests.iter().chain(&self.limits) {
            if name.is_empty() || !is_quantity(amount) {
                return Err(format!(
                    "{name}: {amount:?} is no quantity such as 100m or 64Mi"
                ));
            }
        }
        Ok(())
    }
}

/// Shape: a decimal number that is not negative, then nothing, a suffix, or an exponent.
///
/// Source: Kubernetes API reference, "Quantity".
fn is_quantity(text: &str) -> bool {
    const SUFFIXES: &[&str] = &[
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let exponent = suffix.strip_prefix(['e', 'E']).map(|rest| {
        let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
    });
    digits > 0
        && number.len() - digits <= 1
        && (SUFFIXES.contains(&suffix) || exponent == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for good in [
            "0", "10m", "1.5", ".5", "64Mi", "1e3", "2E-3", "1E", "5Gi", "1.",
        ] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in [
            "", "m", "-1", "1 Mi", "64MB", "1.2.3", "1e", "1e3Mi", "ten", "1k8",
        ] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }

    #[test]
    fn an_annotation_is_read_like_a_containers_resources() {
        let read = Resources::parse(r#"{"limits":{"memory":"64Mi"}}"#).unwrap();
        assert_eq!(read.limits["memory"], "64Mi");
        assert!(
            read.requests.is_empty(),
            "nothing is added to what was asked for"
        );
        for (text, why) in [
            ("64Mi", "not JSON"),
            (r#"{"limit":{}}"#, "unknown field `limit`"),
            (r#"{"limits":{"memory":64}}"#, "expected a string"),
            (r#"{"requests":{"cpu":"-1"}}"#, "is no quantity"),
        ] {
            let error = Resources::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
