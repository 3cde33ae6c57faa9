//! Drives requests through Pillion: a fixed number at once, each connection its next one when an answer is there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// What the callers saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Answers other than 200, and none.
    pub(crate) failures: usize,
    /// The whole time.
    pub(crate) took: Duration,
    /// Of each request, ascending.
    pub(crate) latencies: Vec<Duration>,
}

/// A client with a pool of its own.
pub(crate) fn client() -> Client<HttpConnector, Empty<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// The status of one request; `None` when there was no whole answer within ten seconds.
pub(crate) async fn get(
    client: &Client<HttpConnector, Empty<Bytes>>,
    to: SocketAddr,
    target: &str,
) -> Option<u16> {
    let request = Request::get(format!("http://{to}{target}"))
        .body(Empty::new())
        .unwrap();
    let whole = async {
        let response = client.request(request).await.ok()?;
        let status = response.status().as_u16();
        response.into_body().collect().await.ok()?;
        Some(status)
    };
    tokio::time::timeout(Duration::from_secs(10), whole)
        .await
        .ok()?
}

/// Sends every target, `concurrency` at once.
pub(crate) async fn drive(to: SocketAddr, targets: Vec<String>, concurrency: usize) -> Seen {
    let (targets, next) = (Arc::new(targets), Arc::new(AtomicUsize::new(0)));
    let client = client();
    let start = Instant::now();
    let callers: Vec<_> = (0..concurrency)
        .map(|_| {
            let (targets, next, client) = (targets.clone(), next.clone(), client.clone());
            tokio::spawn(async move {
                let mut seen = Seen::default();
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let sent = Instant::now();
                    match get(&client, to, target).await {
                        Some(200) => seen.latencies.push(sent.elapsed()),
                        status => {
                            eprintln!("{target} failed after {:?}: {status:?}", sent.elapsed());
                            seen.failures += 1;
                        }
                    }
                }
                seen
            })
        })
        .collect();
    let mut all = Seen::default();
    for caller in callers {
        let seen = caller.await.unwrap();
        all.failures += seen.failures;
        all.latencies.extend(seen.latencies);
    }
    all.took = start.elapsed();
    all.latencies.sort_unstable();
    all
}

impl Seen {
    /// The latency that this share of the requests stayed under.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let at = (self.latencies.len() as f64 * share) as usize;
        let at = at.min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or_default()
    }
}
