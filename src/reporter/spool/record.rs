//! A batch of spans as bytes on disk, and back: a header with length and checksum, then the spans.
//!
//! Spans are written as OTLP, which the codec reads back whole. Beside it stands what OTLP has no place for and reporters
//! want to know: forced and firehose traces, and the words of single wires.

use std::sync::Arc;

use bytes::Buf;
use bytes::BufMut;
use bytes::BytesMut;

use crate::codec::Limits;
use crate::codec::datadog;
use crate::codec::otlp;
use crate::codec::skywalking;
use crate::model::Carried;
use crate::model::SamplingState;
use crate::model::Span;
use crate::model::Text;
use crate::reporter::jaeger_http::by_resource;

/// Bytes before a record's payload: mark, length, spans, checksum.
pub(super) const HEADER_LEN: usize = 16;
/// Where a record begins. Not text, so that attribute values do not look like it.
const MARK: [u8; 4] = [0xF7, b'P', 0x1B, 0x01];
/// A record beyond this is no record of ours.
const MAX_PAYLOAD: usize = 1 << 30;

const DEBUG: u8 = 1;
const FIREHOSE: u8 = 2;
const CARRIES: u8 = 4;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the payload.
    pub(super) len: usize,
    pub(super) spans: u32,
    checksum: u32,
}

/// The batch as one record, and how many spans it holds.
pub(super) fn encode(batch: &[Arc<Span>]) -> (Vec<u8>, u32) {
    // The codec groups by resource: what stands beside the spans must be in the same order.
    let spans: Vec<Arc<Span>> = by_resource(batch).into_iter().flatten().collect();
    let mut beside = Vec::with_capacity(spans.len());
    for span in &spans {
        put_beside(span, &mut beside);
    }
    let mut bytes = BytesMut::with_capacity(HEADER_LEN + 4 + beside.len() + 512 * spans.len());
    bytes.put_bytes(0, HEADER_LEN);
    bytes.put_u32_le(beside.len() as u32);
    bytes.put_slice(&beside);
    otlp::encode(&spans, &mut bytes);
    let mut record = Vec::from(bytes);
    let n_spans = spans.len() as u32;
    let payload = record.get(HEADER_LEN..).unwrap_or_default();
    let (len, checksum) = (payload.len() as u32, checksum(n_spans, payload));
    let header = [
        len.to_le_bytes(),
        n_spans.to_le_bytes(),
        checksum.to_le_bytes(),
    ];
    for (place, byte) in record
        .iter_mut()
        .zip(MARK.iter().chain(header.as_flattened()))
    {
        *place = *byte;
    }
    (record, n_spans)
}

/// The header at the start of `bytes`; `None`: there is none.
pub(super) fn header(mut bytes: &[u8]) -> Option<Header> {
    if bytes.len() < HEADER_LEN || !bytes.starts_with(&MARK) {
        return None;
    }
    bytes.advance(MARK.len());
    let header = Header {
        len: bytes.get_u32_le() as usize,
        spans: bytes.get_u32_le(),
        checksum: bytes.get_u32_le(),
    };
    (header.len <= MAX_PAYLOAD).then_some(header)
}

/// True when the payload is the one that the header was written for.
pub(super) fn is_whole(header: Header, payload: &[u8]) -> bool {
    payload.len() == header.len && checksum(header.spans, payload) == header.checksum
}

/// Where the next mark stands in `bytes`, not before `from`.
pub(super) fn next_mark(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let found = rest.windows(MARK.len()).position(|window| window == MARK)?;
    Some(from + found)
}

/// The spans of a payload; `None`: it is none of ours.
pub(super) fn decode(mut payload: &[u8]) -> Option<Vec<Arc<Span>>> {
    let beside_len = payload.try_get_u32_le().ok()? as usize;
    let (mut beside, spans) = payload.split_at_checked(beside_len)?;
    let limits = Limits {
        spans: usize::MAX,
        parts: usize::MAX,
    };
    let mut spans = otlp::decode(spans, limits).ok()?.spans;
    for span in &mut spans {
        read_beside(span, &mut beside)?;
    }
    Some(spans.into_iter().map(Arc::new).collect())
}

fn checksum(spans: u32, payload: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(&spans.to_le_bytes());
    crc.update(payload);
    crc.sum()
}

/// The words of single wires that a reporter reads.
fn known_words() -> impl Iterator<Item = &'static str> {
    [
        datadog::PRIORITY,
        datadog::ORIGIN,
        datadog::TAGS,
        skywalking::SW8,
    ]
    .into_iter()
}

fn put_beside(span: &Span, out: &mut Vec<u8>) {
    let carried = &span.context.carried;
    let words = known_words()
        .zip(0_u8..)
        .filter_map(|(key, number)| Some((number, carried.get(key)?)));
    let words: Vec<_> = words.collect();
    let mut flags = 0;
    if span.context.state == SamplingState::Debug {
        flags |= DEBUG;
    }
    if span.context.firehose {
        flags |= FIREHOSE;
    }
    if !words.is_empty() {
        flags |= CARRIES;
    }
    out.push(flags);
    if words.is_empty() {
        return;
    }
    out.push(words.len() as u8);
    for (number, word) in words {
        out.push(number);
        out.put_u32_le(word.len() as u32);
        out.put_slice(word.as_bytes());
    }
}

fn read_beside(span: &mut Span, bytes: &mut &[u8]) -> Option<()> {
    let flags = bytes.try_get_u8().ok()?;
    if flags & DEBUG != 0 {
        span.context.state = SamplingState::Debug;
    }
    span.context.firehose = flags & FIREHOSE != 0;
    if flags & CARRIES == 0 {
        return Some(());
    }
    let mut words = Vec::new();
    for _ in 0..bytes.try_get_u8().ok()? {
        let number = usize::from(bytes.try_get_u8().ok()?);
        let len = bytes.try_get_u32_le().ok()? as usize;
        let (word, rest) = bytes.split_at_checked(len)?;
        *bytes = rest;
        let text = Text::new(std::str::from_utf8(word).ok()?);
        words.extend(known_words().nth(number).map(|key| (key, text)));
    }
    span.context.carried = words.into_iter().collect::<Carried>();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::full_span;
    use crate::model::Resource;

    #[test]
    fn spans_come_back_as_they_went() {
        let mut forced = full_span();
        forced.context.state = SamplingState::Debug;
        forced.context.firehose = true;
        forced.context.baggage = crate::model::Baggage::default();
        let mut other = forced.clone();
        other.context.state = SamplingState::Accept;
        other.resource = Arc::new(Resource {
            service: "other".into(),
            attributes: Vec::new(),
            scope: Some(crate::model::Scope::default()),
        });
        let words = known_words().map(|key| (key, Text::new("word")));
        other.context.carried = words.collect();
        let mut plain = forced.clone();
        plain.context.state = SamplingState::Accept;
        plain.context.firehose = false;
        let batch = [forced, other, plain].map(Arc::new);
        let (record, n_spans) = encode(&batch);
        assert_eq!(n_spans, 3);
        let header = header(&record).unwrap();
        let payload = &record[HEADER_LEN..];
        assert!(is_whole(header, payload));
        let read = decode(payload).unwrap();
        // One resource after the other.
        assert_eq!(read, [&batch[0], &batch[2], &batch[1]].map(Arc::clone));
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let (record, _) = encode(&[Arc::new(full_span())]);
        for place in 0..record.len() {
            let mut damaged = record.clone();
            damaged[place] ^= 0x20;
            let whole =
                header(&damaged).is_some_and(|header| is_whole(header, &damaged[HEADER_LEN..]));
            assert!(!whole, "byte {place}");
        }
        for len in 0..record.len() {
            let torn = &record[..len];
            let whole = header(torn).is_some_and(|header| is_whole(header, &torn[HEADER_LEN..]));
            assert!(!whole, "{len} bytes");
        }
    }

    #[test]
    fn payloads_of_others_are_refused() {
        for (payload, why) in [
            (&b""[..], "nothing"),
            (b"\xff\xff\xff\xff", "a length without content"),
            (b"\x00\x00\x00\x00\x0a\x7f", "a span list that ends early"),
        ] {
            assert!(decode(payload).is_none(), "{why}");
        }
        let (record, _) = encode(&[Arc::new(full_span())]);
        let mut payload = record[HEADER_LEN..].to_vec();
        payload[..4].fill(0);
        assert!(decode(&payload).is_none(), "nothing beside the spans");
    }
}
