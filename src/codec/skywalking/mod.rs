//! SkyWalking v3: how its text ids and ours stand for each other, and the `sw8` header that carries them.
//!
//! SkyWalking knows a span by its segment's text and a number in it. Each span of ours is a segment of its own with the
//! number 0, so that neither header nor report waits for anybody: its segment id is the trace's 32 digits and the span's
//! two halves as decimal numbers, in the shape of the Java agent's, because collectors that make numbers of it know no other.
//! Foreign ids of other shapes are digested; the header that brought them is carried along, for the trace's name must leave
//! as it came. Source: apache/skywalking `docs/en/api/x-process-propagation-headers-v3.md`.

mod received;
mod segment;

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::GeneralPurposeConfig;

use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Text;
use crate::model::TraceId;

pub use received::{decode_collection, decode_json, decode_segment};
pub use segment::{encode_json, encode_segments};

/// The carried item that holds the caller's `sw8` header.
pub const SW8: &str = "sw8";

/// The carried item that holds the name of the operation that let the request in.
pub const ENDPOINT: &str = "sw8.endpoint";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What an `sw8` header says: a span of the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The caller has the trace reported.
    pub sampled: bool,
    /// The trace.
    pub trace: String,
    /// The caller's segment.
    pub segment: String,
    /// The exit span's number in that segment.
    pub span: i32,
    /// The caller's service.
    pub service: String,
    /// The instance of that service.
    pub instance: String,
    /// The operation through which the caller's segment was entered.
    pub endpoint: String,
    /// The address under which the caller knows the callee.
    pub peer: String,
}

impl Reference {
    /// Reads `{sample}-{trace}-{segment}-{span}-{service}-{instance}-{endpoint}-{peer}`; texts are base64 of UTF-8.
    /// `None`: malformed, or without ids.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let sampled = match parts.next()? {
            "1" => true,
            "0" => false,
            _ => return None,
        };
        let (trace, segment) = (decoded(parts.next()?)?, decoded(parts.next()?)?);
        let span = parts.next()?.parse().ok().filter(|span| *span >= 0)?;
        if trace.is_empty() || segment.is_empty() {
            return None;
        }
        let reference = Self {
            sampled,
            trace,
            segment,
            span,
            service: decoded(parts.next()?)?,
            instance: decoded(parts.next()?)?,
            endpoint: decoded(parts.next()?)?,
            peer: decoded(parts.next()?)?,
        };
        parts.next().is_none().then_some(reference)
    }

    /// The header.
    pub fn header(&self) -> String {
        let sampled = if self.sampled { '1' } else { '0' };
        let [trace, segment] = [&self.trace, &self.segment].map(|text| BASE64.encode(text));
        let span = self.span;
        let mut header = format!("{sampled}-{trace}-{segment}-{span}");
        for text in [&self.service, &self.instance, &self.endpoint, &self.peer] {
            header.push('-');
            BASE64.encode_string(text, &mut header);
        }
        header
    }

    /// The trace in our terms: 32 digits are its number, other texts a digest.
    pub fn trace_id(&self) -> Option<TraceId> {
        let digits = self.trace.replace('-', "");
        if digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return TraceId::from_hex(digits.as_bytes());
        }
        Some(TraceId::of_text(&self.trace))
    }

    /// The caller's span in our terms: one of ours by its number, any other a digest.
    pub fn span_id(&self) -> SpanId {
        self.own_span_id()
            .unwrap_or_else(|| SpanId::of_text(&format!("{}-{}", self.segment, self.span)))
    }

    fn own_span_id(&self) -> Option<SpanId> {
        let (trace, halves) = self.segment.split_once('.')?;
        let (high, low) = halves.split_once('.')?;
        let halves: (u32, u32) = (high.parse().ok()?, low.parse().ok()?);
        let span_id = SpanId::from_u64(u64::from(halves.0) << 32 | u64::from(halves.1))?;
        let trace_id = TraceId::from_hex(trace.as_bytes())?;
        let is_ours = self.span == 0
            && self.trace_id() == Some(trace_id)
            && self.segment == segment_text(trace_id, span_id);
        is_ours.then_some(span_id)
    }
}

/// The header that brought this context or one of its ancestors here.
pub fn carried(context: &SpanContext) -> Option<Reference> {
    Reference::parse(context.carried.get(SW8)?)
}

/// The trace as SkyWalking names it: as it came, else 32 digits.
pub fn trace_text(context: &SpanContext) -> String {
    let known = carried(context).filter(|known| known.trace_id() == Some(context.trace_id));
    known.map_or_else(|| context.trace_id.to_string(), |known| known.trace)
}

/// The segment that holds the span of these ids alone.
pub fn segment_text(trace_id: TraceId, span_id: SpanId) -> String {
    let span = span_id.to_u64();
    format!("{trace_id}.{}.{}", span >> 32, span & 0xffff_ffff)
}

/// Key and value of one `sw8-correlation` item; `None`: malformed.
pub fn correlation_item(item: &str) -> Option<(Text, Text)> {
    let (key, value) = item.split_once(':')?;
    Some((decoded(key)?.into(), decoded(value)?.into()))
}

/// `{key}:{value}` of one `sw8-correlation` item.
pub fn correlation_text(key: &str, value: &str) -> String {
    format!("{}:{}", BASE64.encode(key), BASE64.encode(value))
}

fn decoded(text: &str) -> Option<String> {
    String::from_utf8(BASE64.decode(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the Python agent 1.2.0.
    const AGENT: &str = "1-MjZhMmFlMzJlNGJmMTFmMWE0MDYwMmZjMDAwMDAwMDE=-\
        MjZhMmFjOGVlNGJmMTFmMWE0MDYwMmZjMDAwMDAwMDE=-1-c3ctZGVtbw==-aW5zdC0x-L2Ri-MTAuMC4wLjk6NTQzMg==";

    #[test]
    fn an_agents_header_is_read_and_written_byte_for_byte() {
        let reference = Reference::parse(AGENT).unwrap();
        assert_eq!(reference.segment, "26a2ac8ee4bf11f1a40602fc00000001");
        assert_eq!(
            (
                reference.span,
                reference.service.as_str(),
                reference.peer.as_str()
            ),
            (1, "sw-demo", "10.0.0.9:5432")
        );
        let trace_id = reference.trace_id().unwrap();
        assert_eq!(trace_id.to_string(), "26a2ae32e4bf11f1a40602fc00000001");
        assert_eq!(reference.header(), AGENT);
    }

    #[test]
    fn ids_of_our_own_come_back_and_others_are_told_apart() {
        let (trace_id, span_id) = (
            TraceId::from_halves(1, 2).unwrap(),
            SpanId::from_u64(3).unwrap(),
        );
        let mut reference = Reference::parse(AGENT).unwrap();
        let foreign = reference.span_id();
        reference.span = 2;
        assert_ne!(reference.span_id(), foreign, "the number counts");
        reference.trace = trace_id.to_string();
        reference.segment = segment_text(trace_id, span_id);
        assert_eq!(reference.segment, "00000000000000010000000000000002.0.3");
        reference.span = 0;
        assert_eq!(reference.span_id(), span_id);
        let own = reference.segment.clone();
        for (segment, why) in [
            (own.replace(".0.3", ".0.03"), "not as it would be written"),
            (
                own.replace(".0.3", ".0.3000000000"),
                "more than half a span",
            ),
            (own.replace(".0.3", ".0.0"), "no span is 0"),
            (own.replace(".0.3", "0000000000000003"), "no dots"),
        ] {
            reference.segment = segment;
            assert_ne!(reference.span_id(), span_id, "{why}");
        }
        reference.segment = own;
        reference.trace = "a.b.c".into();
        assert_ne!(reference.span_id(), span_id, "not of this trace");
        assert_eq!(reference.trace_id(), Some(TraceId::of_text("a.b.c")));
    }

    #[test]
    fn malformed_headers_are_refused() {
        for (header, why) in [
            ("", "empty"),
            ("2-YQ==-YQ==-0-YQ==-YQ==-YQ==-YQ==", "sample flag"),
            ("1-YQ==-YQ==--1-YQ==-YQ==-YQ==-YQ==", "negative span"),
            ("1-YQ==-YQ==-x-YQ==-YQ==-YQ==-YQ==", "span is no number"),
            ("1--YQ==-0-YQ==-YQ==-YQ==-YQ==", "no trace"),
            ("1-YQ==-YQ==-0-YQ==-YQ==-YQ==", "seven fields"),
            ("1-YQ==-YQ==-0-YQ==-YQ==-YQ==-YQ==-YQ==", "nine fields"),
            ("1-!!-YQ==-0-YQ==-YQ==-YQ==-YQ==", "no base64"),
            ("1-/w==-YQ==-0-YQ==-YQ==-YQ==-YQ==", "no UTF-8"),
        ] {
            assert_eq!(Reference::parse(header), None, "{why}");
        }
    }
}
