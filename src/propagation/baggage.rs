//! W3C Baggage: `baggage: key=value;property, key2=value2`.
//!
//! A header that is already there is never touched, for writing it anew would lose how its author spelt it: items are
//! written only into a request that has none. Reading decodes percent signs and takes `+` for a plus, as the
//! specification does (OpenTelemetry Python writes it for a blank; on the wire its header stays as it is).
//! A malformed member is left out, the others count. Source: W3C Baggage, section "Header Content".

use std::fmt::Write;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use percent_encoding::AsciiSet;
use percent_encoding::CONTROLS;
use percent_encoding::percent_decode;
use percent_encoding::utf8_percent_encode;

use crate::model::BaggageItem;
use crate::model::SpanContext;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::Items;
use crate::propagation::items::MAX_BYTES;
use crate::propagation::items::MAX_ITEMS;
use crate::propagation::items::is_token;
use crate::propagation::wire;

static BAGGAGE: HeaderName = HeaderName::from_static("baggage");
static READS: [&HeaderName; 1] = [&BAGGAGE];

/// What is written as `%XX`: everything but baggage octets, the percent sign, and `=` and `+`, which some readers take
/// for something else.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'%')
    .add(b'+')
    .add(b',')
    .add(b';')
    .add(b'=')
    .add(b'\\');

/// The format `baggage`: carries no ids.
pub(super) struct W3cBaggage;

impl Format for W3cBaggage {
    fn name(&self) -> &'static str {
        "baggage"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &READS
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &[]
    }

    fn extract(&self, _headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        Ok(None)
    }

    fn baggage(&self, headers: &HeaderMap, items: &mut Items) -> Result<(), ExtractError> {
        let malformed = Err(ExtractError::Malformed("baggage"));
        let values = headers.get_all(&BAGGAGE);
        if values.iter().map(HeaderValue::len).sum::<usize>() > MAX_BYTES {
            return malformed;
        }
        let mut result = Ok(());
        for member in values
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        {
            let member = member.trim_ascii();
            if !member.is_empty() && read_member(member, items).is_none() {
                result = malformed;
            }
        }
        result
    }

    fn inject(&self, _context: &SpanContext, _headers: &mut HeaderMap) {}

    fn line(&self) -> Option<Option<&'static HeaderName>> {
        Some(None)
    }

    fn inject_baggage(&self, items: &[BaggageItem], headers: &mut HeaderMap) {
        if headers.contains_key(&BAGGAGE) {
            return;
        }
        let mut list = String::new();
        let mut member = String::new();
        for item in items
            .iter()
            .filter(|item| is_token(item.key.as_bytes()))
            .take(MAX_ITEMS)
        {
            member.clear();
            let value = utf8_percent_encode(&item.value, ENCODED);
            if write!(member, "{}={value}", item.key).is_err() {
                continue;
            }
            if !item.properties.is_empty() {
                member.push(';');
                member.push_str(&item.properties);
            }
            if list.len() + 1 + member.len() > MAX_BYTES {
                continue;
            }
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(&member);
        }
        if !list.is_empty() {
            wire::put(&BAGGAGE, list.as_bytes(), headers);
        }
    }
}

/// `None`: malformed.
fn read_member(member: &[u8], items: &mut Items) -> Option<()> {
    let end = member
        .iter()
        .position(|byte| *byte == b';')
        .unwrap_or(member.len());
    let (pair, properties) = member.split_at_checked(end)?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let key = pair[..equals].trim_ascii();
    let value = pair[equals + 1..].trim_ascii();
    if !is_token(key) || !value.iter().all(|byte| is_octet(*byte)) {
        return None;
    }
    let properties = properties
        .strip_prefix(b";")
        .unwrap_or_default()
        .trim_ascii();
    if !properties
        .iter()
        .all(|byte| matches!(byte, b'\t' | 0x20..=0x7e))
    {
        return None;
    }
    let key = std::str::from_utf8(key).ok()?;
    let properties = std::str::from_utf8(properties).ok()?;
    items.push(key, &percent_decode(value).decode_utf8_lossy(), properties);
    Some(())
}

/// `baggage-octet`: visible ASCII without `"`, `,`, `;` and `\`.
fn is_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)
}
