//! HTTP/1, HTTP/2 and TLS of programs that know nothing of proxies.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;

use http::Request;
use http::Response;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::redirect::Bench;
use crate::redirect::PYTHON;
use crate::redirect::at;
use crate::redirect::both;
use crate::redirect::inside;
use crate::redirect::wait_for;
use crate::support::netns::POD;
use crate::support::netns::WORLD;
use crate::support::netns::has;
use crate::support::netns::program;

/// A program as people write it: `/call?URL` fetches that URL and answers with what it got.
pub(super) const PROGRAM: &str = "
import http.server, urllib.request, socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass
    def do_GET(self):
        if self.path.startswith('/call?'):
            body = urllib.request.urlopen(self.path[6:], timeout=10).read()
        else:
            body = b'up'
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
Server(('::', 3000), Handler).serve_forever()
";

/// A service that speaks both versions and keeps what arrived.
#[derive(Clone, Default)]
struct Service(Arc<Mutex<Vec<(http::Version, String)>>>);

impl Service {
    fn start(runtime: &Runtime, port: u16) -> Self {
        let service = Self::default();
        let kept = service.clone();
        let listener = inside(runtime, TcpListener::bind(("::", port))).unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(kept.clone().serve(stream));
            }
        });
        service
    }

    async fn serve(self, stream: TcpStream) {
        let mut first = [0; 3];
        let is_http2 = matches!(stream.peek(&mut first).await, Ok(3)) && first == *b"PRI";
        let service = service_fn(move |request: Request<Incoming>| self.clone().answer(request));
        let io = TokioIo::new(stream);
        // How a connection ends is its client's business.
        if is_http2 {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.serve_connection(io, service).await.ok();
        } else {
            let builder = hyper::server::conn::http1::Builder::new();
            builder.serve_connection(io, service).await.ok();
        }
    }

    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<bytes::Bytes>>, hyper::Error> {
        let header = request.headers().get("traceparent");
        let parent = header.map_or(String::new(), |value| value.to_str().unwrap().to_owned());
        self.0.lock().unwrap().push((request.version(), parent));
        let body = request.into_body().collect().await?.to_bytes();
        let body = if body.is_empty() {
            "hello".into()
        } else {
            body
        };
        Ok(Response::new(Full::new(body)))
    }

    fn last(&self) -> (http::Version, String) {
        self.0.lock().unwrap().last().cloned().unwrap()
    }
}

fn curl(url: &str, more: &[&str]) -> Vec<String> {
    let usual = ["curl", "-sS", "--max-time", "15", "--noproxy", "*"];
    let args = usual.into_iter().chain(more.iter().copied()).chain([url]);
    args.map(str::to_owned).collect()
}

fn ask(namespace: &crate::support::netns::Namespace, url: &str, more: &[&str]) -> String {
    let args = curl(url, more);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    namespace.as_program(&args).unwrap()
}

fn calls_are_linked(settings: serde_json::Value, rules: &[&str]) {
    let Some(bench) = Bench::start(settings, rules) else {
        return;
    };
    let service = Service::start(&bench.world, 8080);
    let _program = bench.net.pod.spawn(program(&[PYTHON, "-c", PROGRAM]));
    wait_for("the program", || {
        bench.net.pod.sh("curl -sf http://[::1]:3000/").ok()
    });
    for (round, (pod, world)) in both(POD).zip(both(WORLD)).enumerate() {
        let url = format!("http://{}/call?http://{}/x", at(pod, 3000), at(world, 8080));
        assert_eq!(ask(&bench.net.world, &url, &[]), "hello");
        let spans = bench.spans(2 * (round + 1));
        let mut new = spans.iter().rev().take(2);
        let (one, other) = (new.next().unwrap(), new.next().unwrap());
        let (server, client) = if one.kind == 2 {
            (one, other)
        } else {
            (other, one)
        };
        assert_eq!((server.kind, client.kind), (2, 3), "{spans:#?}");
        assert_eq!(client.trace_id, server.trace_id);
        assert_eq!(
            client.parent_id, server.span_id,
            "the call hangs under its cause"
        );
        assert_eq!(server.attribute("client.address"), world);
        assert_eq!(client.attribute("server.port"), "8080");
        assert_eq!(client.attribute("network.peer.address"), world);
        let (version, parent) = service.last();
        assert_eq!(version, http::Version::HTTP_11);
        assert!(
            parent.contains(&client.trace_id) && parent.contains(&client.span_id),
            "{parent}"
        );
    }
    let detected = "pillion_detected_protocols_total";
    bench.counted(detected, &["inbound", "http1"], 2.0);
    bench.counted(detected, &["outbound", "http1"], 2.0);
}

#[test]
fn a_program_that_knows_of_no_proxy_is_traced_and_linked_through_redirect() {
    calls_are_linked(json!({}), &[]);
}

#[test]
fn a_program_on_loopback_is_reached_by_the_port_that_was_dialled() {
    calls_are_linked(
        json!({ "inbound": { "redirect": { "to": "loopback" } } }),
        &[],
    );
}

#[test]
fn tproxy_does_the_same() {
    calls_are_linked(
        json!({ "inbound": { "redirect": { "mode": "tproxy" } } }),
        &["--tproxy"],
    );
}

#[test]
fn iptables_does_the_same() {
    if has("iptables-restore") && has("iptables-save") {
        calls_are_linked(json!({}), &["--tool", "iptables"]);
    }
}

#[test]
fn http2_with_prior_knowledge_passes_both_ways() {
    let Some(bench) = Bench::start(json!({}), &[]) else {
        return;
    };
    let outside = Service::start(&bench.world, 8080);
    let inside = Service::start(&bench.pod, 3001);
    let body = "x".repeat(200_000);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &body).unwrap();
    let data = format!("@{}", file.path().display());
    Command::new("chmod")
        .args(["644", &file.path().display().to_string()])
        .status()
        .unwrap();
    let h2 = ["--http2-prior-knowledge", "--data-binary", &data];
    for (pod, world) in both(POD).zip(both(WORLD)) {
        let out = ask(&bench.net.pod, &format!("http://{}/", at(world, 8080)), &h2);
        let arrived = ask(&bench.net.world, &format!("http://{}/", at(pod, 3001)), &h2);
        assert!(out == body && arrived == body);
        assert_eq!(outside.last().0, http::Version::HTTP_2);
        assert_eq!(inside.last().0, http::Version::HTTP_2);
        assert!(!inside.last().1.is_empty());
    }
    let spans = bench.spans(4);
    assert!(
        spans
            .iter()
            .all(|span| span.attribute("network.protocol.version") == "2")
    );
}

#[test]
fn tls_passes_unopened_as_one_span_a_connection() {
    const SERVER: &str = "
import http.server, ssl, sys, socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'secret' * 1000)
server = Server(('::', 8443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";
    let Some(bench) = Bench::start(json!({}), &[]) else {
        return;
    };
    let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("server.pem");
    fs::write(&pem, made.signing_key.serialize_pem() + &made.cert.pem()).unwrap();
    let mut server = Command::new(PYTHON);
    server.args(["-c", SERVER]).arg(&pem);
    let _server = bench.net.world.spawn(server);
    wait_for("the server", || {
        bench.net.world.sh("curl -skf https://[::1]:8443/").ok()
    });
    for (round, world) in both(WORLD).enumerate() {
        let resolve = format!("shop.example:8443:{world}");
        let url = "https://shop.example:8443/";
        let answer = ask(&bench.net.pod, url, &["-k", "--resolve", &resolve]);
        assert_eq!(answer, "secret".repeat(1000));
        let spans = bench.spans(round + 1);
        let span = spans.last().unwrap();
        assert_eq!((span.name.as_str(), span.kind), ("TLS", 3));
        assert_eq!(span.attribute("pillion.tls.server_name"), "shop.example");
        assert!(
            span.attribute("pillion.tls.alpn").contains("h2"),
            "{span:?}"
        );
        assert_eq!(span.attribute("server.address"), "shop.example");
        assert_eq!(span.attribute("network.peer.address"), world);
        assert_eq!(span.attribute("pillion.connection.end"), "server");
        let received: u64 = span
            .attribute("pillion.tunnel.bytes_received")
            .parse()
            .unwrap();
        assert!(received > 6000, "{received}");
        assert_eq!(span.attribute("pillion.link.method"), "none");
    }
}
