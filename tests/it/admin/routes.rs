//! Probes, state and orders: every path, its methods, who may call it, and what it refuses.

use std::sync::Arc;
use std::sync::Mutex;

use pillion::admin::Hooks;
use pillion::admin::State;
use pillion::admin::view;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::admin::Admin;

/// Hooks that note what was ordered.
fn hooks(orders: &Arc<Mutex<Vec<String>>>) -> Hooks {
    let note = |orders: &Arc<Mutex<Vec<String>>>, what: &str| {
        orders.lock().unwrap().push(what.to_owned());
    };
    let (drain, quit, level, reload) = (
        orders.clone(),
        orders.clone(),
        orders.clone(),
        orders.clone(),
    );
    Hooks {
        render_metrics: Arc::new(|| "pillion_up 1\n".to_owned()),
        config_dump: Arc::new(|| "inbound: {}\n".to_owned()),
        connections: Arc::new(|| json!([{ "peer": "127.0.0.1:1" }])),
        sampling: Arc::new(|| json!({ "kind": "const" })),
        set_log_level: Arc::new(move |text| {
            if text == "bogus" {
                return Err("bogus is no level".to_owned());
            }
            note(&level, text);
            Ok(())
        }),
        reload: Arc::new(move || {
            let orders = reload.clone();
            Box::pin(async move {
                orders.lock().unwrap().push("reload".to_owned());
                Err("line 3: unknown key".to_owned())
            })
        }),
        drain: Arc::new(move || note(&drain, "drain")),
        quit: Arc::new(move || note(&quit, "quit")),
        ..Hooks::default()
    }
}

const READS: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", "<!doctype html>"),
    ("/ui/app.js", "text/javascript; charset=utf-8", "import"),
    ("/ui/style.css", "text/css; charset=utf-8", ":root"),
    ("/livez", "text/plain; charset=utf-8", "ok\n"),
    ("/healthz", "application/json", "\"state\":\"starting\""),
    (
        "/metrics",
        "text/plain; version=0.0.4; charset=utf-8",
        "pillion_up 1\n",
    ),
    (
        "/stats/prometheus",
        "text/plain; version=0.0.4; charset=utf-8",
        "pillion_up 1\n",
    ),
    ("/config_dump", "text/plain; charset=utf-8", "inbound: {}\n"),
    ("/version", "application/json", "\"version\""),
    ("/connections", "application/json", "127.0.0.1:1"),
    ("/sampling", "application/json", "const"),
    ("/linking", "application/json", "null"),
    ("/traces", "application/json", "resourceSpans"),
    ("/view/summaries", "application/json", "\"held\""),
    ("/view/graph", "application/json", "\"nodes\""),
    ("/view/services", "application/json", "\"services\""),
    ("/api/services", "application/json", "\"data\":[]"),
    ("/api/v3/services", "application/json", "\"services\":[]"),
];

const ORDERS: &[&str] = &["/logging?level=debug", "/reload", "/drain", "/quitquitquit"];

#[tokio::test]
async fn every_page_answers_get_and_head_and_nothing_else() {
    let admin = Admin::with(hooks(&Arc::default()), view::Config::default()).await;
    for (path, kind, part) in READS {
        let answer = admin.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), *kind, "{path}");
        assert!(answer.text().contains(part), "{path}: {}", answer.text());
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");

        let head = admin.send("HEAD", path, &[], b"").await;
        assert_eq!(head.status, 200, "HEAD {path}");
        assert!(head.body.is_empty(), "HEAD {path}");
        if !path.starts_with("/healthz") {
            assert_eq!(
                head.header("content-length"),
                answer.body.len().to_string(),
                "{path}"
            );
        }
        let refused = admin.post(path, &[], b"").await;
        assert_eq!(refused.status, 405, "POST {path}");
        assert_eq!(refused.header("allow"), "GET, HEAD", "POST {path}");
    }
    assert_eq!(admin.get("/nothing").await.status, 404);
    assert_eq!(admin.get("/api/nothing").await.status, 404);
    assert_eq!(admin.get("/ui/../Cargo.toml").await.status, 404);
}

#[tokio::test]
async fn orders_are_posted() {
    let orders = Arc::default();
    let hooks = hooks(&orders);
    let readiness = Arc::clone(&hooks.readiness);
    let admin = Admin::with(hooks, view::Config::default()).await;
    for path in ORDERS {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let refused = admin.send(method, path, &[], b"").await;
            assert_eq!(refused.status, 405, "{method} {path}");
            assert_eq!(refused.header("allow"), "POST", "{method} {path}");
        }
    }
    assert!(orders.lock().unwrap().is_empty(), "nothing happened so far");
    readiness.set(State::Ready);

    assert_eq!(
        admin
            .post("/logging?level=info%2Cpillion%3Dtrace", &[], b"")
            .await
            .status,
        200
    );
    let bogus = admin.post("/logging?level=bogus", &[], b"").await;
    assert_eq!(
        (bogus.status, bogus.text().as_str()),
        (400, "bogus is no level\n")
    );
    assert_eq!(
        admin.post("/logging", &[], b"").await.status,
        400,
        "no level"
    );
    let long = format!("/logging?level={}", "x".repeat(2_000));
    assert_eq!(
        admin.post(&long, &[], b"").await.status,
        400,
        "a level of 2,000 letters"
    );
    let reload = admin.post("/reload", &[], b"").await;
    assert_eq!(
        (reload.status, reload.text().as_str()),
        (400, "line 3: unknown key\n")
    );
    assert_eq!(readiness.state(), State::Ready);
    assert_eq!(admin.post("/drain", &[], b"").await.status, 200);
    assert_eq!(readiness.state(), State::Draining);
    assert_eq!(admin.post("/quitquitquit", &[], b"").await.status, 200);
    let expected = ["info,pillion=trace", "reload", "drain", "quit"];
    assert_eq!(*orders.lock().unwrap(), expected);
}

#[tokio::test]
async fn readiness_follows_the_stages_and_liveness_does_not() {
    let hooks = Hooks::default();
    let readiness = Arc::clone(&hooks.readiness);
    let admin = Admin::with(hooks, view::Config::default()).await;
    for (state, status, text) in [
        (State::Starting, 503, "starting\n"),
        (State::Ready, 200, "ready\n"),
        (State::Draining, 503, "draining\n"),
    ] {
        readiness.set(state);
        let ready = admin.get("/readyz").await;
        assert_eq!((ready.status, ready.text().as_str()), (status, text));
        assert_eq!(admin.get("/livez").await.status, 200, "{state:?} is alive");
        assert_eq!(admin.get("/healthz").await.json()["state"], state.name());
    }
}

#[tokio::test]
async fn foreign_names_and_origins_are_refused() {
    let orders = Arc::default();
    let admin = Admin::with(hooks(&orders), view::Config::default()).await;
    let evil = [("host", "evil.example:15690")];
    for path in [
        "/",
        "/traces",
        "/api/traces?service=a",
        "/config_dump",
        "/metrics",
    ] {
        assert_eq!(
            admin.send("GET", path, &evil, b"").await.status,
            403,
            "{path}"
        );
    }
    assert_eq!(
        admin.send("GET", "/readyz", &evil, b"").await.status,
        503,
        "probes tell nothing"
    );
    let allowed = [("host", "view.example:15690")];
    assert_eq!(
        admin.send("GET", "/traces", &allowed, b"").await.status,
        200
    );
    for path in ORDERS {
        let foreign = [("origin", "http://evil.example")];
        assert_eq!(admin.post(path, &foreign, b"").await.status, 403, "{path}");
        assert_eq!(admin.post(path, &evil, b"").await.status, 403, "{path}");
    }
    assert!(orders.lock().unwrap().is_empty());
    let own = format!("http://{}", admin.addr);
    assert_eq!(
        admin.post("/drain", &[("origin", &own)], b"").await.status,
        200
    );
}

#[tokio::test]
async fn requests_that_are_too_large_or_malformed_are_refused() {
    let admin = Admin::start().await;
    let addr = admin.addr;
    for (request, status, why) in [
        ("GET /livez HTTP/1.1\r\n\r\n".to_owned(), 400, "no host"),
        (
            "GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
            400,
            "two hosts",
        ),
        (
            format!(
                "GET /livez HTTP/1.1\r\nhost: {addr}\r\nx: {}\r\n\r\n",
                "y".repeat(300_000)
            ),
            431,
            "300 kB of headers",
        ),
        (
            format!("POST /drain HTTP/1.1\r\nhost: {addr}\r\ncontent-length: 9999999\r\n\r\n"),
            413,
            "announces 10 MB for an order",
        ),
        (
            format!(
                "POST /drain HTTP/1.1\r\nhost: {addr}\r\ntransfer-encoding: chunked\r\n\r\n{}",
                format!("4000\r\n{}\r\n", "z".repeat(0x4000)).repeat(8)
            ),
            413,
            "grows beyond the limit",
        ),
        ("\0\0\0\0\r\n\r\n".to_owned(), 400, "no HTTP"),
    ] {
        assert_eq!(admin.raw(request.as_bytes()).await.status, status, "{why}");
    }
    let old = admin.raw(b"GET /livez HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.status, 200, "old health checkers send no host");
}

#[tokio::test]
async fn without_the_view_the_port_still_operates() {
    let off = view::Config {
        enabled: false,
        ..view::Config::default()
    };
    let admin = Admin::with(Hooks::default(), off).await;
    assert!(admin.store.is_none());
    let root = admin.get("/").await;
    assert_eq!(root.status, 200);
    for link in ["/livez", "/metrics", "/config_dump"] {
        assert!(root.text().contains(&format!("href=\"{link}\"")), "{link}");
    }
    for path in [
        "/traces",
        "/api/services",
        "/api/v3/services",
        "/view/graph",
        "/ui/app.js",
    ] {
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
    assert_eq!(admin.post("/v1/traces", &[], b"").await.status, 404);
    assert_eq!(admin.get("/livez").await.status, 200);
}

#[tokio::test]
async fn an_unchanged_file_is_not_sent_again() {
    let admin = Admin::start().await;
    let first = admin.get("/ui/app.js").await;
    let tag = first.header("etag").to_owned();
    assert!(tag.len() > 8);
    let weak = format!("\"other\", W/{tag}");
    for known in [tag.as_str(), weak.as_str(), "*"] {
        let again = admin
            .send("GET", "/ui/app.js", &[("if-none-match", known)], b"")
            .await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{known}");
        assert_eq!(again.header("etag"), tag);
    }
    let stale = admin
        .send("GET", "/ui/app.js", &[("if-none-match", "\"old\"")], b"")
        .await;
    assert_eq!(stale.body, first.body);
}

/// Every file that the page names is served, and nothing is named elsewhere.
#[tokio::test]
async fn the_page_works_offline() {
    let admin = Admin::start().await;
    let mut files = vec!["/".to_owned()];
    let mut at = 0;
    while let Some(file) = files.get(at).cloned() {
        at += 1;
        let answer = admin.get(&file).await;
        assert_eq!(answer.status, 200, "{file}");
        let text = answer.text();
        for (before, after, base) in [
            ("src=\"", '"', "/"),
            ("href=\"ui/", '"', "/ui/"),
            ("from './", '\'', "/ui/"),
        ] {
            for part in text.split(before).skip(1) {
                let name = part.split(after).next().unwrap_or_default();
                let path = format!("{base}{name}");
                if !files.contains(&path) {
                    files.push(path);
                }
            }
        }
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!text.contains(forbidden), "{file} uses {forbidden}");
        }
        let foreign = text
            .replace("http://www.w3.org/2000/svg", "")
            .replace("http://127.0.0.1", "");
        assert!(
            !foreign.contains("http://") && !foreign.contains("https://"),
            "{file}"
        );
    }
    assert!(files.len() > 10, "{files:?}");
}

#[tokio::test]
async fn connections_are_bounded_and_come_back() {
    let admin = Admin::start().await;
    let mut held = Vec::new();
    for _ in 0..256 {
        held.push(TcpStream::connect(admin.addr).await.unwrap());
    }
    // Connections are accepted in order, so this one comes after the others.
    let mut refused = TcpStream::connect(admin.addr).await.unwrap();
    let read = refused.read(&mut [0; 16]).await;
    assert!(
        matches!(read, Ok(0) | Err(_)),
        "closed without an answer: {read:?}"
    );
    drop(held);
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let mut conn = TcpStream::connect(admin.addr).await.unwrap();
        let request = format!(
            "GET /livez HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            admin.addr
        );
        let mut answer = String::new();
        let sent = tokio::io::AsyncWriteExt::write_all(&mut conn, request.as_bytes()).await;
        let read = conn.read_to_string(&mut answer).await;
        if sent.is_ok() && read.is_ok() && answer.starts_with("HTTP/1.1 200") {
            return;
        }
        assert!(std::time::Instant::now() < limit, "places come back");
    }
}
