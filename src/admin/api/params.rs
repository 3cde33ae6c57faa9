//! Query strings, and the spellings of ids, times and durations in them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use crate::model::HumanDuration;
use crate::model::Timestamp;
use crate::model::TraceId;

/// Parameters looked at; more are ignored.
const MAX_PARAMS: usize = 64;

/// A decoded query string, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::admin) struct Params<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// A parameter that is missing or not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::admin) enum BadParam {
    /// Present, but breaks its grammar or contradicts another.
    #[error("malformed parameter {name}: {why}")]
    Malformed {
        /// As the caller wrote it.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// Nothing can be answered without it.
    #[error("parameter '{0}' is required")]
    Missing(&'static str),
}

impl BadParam {
    pub(super) fn new(name: &str, why: impl Into<String>) -> Self {
        Self::Malformed {
            name: name.to_owned(),
            why: why.into(),
        }
    }
}

impl<'a> Params<'a> {
    /// Reads `a=b&c=d` with `+` and percent encoding (WHATWG URL, `application/x-www-form-urlencoded`).
    pub(in crate::admin) fn parse(query: &'a str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .take(MAX_PARAMS)
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// The first value under this name; `None` when absent or empty.
    pub(in crate::admin) fn one(&self, name: &str) -> Option<&str> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    /// The first value under the first of these names that has one, with that name.
    pub(super) fn any<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &str)> {
        names.iter().find_map(|name| Some((*name, self.one(name)?)))
    }

    /// Every value under this name.
    pub(super) fn all<'s>(&'s self, name: &str) -> impl Iterator<Item = &'s str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_ref())
    }

    /// A number.
    pub(super) fn number(&self, names: &[&str]) -> Result<Option<u64>, BadParam> {
        self.parsed(names, |value| {
            value
                .parse()
                .map_err(|_| "not a whole number, zero or more".to_owned())
        })
    }

    /// A duration in Go's spelling (`1.5ms`, `1m30s`), as nanoseconds.
    pub(super) fn duration(&self, names: &[&str]) -> Result<Option<u64>, BadParam> {
        self.parsed(names, |value| {
            let duration: HumanDuration = value.parse().map_err(|e| format!("{e}"))?;
            u64::try_from(duration.0.as_nanos()).map_err(|_| "too long".to_owned())
        })
    }

    /// A time in RFC 3339.
    pub(super) fn time(&self, names: &[&str]) -> Result<Option<Timestamp>, BadParam> {
        self.parsed(names, |value| {
            rfc3339(value).ok_or_else(|| "not a time such as 2026-01-24T12:00:00Z".to_owned())
        })
    }

    /// A number of microseconds or milliseconds since the Unix epoch.
    pub(super) fn epoch(&self, name: &str, nanos: u64) -> Result<Option<Timestamp>, BadParam> {
        let number = self.number(&[name])?;
        Ok(number.map(|number| Timestamp(number.saturating_mul(nanos))))
    }

    /// A JSON object of texts: Jaeger's spelling of several tags.
    pub(super) fn tags(
        &self,
        name: &str,
    ) -> Result<impl Iterator<Item = (String, Option<String>)>, BadParam> {
        let mut tags = BTreeMap::new();
        for json in self.all(name).filter(|json| !json.is_empty()) {
            let more: BTreeMap<String, String> =
                serde_json::from_str(json).map_err(|e| BadParam::new(name, e.to_string()))?;
            tags.extend(more);
        }
        Ok(tags.into_iter().map(|(key, value)| (key, Some(value))))
    }

    fn parsed<T>(
        &self,
        names: &[&str],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, BadParam> {
        match self.any(names) {
            None => Ok(None),
            Some((name, value)) => match parse(value) {
                Ok(value) => Ok(Some(value)),
                Err(why) => Err(BadParam::new(name, why)),
            },
        }
    }
}

/// A trace id in 1 to 32 hexadecimal digits, as Jaeger reads them; zero is none.
pub(super) fn trace_id(text: &str) -> Result<TraceId, BadParam> {
    TraceId::from_hex(text.as_bytes())
        .ok_or_else(|| BadParam::new("trace_id", "not 1 to 32 hexadecimal digits, not all zero"))
}

/// Decodes one path segment.
pub(super) fn segment(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

/// Reads `2026-01-24T12:00:00.123456789+01:00` (RFC 3339); `None` when malformed or before 1970.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    let marks = [(4, b"-"), (7, b"-"), (10, b"T"), (13, b":"), (16, b":")];
    for (at, mark) in marks {
        if !text.as_bytes().get(at..=at)?.eq_ignore_ascii_case(mark) {
            return None;
        }
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    if !valid {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            rest.split_at_checked(end)?
        }
        None => ("", rest),
    };
    let offset = zone_seconds(zone)?;
    let seconds =
        days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    let nanos: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let seconds = u64::try_from(seconds).ok()?;
    seconds
        .checked_mul(1_000_000_000)?
        .checked_add(nanos)
        .map(Timestamp)
}

fn zone_seconds(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    Some(sign * (hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60))
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar, counting years from March so that leap days come last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_strings_are_decoded() {
        let params = Params::parse("a=1&b=x+y%20%C3%A9&a=2&c&=d&&e=%zz");
        assert_eq!(params.one("a"), Some("1"));
        assert_eq!(params.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(params.one("b"), Some("x y é"));
        assert_eq!(params.one("c"), None, "empty counts as absent");
        assert_eq!(params.one("e"), Some("%zz"), "bad escapes stay");
    }

    #[test]
    fn times_are_read_as_rfc_3339() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2000-02-29T12:00:00Z", 951_825_600, 0),
            ("2026-01-24T12:00:00.5Z", 1_769_256_000, 500_000_000),
            ("2026-01-24T13:00:00.000000001+01:00", 1_769_256_000, 1),
            ("2026-01-24T11:30:00-00:30", 1_769_256_000, 0),
            (
                "2026-01-24t12:00:00.1234567899z",
                1_769_256_000,
                123_456_789,
            ),
        ] {
            let expected = Timestamp(seconds * 1_000_000_000 + nanos);
            assert_eq!(rfc3339(text), Some(expected), "{text}");
        }
        for (text, why) in [
            ("", "empty"),
            ("2026-01-24", "no time"),
            ("2026-01-24T12:00:00", "no zone"),
            ("2026-13-24T12:00:00Z", "month 13"),
            ("2026-01-24T24:00:00Z", "hour 24"),
            ("2026-01-24T12:00:00.Z+", "garbage zone"),
            ("1969-12-31T23:59:59Z", "before the epoch"),
            ("2026-01-24T12:00:00+1:00", "short zone"),
            ("+026-01-24T12:00:00Z", "sign in the year"),
            ("2026-01-24T12:00:0éZ", "not ASCII"),
        ] {
            assert_eq!(rfc3339(text), None, "{why}");
        }
    }

    #[test]
    fn bad_numbers_and_durations_name_the_parameter() {
        let params = Params::parse("limit=-1&minDuration=5&tags={&max=1.5ms");
        let error = params.number(&["limit"]).unwrap_err();
        assert!(error.to_string().contains("limit"), "{error}");
        assert!(params.duration(&["minDuration"]).is_err());
        assert!(params.tags("tags").is_err());
        assert_eq!(params.duration(&["max"]), Ok(Some(1_500_000)));
        assert_eq!(params.duration(&["absent"]), Ok(None));
    }
}
