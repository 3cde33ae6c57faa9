//! Alibaba's EagleEye (ARMS): `EagleEye-TraceID`, `-RpcID`, `-SpanID`, `-pSpanID`, `-Sampled`, baggage in `-UserData`.
//!
//! A trace is up to 32 hexadecimal digits, mostly 30 or 32: its number, and it leaves in the length it came in; other texts
//! are digested. Newer agents mint the callee's span id as Pinpoint does, so the caller's own is `-pSpanID`; older ones
//! have the place `-RpcID` alone. Source: Alibaba Cloud ARMS, "Supported trace propagation protocols"; captured requests
//! that ARMS agents sent.

use http::HeaderMap;
use http::HeaderName;

use crate::model::BaggageItem;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Text;
use crate::model::TraceId;
use crate::propagation::Caller;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::Items;
use crate::propagation::rpc_id;
use crate::propagation::wire;

static TRACE_ID: HeaderName = HeaderName::from_static("eagleeye-traceid");
static RPC_ID: HeaderName = HeaderName::from_static("eagleeye-rpcid");
static SPAN_ID: HeaderName = HeaderName::from_static("eagleeye-spanid");
static PARENT_ID: HeaderName = HeaderName::from_static("eagleeye-pspanid");
static SAMPLED: HeaderName = HeaderName::from_static("eagleeye-sampled");
static APP_NAME: HeaderName = HeaderName::from_static("eagleeye-pappname");
static USER_DATA: HeaderName = HeaderName::from_static("eagleeye-userdata");
static READS: [&HeaderName; 7] = [
    &TRACE_ID, &RPC_ID, &SPAN_ID, &PARENT_ID, &SAMPLED, &APP_NAME, &USER_DATA,
];
static WRITES: [&HeaderName; 6] = [
    &TRACE_ID, &RPC_ID, &SPAN_ID, &PARENT_ID, &SAMPLED, &APP_NAME,
];

/// The carried items that hold the trace's name and the caller's place in it.
const TRACE: &str = "eagleeye.trace";
const PLACE: &str = "eagleeye.place";

const MAX_LEN: usize = 512;

/// The format `eagleeye`.
pub(super) struct EagleEye;

impl Format for EagleEye {
    fn name(&self) -> &'static str {
        "eagleeye"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &READS
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &WRITES
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let state = match wire::text(&SAMPLED, MAX_LEN, headers)? {
            None => SamplingState::Defer,
            Some("s1" | "1" | "true") => SamplingState::Accept,
            Some("s0" | "0" | "false") => SamplingState::Reject,
            Some(_) => return Err(ExtractError::Malformed("eagleeye-sampled")),
        };
        let Some(trace) = wire::text(&TRACE_ID, MAX_LEN, headers)? else {
            return Ok(None);
        };
        let trace_id = trace_id(trace).ok_or(ExtractError::Malformed("eagleeye-traceid"))?;
        let place = wire::text(&RPC_ID, MAX_LEN, headers)?;
        let parent = match wire::text(&PARENT_ID, MAX_LEN, headers)? {
            Some(digits) => numbered(digits)?,
            None => None,
        };
        let span_id = match parent {
            Some(parent) => parent,
            None => rpc_id::span_id(trace, place.unwrap_or("0"))
                .ok_or(ExtractError::Malformed("eagleeye-rpcid"))?,
        };
        let mut context = wire::context(trace_id, span_id, state);
        let place = place.map(|place| (PLACE, Text::new(place)));
        context.carried = [(TRACE, Text::new(trace))]
            .into_iter()
            .chain(place)
            .collect();
        Ok(Some(Found::Parent(context)))
    }

    fn baggage(&self, headers: &HeaderMap, items: &mut Items) -> Result<(), ExtractError> {
        let Some(list) = wire::text(&USER_DATA, MAX_USER_DATA, headers)? else {
            return Ok(());
        };
        let mut result = Ok(());
        for pair in list.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => items.push(key, value, ""),
                _ => result = Err(ExtractError::Malformed("eagleeye-userdata")),
            }
        }
        result
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        self.inject_by(&Caller::default(), context, headers);
    }

    fn inject_by(&self, caller: &Caller, context: &SpanContext, headers: &mut HeaderMap) {
        let kept = |key| context.carried.get(key).map(Text::as_str);
        let known = kept(TRACE).filter(|known| trace_id(known) == Some(context.trace_id));
        let trace = known.map_or_else(|| context.trace_id.to_string(), str::to_owned);
        let place = rpc_id::place(kept(PLACE).filter(|_| known.is_some()), context.span_id);
        let number = |id: SpanId| (id.to_u64() as i64).to_string();
        let sampled = match context.state {
            SamplingState::Accept | SamplingState::Debug => Some("s1"),
            SamplingState::Reject => Some("s0"),
            SamplingState::Defer => None,
        };
        for (name, value) in [
            (&TRACE_ID, trace.as_str()),
            (&RPC_ID, &place),
            (&SPAN_ID, &number(context.span_id.successor())),
            (&PARENT_ID, &number(context.span_id)),
            (&APP_NAME, &caller.service),
        ] {
            wire::put(name, value.as_bytes(), headers);
        }
        wire::put_or_remove(&SAMPLED, sampled, headers);
    }

    fn inject_baggage(&self, items: &[BaggageItem], headers: &mut HeaderMap) {
        if headers.contains_key(&USER_DATA) {
            return;
        }
        // There is no way to spell a separator inside an item.
        let is_plain = |text: &Text| !text.contains(['&', '=']);
        let plain = items
            .iter()
            .filter(|item| is_plain(&item.key) && is_plain(&item.value));
        let list: Vec<_> = plain
            .map(|item| format!("{}={}", item.key, item.value))
            .collect();
        let list = list.join("&");
        if !list.is_empty() && list.len() <= MAX_USER_DATA {
            wire::put(&USER_DATA, list.as_bytes(), headers);
        }
    }
}

const MAX_USER_DATA: usize = 4096;

fn trace_id(text: &str) -> Option<TraceId> {
    let is_hex = text.len() <= 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hex {
        return TraceId::from_hex(text.as_bytes());
    }
    Some(TraceId::of_text(text))
}

/// A signed number; `None`: -1 or 0, which stand for no span.
fn numbered(digits: &str) -> Result<Option<SpanId>, ExtractError> {
    let number: Result<i64, _> = digits.parse();
    let number = number.map_err(|_| ExtractError::Malformed("eagleeye-pspanid"))?;
    Ok(SpanId::from_u64(number as u64).filter(|_| number != -1))
}
