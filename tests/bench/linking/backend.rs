//! The service that the programs call: answers after 2 to 15 milliseconds, and what is `/flaky/` only the second time.

use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Starts it; it ends with the runtime.
pub(crate) async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let failed = Arc::new(Mutex::new(HashSet::new()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).ok();
            let failed = failed.clone();
            let service = service_fn(move |request| answer(failed.clone(), request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn answer(
    failed: Arc<Mutex<HashSet<u64>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut hasher = DefaultHasher::new();
    request.uri().path().hash(&mut hasher);
    let hash = hasher.finish();
    tokio::time::sleep(Duration::from_millis(2 + hash % 14)).await;
    let mut response = Response::new(Full::from("ok"));
    let flaky = request.uri().path().starts_with("/flaky/");
    if flaky && failed.lock().unwrap().insert(hash) {
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}
