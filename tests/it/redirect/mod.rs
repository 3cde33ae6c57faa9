//! Redirected connections in network namespaces: programs that know nothing of proxies, on both sides of REDIRECT and
//! TPROXY. Without the privilege the tests say that they skip.

mod bytes;
mod databases;
mod http;
mod isolate;
mod rules;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::netns::Namespace;
use crate::support::netns::Net;
use crate::support::netns::has;
use crate::support::otlp;
use crate::support::otlp::Span;
use crate::support::proxy::Pillion;

const DEADLINE: Duration = Duration::from_secs(20);
const PYTHON: &str = "/usr/bin/python3";

/// A pod with a proxy, rules that lead everything there, and a collector; a world outside.
struct Bench {
    // Dropped in this order: the proxy stops while its collector is there.
    pillion: Pillion,
    collector: Collector,
    pod: Runtime,
    world: Runtime,
    net: Net,
}

impl Bench {
    /// With these settings over the usual ones, and these arguments for `redirect install`.
    fn start(settings: Value, rules: &[&str]) -> Option<Self> {
        for tool in ["ip", "nft", "curl"] {
            if !has(tool) {
                return None;
            }
        }
        let net = Net::new()?;
        let (pod, world) = (net.pod.run(runtime), net.world.run(runtime));
        let starting = Collector::start(Speaks::Http1, vec![], Reply::Accept);
        let collector = inside(&pod, starting);
        let mut all = json!({
            "inbound": { "redirect": {} },
            "outbound": { "redirect": {} },
            "sampling": { "constant": { "decision": true } },
            "reporters": [{ "otlp": {
                "endpoint": collector.url(),
                "queue": { "flush_interval": "20ms" },
            } }],
        });
        merge(&mut all, settings);
        let pillion = net.pod.run(move || Pillion::start(all));
        let mut args = vec!["install", "--exclude-uids", "0"];
        args.extend(rules);
        redirect(&net.pod, &args).unwrap();
        Some(Self {
            pillion,
            collector,
            pod,
            world,
            net,
        })
    }

    fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.world.block_on(self.pillion.metric(name, labels))
    }

    /// Waits until a metric has this value.
    fn counted(&self, name: &str, labels: &[&str], value: f64) {
        let what = format!("{name}{labels:?}");
        wait_for(&what, || (self.metric(name, labels) == value).then_some(()));
    }

    /// Waits until the collector has so many spans.
    fn spans(&self, count: usize) -> Vec<Span> {
        wait_for("spans", || {
            let spans = otlp::spans(&self.collector);
            (spans.len() >= count).then_some(spans)
        })
    }
}

/// Runs `pillion redirect` inside a namespace; its standard output, or its status and standard error.
fn redirect(namespace: &Namespace, args: &[&str]) -> Result<String, (i32, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    crate::support::pillion::scrub(&mut command);
    command.arg("redirect").args(args);
    let output = namespace.output(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.code() {
        Some(0) => Ok(text(&output.stdout)),
        status => Err((status.unwrap_or(-1), text(&output.stderr))),
    }
}

/// Runs on the runtime's own thread, which is inside; the thread that waits is not.
fn inside<T: Send + 'static>(
    runtime: &Runtime,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    runtime.block_on(runtime.spawn(future)).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An address as it stands in a URL.
fn at(ip: &str, port: u16) -> String {
    SocketAddr::new(ip.parse().unwrap(), port).to_string()
}

/// Both families, by the addresses of one side.
fn both(addresses: [&'static str; 2]) -> impl Iterator<Item = &'static str> {
    addresses.into_iter()
}
