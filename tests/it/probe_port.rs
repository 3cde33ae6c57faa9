//! The port for probes, and the commands that stand in the hooks of containers.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use crate::support::http;
use crate::support::pillion::Pillion;
use crate::support::upstream::Upstream;

fn sidecar(tcp_probes: &[u16]) -> Pillion {
    let config = json!({
        "outbound": { "listen": "127.0.0.1:0" },
        "admin": {
            "listen": "127.0.0.1:0",
            "probe_listen": "127.0.0.1:0",
            "tcp_probes": tcp_probes,
        },
    });
    Pillion::run(&config.to_string())
}

#[tokio::test]
async fn the_port_for_probes_tells_what_probes_ask_and_nothing_else() {
    let open = Upstream::start().await;
    // Held, so that nobody else gets it, and not listened on.
    let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    held.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let closed = held.local_addr().unwrap().as_socket().unwrap().port();
    let process = sidecar(&[open.port, closed]);
    let port = process.port("probes");
    for (path, status, text) in [
        ("/livez", 200, "ok"),
        ("/readyz", 200, "ready"),
        ("/healthz", 200, "\"state\":\"ready\""),
        ("/metrics", 200, "pillion_build_info"),
        (&format!("/tcp/{}", open.port), 200, "open"),
        (&format!("/tcp/{closed}"), 503, "refused"),
        ("/tcp/1", 404, "port 1 is not among admin.tcp_probes"),
        ("/tcp/x", 404, "port x is not among"),
        ("/", 404, "not found; here are /livez"),
        ("/config_dump", 404, "not found"),
        ("/traces", 404, "not found"),
        ("/connections", 404, "not found"),
    ] {
        let answer = http::get(port, path).await.unwrap();
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{path}: {body}");
        assert!(body.contains(text), "{path}: {body}");
    }
    for path in ["/drain", "/quitquitquit", "/reload", "/v1/traces", "/livez"] {
        let answer = http::post(port, path, "text/plain", b"").await.unwrap();
        assert_eq!(answer.status, 405, "{path}");
    }
}

#[test]
fn healthcheck_waits_for_a_proxy_that_is_still_to_start() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = free.local_addr().unwrap().to_string();
    drop(free);
    let mut waiting = Pillion::start(&["healthcheck", "--wait", "30s", "--admin", &admin]);
    let mut proxy = Pillion::start(&["run", "--outbound", "127.0.0.1:0", "--admin", &admin]);
    let status = waiting.wait();
    assert!(status.success(), "{}", waiting.stderr());
    proxy.stop();

    let began = Instant::now();
    let mut in_vain = Pillion::start(&["healthcheck", "--wait", "300ms", "--admin", &admin]);
    assert_eq!(in_vain.wait().code(), Some(1));
    assert!(
        in_vain.stderr().contains("not ready: no answer"),
        "{}",
        in_vain.stderr()
    );
    assert!(began.elapsed() > Duration::from_millis(150));
}

#[tokio::test]
async fn drain_waits_at_least_and_at_most_as_long_as_it_is_told() {
    let process = sidecar(&[]);
    let admin = process.port("admin");
    let address = format!("127.0.0.1:{admin}");
    let began = Instant::now();
    let mut drain = Pillion::start(&["drain", "--after", "300ms", "--admin", &address]);
    let status = drain.wait();
    assert!(status.success(), "{}", drain.stderr());
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(600),
        "quiet for a moment: {took:?}"
    );
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(http::get(admin, "/readyz").await.unwrap().status, 503);

    let mut nobody = Pillion::start(&["drain", "--admin", "127.0.0.1:1"]);
    assert_eq!(nobody.wait().code(), Some(1));
    assert!(
        nobody
            .stderr()
            .contains("not drained: no answer from 127.0.0.1:1"),
        "{}",
        nobody.stderr()
    );
}
