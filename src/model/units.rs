//! Durations and sizes as people write them: `250ms`, `64KiB`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error;

/// A duration written as number and unit: `250ms`, `10s`, `1m30s`, `1h`. A bare `0` is allowed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// A number of bytes written as number and unit: `512`, `64KiB`, `1MiB`, `2MB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const DURATION_UNITS: &[(&str, u64)] = &[
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];
const SIZE_UNITS: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
    ("", 1),
];

impl HumanDuration {
    /// Whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// For settings that 0 makes no sense in.
    ///
    /// # Errors
    /// No duration, or 0.
    pub fn above_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let duration = Self::deserialize(deserializer)?;
        match duration.0.is_zero() {
            true => Err(D::Error::custom("must be longer than zero")),
            false => Ok(duration),
        }
    }
}

impl ByteSize {
    /// The size as a length in memory, saturating.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// For settings that 0 makes no sense in.
    ///
    /// # Errors
    /// No size, or 0.
    pub fn above_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let size = Self::deserialize(deserializer)?;
        match size.0 {
            0 => Err(D::Error::custom("must be more than zero")),
            _ => Ok(size),
        }
    }
}

/// Why a duration or size was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: write {example}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    example: &'static str,
}

impl FromStr for HumanDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            text: text.to_owned(),
            what: "duration",
            example: "a number with a unit, such as 250ms, 10s or 1m30s",
        };
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut nanos: f64 = 0.0;
        if rest.is_empty() {
            return Err(error());
        }
        while !rest.is_empty() {
            let (number, after) = split_number(rest).ok_or_else(error)?;
            let unit_len = after
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(after.len());
            let (unit, next) = after.split_at_checked(unit_len).ok_or_else(error)?;
            let scale = lookup(DURATION_UNITS, unit).ok_or_else(error)?;
            nanos += number * scale as f64;
            rest = next;
        }
        if nanos > 1e18 {
            return Err(error());
        }
        Ok(Self(Duration::from_nanos(nanos.round() as u64)))
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            text: text.to_owned(),
            what: "size",
            example: "a number of bytes, or one with a unit, such as 64KiB or 1MiB",
        };
        let (number, unit) = split_number(text.trim()).ok_or_else(error)?;
        let scale = lookup(SIZE_UNITS, unit.trim()).ok_or_else(error)?;
        let bytes = number * scale as f64;
        if bytes > 1e15 {
            return Err(error());
        }
        Ok(Self(bytes.round() as u64))
    }
}

fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, rest))
}

fn lookup(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, scale)| *scale)
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 {
            return f.write_str("0");
        }
        for (unit, scale) in DURATION_UNITS {
            if nanos % scale == 0 {
                return write!(f, "{}{unit}", nanos / scale);
            }
        }
        write!(f, "{nanos}ns")
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, scale) in &SIZE_UNITS[..3] {
            if self.0 != 0 && self.0.is_multiple_of(*scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! text_serde {
    ($type:ident, $pattern:literal, $expecting:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern, "description": $expecting })
            }
        }
    };
}

text_serde!(
    HumanDuration,
    "^(0|([0-9.]+(h|m|s|ms|us|µs|ns))+)$",
    "A duration: number and unit, such as 250ms, 10s, 1m30s."
);
text_serde!(
    ByteSize,
    "^[0-9.]+ ?(GiB|MiB|KiB|GB|MB|kB|KB|B)?$",
    "A size in bytes: number and optional unit, such as 64KiB."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_round_trip() {
        for (text, nanos) in [
            ("250ms", 250_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5s", 1_500_000_000),
            ("0", 0),
        ] {
            let parsed: HumanDuration = text.parse().unwrap();
            assert_eq!(parsed.0.as_nanos(), nanos, "{text}");
            assert_eq!(parsed.to_string().parse::<HumanDuration>().unwrap(), parsed);
        }
        for (text, bytes) in [("64KiB", 65536), ("512", 512), ("1 MB", 1_000_000)] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
    }

    #[test]
    fn bare_numbers_and_unknown_units_are_refused() {
        for (text, why) in [
            ("10", "no unit"),
            ("", "empty"),
            ("5 parsecs", "unit"),
            ("ms", "no number"),
        ] {
            assert!(text.parse::<HumanDuration>().is_err(), "{why}");
        }
        assert!("10 floppies".parse::<ByteSize>().is_err());
    }
}
