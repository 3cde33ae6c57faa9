//! What comes as the body of a request: bounded while it arrives, bounded again when it is inflated.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use flate2::read::MultiGzDecoder;
use http::HeaderMap;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

use crate::codec::DecodeError;
use crate::receiver::intake::receipt_of;
use crate::telemetry::metrics::Receipt;

/// From the head to the end of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// Memory is handed out in pieces of this size.
const PIECE: usize = 64 << 10;
/// Memory for all bodies that are being read, in pieces.
const PIECES: usize = 1024;

/// Why a request with spans was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A content type that is not read here.
    #[error("content type must be {0}")]
    ContentType(&'static str),
    /// A content encoding other than gzip.
    #[error("content encoding must be gzip or identity")]
    ContentEncoding,
    /// No gzip.
    #[error("malformed gzip")]
    Gzip,
    /// Larger than allowed, as it came or inflated.
    #[error("body exceeds {0} bytes")]
    TooLarge(usize),
    /// Its content.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// Too many at once.
    #[error("busy with other span batches")]
    Busy,
    /// It did not come to its end.
    #[error("incomplete body")]
    Incomplete,
    /// Our own fault.
    #[error("the decoder failed")]
    Internal,
}

impl Refusal {
    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::ContentType(_) | Self::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge(_) | Self::Decode(DecodeError::TooMany(_)) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::Gzip | Self::Decode(_) | Self::Incomplete => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What it counts as.
    pub(super) fn receipt(&self) -> Receipt {
        match self {
            Self::ContentType(_) | Self::ContentEncoding => Receipt::Unsupported,
            Self::TooLarge(_) => Receipt::TooLarge,
            Self::Decode(error) => receipt_of(error),
            Self::Gzip | Self::Internal => Receipt::Malformed,
            Self::Busy => Receipt::Busy,
            Self::Incomplete => Receipt::Incomplete,
        }
    }
}

/// Memory that all bodies share.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

/// What one body holds of it; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Held {
    room: Room,
    pieces: Vec<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(PIECES)))
    }

    pub(super) fn hold(&self) -> Held {
        Held {
            room: self.clone(),
            pieces: Vec::new(),
            bytes: 0,
        }
    }
}

impl Held {
    /// Makes room for so many bytes in all.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        while self.bytes < bytes {
            let piece = Arc::clone(&self.room.0).try_acquire_owned();
            self.pieces.push(piece.map_err(|_| Refusal::Busy)?);
            self.bytes += PIECE;
        }
        Ok(())
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(super) async fn read(
    mut body: Incoming,
    limit: usize,
    held: &mut Held,
) -> Result<Bytes, Refusal> {
    if http_body::Body::size_hint(&body).lower() > limit as u64 {
        return Err(Refusal::TooLarge(limit));
    }
    let all = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::Incomplete)?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > limit {
                return Err(Refusal::TooLarge(limit));
            }
            held.grow(bytes.len() + data.len())?;
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    let read = tokio::time::timeout(BODY_TIMEOUT, all).await;
    read.unwrap_or(Err(Refusal::Incomplete))
}

/// The content type without its parameters, in lower case; empty when there is none.
pub(super) fn content_type(headers: &HeaderMap) -> String {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or("").split(';').next().unwrap_or("");
    kind.trim().to_ascii_lowercase()
}

/// Whether the body is gzip.
pub(super) fn is_gzip(headers: &HeaderMap) -> Result<bool, Refusal> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(false);
    };
    match value.as_bytes().to_ascii_lowercase().as_slice() {
        b"gzip" | b"x-gzip" => Ok(true),
        b"identity" | b"" => Ok(false),
        _ => Err(Refusal::ContentEncoding),
    }
}

/// The content; inflated it may have `limit` bytes at most.
pub(super) fn inflated(body: &[u8], gzip: bool, limit: usize) -> Result<Cow<'_, [u8]>, Refusal> {
    if !gzip {
        return Ok(Cow::Borrowed(body));
    }
    let mut inflated = Vec::new();
    MultiGzDecoder::new(body)
        .take(limit as u64 + 1)
        .read_to_end(&mut inflated)
        .map_err(|_| Refusal::Gzip)?;
    if inflated.len() > limit {
        return Err(Refusal::TooLarge(limit));
    }
    Ok(Cow::Owned(inflated))
}
