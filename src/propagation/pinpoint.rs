//! Pinpoint's headers: `Pinpoint-TraceID`, `-SpanID`, `-pSpanID`, `-Sampled`, and the caller's name.
//!
//! A trace is `{agent}^{start}^{sequence}`: digested, and carried along to leave as it came. The caller mints the callee's
//! span id, so its own is `-pSpanID`, -1 on roots. A trace that did not come from Pinpoint is written as
//! `pillion^{high}^{low}`, which is read back without loss. Requests that are only read keep their headers as they are;
//! writing them makes Pinpoint agents behind us children of spans that Pinpoint's own server never sees.
//! Source: pinpoint-apm/pinpoint `Header.java`, `SamplingFlagUtils.java`, `TransactionIdUtils.java`.

use http::HeaderMap;
use http::HeaderName;
use http::header::HOST;

use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Text;
use crate::model::TraceId;
use crate::propagation::Caller;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::wire;

static TRACE_ID: HeaderName = HeaderName::from_static("pinpoint-traceid");
static SPAN_ID: HeaderName = HeaderName::from_static("pinpoint-spanid");
static PARENT_ID: HeaderName = HeaderName::from_static("pinpoint-pspanid");
static SAMPLED: HeaderName = HeaderName::from_static("pinpoint-sampled");
static FLAGS: HeaderName = HeaderName::from_static("pinpoint-flags");
static APP_NAME: HeaderName = HeaderName::from_static("pinpoint-pappname");
static APP_TYPE: HeaderName = HeaderName::from_static("pinpoint-papptype");
static PEER: HeaderName = HeaderName::from_static("pinpoint-host");
static ALL: [&HeaderName; 8] = [
    &TRACE_ID, &SPAN_ID, &PARENT_ID, &SAMPLED, &FLAGS, &APP_NAME, &APP_TYPE, &PEER,
];

/// The carried item that holds the trace's name.
const TRACE: &str = "pinpoint";

/// An agent's name has 24 characters, each number 20.
const MAX_LEN: usize = 128;
/// The server type of a program of no known framework.
const STAND_ALONE: &str = "1000";

/// The format `pinpoint`.
pub(super) struct Pinpoint;

impl Format for Pinpoint {
    fn name(&self) -> &'static str {
        "pinpoint"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &ALL
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &ALL
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let is_rejected = wire::text(&SAMPLED, MAX_LEN, headers)? == Some("s0");
        let Some(trace) = wire::text(&TRACE_ID, MAX_LEN, headers)? else {
            return Ok(is_rejected.then_some(Found::Decision(SamplingState::Reject)));
        };
        let state = if is_rejected {
            SamplingState::Reject
        } else {
            SamplingState::Accept
        };
        let trace_id = trace_id(trace).ok_or(ExtractError::Malformed("pinpoint-traceid"))?;
        let parent = span_id(&PARENT_ID, headers)?;
        let span_id = match parent {
            Some(parent) => parent,
            None => {
                span_id(&SPAN_ID, headers)?.ok_or(ExtractError::Malformed("pinpoint-spanid"))?
            }
        };
        let mut context = wire::context(trace_id, span_id, state);
        context.carried = [(TRACE, Text::new(trace))].into_iter().collect();
        Ok(Some(Found::Parent(context)))
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        self.inject_by(&Caller::default(), context, headers);
    }

    fn inject_by(&self, caller: &Caller, context: &SpanContext, headers: &mut HeaderMap) {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.map(str::to_owned);
        let known = context.carried.get(TRACE).map(Text::as_str);
        let known = known.filter(|known| trace_id(known) == Some(context.trace_id));
        let own = || {
            let (high, low) = (context.trace_id.high(), context.trace_id.low());
            format!("{OWN_AGENT}^{}^{}", high as i64, low as i64)
        };
        let trace = known.map_or_else(own, str::to_owned);
        let number = |id: SpanId| (id.to_u64() as i64).to_string();
        let sampled = if context.state.is_sampled() {
            "s1"
        } else {
            "s0"
        };
        for (name, value) in [
            (&TRACE_ID, trace.as_str()),
            (&SPAN_ID, &number(context.span_id.successor())),
            (&PARENT_ID, &number(context.span_id)),
            (&SAMPLED, sampled),
            (&FLAGS, "0"),
            (&APP_NAME, &caller.service),
            (&APP_TYPE, STAND_ALONE),
        ] {
            wire::put(name, value.as_bytes(), headers);
        }
        wire::put_or_remove(&PEER, host.as_deref(), headers);
    }
}

/// The agent of traces that Pinpoint does not know.
const OWN_AGENT: &str = "pillion";

/// The number of a trace of our own, the digest of any other. `None`: not three parts, or no numbers.
fn trace_id(text: &str) -> Option<TraceId> {
    let mut parts = text.split('^');
    let (agent, start, sequence) = (parts.next()?, parts.next()?, parts.next()?);
    let (start, sequence): (i64, i64) = (start.parse().ok()?, sequence.parse().ok()?);
    if agent.is_empty() || parts.next().is_some() {
        return None;
    }
    if agent == OWN_AGENT {
        return TraceId::from_halves(start as u64, sequence as u64);
    }
    Some(TraceId::of_text(text))
}

/// `None`: absent or -1, which stands for no span.
fn span_id(name: &'static HeaderName, headers: &HeaderMap) -> Result<Option<SpanId>, ExtractError> {
    let Some(digits) = wire::text(name, MAX_LEN, headers)? else {
        return Ok(None);
    };
    let number: i64 = digits
        .parse()
        .map_err(|_| ExtractError::Malformed(name.as_str()))?;
    Ok(SpanId::from_u64(number as u64).filter(|_| number != -1))
}
