//! `Expect: 100-continue`, end to end: the caller is asked for its body only when the upstream asked.
//!
//! hyper sends `100 Continue` downstream the moment the request body is polled. So the body waits behind a gate that
//! opens when the upstream answers 100, or when it says nothing for a while (RFC 9110 section 10.1.1 lets a client
//! stop waiting; HTTP/1.0 upstreams never answer).

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use http::StatusCode;
use http::header;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Sleep;

/// How long an upstream may stay silent before the body is sent anyway.
const PATIENCE: Duration = Duration::from_secs(1);

/// Holds a request body back.
pub struct Gate {
    wait: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Gate {
    /// A gate for this request, opened by the upstream's 100; `None` when the request expects nothing.
    pub fn for_request<B>(request: &mut Request<B>) -> Option<Self> {
        let expects = request
            .headers()
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        if !expects {
            return None;
        }
        let (open, opened) = oneshot::channel();
        let open = Mutex::new(Some(open));
        hyper::ext::on_informational(request, move |response| {
            if response.status() == StatusCode::CONTINUE
                && let Some(open) = open.lock().take()
            {
                // Nobody waits any more: the body flows already.
                let _late = open.send(());
            }
        });
        let patience = tokio::time::sleep(PATIENCE);
        Some(Self {
            wait: Box::pin(wait(opened, patience)),
        })
    }

    /// Ready once the body may flow.
    pub fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wait.as_mut().poll(cx)
    }
}

async fn wait(opened: oneshot::Receiver<()>, patience: Sleep) {
    tokio::select! {
        // An error means that the sender is gone with the request: nobody will read the body, let it be.
        result = opened => if result.is_err() { std::future::pending().await },
        () = patience => {}
    }
}
