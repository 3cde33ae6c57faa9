//! Dianping's CAT: message ids of root, parent and child, under the three spellings in which programs send them.
//!
//! CAT itself only hands its ids to the program; programs send them as `_catRootMessageId` and so on, or as
//! `x-cat-root-id`, `x-cat-parent-id`, `x-cat-id` (older: `x-cat-child-id`). A message id is
//! `{domain}-{address in hex}-{hours}-{number}`: digested, the root's carried along. There is no word for a decision.
//! Ids of our own have the number in the domain and are read back without loss.
//! Source: dianping/cat `cat-client` `Cat.java`, `MessageId.java`.

use http::HeaderMap;
use http::HeaderName;

use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Text;
use crate::model::TraceId;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::wire;

static ROOT: HeaderName = HeaderName::from_static("x-cat-root-id");
static PARENT: HeaderName = HeaderName::from_static("x-cat-parent-id");
static CHILD: HeaderName = HeaderName::from_static("x-cat-id");
static OTHER_CHILD: HeaderName = HeaderName::from_static("x-cat-child-id");
static OLD_ROOT: HeaderName = HeaderName::from_static("_catrootmessageid");
static OLD_PARENT: HeaderName = HeaderName::from_static("_catparentmessageid");
static OLD_CHILD: HeaderName = HeaderName::from_static("_catchildmessageid");
static ALL: [&HeaderName; 7] = [
    &ROOT,
    &PARENT,
    &CHILD,
    &OTHER_CHILD,
    &OLD_ROOT,
    &OLD_PARENT,
    &OLD_CHILD,
];

/// The carried item that holds the root's message id.
const TRACE: &str = "cat";

const MAX_LEN: usize = 256;

/// The format `cat`.
pub(super) struct Cat;

impl Format for Cat {
    fn name(&self) -> &'static str {
        "cat"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &ALL
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &ALL
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let root = first(&[&ROOT, &OLD_ROOT], headers)?;
        let parent = first(&[&PARENT, &OLD_PARENT], headers)?;
        let (root, parent) = match (root, parent) {
            (Some(root), Some(parent)) => (root, parent),
            // The first message of a trace is its own root.
            (None, Some(parent)) => (parent, parent),
            (Some(_), None) => return Err(ExtractError::Malformed("x-cat-parent-id")),
            (None, None) => return Ok(None),
        };
        let trace_id = trace_id(root).ok_or(ExtractError::Malformed("x-cat-root-id"))?;
        let span_id = span_id(parent).ok_or(ExtractError::Malformed("x-cat-parent-id"))?;
        let mut context = wire::context(trace_id, span_id, SamplingState::Defer);
        context.carried = [(TRACE, Text::new(root))].into_iter().collect();
        Ok(Some(Found::Parent(context)))
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        let known = context.carried.get(TRACE).map(Text::as_str);
        let known = known.filter(|known| trace_id(known) == Some(context.trace_id));
        let own = || own_id(&context.trace_id.hex());
        let root = known.map_or_else(own, str::to_owned);
        let parent = own_id(&context.span_id.hex());
        let child = own_id(&context.span_id.successor().hex());
        for (name, value) in [
            (&ROOT, &root),
            (&OLD_ROOT, &root),
            (&PARENT, &parent),
            (&OLD_PARENT, &parent),
            (&CHILD, &child),
            (&OTHER_CHILD, &child),
            (&OLD_CHILD, &child),
        ] {
            wire::put(name, value.as_bytes(), headers);
        }
    }
}

/// The first of these headers that has something in it.
fn first<'a>(
    names: &[&'static HeaderName],
    headers: &'a HeaderMap,
) -> Result<Option<&'a str>, ExtractError> {
    for name in names {
        if let Some(value) = wire::text(name, MAX_LEN, headers)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

const OWN_DOMAIN: &str = "pillion.";

fn own_id(digits: &str) -> String {
    format!("{OWN_DOMAIN}{digits}-00000000-0-0")
}

/// The domain of a message id; `None` when the other three parts are not what they should be.
fn domain(id: &str) -> Option<&str> {
    let mut parts = id.rsplitn(4, '-');
    let (number, hours, address) = (parts.next()?, parts.next()?, parts.next()?);
    wire::decimal(number)?;
    wire::decimal(hours)?;
    let is_address = !address.is_empty() && address.bytes().all(|digit| digit.is_ascii_hexdigit());
    parts
        .next()
        .filter(|domain| is_address && !domain.is_empty())
}

fn trace_id(id: &str) -> Option<TraceId> {
    match domain(id)?.strip_prefix(OWN_DOMAIN) {
        Some(digits) => TraceId::from_hex(digits.as_bytes()),
        None => Some(TraceId::of_text(id)),
    }
}

fn span_id(id: &str) -> Option<SpanId> {
    match domain(id)?.strip_prefix(OWN_DOMAIN) {
        Some(digits) => SpanId::from_hex(digits.as_bytes()),
        None => Some(SpanId::of_text(id)),
    }
}
