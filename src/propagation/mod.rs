//! Trace context in HTTP headers: one wire form per file, one table of them, one ordered reader and writer.
//!
//! Adding a format is one new file and two neighbouring lines here. Knows nothing of sockets, clocks or configuration
//! files; rules come from the field sheets of each format, named in its file. Whom to trust is the tracer's business.

use http::HeaderMap;
use http::HeaderName;

use crate::model::Baggage;
use crate::model::BaggageItem;
use crate::model::Carried;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::Text;
use crate::model::TraceId;

mod b3;
mod b3multi;
mod baggage;
mod caller;
mod cat;
mod config;
mod datadog;
mod eagleeye;
mod google;
mod items;
mod jaeger;
mod lines;
mod opencensus;
mod ottrace;
mod pinpoint;
mod propagator;
mod rpc_id;
mod skywalking;
mod sofatracer;
mod tracecontext;
mod wire;
mod xray;

pub use caller::Caller;
pub use config::{Config, Name, UnknownFormat};
pub use items::Items;
pub use lines::Lines;
pub use propagator::{Extraction, FormatList, Propagator};

/// Every format there is, in the order in which reference pages list them. At most 32.
pub static FORMATS: &[&dyn Format] = &[
    &tracecontext::TraceContext,
    &baggage::W3cBaggage,
    &b3::B3,
    &b3multi::B3Multi,
    &jaeger::Jaeger,
    &datadog::Datadog,
    &xray::XRay,
    &google::Google,
    &opencensus::OpenCensus,
    &ottrace::OtTrace,
    &skywalking::SkyWalking,
    &pinpoint::Pinpoint,
    &cat::Cat,
    &eagleeye::EagleEye,
    &sofatracer::SofaTracer,
];

/// One wire form of trace context, of baggage, or of both.
pub trait Format: Sync {
    /// The name used in configuration, metrics and `OTEL_PROPAGATORS`.
    fn name(&self) -> &'static str;

    /// Every header this format reads, except those under [`Format::prefixes`].
    fn reads(&self) -> &'static [&'static HeaderName];

    /// Lower-case beginnings of header names that belong to this format (`uberctx-`).
    fn prefixes(&self) -> &'static [&'static str] {
        &[]
    }

    /// The headers [`Format::inject`] replaces or removes.
    fn writes(&self) -> &'static [&'static HeaderName];

    /// Headers that readers of this format read too, and that are stale once it is written: the other form of B3.
    /// The propagator removes them unless another chosen format writes them.
    fn companions(&self) -> &'static [&'static HeaderName] {
        &[]
    }

    /// Reads ids or a decision. `Ok(None)`: the headers that carry them are absent.
    ///
    /// # Errors
    /// Headers are present but malformed; the caller counts it and tries the next format.
    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError>;

    /// Like [`Format::extract`], without the [`Format::companions`]: where a format that writes those is read too.
    ///
    /// # Errors
    /// As [`Format::extract`].
    fn extract_own(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        self.extract(headers)
    }

    /// Reads the baggage in this format's own headers into `items`; items that are malformed or beyond the limits are left out.
    ///
    /// # Errors
    /// Something was malformed; the good items are in `items` all the same.
    fn baggage(&self, _headers: &HeaderMap, _items: &mut Items) -> Result<(), ExtractError> {
        Ok(())
    }

    /// Reads a request for a forced trace that names its reason (`jaeger-debug-id`), at most 256 bytes of it.
    fn debug_id(&self, _headers: &HeaderMap) -> Option<Text> {
        None
    }

    /// Writes ids and decision, replacing every header of [`Format::writes`]. `Defer` is written as absent where the
    /// format has a word for it, else as not sampled: decide first.
    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap);

    /// The one header that [`Format::inject`] writes for a context without trace state, where [`Format::put_line`] can
    /// say it; the others of [`Format::writes`] it removes. Inside: none at all. `None`: it can only be asked to inject.
    fn line(&self) -> Option<Option<&'static HeaderName>> {
        None
    }

    /// Appends the value of [`Format::line`].
    fn put_line(&self, _context: &SpanContext, _out: &mut Vec<u8>) {}

    /// Like [`Format::inject`], for formats that name the caller.
    fn inject_by(&self, _caller: &Caller, context: &SpanContext, headers: &mut HeaderMap) {
        self.inject(context, headers);
    }

    /// True when written headers name the operation through which the request came in.
    fn names_endpoint(&self) -> bool {
        false
    }

    /// Writes the items that `headers` lack; what is already there stays byte for byte.
    fn inject_baggage(&self, _items: &[BaggageItem], _headers: &mut HeaderMap) {}
}

/// What one format's headers say about the trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The caller's span. Its baggage is empty here: [`Format::baggage`] reads it.
    Parent(SpanContext),
    /// A trace id without a span, as load balancers send it: for the trace that starts here.
    Start(Start),
    /// A decision without ids (`b3: 0`): binding for the trace that starts here.
    Decision(SamplingState),
}

/// What a trace that starts here takes over from who let it start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The id it is to have.
    pub trace_id: TraceId,
    /// The decision so far; `Defer`: none.
    pub state: SamplingState,
    /// Words for the way out.
    pub carried: Carried,
}

/// What all the headers said. Every part may be absent by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extracted {
    /// The caller's span: ids, state, trace state, baggage. `None` when no header carries valid ids.
    pub parent: Option<SpanContext>,
    /// A trace id without a span; its decision, if any, is also in `decision`. `None` beside a parent.
    pub start: Option<Start>,
    /// A decision without ids, binding for the trace that starts here; `None` beside a parent. `Debug` beside a debug id.
    pub decision: Option<SamplingState>,
    /// Jaeger's `jaeger-debug-id`: forces a debug root and is recorded on it. `None` beside a parent.
    pub debug_id: Option<Text>,
    /// Baggage, which comes even without a parent; with one, the same list as `parent.baggage`.
    pub baggage: Baggage,
}

/// Why a header that is present was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// The header breaks its format's grammar; names the part.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// The format of this name.
pub fn format(name: &str) -> Option<&'static dyn Format> {
    FORMATS.iter().copied().find(|format| format.name() == name)
}

/// True for the headers of any format here, chosen or not: ids, decisions, trace state, baggage.
pub fn is_trace_header(name: &HeaderName) -> bool {
    FORMATS.iter().any(|format| owns(*format, name))
}

/// True when the header belongs to the format.
fn owns(format: &dyn Format, name: &HeaderName) -> bool {
    format.reads().contains(&name)
        || format
            .prefixes()
            .iter()
            .any(|prefix| name.as_str().starts_with(prefix))
}
