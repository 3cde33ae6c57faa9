//! Questions about recent spans over HTTP: Jaeger's query API in its two generations, and what the page asks.
//!
//! Parsing is cheap and happens here; searching and writing JSON walk through the whole store, so they run on the
//! blocking pool and hold up neither reporters nor pollers on the control runtime.

pub(super) mod params;

mod encode;
mod legacy;
mod own;
mod v3;

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http::StatusCode;

use crate::admin::Store;
use crate::admin::api::params::Params;
use crate::admin::respond;
use crate::admin::respond::Answer;

/// Answers a question; `None` when there is nothing under this path.
pub(super) async fn find(request: &Request<Bytes>, store: &Arc<Store>) -> Option<Answer> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or("").to_owned();
    let headers = request.headers().clone();
    let store = Arc::clone(store);
    let work = move || {
        let params = Params::parse(&query);
        if let Some(rest) = path.strip_prefix("/api/v3/") {
            return v3::find(rest, &params, &store);
        }
        if let Some(rest) = path.strip_prefix("/api/") {
            return legacy::find(rest, &params, &store);
        }
        own::find(&path, &params, &headers, &store)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => Some(respond::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
        )),
    }
}
