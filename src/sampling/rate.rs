//! The two numbers of sampling, parsed into types that cannot be wrong: a probability and traces per second.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;

/// A probability: a number from 0 to 1.
#[derive(Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Probability(f64);

/// A rate in traces per second: finite and not negative.
#[derive(Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct TracesPerSecond(f64);

/// A number outside its range.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{value} is not {expected}")]
pub struct RangeError {
    value: f64,
    expected: &'static str,
}

impl Probability {
    /// Never.
    pub const ZERO: Self = Self(0.0);
    /// Always.
    pub const ONE: Self = Self(1.0);
    /// What Jaeger's clients use until a strategy has been fetched: 0.001.
    pub const INITIAL: Self = Self(0.001);

    /// Checks the range.
    ///
    /// # Errors
    /// Below 0, above 1, or not a number.
    pub fn new(value: f64) -> Result<Self, RangeError> {
        if (0.0..=1.0).contains(&value) {
            return Ok(Self(value));
        }
        Err(RangeError {
            value,
            expected: "a probability from 0 to 1",
        })
    }

    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }
}

impl TracesPerSecond {
    /// None at all.
    pub const ZERO: Self = Self(0.0);
    /// One a second.
    pub const ONE: Self = Self(1.0);
    /// Ten a second: plenty for a person, little for a collector.
    pub const TEN: Self = Self(10.0);

    /// Checks the range.
    ///
    /// # Errors
    /// Negative, infinite, or not a number.
    pub fn new(value: f64) -> Result<Self, RangeError> {
        if value >= 0.0 && value.is_finite() {
            return Ok(Self(value));
        }
        Err(RangeError {
            value,
            expected: "a number of traces per second (0 or more)",
        })
    }

    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }

    /// True when nothing ever passes.
    pub fn is_zero(self) -> bool {
        self.0 == 0.0
    }
}

macro_rules! checked_number {
    ($type:ident, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

checked_number!(Probability, {
    "type": "number", "minimum": 0, "maximum": 1, "description": "A probability from 0 to 1."
});
checked_number!(TracesPerSecond, {
    "type": "number", "minimum": 0, "description": "Traces per second, 0 or more."
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_the_range_are_refused() {
        for (value, why) in [
            (-0.1, "negative"),
            (1.000_001, "above one"),
            (f64::NAN, "not a number"),
            (f64::INFINITY, "infinite"),
        ] {
            assert!(Probability::new(value).is_err(), "{why}");
            assert_eq!(
                TracesPerSecond::new(value).is_ok(),
                value > 1.0 && value.is_finite(),
                "{why}"
            );
        }
        let error = serde_json::from_str::<Probability>("1.5").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("1.5 is not a probability from 0 to 1"),
            "{error}"
        );
    }

    #[test]
    fn both_ends_of_the_range_are_allowed() {
        assert_eq!(Probability::new(0.0), Ok(Probability::ZERO));
        assert_eq!(Probability::new(1.0), Ok(Probability::ONE));
        assert_eq!(TracesPerSecond::new(0.0), Ok(TracesPerSecond::ZERO));
    }
}
