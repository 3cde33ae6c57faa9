//! Jaeger's own headers: `uber-trace-id`, `uberctx-*`, `jaeger-baggage`, `jaeger-debug-id`.
//!
//! `uber-trace-id: {trace}:{span}:{parent}:{flags}` in hexadecimal. Clients write unpadded ids, upper case, percent-encoded
//! colons and parents of all kinds; all of that is read. Written are 16 digits for a 64-bit trace id and 32 for others,
//! parent `0`, and flags that Go's clients, which read them as decimal, understand too. `jaeger-debug-id` and
//! `jaeger-baggage` are read and passed on as they came. Source: Jaeger, "Migration to OpenTelemetry SDK", section
//! "Propagation Format"; jaeger-client-go, -java, -python, -node.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use percent_encoding::AsciiSet;
use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::percent_decode;
use percent_encoding::utf8_percent_encode;

use crate::model::BaggageItem;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Text;
use crate::model::TraceId;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::Items;
use crate::propagation::items::MAX_BYTES;
use crate::propagation::items::is_token;
use crate::propagation::wire;
use crate::propagation::wire::Line;

static UBER_TRACE_ID: HeaderName = HeaderName::from_static("uber-trace-id");
static DEBUG_ID: HeaderName = HeaderName::from_static("jaeger-debug-id");
static JAEGER_BAGGAGE: HeaderName = HeaderName::from_static("jaeger-baggage");
static READS: [&HeaderName; 3] = [&UBER_TRACE_ID, &DEBUG_ID, &JAEGER_BAGGAGE];
static WRITES: [&HeaderName; 1] = [&UBER_TRACE_ID];
const PREFIX: &str = "uberctx-";

const SAMPLED: u8 = 0x01;
const DEBUG: u8 = 0x02;
const FIREHOSE: u8 = 0x08;

/// The format `jaeger`.
pub(super) struct Jaeger;

impl Format for Jaeger {
    fn name(&self) -> &'static str {
        "jaeger"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &READS
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &[PREFIX]
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &WRITES
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let Some(value) = wire::single(&UBER_TRACE_ID, MAX_ENCODED, headers)? else {
            return Ok(None);
        };
        let mut decoded = [0; MAX_DECODED];
        let value = percent_decoded(value, &mut decoded);
        let context = value.and_then(parse);
        let context = context.ok_or(ExtractError::Malformed("uber-trace-id"))?;
        Ok(Some(Found::Parent(context)))
    }

    fn baggage(&self, headers: &HeaderMap, items: &mut Items) -> Result<(), ExtractError> {
        let contextual = read_uberctx(headers, items);
        items.begin_source();
        let ad_hoc = read_jaeger_baggage(headers, items);
        contextual.and(ad_hoc)
    }

    fn debug_id(&self, headers: &HeaderMap) -> Option<Text> {
        let value = headers.get(&DEBUG_ID)?.as_bytes().trim_ascii();
        let value = value.get(..MAX_DEBUG_ID).unwrap_or(value);
        let text = String::from_utf8_lossy(value);
        // A cut may leave half a character.
        let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        (!text.is_empty()).then(|| Text::new(text))
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        line_of(context).put(&UBER_TRACE_ID, headers);
    }

    fn line(&self) -> Option<Option<&'static HeaderName>> {
        Some(Some(&UBER_TRACE_ID))
    }

    fn put_line(&self, context: &SpanContext, out: &mut Vec<u8>) {
        out.extend_from_slice(line_of(context).bytes());
    }

    fn inject_baggage(&self, items: &[BaggageItem], headers: &mut HeaderMap) {
        let mut n_bytes = 0;
        let mut name = String::new();
        for item in items.iter().filter(|item| is_token(item.key.as_bytes())) {
            name.clear();
            name.push_str(PREFIX);
            name.push_str(&item.key);
            let value = utf8_percent_encode(&item.value, ENCODED).to_string();
            n_bytes += name.len() + value.len();
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                continue;
            };
            if n_bytes <= MAX_BYTES && !headers.contains_key(&name) {
                wire::put(&name, value.as_bytes(), headers);
            }
        }
    }
}

fn line_of(context: &SpanContext) -> Line {
    let flags = match context.state {
        SamplingState::Reject | SamplingState::Defer => b'0',
        // `b` (debug, sampled, firehose) is no decimal digit: Go's clients would refuse the whole header.
        SamplingState::Debug => b'3',
        SamplingState::Accept if context.firehose => b'9',
        SamplingState::Accept => b'1',
    };
    Line::new()
        .push_trace_id(context.trace_id)
        .push(b":")
        .push(context.span_id.hex().as_bytes())
        .push(b":0:")
        .push(&[flags])
}

/// `{32}:{16}:{16}:{2}` digits.
const MAX_DECODED: usize = 32 + 1 + 16 + 1 + 16 + 1 + 2;
/// The same with every byte as `%XX`, and blanks around it.
const MAX_ENCODED: usize = 3 * MAX_DECODED + 16;
/// Jaeger's clients cut tag values there.
const MAX_DEBUG_ID: usize = 256;

/// What is written as `%XX`: blanks as `%20` and plus as `%2B`, for some clients read `+` as a blank.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The decoded value in `buffer`; `None` when it is longer than any value can be.
fn percent_decoded<'a>(value: &'a [u8], buffer: &'a mut [u8; MAX_DECODED]) -> Option<&'a [u8]> {
    if !value.contains(&b'%') {
        return Some(value);
    }
    let mut len = 0;
    for byte in percent_decode(value) {
        *buffer.get_mut(len)? = byte;
        len += 1;
    }
    buffer.get(..len)
}

fn parse(value: &[u8]) -> Option<SpanContext> {
    let mut parts = value.split(|byte| *byte == b':');
    let (trace, span, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !is_hex(parent, 16) || !is_hex(flags, 2) {
        return None;
    }
    let flags = flags
        .iter()
        .fold(0, |flags, digit| (flags << 4) | hex_value(*digit));
    let state = match (flags & SAMPLED != 0, flags & DEBUG != 0) {
        (true, true) => SamplingState::Debug,
        (true, false) => SamplingState::Accept,
        // Debug counts only beside sampled.
        (false, _) => SamplingState::Reject,
    };
    let (trace_id, span_id) = (TraceId::from_hex(trace)?, SpanId::from_hex(span)?);
    let mut context = wire::context(trace_id, span_id, state);
    context.firehose = flags & FIREHOSE != 0;
    Some(context)
}

fn is_hex(digits: &[u8], max_len: usize) -> bool {
    (1..=max_len).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit)
}

fn hex_value(digit: u8) -> u8 {
    char::from(digit).to_digit(16).unwrap_or_default() as u8
}

/// `uberctx-{key}: {percent-encoded value}`, one header an item; a `+` stands for a blank (Go, Java).
fn read_uberctx(headers: &HeaderMap, items: &mut Items) -> Result<(), ExtractError> {
    let mut result = Ok(());
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        if key.is_empty() || value.len() > MAX_BYTES {
            result = Err(ExtractError::Malformed("uberctx-*"));
            continue;
        }
        items.push(key, &form_decoded(value), "");
    }
    result
}

/// Percent-decoded text with `+` for a blank; bytes that are no UTF-8 become U+FFFD.
fn form_decoded(value: &HeaderValue) -> String {
    let bytes: Vec<u8> = value
        .as_bytes()
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    percent_decode(&bytes).decode_utf8_lossy().into_owned()
}

/// `jaeger-baggage: k1=v1, k2=v2`, percent-encoded as a whole; a pair without exactly one `=` is left out.
fn read_jaeger_baggage(headers: &HeaderMap, items: &mut Items) -> Result<(), ExtractError> {
    let mut result = Ok(());
    for value in headers.get_all(&JAEGER_BAGGAGE) {
        if value.len() > MAX_BYTES {
            result = Err(ExtractError::Malformed("jaeger-baggage"));
            continue;
        }
        let text = percent_decode(value.as_bytes()).decode_utf8_lossy();
        for pair in text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            match pair.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() && !value.contains('=') => {
                    items.push(key.trim(), value.trim(), "");
                }
                _ => result = Err(ExtractError::Malformed("jaeger-baggage")),
            }
        }
    }
    result
}
