//! hyper on tokio: a task for each connection, calls through a pooled client. A program of the linking benchmark.
//!
//! `RUNTIME=current` runs it on one thread, `CLIENT=h2` sends all calls over one connection, `WORKERS=on` has tasks make
//! them that are made when there are few, and then work for everybody.

#![allow(clippy::unwrap_used, reason = "a program that stands for anybody's")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::env;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::Request;
use http::Response;
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::sync::Semaphore;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

struct App {
    client: Client<HttpConnector, Empty<Bytes>>,
    backend: String,
    few: Semaphore,
    jobs: AtomicBool,
    waiting: Mutex<VecDeque<Waiting>>,
    has_more: Notify,
    running: AtomicUsize,
}

/// A call for a worker, and who is to be told.
type Waiting = (String, oneshot::Sender<u16>);

const MAX_WORKERS: usize = 16;

fn main() {
    let mut builder = match is("RUNTIME", "current") {
        true => runtime::Builder::new_current_thread(),
        false => runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(listen());
}

/// The variable says so.
fn is(variable: &str, value: &str) -> bool {
    env::var(variable).is_ok_and(|found| found == value)
}

async fn listen() {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.http2_only(is("CLIENT", "h2"));
    if is("OUT", "fresh") {
        builder.pool_max_idle_per_host(0);
    }
    let app = Arc::new(App {
        client: builder.build_http(),
        backend: env::var("BACKEND").unwrap(),
        few: Semaphore::new(4),
        jobs: AtomicBool::new(false),
        waiting: Mutex::default(),
        has_more: Notify::new(),
        running: AtomicUsize::new(0),
    });
    tokio::spawn(background(app.clone()));
    let port: u16 = env::var("PORT").unwrap().parse().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let app = app.clone();
        let service = service_fn(move |request| handle(app.clone(), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn handle(
    app: Arc<App>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().trim_matches('/').to_owned();
    let (pattern, id) = path.split_once('/').unwrap_or_default();
    let kept = request.uri().query() == Some("ids=kept");
    match pattern {
        "jobs" => app.jobs.store(id == "on", Ordering::Relaxed),
        "late" => {
            let (app, url) = (app.clone(), url(pattern, id, kept, 0));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                app.call(&url).await
            });
        }
        _ => serve(&app, pattern, id, kept).await,
    }
    Ok(Response::new(Full::from("ok")))
}

async fn serve(app: &Arc<App>, pattern: &str, id: &str, kept: bool) {
    let n_calls = match pattern {
        "fan8" => 8,
        "seq2" | "par2" | "sleep" | "saturated" => 2,
        _ => 1,
    };
    let urls: Vec<String> = (0..n_calls)
        .map(|call| url(pattern, id, kept, call))
        .collect();
    match pattern {
        "retry" => while app.call(&urls[0]).await == 503 {},
        "executor" => {
            let (backend, url) = (app.backend.clone(), urls[0].clone());
            let call = tokio::task::spawn_blocking(move || call_blocking(&backend, &url));
            call.await.unwrap().ok();
        }
        "par2" | "fan8" => {
            let mut calls = JoinSet::new();
            for url in urls {
                let app = app.clone();
                calls.spawn(async move { app.call(&url).await });
            }
            calls.join_all().await;
        }
        _ => {
            for url in urls {
                if pattern == "sleep" {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let _place = match pattern {
                    "saturated" => Some(app.few.acquire().await.unwrap()),
                    _ => None,
                };
                app.call(&url).await;
            }
        }
    }
}

async fn background(app: Arc<App>) {
    for number in 0.. {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if app.jobs.load(Ordering::Relaxed) {
            app.call(&format!("/background/{number}")).await;
        }
    }
}

impl App {
    async fn call(self: &Arc<Self>, path: &str) -> u16 {
        if !is("WORKERS", "on") || path.starts_with("/background/") {
            return self.send(path).await;
        }
        let (tell, told) = oneshot::channel();
        let call = (path.to_owned(), tell);
        self.waiting.lock().unwrap().push_back(call);
        self.has_more.notify_one();
        if self.running.fetch_add(1, Ordering::Relaxed) < MAX_WORKERS {
            tokio::spawn(self.clone().work());
        } else {
            self.running.fetch_sub(1, Ordering::Relaxed);
        }
        told.await.unwrap()
    }

    /// Calls for whoever waits, until nobody has for a while.
    async fn work(self: Arc<Self>) {
        loop {
            let next = self.waiting.lock().unwrap().pop_front();
            if let Some((path, tell)) = next {
                tell.send(self.send(&path).await).ok();
                continue;
            }
            let more = self.has_more.notified();
            let rest = tokio::time::timeout(Duration::from_millis(50), more);
            if rest.await.is_err() && self.waiting.lock().unwrap().is_empty() {
                self.running.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }

    async fn send(&self, path: &str) -> u16 {
        let uri = format!("{}{path}", self.backend).parse().unwrap();
        let Ok(response) = self.client.get(uri).await else {
            return 0;
        };
        let status = response.status().as_u16();
        response.into_body().collect().await.ok();
        status
    }
}

/// Calls from a thread for blocking work, over a connection of its own.
fn call_blocking(backend: &str, path: &str) -> io::Result<usize> {
    let host = backend.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    )?;
    stream.read_to_end(&mut Vec::new())
}

fn url(pattern: &str, id: &str, kept: bool, call: usize) -> String {
    if kept {
        return format!("/call/{id}/{call}");
    }
    let digest = digest::digest(&digest::SHA256, format!("{id}:{call}").as_bytes());
    let hex: Vec<String> = digest.as_ref()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let place = if pattern == "retry" { "flaky" } else { "call" };
    format!("/{place}/{}", hex.concat())
}
