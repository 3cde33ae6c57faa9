//! AWS X-Ray's `X-Amzn-Trace-Id: Root=1-{8}-{24};Parent={16};Sampled={0|1|?}` and whatever else stands in it.
//!
//! Fields come in any order; `Root` alone, as load balancers send it, names the trace that starts here. What is neither
//! `Root`, `Parent` nor `Sampled` (`Lineage` against Lambda's loops, `Self`, a caller's own) leaves again as it came, after
//! these. `Sampled=?` is a deferred decision. Source: AWS X-Ray Developer Guide, "Tracing header";
//! opentelemetry-go-contrib `propagators/aws/xray/propagator.go`.

use http::HeaderMap;
use http::HeaderName;

use crate::model::Carried;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::Text;
use crate::model::TraceId;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::Start;
use crate::propagation::wire;

static TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");
static BOTH: [&HeaderName; 1] = [&TRACE_ID];

/// The item that holds the other fields, each behind a semicolon.
const REST: &str = "xray";

/// Lineage grows to some hundred bytes; nobody needs this much.
const MAX_LEN: usize = 2048;

/// The format `xray`.
pub(super) struct XRay;

impl Format for XRay {
    fn name(&self) -> &'static str {
        "xray"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &BOTH
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &BOTH
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let malformed = ExtractError::Malformed("x-amzn-trace-id");
        let Some(value) = wire::single(&TRACE_ID, MAX_LEN, headers)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(value).map_err(|_| malformed)?;
        let fields = Fields::read(text).ok_or(malformed)?;
        Ok(fields.found())
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        let sampled = match context.state {
            SamplingState::Accept | SamplingState::Debug => ";Sampled=1",
            SamplingState::Reject => ";Sampled=0",
            SamplingState::Defer => "",
        };
        let rest = context.carried.get(REST).map_or("", Text::as_str);
        let trace = context.trace_id.hex();
        let (seconds, random) = trace.as_bytes().split_at(8);
        let mut line = Vec::with_capacity(96 + rest.len());
        for part in [
            b"Root=1-",
            seconds,
            b"-",
            random,
            b";Parent=",
            context.span_id.hex().as_bytes(),
            sampled.as_bytes(),
            rest.as_bytes(),
        ] {
            line.extend_from_slice(part);
        }
        wire::put(&TRACE_ID, &line, headers);
    }
}

#[derive(Default)]
struct Fields {
    root: Option<TraceId>,
    parent: Option<SpanId>,
    state: Option<SamplingState>,
    rest: String,
}

impl Fields {
    /// `None`: a field that is present but malformed.
    fn read(text: &str) -> Option<Self> {
        let mut fields = Self::default();
        for field in text.split(';').map(str::trim) {
            match field.split_once('=') {
                Some(("Root", root)) => fields.root = Some(root_id(root)?),
                // An empty parent is none.
                Some(("Parent", "")) => {}
                Some(("Parent", parent)) => fields.parent = Some(parent_id(parent)?),
                Some(("Sampled", "1")) => fields.state = Some(SamplingState::Accept),
                Some(("Sampled", "0")) => fields.state = Some(SamplingState::Reject),
                Some(("Sampled", "?")) => fields.state = Some(SamplingState::Defer),
                Some(("Sampled", _)) => return None,
                Some(_) => {
                    fields.rest.push(';');
                    fields.rest.push_str(field);
                }
                None if field.is_empty() => {}
                None => return None,
            }
        }
        Some(fields)
    }

    fn found(self) -> Option<Found> {
        let state = self.state.unwrap_or(SamplingState::Defer);
        let rest = (!self.rest.is_empty()).then(|| (REST, Text::from(self.rest)));
        let carried: Carried = rest.into_iter().collect();
        match (self.root, self.parent) {
            (Some(root), Some(parent)) => {
                let mut context = wire::context(root, parent, state);
                context.carried = carried;
                Some(Found::Parent(context))
            }
            (Some(trace_id), None) => Some(Found::Start(Start {
                trace_id,
                state,
                carried,
            })),
            (None, _) if state == SamplingState::Defer => None,
            (None, _) => Some(Found::Decision(state)),
        }
    }
}

/// `1-{8 digits}-{24 digits}`.
fn root_id(root: &str) -> Option<TraceId> {
    let (seconds, random) = root.strip_prefix("1-")?.split_once('-')?;
    if seconds.len() != 8 || random.len() != 24 {
        return None;
    }
    let digits = [seconds.as_bytes(), random.as_bytes()].concat();
    TraceId::from_hex(&digits)
}

fn parent_id(parent: &str) -> Option<SpanId> {
    (parent.len() == 16)
        .then(|| SpanId::from_hex(parent.as_bytes()))
        .flatten()
}
