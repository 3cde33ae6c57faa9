//! `POST /v1/traces`: spans of other sidecars and programs, over OTLP/HTTP, for the view alone.
//!
//! Read and answered as the receivers do it, within limits on every size before and after decompression; 503 with
//! `Retry-After` when busy.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::header;

use crate::admin::Store;
use crate::admin::respond;
use crate::admin::respond::Answer;
use crate::receiver::body::Refusal;
use crate::receiver::otlp;
use crate::receiver::otlp::Encoding;

pub(super) use crate::receiver::otlp::PATH;

/// Requests read at once.
pub(super) const CONCURRENT: usize = 4;
/// A request body as it arrives, in bytes.
pub(super) const MAX_BODY: usize = 4 << 20;
/// A request body after decompression, in bytes.
const MAX_INFLATED: usize = 16 << 20;

/// Takes one export request. Holds decoding memory, so the caller bounds how many run at once.
pub(super) async fn receive(request: Request<Bytes>, store: &Arc<Store>) -> Answer {
    let (parts, body) = request.into_parts();
    let encoding = otlp::encoding(&parts.headers).unwrap_or(Encoding::Json);
    let store = Arc::clone(store);
    let work = move || {
        let decoded = otlp::decode(&parts.headers, &body, MAX_INFLATED)?;
        store.insert(decoded.spans.into_iter().map(Arc::new));
        Ok(decoded.rejected)
    };
    let done = tokio::task::spawn_blocking(work).await;
    answer(match done.unwrap_or(Err(Refusal::Internal)) {
        Ok(rejected) => otlp::accept(encoding, rejected),
        Err(refusal) => otlp::refuse(encoding, &refusal),
    })
}

/// 503, to be tried again in a second.
pub(super) fn busy(headers: &HeaderMap) -> Answer {
    let encoding = otlp::encoding(headers).unwrap_or(Encoding::Json);
    let mut answer = answer(otlp::refuse(encoding, &Refusal::Busy));
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

fn answer((status, kind, body): otlp::Answer) -> Answer {
    respond::body(status, kind, body)
}
