//! Redirected connections in network namespaces: programs that know nothing of proxies, on both sides of REDIRECT and
//! TPROXY. Without the privilege the tests say that they skip.

mod bench;
mod bytes;
mod databases;
mod http;
mod isolate;
mod rules;

use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
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

/// What leads connections to the proxy, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Redirect(Tool),
    Tproxy(Tool),
}

/// What writes the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Nft,
    /// iptables as it is installed: a front of nftables on systems of today.
    Iptables,
    /// iptables of old.
    Legacy,
}

impl Mode {
    /// REDIRECT and TPROXY.
    const BOTH: [Self; 2] = [Self::Redirect(Tool::Nft), Self::Tproxy(Tool::Nft)];

    fn tool(self) -> Tool {
        let (Self::Redirect(tool) | Self::Tproxy(tool)) = self;
        tool
    }

    fn settings(self) -> Value {
        match self {
            Self::Redirect(_) => {
                json!({ "inbound": { "redirect": {} }, "outbound": { "redirect": {} } })
            }
            Self::Tproxy(_) => json!({
                "inbound": { "redirect": { "mode": "tproxy" } },
                "outbound": { "redirect": { "mode": "tproxy" } },
            }),
        }
    }

    fn rules(self) -> Vec<&'static str> {
        let mut args = vec!["install", "--exclude-uids", "0"];
        if self.tool() != Tool::Nft {
            args.extend(["--tool", "iptables"]);
        }
        if let Self::Tproxy(_) = self {
            args.extend(["--tproxy", "--outbound-tproxy"]);
        }
        args
    }
}

impl Tool {
    /// True where it is there; says so where not.
    fn is_there(self) -> bool {
        let needed: &[&str] = match self {
            Self::Nft => &["nft"],
            Self::Iptables => &["iptables-restore", "ip6tables-save"],
            Self::Legacy => &LEGACY,
        };
        needed.iter().all(|tool| has(tool))
    }
}

/// The tools of old iptables, in the order of their usual names.
const LEGACY: [&str; 4] = [
    "iptables-legacy-restore",
    "ip6tables-legacy-restore",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
];
const USUAL: [&str; 4] = [
    "iptables-restore",
    "ip6tables-restore",
    "iptables-save",
    "ip6tables-save",
];

/// A pod with a proxy, rules that lead everything there, and a collector; a world outside.
struct Bench {
    // Dropped in this order: the proxy stops while its collector is there.
    pillion: Pillion,
    collector: Collector,
    mode: Mode,
    /// Spans of the proxy before this one.
    earlier: usize,
    pod: Runtime,
    world: Runtime,
    net: Net,
}

impl Bench {
    /// By REDIRECT, with these settings over the usual ones, and these arguments for `redirect install`.
    fn start(settings: Value, rules: &[&str]) -> Option<Self> {
        Self::lead(Mode::Redirect(Tool::Nft), settings, rules)
    }

    fn lead(mode: Mode, settings: Value, rules: &[&str]) -> Option<Self> {
        if !["ip", "nft", "curl"].into_iter().all(has) || !mode.tool().is_there() {
            return None;
        }
        let net = Net::new()?;
        let (pod, world) = (net.pod.run(runtime), net.world.run(runtime));
        let starting = Collector::start(Speaks::Http1, vec![], Reply::Accept);
        let collector = inside(&pod, starting);
        let around = Around {
            collector,
            pod,
            world,
            net,
        };
        Some(around.lead(mode, settings, rules))
    }

    /// The same in another mode, with a new proxy; what runs on both sides goes on.
    fn again(self, mode: Mode, settings: Value, rules: &[&str]) -> Self {
        let Self {
            pillion,
            collector,
            pod,
            world,
            net,
            ..
        } = self;
        drop(pillion);
        // A child that another test is just starting has every socket of ours until it runs its program.
        for port in [15602, 15607] {
            let free = move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).ok();
            wait_for("a free port", || net.pod.run(free));
        }
        redirect(&net.pod, &["remove"]).unwrap();
        let around = Around {
            collector,
            pod,
            world,
            net,
        };
        around.lead(mode, settings, rules)
    }

    /// Through REDIRECT and then through TPROXY, with what `prepare` starts beside it.
    fn both<T>(
        settings: Value,
        rules: &[&str],
        prepare: impl FnOnce(&Self) -> T,
        check: impl Fn(&Self),
    ) {
        let [first, second] = Mode::BOTH;
        let Some(bench) = Self::lead(first, settings.clone(), rules) else {
            return;
        };
        let _beside = prepare(&bench);
        check(&bench);
        let bench = bench.again(second, settings, rules);
        check(&bench);
    }

    fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.world.block_on(self.pillion.metric(name, labels))
    }

    /// Waits until a metric has this value.
    fn counted(&self, name: &str, labels: &[&str], value: f64) {
        let what = format!("{name}{labels:?}");
        wait_for(&what, || (self.metric(name, labels) == value).then_some(()));
    }

    /// Waits until the collector has so many spans of this proxy.
    fn spans(&self, count: usize) -> Vec<Span> {
        wait_for("spans", || {
            let spans = otlp::spans(&self.collector).split_off(self.earlier);
            (spans.len() >= count).then_some(spans)
        })
    }
}

/// What is there around the proxy.
struct Around {
    collector: Collector,
    pod: Runtime,
    world: Runtime,
    net: Net,
}

impl Around {
    fn lead(self, mode: Mode, settings: Value, rules: &[&str]) -> Bench {
        let Self {
            collector,
            pod,
            world,
            net,
        } = self;
        let mut all = json!({
            "sampling": { "constant": { "decision": true } },
            "reporters": [{ "otlp": {
                "endpoint": collector.url(),
                "queue": { "flush_interval": "20ms" },
            } }],
        });
        merge(&mut all, mode.settings());
        merge(&mut all, settings);
        let pillion = net.pod.run(move || Pillion::start(all));
        let mut args = mode.rules();
        args.extend(rules);
        redirect_with(&net.pod, mode.tool(), &args).unwrap();
        Bench {
            pillion,
            earlier: otlp::spans(&collector).len(),
            collector,
            mode,
            pod,
            world,
            net,
        }
    }
}

/// Runs `pillion redirect` inside a namespace; its standard output, or its status and standard error.
fn redirect(namespace: &Namespace, args: &[&str]) -> Result<String, (i32, String)> {
    redirect_with(namespace, Tool::Nft, args)
}

fn redirect_with(
    namespace: &Namespace,
    tool: Tool,
    args: &[&str],
) -> Result<String, (i32, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    crate::support::pillion::scrub(&mut command);
    command.arg("redirect").args(args);
    // The tools of old, by the usual names, in front of the others.
    let folder = tempfile::tempdir().unwrap();
    if tool == Tool::Legacy {
        let path = std::env::var("PATH").unwrap();
        for (usual, legacy) in USUAL.into_iter().zip(LEGACY) {
            let found = std::env::split_paths(&path)
                .map(|at| at.join(legacy))
                .find(|at| at.is_file());
            std::os::unix::fs::symlink(found.unwrap(), folder.path().join(usual)).unwrap();
        }
        command.env("PATH", format!("{}:{path}", folder.path().display()));
    }
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
