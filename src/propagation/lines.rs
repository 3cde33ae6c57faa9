//! Trace headers as text, for a request that goes out as text: written once, where a header map would check, hash and
//! copy each of them before.

use http::HeaderMap;
use http::HeaderName;

use crate::model::SpanContext;
use crate::propagation::Format;

/// Which of the written formats have such a form.
pub(super) struct Lined {
    formats: Vec<(&'static HeaderName, &'static dyn Format)>,
    /// What would have to be removed besides.
    others: Vec<&'static HeaderName>,
}

/// The trace headers of one request. They stand for every field of their names.
#[derive(Clone, Copy)]
pub struct Lines<'a> {
    lined: &'a Lined,
    context: &'a SpanContext,
}

impl Lined {
    /// `removed`: names that the formats do not leave on a request. `None`: one of them can only fill header maps.
    pub(super) fn of(
        formats: &[&'static dyn Format],
        removed: impl Iterator<Item = &'static HeaderName>,
    ) -> Option<Self> {
        let mut lined = Vec::new();
        for format in formats {
            lined.extend(format.line()?.map(|name| (name, *format)));
        }
        let is_other = |name: &&HeaderName| !lined.iter().any(|(known, _)| known == name);
        let others = removed.filter(is_other).collect();
        Some(Self {
            formats: lined,
            others,
        })
    }

    /// `None`: there is more to write than ids and a decision, or something to remove.
    pub(super) fn lines<'a>(
        &'a self,
        context: &'a SpanContext,
        headers: &HeaderMap,
    ) -> Option<Lines<'a>> {
        let is_short = context.baggage.is_empty() && context.trace_state.as_str().is_empty();
        let removes = || headers.keys().any(|name| self.others.contains(&name));
        (is_short && !removes()).then_some(Lines {
            lined: self,
            context,
        })
    }
}

impl<'a> Lines<'a> {
    /// Their names, in the order in which they are written.
    pub fn names(self) -> impl Iterator<Item = &'static HeaderName> + 'a {
        self.lined.formats.iter().map(|(name, _)| *name)
    }

    /// Appends the value of one of them.
    pub fn put_value(self, number: usize, out: &mut Vec<u8>) {
        if let Some((_, format)) = self.lined.formats.get(number) {
            format.put_line(self.context, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::model::Baggage;
    use crate::model::BaggageItem;
    use crate::model::SamplingState;
    use crate::model::SpanId;
    use crate::model::TraceId;
    use crate::model::TraceState;
    use crate::propagation::Config;
    use crate::propagation::FORMATS;
    use crate::propagation::Propagator;

    fn context() -> SpanContext {
        let ids = (TraceId::from_halves(1, 2), SpanId::from_u64(3));
        SpanContext::new(ids.0.unwrap(), ids.1.unwrap(), SamplingState::Accept)
    }

    #[test]
    fn a_line_is_what_its_format_injects() {
        for state in [
            SamplingState::Accept,
            SamplingState::Reject,
            SamplingState::Debug,
            SamplingState::Defer,
        ] {
            let mut context = context();
            context.state = state;
            for format in FORMATS {
                let Some(line) = format.line() else { continue };
                let mut headers = HeaderMap::new();
                format.inject(&context, &mut headers);
                let injected: Vec<_> = headers.iter().collect();
                let mut value = Vec::new();
                format.put_line(&context, &mut value);
                let value = HeaderValue::from_bytes(&value).unwrap();
                let lines: Vec<_> = line.iter().map(|name| (*name, &value)).collect();
                assert_eq!(lines, injected, "{}", format.name());
            }
        }
    }

    #[test]
    fn what_takes_more_than_lines_is_injected() {
        let plain = Propagator::new(&Config::default());
        let (config, _) = Config::from_list("w3c,b3");
        let b3 = Propagator::new(&config);
        let (config, _) = Config::from_list("w3c,datadog");
        let datadog = Propagator::new(&config);
        let with = |name: &'static str| {
            let name = HeaderName::from_static(name);
            HeaderMap::from_iter([(name, HeaderValue::from_static("1"))])
        };
        let none = HeaderMap::new();
        let short = context();
        let item = BaggageItem {
            key: "k".into(),
            value: "v".into(),
            properties: "".into(),
        };
        let laden = SpanContext {
            baggage: Baggage::from_iter([item]),
            ..context()
        };
        let stated = SpanContext {
            trace_state: TraceState(Some("a=1".into())),
            ..context()
        };
        for (propagator, context, headers, expected, why) in [
            (&plain, &short, &none, true, "nothing else"),
            (&plain, &short, &with("x-b3-traceid"), true, "not ours"),
            (&plain, &short, &with("tracestate"), false, "it goes"),
            (&plain, &laden, &none, false, "baggage"),
            (&plain, &stated, &none, false, "trace state"),
            (&b3, &short, &none, true, "b3 is a line"),
            (&b3, &short, &with("x-b3-traceid"), false, "stale"),
            (&datadog, &short, &none, false, "several headers"),
        ] {
            let lines = propagator.lines(context, headers);
            assert_eq!(lines.is_some(), expected, "{why}");
        }
    }
}
