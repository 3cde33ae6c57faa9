//! Spans and questions that come as gRPC calls.
//!
//! SkyWalking's agents report more than segments (properties, metrics, profiles, logs); each such call is read to its end
//! and answered, so that agents stay quiet, and forgotten.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message as _;

use crate::codec::jaeger_proto;
use crate::codec::jaeger_strategy;
use crate::codec::otlp;
use crate::codec::skywalking;
use crate::net::grpc::Code;
use crate::net::grpc::FrameError;
use crate::net::grpc::Frames;
use crate::net::grpc::Message;
use crate::receiver::Intake;
use crate::receiver::body;
use crate::receiver::body::Held;
use crate::receiver::body::Refusal;
use crate::receiver::otlp::response;
use crate::receiver::reply;
use crate::receiver::reply::Reply;
use crate::receiver::server::Service;
use crate::receiver::server::Shared;
use crate::telemetry::metrics::Door;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const POST_SPANS: &str = "/jaeger.api_v2.CollectorService/PostSpans";
const COLLECT: &str = "/skywalking.v3.TraceSegmentReportService/collect";
const COLLECT_IN_SYNC: &str = "/skywalking.v3.TraceSegmentReportService/collectInSync";
/// Decoding more than this takes a thread of its own.
const LARGE: usize = 64 << 10;

/// What a call brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Export,
    PostSpans,
    Strategy,
    Segments,
    SegmentList,
    /// Read and forgotten.
    Other,
}

fn method(service: Service, path: &str) -> Option<(Door, Method)> {
    use Service::{JaegerGrpc, OtlpGrpc, SamplingGrpc, SkyWalkingGrpc};
    Some(match (service, path) {
        (OtlpGrpc, EXPORT) => (Door::OtlpGrpc, Method::Export),
        (JaegerGrpc, POST_SPANS) => (Door::JaegerGrpc, Method::PostSpans),
        (JaegerGrpc | SamplingGrpc, jaeger_strategy::METHOD) => {
            (Door::JaegerGrpc, Method::Strategy)
        }
        (SkyWalkingGrpc, COLLECT) => (Door::SkyWalkingGrpc, Method::Segments),
        (SkyWalkingGrpc, COLLECT_IN_SYNC) => (Door::SkyWalkingGrpc, Method::SegmentList),
        (SkyWalkingGrpc, path) if path.starts_with("/skywalking.v3.") => {
            (Door::SkyWalkingGrpc, Method::Other)
        }
        _ => return None,
    })
}

/// Answers a call.
pub(super) async fn answer(
    request: Request<Incoming>,
    service: Service,
    shared: &Arc<Shared>,
) -> Reply {
    let Some((door, method)) = method(service, request.uri().path()) else {
        return reply::failed(Code::Unimplemented, "unknown method");
    };
    let (parts, body) = request.into_parts();
    if !body::content_type(&parts.headers).starts_with("application/grpc") {
        shared
            .intake
            .refuse(door, Refusal::ContentType("application/grpc").receipt());
        return reply::failed(
            Code::InvalidArgument,
            "content type must be application/grpc",
        );
    }
    match read(&parts.headers, body, (door, method), shared).await {
        Ok(message) => reply::call(&message),
        Err(Failure::Strategy(why)) => reply::failed(Code::Unavailable, &why),
        Err(Failure::Refused(refusal)) => {
            shared.intake.refuse(door, refusal.receipt());
            let code = match refusal {
                Refusal::TooLarge(_) => Code::ResourceExhausted,
                Refusal::Busy | Refusal::Incomplete => Code::Unavailable,
                Refusal::ContentEncoding => Code::Unimplemented,
                Refusal::Internal => Code::Unknown,
                _ => Code::InvalidArgument,
            };
            reply::failed(code, &refusal.to_string())
        }
    }
}

enum Failure {
    Refused(Refusal),
    Strategy(String),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLarge(limit) => Self::TooLarge(limit),
            FrameError::Malformed => Self::Decode(crate::codec::DecodeError::Malformed("frame")),
        }
    }
}

/// Takes each message as it comes; answers the call's own answer.
async fn read(
    headers: &HeaderMap,
    mut body: Incoming,
    (door, method): (Door, Method),
    shared: &Arc<Shared>,
) -> Result<Vec<u8>, Failure> {
    let gzip = match headers.get("grpc-encoding").map(|value| value.as_bytes()) {
        None | Some(b"identity") => false,
        Some(b"gzip") => true,
        Some(_) => return Err(Refusal::ContentEncoding.into()),
    };
    let mut frames = Frames::new(shared.intake.max_message);
    let mut held = shared.room.hold();
    let mut pending = 0;
    let mut answer = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::Incomplete)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if method == Method::Other {
            continue;
        }
        pending += data.len();
        held.grow(pending)?;
        frames.push(&data);
        while let Some(message) = frames.pop().map_err(Refusal::from)? {
            if message.compressed && !gzip {
                return Err(Refusal::ContentEncoding.into());
            }
            answer = take(message, (door, method), shared, &mut held).await?;
        }
        if frames.is_empty() {
            pending = 0;
            held = shared.room.hold();
        }
    }
    if !frames.is_empty() {
        return Err(Refusal::Incomplete.into());
    }
    Ok(answer)
}

async fn take(
    message: Message,
    (door, method): (Door, Method),
    shared: &Arc<Shared>,
    held: &mut Held,
) -> Result<Vec<u8>, Failure> {
    if method == Method::Strategy {
        let service = jaeger_strategy::asked_for(&message.bytes).map_err(Refusal::from)?;
        let strategies = shared.strategies.load_full();
        let answer = strategies.of(&service).await.map_err(Failure::Strategy)?;
        return Ok(answer.to_proto());
    }
    let small = message.bytes.len() <= LARGE && !message.compressed;
    let intake = Arc::clone(&shared.intake);
    let work = move || decode(&intake, door, method, &message);
    if small {
        return Ok(work()?);
    }
    held.grow(LARGE)?;
    let permit = shared.decoders.acquire().await.map_err(|_| Refusal::Busy)?;
    let done = tokio::task::spawn_blocking(work).await;
    drop(permit);
    Ok(done.unwrap_or(Err(Refusal::Internal))?)
}

fn decode(
    intake: &Intake,
    door: Door,
    method: Method,
    message: &Message,
) -> Result<Vec<u8>, Refusal> {
    let limits = intake.limits;
    let bytes = body::inflated(&message.bytes, message.compressed, intake.max_message)?;
    let intern = &mut |resource| intake.shared(resource);
    let decoded = match method {
        Method::Export => otlp::decode(&bytes, limits)?,
        Method::PostSpans => {
            for batch in jaeger_proto::decode(&bytes, limits)? {
                intake.batch(door, batch, Instant::now());
            }
            return Ok(Vec::new());
        }
        Method::Segments => skywalking::decode_segment(&bytes, limits, intern)?,
        Method::SegmentList => skywalking::decode_collection(&bytes, limits, intern)?,
        Method::Strategy | Method::Other => return Ok(Vec::new()),
    };
    let rejected = decoded.rejected;
    intake.take(door, decoded);
    Ok(match method {
        Method::Export => response(rejected).encode_to_vec(),
        _ => Vec::new(),
    })
}
