//! The admin port from outside: a raw client against a server on a free loopback port.

mod beside_jaeger;
mod query;
mod receiver;
mod routes;
pub(crate) mod seed;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pillion::admin;
use pillion::admin::Hooks;
use pillion::admin::Store;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

/// A running admin port; dropping it stops the server.
pub(crate) struct Admin {
    pub(crate) addr: SocketAddr,
    pub(crate) store: Option<Arc<Store>>,
    _stop: DropGuard,
}

/// An answer in parts; header names in lower case.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Admin {
    /// Starts with the view on and harmless hooks.
    pub(crate) async fn start() -> Self {
        Self::with(Hooks::default(), admin::view::Config::default()).await
    }

    pub(crate) async fn with(hooks: Hooks, view: admin::view::Config) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let store = view.enabled.then(|| Arc::new(view.store()));
        let cancel = CancellationToken::new();
        let stop = cancel.clone().drop_guard();
        let config = admin::Config {
            allowed_hosts: vec!["view.example".to_owned()],
            ..admin::Config::default()
        };
        let keep = store.clone();
        tokio::spawn(async move {
            admin::serve(listener, &config, &view, hooks, keep, cancel).await;
        });
        Self {
            addr,
            store,
            _stop: stop,
        }
    }

    /// GET with the right host.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    /// POST with the right host.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send("POST", path, headers, body).await
    }

    /// Any request; a `host` among the headers replaces the right one.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str(&format!("host: {}\r\n", self.addr));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.raw(&[head.as_bytes(), body].concat()).await
    }

    /// Exact bytes, then reads to the end.
    pub(crate) async fn raw(&self, request: &[u8]) -> Answer {
        let exchange = async {
            let mut conn = TcpStream::connect(self.addr).await.unwrap();
            // The server may answer and close before it has read everything.
            conn.write_all(request).await.ok();
            let mut answer = Vec::new();
            conn.read_to_end(&mut answer).await.ok();
            Answer::parse(&answer)
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, exchange)
            .await
            .expect("an answer in time")
    }

    /// Sends spans as OTLP JSON and expects them to be taken.
    pub(crate) async fn seed(&self, body: &Value) {
        let json = [("content-type", "application/json")];
        let answer = self
            .post("/v1/traces", &json, body.to_string().as_bytes())
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        Self {
            status: status.parse().unwrap(),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}
