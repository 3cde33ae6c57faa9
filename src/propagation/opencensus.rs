//! OpenCensus's binary context in gRPC metadata: `grpc-trace-bin`.
//!
//! 29 bytes in base64: version 0, then fields in order, `00` trace id, `01` span id, `02` options (bit 0 sampled). What
//! follows the first unknown field is not looked at; without options the trace is not sampled. `grpc-tags-bin` passes as
//! it is. Source: census-instrumentation/opencensus-specs `encodings/BinaryEncoding.md`, `trace/gRPC.md`.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::GeneralPurposeConfig;
use http::HeaderMap;
use http::HeaderName;

use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::SpanId;
use crate::model::TraceId;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::wire;

static TRACE_BIN: HeaderName = HeaderName::from_static("grpc-trace-bin");
static BOTH: [&HeaderName; 1] = [&TRACE_BIN];

/// gRPC leaves the padding out; receivers take both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const LEN: usize = 29;
/// Later versions may append fields.
const MAX_LEN: usize = 256;

/// The format `opencensus`.
pub(super) struct OpenCensus;

impl Format for OpenCensus {
    fn name(&self) -> &'static str {
        "opencensus"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &BOTH
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &BOTH
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let malformed = ExtractError::Malformed("grpc-trace-bin");
        let Some(value) = wire::single(&TRACE_BIN, MAX_LEN, headers)? else {
            return Ok(None);
        };
        let bytes = BASE64.decode(value).map_err(|_| malformed)?;
        let context = parse(&bytes).ok_or(malformed)?;
        Ok(Some(Found::Parent(context)))
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        let mut bytes = [0; LEN];
        bytes[2..18].copy_from_slice(&context.trace_id.bytes());
        bytes[18] = 1;
        bytes[19..27].copy_from_slice(&context.span_id.bytes());
        bytes[27] = 2;
        bytes[28] = u8::from(context.state.is_sampled());
        wire::put(&TRACE_BIN, BASE64.encode(bytes).as_bytes(), headers);
    }
}

fn parse(bytes: &[u8]) -> Option<SpanContext> {
    let fields = bytes.strip_prefix(&[0])?;
    let (trace_id, rest) = fields.strip_prefix(&[0])?.split_first_chunk::<16>()?;
    let (span_id, rest) = rest.strip_prefix(&[1])?.split_first_chunk::<8>()?;
    let options = match rest {
        [2, options, ..] => *options,
        _ => 0,
    };
    let state = if options & 1 == 1 {
        SamplingState::Accept
    } else {
        SamplingState::Reject
    };
    let (trace_id, span_id) = (
        TraceId::from_bytes(*trace_id)?,
        SpanId::from_bytes(*span_id)?,
    );
    Some(wire::context(trace_id, span_id, state))
}
