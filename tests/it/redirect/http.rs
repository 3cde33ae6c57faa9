//! HTTP/1, HTTP/2 and TLS of programs that know nothing of proxies.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::time::Duration;

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
use crate::redirect::Mode;
use crate::redirect::PYTHON;
use crate::redirect::Tool;
use crate::redirect::at;
use crate::redirect::both;
use crate::redirect::inside;
use crate::redirect::wait_for;
use crate::support::netns::Namespace;
use crate::support::netns::POD;
use crate::support::netns::Running;
use crate::support::netns::WORLD;
use crate::support::netns::has;
use crate::support::netns::program;
use crate::support::otlp::Span;

/// A program as people write it: `/call?URL` fetches that URL and answers with what it got.
pub(super) const PROGRAM: &str = "
import http.server, urllib.request, socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass
    def do_GET(self):
        if self.path.startswith('/call'):
            body = urllib.request.urlopen(self.path.split('?', 1)[1], timeout=10).read()
        elif self.path == '/peer':
            body = self.client_address[0].encode()
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
        if request.uri().path().starts_with("/call") {
            let url = request.uri().query().unwrap_or_default().to_owned();
            let calling = tokio::task::spawn_blocking(move || {
                let args = curl(&url, &["--http2-prior-knowledge"]);
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                program(&args).output().unwrap().stdout
            });
            return Ok(Response::new(Full::new(calling.await.unwrap().into())));
        }
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

/// An operation for each round: in one operation, a second destination would not tell its call from a job's. Right
/// behind another request the first of an operation proves nothing either.
fn rested_path(round: usize) -> &'static str {
    std::thread::sleep(Duration::from_millis(300));
    ["/call", "/call/again"][round]
}

fn calls_are_linked(mode: Mode, settings: serde_json::Value) {
    let Some(bench) = Bench::lead(mode, settings, &[]) else {
        return;
    };
    let service = Service::start(&bench.world, 8080);
    let _program = bench.net.pod.spawn(program(&[PYTHON, "-c", PROGRAM]));
    wait_for("the program", || {
        bench.net.pod.sh("curl -sf http://[::1]:3000/").ok()
    });
    for (round, (pod, world)) in both(POD).zip(both(WORLD)).enumerate() {
        let path = rested_path(round);
        let url = format!(
            "http://{}{path}?http://{}/x",
            at(pod, 3000),
            at(world, 8080)
        );
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
    // Over TPROXY the program sees its caller.
    for (pod, world) in both(POD).zip(both(WORLD)) {
        let seen = ask(
            &bench.net.world,
            &format!("http://{}/peer", at(pod, 3000)),
            &[],
        );
        let seen = seen.trim_start_matches("::ffff:");
        match bench.mode {
            Mode::Tproxy(_) => assert_eq!(seen, world),
            Mode::Redirect(_) => assert_ne!(seen, world),
        }
    }
}

#[test]
fn a_program_that_knows_of_no_proxy_is_traced_and_linked_through_redirect() {
    calls_are_linked(Mode::Redirect(Tool::Nft), json!({}));
}

#[test]
fn a_program_on_loopback_is_reached_by_the_port_that_was_dialled() {
    calls_are_linked(
        Mode::Redirect(Tool::Nft),
        json!({ "inbound": { "redirect": { "to": "loopback" } } }),
    );
}

#[test]
fn tproxy_does_the_same_and_keeps_the_caller_s_address() {
    calls_are_linked(Mode::Tproxy(Tool::Nft), json!({}));
}

#[test]
fn iptables_does_the_same() {
    calls_are_linked(Mode::Redirect(Tool::Iptables), json!({}));
}

#[test]
fn iptables_of_old_does_the_same() {
    calls_are_linked(Mode::Redirect(Tool::Legacy), json!({}));
}

#[test]
fn iptables_does_the_same_by_tproxy() {
    calls_are_linked(Mode::Tproxy(Tool::Iptables), json!({}));
}

#[test]
fn iptables_of_old_does_the_same_by_tproxy() {
    calls_are_linked(Mode::Tproxy(Tool::Legacy), json!({}));
}

#[test]
fn http2_with_prior_knowledge_passes_both_ways_and_is_linked() {
    let body = "x".repeat(200_000);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &body).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let data = format!("@{}", file.path().display());
    let services: OnceLock<(Service, Service)> = OnceLock::new();
    let prepare = |bench: &Bench| {
        let (outside, inside) = (
            Service::start(&bench.world, 8080),
            Service::start(&bench.pod, 3001),
        );
        services.set((outside, inside)).ok();
    };
    Bench::both(json!({}), &[], prepare, |bench| {
        let (outside, inside) = services.get().unwrap();
        let h2 = ["--http2-prior-knowledge", "--data-binary", &data];
        let mut n_spans = 0;
        for (round, (pod, world)) in both(POD).zip(both(WORLD)).enumerate() {
            let path = rested_path(round);
            let url = format!(
                "http://{}{path}?http://{}/x",
                at(pod, 3001),
                at(world, 8080)
            );
            let answer = ask(&bench.net.world, &url, &["--http2-prior-knowledge"]);
            assert_eq!(answer, "hello");
            n_spans += 2;
            let spans = bench.spans(n_spans).split_off(n_spans - 2);
            let of = |kind| spans.iter().find(|span| span.kind == kind).unwrap();
            let (server, client) = (of(2), of(3));
            assert_eq!(client.parent_id, server.span_id, "{:?}", bench.mode);
            assert!(outside.last().1.contains(&client.span_id));
        }
        // A call without a cause comes last: it says that the program calls by itself.
        for (pod, world) in both(POD).zip(both(WORLD)) {
            let out = ask(&bench.net.pod, &format!("http://{}/", at(world, 8080)), &h2);
            let arrived = ask(&bench.net.world, &format!("http://{}/", at(pod, 3001)), &h2);
            assert!(out == body && arrived == body);
            assert_eq!(outside.last().0, http::Version::HTTP_2);
            assert_eq!(inside.last().0, http::Version::HTTP_2);
            assert!(!inside.last().1.is_empty());
            n_spans += 2;
        }
        let spans = bench.spans(n_spans);
        let version = |span: &Span| span.attribute("network.protocol.version") == "2";
        assert!(spans.iter().all(version));
    });
}

/// nginx with TLS on port 8443 of both families; the proxy must not see what it says.
fn nginx(namespace: &Namespace) -> (Running, tempfile::TempDir) {
    let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pem = made.signing_key.serialize_pem() + &made.cert.pem();
    fs::write(folder.path().join("server.pem"), pem).unwrap();
    fs::write(folder.path().join("index.html"), "secret".repeat(1000)).unwrap();
    let at = folder.path().display();
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log stderr crit;
        events {{}}
        http {{
          access_log off; client_body_temp_path {at}; proxy_temp_path {at}; fastcgi_temp_path {at};
          uwsgi_temp_path {at}; scgi_temp_path {at};
          server {{
            listen 8443 ssl; listen [::]:8443 ssl; http2 on;
            ssl_certificate {at}/server.pem; ssl_certificate_key {at}/server.pem;
            root {at};
          }}
        }}"
    );
    // Older ones say it with the port.
    let config = match namespace.sh("nginx -v 2>&1").unwrap().contains("nginx/1.2") {
        true => config
            .replace(" http2 on;", "")
            .replace("8443 ssl", "8443 ssl http2"),
        false => config,
    };
    fs::write(folder.path().join("nginx.conf"), config).unwrap();
    let mut server = Command::new("nginx");
    server.arg("-c").arg(folder.path().join("nginx.conf"));
    server.args(["-e", "stderr"]);
    let server = namespace.spawn(server);
    wait_for("nginx", || {
        namespace.sh("curl -skf https://[::1]:8443/").ok()
    });
    (server, folder)
}

#[test]
fn tls_passes_unopened_as_one_span_a_connection() {
    if !has("nginx") {
        return;
    }
    let prepare = |bench: &Bench| (nginx(&bench.net.world), nginx(&bench.net.pod));
    let settings = json!({ "passthrough": { "inbound_spans": true } });
    Bench::both(settings, &[], prepare, |bench| {
        let url = "https://shop.example:8443/";
        let mut n_spans = 0;
        for (pod, world) in both(POD).zip(both(WORLD)) {
            for (namespace, to, kind) in [(&bench.net.pod, world, 3), (&bench.net.world, pod, 2)] {
                let resolve = format!("shop.example:8443:{to}");
                let answer = ask(namespace, url, &["-k", "--resolve", &resolve]);
                assert_eq!(answer, "secret".repeat(1000));
                n_spans += 1;
                let spans = bench.spans(n_spans);
                let span = spans.last().unwrap();
                assert_eq!((span.name.as_str(), span.kind), ("TLS", kind));
                assert_eq!(span.attribute("pillion.tls.server_name"), "shop.example");
                assert!(
                    span.attribute("pillion.tls.alpn").contains("h2"),
                    "{span:?}"
                );
                assert_eq!(span.attribute("server.address"), "shop.example");
                assert_eq!(span.attribute("network.peer.address"), world);
                assert_eq!(span.attribute("pillion.connection.end"), "client");
                let received = span.attribute("pillion.tunnel.bytes_received");
                assert!(received.parse::<u64>().unwrap() > 6000, "{received}");
                match kind {
                    3 => assert_eq!(span.attribute("pillion.link.method"), "none"),
                    _ => assert_eq!(span.attribute("client.address"), world),
                }
            }
        }
    });
}
