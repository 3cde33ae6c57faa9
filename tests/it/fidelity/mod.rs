//! What goes in comes out: a recorder on both sides shows that the data path changes nothing but what it must.
//!
//! `request` and `response` are tables of messages that pass a proxy whole; each row runs through the inbound side with
//! tracing off and on and through the forward proxy. `exchange`, `tunnel`, `http2` and `translation` are tables of conversations, where
//! the order of events counts.

/// A table of conversations: each named function is a shape and a test of its own.
macro_rules! conversations {
    ($($name:ident),+ $(,)?) => {
        pub(super) const NAMES: &[&str] = &[$(stringify!($name)),+];

        mod run {
            $(#[tokio::test]
            async fn $name() {
                super::$name().await;
            })+
        }
    };
}

mod exchange;
mod http2;
mod request;
mod response;
mod translation;
mod tunnel;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::proxy::Pillion;
use crate::support::raw::DEADLINE;
use crate::support::raw::Missing;
use crate::support::raw::Peer;
use crate::support::raw::Recorder;
use crate::support::raw::dechunk;
use crate::support::raw::find;
use crate::support::raw::show;

/// The headers that tracing with the default formats adds to a request.
const TRACE_HEADERS: [&str; 2] = ["traceparent", "uber-trace-id"];

/// Issue 2, bar 4.
const SHAPES: usize = 60;

/// One exchange that passes whole. `{host}` in it is the upstream's address.
struct Shape {
    name: &'static str,
    /// What the caller sends.
    request: Vec<u8>,
    /// What the upstream reads; `None`: the same.
    forwarded: Option<Vec<u8>>,
    /// What the upstream answers.
    response: Vec<u8>,
    /// What the caller reads; `None`: the same.
    returned: Option<Vec<u8>>,
    /// The end of the upstream's connection ends the response.
    closes: bool,
    /// A forward proxy takes it too.
    absolute: bool,
}

/// Which way a shape goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Inbound,
    InboundTraced,
    ForwardProxy,
    ForwardProxyTraced,
}

/// A head with line ends as in this source, `{host}` still in it.
fn message(head: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = head.replace('\n', "\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

const OK: &str = "HTTP/1.1 200 OK\nContent-Length: 2\n\nok";

impl Shape {
    fn new(name: &'static str, request: Vec<u8>, response: Vec<u8>) -> Self {
        Self {
            name,
            request,
            forwarded: None,
            response,
            returned: None,
            closes: false,
            absolute: true,
        }
    }

    fn forwarded(mut self, head: &str, body: &[u8]) -> Self {
        self.forwarded = Some(message(head, body));
        self
    }

    fn returned(mut self, head: &str, body: &[u8]) -> Self {
        self.returned = Some(message(head, body));
        self
    }

    fn closes(mut self) -> Self {
        self.closes = true;
        self
    }

    fn not_absolute(mut self) -> Self {
        self.absolute = false;
        self
    }
}

fn with_host(bytes: &[u8], host: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let mut rest = bytes;
    while let Some(at) = find(rest, b"{host}") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(host.as_bytes());
        rest = &rest[at + 6..];
    }
    out.extend_from_slice(rest);
    out
}

/// `GET /x` becomes `GET http://{host}/x`.
fn to_absolute(request: &[u8], host: &str) -> Vec<u8> {
    let space = find(request, b" ").unwrap() + 1;
    let (method, rest) = request.split_at(space);
    let rest = rest.strip_prefix(b"*").unwrap_or(rest);
    [method, b"http://", host.as_bytes(), rest].concat()
}

/// A message as its receiver understands it.
#[derive(PartialEq)]
struct Understood {
    head: Vec<u8>,
    content: Vec<u8>,
    trailers: Vec<u8>,
}

fn understand(bytes: &[u8]) -> Understood {
    let end = find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let (head, body) = bytes.split_at(end);
    let lower = String::from_utf8_lossy(head).to_ascii_lowercase();
    let is_chunked = lower.contains("\r\ntransfer-encoding: chunked");
    let (content, trailers) = is_chunked
        .then(|| dechunk(body))
        .flatten()
        .unwrap_or_else(|| (body.to_vec(), Vec::new()));
    Understood {
        head: head.to_vec(),
        content,
        trailers,
    }
}

fn compare(what: &str, expected: &[u8], got: &[u8]) -> Result<(), String> {
    let (expected, got) = (understand(expected), understand(got));
    for (part, expected, got) in [
        ("head", &expected.head, &got.head),
        ("content", &expected.content, &got.content),
        ("trailers", &expected.trailers, &got.trailers),
    ] {
        if expected != got {
            return Err(format!(
                "{what}: {part}\n    expected {}\n    got      {}",
                show(expected),
                show(got)
            ));
        }
    }
    Ok(())
}

fn without_trace_headers(message: &[u8]) -> Vec<u8> {
    let end = find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 2);
    let mut out = Vec::new();
    let mut rest = &message[..end];
    let mut removed = 0;
    while let Some(at) = find(rest, b"\r\n") {
        let line = &rest[..at + 2];
        let is_ours = TRACE_HEADERS
            .iter()
            .any(|name| line.starts_with(format!("{name}: ").as_bytes()));
        if is_ours {
            removed += 1;
        } else {
            out.extend_from_slice(line);
        }
        rest = &rest[at + 2..];
    }
    assert_eq!(removed, TRACE_HEADERS.len(), "{}", show(message));
    out.extend_from_slice(&message[end..]);
    out
}

/// Runs one shape one way; the error says what differs.
async fn run(shape: &Shape, way: Way, proxy: &Pillion, upstream: &Recorder) -> Result<(), String> {
    let host = upstream.addr.to_string();
    let request = with_host(&shape.request, &host);
    let forwarded = with_host(shape.forwarded.as_ref().unwrap_or(&shape.request), &host);
    let response = with_host(&shape.response, &host);
    let returned = with_host(shape.returned.as_ref().unwrap_or(&shape.response), &host);
    let (answer, closes) = (response.clone(), shape.closes);
    upstream.restart(move |_, mut peer| {
        let answer = answer.clone();
        async move {
            if peer.request().await.is_err() {
                return;
            }
            peer.send(&answer).await;
            if closes {
                peer.half_close().await;
            }
            // Whatever else comes is recorded and must not be there.
            peer.rest().await.ok();
        }
    });
    let (to, request) = match way {
        Way::Inbound | Way::InboundTraced => (proxy.inbound(), request),
        Way::ForwardProxy | Way::ForwardProxyTraced => {
            (proxy.outbound(), to_absolute(&request, &host))
        }
    };
    let mut caller = Peer::connect(to).await;
    caller.send(&request).await;
    caller.half_close().await;
    let got = caller.rest().await;
    let mut seen = upstream.all();
    if matches!(way, Way::InboundTraced | Way::ForwardProxyTraced) && !seen.is_empty() {
        seen = without_trace_headers(&seen);
    }
    compare("upstream", &forwarded, &seen)?;
    let got = got.map_err(|Missing(why)| format!("caller: {why}"))?;
    compare("caller", &returned, &got)
}

/// Settings under which nothing is shared between rows.
fn plain(traced: bool) -> Value {
    json!({
        "spans": { "enabled": traced },
        "limits": { "idle_per_destination": 0, "headers": 300 },
    })
}

async fn run_all(way: Way) {
    let upstream = Recorder::friendly().await;
    let traced = matches!(way, Way::InboundTraced | Way::ForwardProxyTraced);
    let proxy = Pillion::inbound_to(upstream.addr, plain(traced));
    let mut failures = Vec::new();
    for shape in request::shapes().into_iter().chain(response::shapes()) {
        if matches!(way, Way::ForwardProxy | Way::ForwardProxyTraced) && !shape.absolute {
            continue;
        }
        if let Err(difference) = run(&shape, way, &proxy, &upstream).await {
            failures.push(format!("{}: {difference}", shape.name));
        }
    }
    assert!(
        failures.is_empty(),
        "{way:?}: {} differ\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[tokio::test]
async fn messages_pass_inbound_unchanged_without_tracing() {
    run_all(Way::Inbound).await;
}

#[tokio::test]
async fn messages_pass_inbound_with_nothing_but_trace_headers_added() {
    run_all(Way::InboundTraced).await;
}

#[tokio::test]
async fn messages_pass_the_forward_proxy_unchanged_without_tracing() {
    run_all(Way::ForwardProxy).await;
}

#[tokio::test]
async fn messages_pass_the_forward_proxy_with_nothing_but_trace_headers_added() {
    run_all(Way::ForwardProxyTraced).await;
}

#[test]
fn there_are_enough_shapes_and_each_has_a_name() {
    let mut names: Vec<&str> = request::shapes()
        .iter()
        .chain(&response::shapes())
        .map(|shape| shape.name)
        .collect();
    names.extend(exchange::NAMES);
    names.extend(tunnel::NAMES);
    names.extend(http2::NAMES);
    names.extend(translation::NAMES);
    let count = names.len();
    println!("{count} shapes");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a name is used twice");
    assert!(count >= SHAPES, "{count}");
}

/// Starts a proxy in front of `upstream`.
fn in_front_of(upstream: SocketAddr, settings: Value) -> Pillion {
    Pillion::inbound_to(upstream, settings)
}

/// Waits until a condition holds.
async fn eventually(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap();
}
