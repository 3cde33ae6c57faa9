//! Spans posted over HTTP: the path and the content type say which decoder, each system gets the answer it expects.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use http::request::Parts;
use hyper::body::Incoming;

use crate::codec::Decoded;
use crate::codec::skywalking;
use crate::codec::thrift;
use crate::codec::thrift::Protocol;
use crate::codec::zipkin;
use crate::receiver::Intake;
use crate::receiver::body;
use crate::receiver::body::Refusal;
use crate::receiver::otlp;
use crate::receiver::otlp::Encoding;
use crate::receiver::reply;
use crate::receiver::reply::Reply;
use crate::receiver::server::Service;
use crate::receiver::server::Shared;
use crate::telemetry::metrics::Door;

/// Decoding more than this takes a thread of its own.
const LARGE: usize = 64 << 10;

/// What can be posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Post {
    Jaeger,
    Otlp,
    ZipkinV1,
    ZipkinV2,
    Segments,
    /// What SkyWalking's agents report besides; read and forgotten.
    Other,
}

/// Answers a POST.
pub(super) async fn answer(
    parts: &Parts,
    body: Incoming,
    service: Service,
    shared: &Arc<Shared>,
) -> Reply {
    let (door, post) = match (service, parts.uri.path()) {
        (Service::JaegerHttp, "/api/traces") => (Door::JaegerHttp, Post::Jaeger),
        (Service::OtlpHttp, otlp::PATH) => (Door::OtlpHttp, Post::Otlp),
        (Service::Zipkin, "/api/v2/spans") => (Door::Zipkin, Post::ZipkinV2),
        (Service::Zipkin, "/api/v1/spans") => (Door::Zipkin, Post::ZipkinV1),
        (Service::SkyWalkingHttp, "/v3/segment" | "/v3/segments") => {
            (Door::SkyWalkingHttp, Post::Segments)
        }
        (Service::SkyWalkingHttp, path) if path.starts_with("/v3/") => {
            (Door::SkyWalkingHttp, Post::Other)
        }
        _ => return reply::text(StatusCode::NOT_FOUND, "404 page not found"),
    };
    let encoding = otlp::encoding(&parts.headers).unwrap_or(Encoding::Json);
    match receive(&parts.headers, body, (door, post), shared).await {
        Ok(rejected) => match post {
            Post::Otlp => otlp_reply(otlp::accept(encoding, rejected)),
            Post::Segments | Post::Other => {
                reply::of(StatusCode::OK, "application/json", &b"{}"[..])
            }
            Post::Jaeger | Post::ZipkinV1 | Post::ZipkinV2 => reply::empty(StatusCode::ACCEPTED),
        },
        Err(refusal) => {
            shared.intake.refuse(door, refusal.receipt());
            let reply = match post {
                Post::Otlp => otlp_reply(otlp::refuse(encoding, &refusal)),
                // Jaeger's collector knows no 415.
                Post::Jaeger if matches!(refusal, Refusal::ContentType(_)) => {
                    reply::text(StatusCode::BAD_REQUEST, &refusal.to_string())
                }
                _ => reply::text(refusal.status(), &refusal.to_string()),
            };
            match refusal {
                Refusal::Busy => reply::retry_after(reply),
                _ => reply,
            }
        }
    }
}

fn otlp_reply((status, kind, body): otlp::Answer) -> Reply {
    reply::of(status, kind, body)
}

/// Reads, decodes and takes a request; answers how many of its spans were left out.
async fn receive(
    headers: &HeaderMap,
    incoming: Incoming,
    (door, post): (Door, Post),
    shared: &Arc<Shared>,
) -> Result<u64, Refusal> {
    let most = shared.intake.max_message;
    let gzip = body::is_gzip(headers)?;
    check_type(post, headers)?;
    let mut held = shared.room.hold();
    let bytes = body::read(incoming, most, &mut held).await?;
    if post == Post::Other {
        return Ok(0);
    }
    let small = bytes.len() <= LARGE && !gzip;
    let (intake, headers) = (Arc::clone(&shared.intake), headers.clone());
    let work = move || take(&intake, door, post, &headers, &bytes);
    if small {
        return work();
    }
    let _permit = shared.decoders.acquire().await.map_err(|_| Refusal::Busy)?;
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(Refusal::Internal))
}

/// A type that cannot be read is refused before its body is.
fn check_type(post: Post, headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = body::content_type(headers);
    let (known, names): (&[&str], _) = match post {
        Post::Otlp => return otlp::encoding(headers).map(drop),
        Post::Jaeger => (
            &[
                "application/x-thrift",
                "application/vnd.apache.thrift.binary",
            ],
            "application/x-thrift or application/vnd.apache.thrift.binary",
        ),
        Post::ZipkinV1 => (
            &["", "application/json", "application/x-thrift"],
            "application/json or application/x-thrift",
        ),
        Post::ZipkinV2 => (
            &["", "application/json", "application/x-protobuf"],
            "application/json or application/x-protobuf",
        ),
        Post::Segments | Post::Other => (&["", "application/json"], "application/json"),
    };
    if known.contains(&kind.as_str()) {
        Ok(())
    } else {
        Err(Refusal::ContentType(names))
    }
}

fn take(
    intake: &Intake,
    door: Door,
    post: Post,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> Result<u64, Refusal> {
    let limits = intake.limits;
    let kind = body::content_type(headers);
    let most = intake.max_message;
    if post == Post::Otlp {
        let decoded = otlp::decode(headers, bytes, most)?;
        let rejected = decoded.rejected;
        intake.take(door, decoded);
        return Ok(rejected);
    }
    let inflated = body::inflated(bytes, body::is_gzip(headers)?, most)?;
    let intern = &mut |resource| intake.shared(resource);
    let decoded = match post {
        Post::Jaeger => {
            let batch = thrift::decode_batch(&inflated, Protocol::Binary, limits)?;
            intake.batch(door, batch, Instant::now());
            return Ok(0);
        }
        // An empty body is a list without spans, as Zipkin's server takes it.
        Post::ZipkinV1 | Post::ZipkinV2 if inflated.is_empty() => Decoded::default(),
        Post::ZipkinV1 if kind == "application/x-thrift" => {
            zipkin::decode_v1_thrift(&inflated, limits, intern)?
        }
        Post::ZipkinV1 => zipkin::decode_v1_json(&inflated, limits, intern)?,
        Post::ZipkinV2 if kind == "application/x-protobuf" => {
            zipkin::decode_proto(&inflated, limits, intern)?
        }
        Post::ZipkinV2 => zipkin::decode_json(&inflated, limits, intern)?,
        Post::Segments => skywalking::decode_json(&inflated, limits, intern)?,
        Post::Otlp | Post::Other => return Ok(0),
    };
    let rejected = decoded.rejected;
    intake.take(door, decoded);
    Ok(rejected)
}
