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

/// Opens the gate.
pub struct Opener(Mutex<Option<oneshot::Sender<()>>>);

impl Opener {
    /// The upstream wants the body.
    pub fn open(&self) {
        if let Some(open) = self.0.lock().take() {
            // Nobody waits any more: the body flows already.
            let _late = open.send(());
        }
    }
}

impl Gate {
    /// A gate for this request and what opens it; `None` when the request expects nothing.
    pub fn for_request<B>(request: &Request<B>) -> Option<(Self, Opener)> {
        let expects = request
            .headers()
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        if !expects {
            return None;
        }
        let (open, opened) = oneshot::channel();
        let patience = tokio::time::sleep(PATIENCE);
        let gate = Self {
            wait: Box::pin(wait(opened, patience)),
        };
        Some((gate, Opener(Mutex::new(Some(open)))))
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
