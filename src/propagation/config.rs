//! Which formats are read, in which order, and which are written.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use crate::propagation::FORMATS;
use crate::propagation::Format;
use crate::propagation::format;

/// Which trace headers are read and written.
///
/// A format that is only read passes on byte for byte, so a peer that knows no other format sees the caller as parent
/// of what happens behind Pillion. To have it see Pillion's spans, write that format too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The formats that are read, first to last; the first with valid ids gives the parent. `b3` and `b3multi` both
    /// read either form of B3. Empty: every request starts a new trace.
    ///
    /// Unit: list of names. Default: `[tracecontext, jaeger, b3, baggage]`. Reload: live.
    pub extract: Vec<Name>,
    /// The formats that are written. All ids of a chosen format are replaced; baggage that a request carries already
    /// stays as it is and is added in the chosen forms it lacks (`baggage` for W3C's, `jaeger` for `uberctx-*`).
    /// Formats that are not chosen pass byte for byte. Empty: nothing is written.
    ///
    /// Unit: list of names. Default: `[tracecontext, jaeger, baggage]`. Reload: live.
    pub inject: Vec<Name>,
}

impl Default for Config {
    fn default() -> Self {
        let names = |names: &[&str]| {
            let known = names.iter().filter_map(|name| name.parse().ok());
            known.collect()
        };
        Self {
            extract: names(&["tracecontext", "jaeger", "b3", "baggage"]),
            inject: names(&["tracecontext", "jaeger", "baggage"]),
        }
    }
}

impl Config {
    /// Reads `OTEL_PROPAGATORS` or `JAEGER_PROPAGATION`: comma-separated names, read and written in that order. `none`
    /// stands for the empty list, `w3c` (Jaeger's word) for `tracecontext`.
    ///
    /// Names that are not known are left out and handed back, for the caller to warn about.
    pub fn from_list(list: &str) -> (Self, Vec<UnknownFormat>) {
        let mut names: Vec<Name> = Vec::new();
        let mut unknown = Vec::new();
        for word in list
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            match word.to_ascii_lowercase().as_str() {
                "none" => {}
                "w3c" => names.extend("tracecontext".parse::<Name>()),
                word => match word.parse() {
                    Ok(name) => names.push(name),
                    Err(error) => unknown.push(error),
                },
            }
        }
        let mut seen = Vec::new();
        names.retain(|name| {
            !seen.contains(name) && {
                seen.push(*name);
                true
            }
        });
        let config = Self {
            extract: names.clone(),
            inject: names,
        };
        (config, unknown)
    }
}

/// The name of a format that exists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name(&'static str);

/// A name that no format has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown propagation format {name:?}: write one of {}", known_names().join(", "))]
pub struct UnknownFormat {
    /// The name as given.
    pub name: String,
}

impl Name {
    /// The name.
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// The format of this name.
    pub(super) fn format(self) -> Option<&'static dyn Format> {
        format(self.0)
    }
}

impl FromStr for Name {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let known = format(name).map(|format| Self(format.name()));
        known.ok_or_else(|| UnknownFormat {
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Name {
    fn schema_name() -> Cow<'static, str> {
        "PropagationFormat".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "enum": known_names() })
    }
}

fn known_names() -> Vec<&'static str> {
    FORMATS.iter().map(|format| format.name()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_from_the_environment_are_read_leniently() {
        for (list, expected, n_unknown) in [
            ("tracecontext,baggage", &["tracecontext", "baggage"][..], 0),
            (" B3 , jaeger,b3,", &["b3", "jaeger"], 0),
            ("none", &[], 0),
            ("jaeger,b3,w3c", &["jaeger", "b3", "tracecontext"], 0),
            ("tracecontext,carrier-pigeon", &["tracecontext"], 1),
        ] {
            let (config, unknown) = Config::from_list(list);
            let names: Vec<_> = config.inject.iter().map(|name| name.as_str()).collect();
            assert_eq!(names, expected, "{list}");
            assert_eq!(config.extract, config.inject, "{list}");
            assert_eq!(unknown.len(), n_unknown, "{list}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = serde_json::from_str::<Config>(r#"{"inject": ["pigeon"]}"#).unwrap_err();
        assert!(
            error.to_string().contains("tracecontext, baggage, b3"),
            "{error}"
        );
        let config = Config::default();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        assert_eq!(
            config.extract.len() + config.inject.len(),
            7,
            "every default name exists"
        );
    }
}
