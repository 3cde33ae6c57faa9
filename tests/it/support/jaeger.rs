//! A real Jaeger v2 beside the test: every receiver, remote sampling, memory storage, query API, all on free ports.
//!
//! The binary is `PILLION_TEST_JAEGER`, else the one that `tests/interop/install.sh` made, else `jaeger` in the `PATH`.
//! It runs with a configuration and a log in a directory of its own and is ended by its handle.

use std::fs::File;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::support::http;
use crate::support::skip::skip;

const START_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);
/// Another program may take a port between our look and Jaeger's bind.
const ATTEMPTS: usize = 4;

/// Where sampling strategies come from.
#[derive(Debug, Clone)]
pub(crate) enum Sampling {
    /// A strategies file with this content, reread ten times a second.
    File(Value),
    /// Adaptive: computed once a second from the root spans received and kept on disk. A Jaeger that is alone, and so
    /// the leader of its election, serves what it has computed only after a restart.
    Adaptive,
}

/// A running Jaeger. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Jaeger {
    binary: PathBuf,
    process: Child,
    dir: TempDir,
    pub(crate) ports: Ports,
}

/// Where each part listens on 127.0.0.1; UDP where the name says so.
#[derive(Debug, Clone)]
pub(crate) struct Ports {
    pub(crate) otlp_grpc: u16,
    pub(crate) otlp_http: u16,
    pub(crate) thrift_http: u16,
    pub(crate) thrift_compact_udp: u16,
    pub(crate) thrift_binary_udp: u16,
    pub(crate) jaeger_grpc: u16,
    pub(crate) zipkin: u16,
    pub(crate) sampling_http: u16,
    pub(crate) sampling_grpc: u16,
    pub(crate) query_http: u16,
    pub(crate) query_grpc: u16,
    pub(crate) health: u16,
    pub(crate) metrics: u16,
}

impl Jaeger {
    /// Starts one and waits until every part answers. `None`: not installed, and the skip is printed.
    pub(crate) async fn start(sampling: Sampling) -> Option<Self> {
        let Some(binary) = find() else {
            skip("no Jaeger v2: run tests/interop/install.sh or set PILLION_TEST_JAEGER");
            return None;
        };
        for attempt in 1..=ATTEMPTS {
            let mut jaeger = Self::spawn(&binary, &sampling);
            match jaeger.wait_until_ready().await {
                Ok(()) => return Some(jaeger),
                Err(why)
                    if attempt == ATTEMPTS || !jaeger.log().contains("address already in use") =>
                {
                    panic!("{} {why}\n{}", binary.display(), tail(&jaeger.log()));
                }
                Err(_) => {}
            }
        }
        None
    }

    fn spawn(binary: &Path, sampling: &Sampling) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = Ports::free();
        if let Sampling::File(content) = sampling {
            std::fs::write(dir.path().join("strategies.json"), content.to_string()).unwrap();
        }
        // JSON is YAML.
        let config = configuration(&ports, sampling, dir.path()).to_string();
        std::fs::write(dir.path().join("config.yaml"), config).unwrap();
        Self {
            process: run(binary, dir.path()),
            binary: binary.to_owned(),
            dir,
            ports,
        }
    }

    /// Asks the process to stop, waits for it and starts it again on the same ports with the same files.
    pub(crate) async fn restart(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + START_LIMIT;
        while self.process.try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < deadline,
                "does not stop\n{}",
                tail(&self.log())
            );
            tokio::time::sleep(PAUSE).await;
        }
        self.process = run(&self.binary, self.dir.path());
        if let Err(why) = self.wait_until_ready().await {
            panic!("{why}\n{}", tail(&self.log()));
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        let checks = [
            (self.ports.health, "/status"),
            (self.ports.query_http, "/api/services"),
            (self.ports.sampling_http, "/api/sampling?service=readiness"),
        ];
        for (port, path) in checks {
            while !http::get(port, path)
                .await
                .is_ok_and(|answer| answer.status == 200)
            {
                if let Some(status) = self.process.try_wait().unwrap() {
                    return Err(format!("ended at once: {status}"));
                }
                if Instant::now() > deadline {
                    return Err(format!("does not answer {path} within {START_LIMIT:?}"));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// The sampling endpoint as clients are configured with it.
    pub(crate) fn sampling_url(&self) -> String {
        format!("http://127.0.0.1:{}/sampling", self.ports.sampling_http)
    }

    /// Replaces the strategies file in one step; Jaeger rereads it within a fraction of a second.
    pub(crate) fn write_strategies(&self, content: &Value) {
        let new = self.dir.path().join("strategies.new");
        std::fs::write(&new, content.to_string()).unwrap();
        std::fs::rename(new, self.dir.path().join("strategies.json")).unwrap();
    }

    /// What Jaeger answers to a client of this service.
    pub(crate) async fn strategy(&self, service: &str) -> Value {
        let path = format!("/sampling?service={service}");
        let answer = http::get(self.ports.sampling_http, &path).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
        answer.json()
    }

    /// Waits until Jaeger itself answers with a strategy that satisfies `expected`.
    pub(crate) async fn wait_for_strategy(
        &self,
        service: &str,
        expected: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let strategy = self.strategy(service).await;
            if expected(&strategy) {
                return strategy;
            }
            assert!(
                Instant::now() < deadline,
                "still {strategy}\n{}",
                tail(&self.log())
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The services that have reported spans.
    pub(crate) async fn services(&self) -> Vec<String> {
        let answer = self.query("/api/services").await;
        serde_json::from_value(answer["data"].clone()).unwrap_or_default()
    }

    /// Up to 1,000 traces with a span of this service, as the query API shows them.
    pub(crate) async fn traces(&self, service: &str) -> Vec<Value> {
        let answer = self
            .query(&format!("/api/traces?service={service}&limit=1000"))
            .await;
        answer["data"].as_array().cloned().unwrap_or_default()
    }

    /// One trace by its id in hexadecimal; `None` while unknown.
    pub(crate) async fn trace(&self, id: &str) -> Option<Value> {
        let answer = self.query(&format!("/api/traces/{id}")).await;
        answer["data"].get(0).cloned()
    }

    /// Waits for a trace with at least so many spans; fails with what is there after the limit.
    pub(crate) async fn wait_for_trace(&self, id: &str, n_spans: usize, limit: Duration) -> Value {
        let deadline = Instant::now() + limit;
        loop {
            let trace = self.trace(id).await;
            let arrived = trace.as_ref().map_or(0, |trace| spans(trace).len());
            match trace {
                Some(trace) if arrived >= n_spans => return trace,
                _ if Instant::now() > deadline => {
                    panic!("trace {id} has {arrived} of {n_spans} spans after {limit:?}: {trace:?}")
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// One of Jaeger's own metrics, summed over its series; 0 when there is none.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let answer = http::get(self.ports.metrics, "/metrics").await.unwrap();
        String::from_utf8_lossy(&answer.body)
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Ends the process now and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// What Jaeger logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    async fn query(&self, path: &str) -> Value {
        http::get(self.ports.query_http, path).await.unwrap().json()
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The spans of a trace from the query API.
pub(crate) fn spans(trace: &Value) -> &[Value] {
    trace["spans"].as_array().map_or(&[], Vec::as_slice)
}

/// The value of a span's tag; `Null` when absent.
pub(crate) fn tag<'a>(span: &'a Value, key: &str) -> &'a Value {
    let tags = span["tags"].as_array().map_or(&[][..], Vec::as_slice);
    tags.iter()
        .find(|tag| tag["key"] == key)
        .map_or(&Value::Null, |tag| &tag["value"])
}

impl Ports {
    /// Ports below the range that the system gives out by itself, free at this moment for TCP and UDP.
    fn free() -> Self {
        let mut taken = Vec::new();
        let mut next = || {
            loop {
                let port = fastrand::u16(20_000..32_000);
                let free = TcpListener::bind(("127.0.0.1", port)).is_ok()
                    && UdpSocket::bind(("127.0.0.1", port)).is_ok();
                if free && !taken.contains(&port) {
                    taken.push(port);
                    return port;
                }
            }
        };
        Self {
            otlp_grpc: next(),
            otlp_http: next(),
            thrift_http: next(),
            thrift_compact_udp: next(),
            thrift_binary_udp: next(),
            jaeger_grpc: next(),
            zipkin: next(),
            sampling_http: next(),
            sampling_grpc: next(),
            query_http: next(),
            query_grpc: next(),
            health: next(),
            metrics: next(),
        }
    }
}

fn run(binary: &Path, dir: &Path) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    Command::new(binary)
        .arg("--config")
        .arg(dir.join("config.yaml"))
        // Otherwise it reports its own queries to the default port.
        .env("OTEL_TRACES_SAMPLER", "always_off")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()))
}

fn configuration(ports: &Ports, sampling: &Sampling, dir: &Path) -> Value {
    let at = |port: u16| json!({ "endpoint": format!("127.0.0.1:{port}") });
    let mut storage = json!({ "memory": { "max_traces": 100_000 } });
    let mut processors = json!({ "batch": { "timeout": "50ms" } });
    let mut remote_sampling =
        json!({ "http": at(ports.sampling_http), "grpc": at(ports.sampling_grpc) });
    match sampling {
        Sampling::File(_) => {
            remote_sampling["file"] =
                json!({ "path": dir.join("strategies.json"), "reload_interval": "100ms" });
        }
        Sampling::Adaptive => {
            storage = json!({ "badger": {
                "ephemeral": false,
                "consistency": true,
                "directories": { "keys": dir.join("keys"), "values": dir.join("values") },
            }});
            processors["adaptive_sampling"] = json!({});
            remote_sampling["adaptive"] = json!({
                "sampling_store": "store",
                "initial_sampling_probability": 0.5,
                "min_samples_per_second": 0.1,
                "calculation_interval": "1s",
                "calculation_delay": "1s",
                "leader_lease_refresh_interval": "200ms",
                "follower_lease_refresh_interval": "300ms",
            });
        }
    }
    let processor_names: Vec<_> = processors
        .as_object()
        .into_iter()
        .flat_map(|map| map.keys())
        .collect();
    json!({
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query", "remote_sampling", "healthcheckv2"],
            "pipelines": { "traces": {
                "receivers": ["otlp", "jaeger", "zipkin"],
                "processors": processor_names,
                "exporters": ["jaeger_storage_exporter"],
            }},
            "telemetry": {
                "resource": { "service.name": "jaeger" },
                "metrics": { "level": "detailed", "readers": [
                    { "pull": { "exporter": { "prometheus": { "host": "127.0.0.1", "port": ports.metrics } } } },
                ]},
            },
        },
        "extensions": {
            "healthcheckv2": { "use_v2": true, "http": at(ports.health) },
            "jaeger_query": {
                "storage": { "traces": "store" },
                "http": at(ports.query_http),
                "grpc": at(ports.query_grpc),
            },
            "jaeger_storage": { "backends": { "store": storage } },
            "remote_sampling": remote_sampling,
        },
        "receivers": {
            "otlp": { "protocols": { "grpc": at(ports.otlp_grpc), "http": at(ports.otlp_http) } },
            "jaeger": { "protocols": {
                "grpc": at(ports.jaeger_grpc),
                "thrift_http": at(ports.thrift_http),
                "thrift_compact": at(ports.thrift_compact_udp),
                "thrift_binary": at(ports.thrift_binary_udp),
            }},
            "zipkin": at(ports.zipkin),
        },
        "processors": processors,
        "exporters": { "jaeger_storage_exporter": { "trace_storage": "store" } },
    })
}

pub(crate) fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PILLION_TEST_JAEGER") {
        let named = PathBuf::from(named);
        assert!(
            named.is_file(),
            "PILLION_TEST_JAEGER: no file {}",
            named.display()
        );
        return Some(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join("jaeger"));
    tools()
        .map(|dir| dir.join("bin/jaeger"))
        .into_iter()
        .chain(in_path)
        .find(|file| file.is_file())
}

/// Where `tests/interop/install.sh` puts what it installs.
pub(crate) fn tools() -> Option<PathBuf> {
    let named = std::env::var_os("PILLION_TEST_TOOLS").map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/pillion-tools")))
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[tokio::test]
async fn a_reported_trace_is_found_with_its_tags() {
    let Some(jaeger) = Jaeger::start(Sampling::File(json!({}))).await else {
        return;
    };
    let trace_id = format!("{:032x}", 0xabc);
    let tag_sent = json!({ "key": "cart.size", "value": { "intValue": "3" } });
    let name = json!({ "key": "service.name", "value": { "stringValue": "shop" } });
    let body = json!({ "resourceSpans": [{
        "resource": { "attributes": [name] },
        "scopeSpans": [{ "spans": [{
            "traceId": trace_id, "spanId": "00000000000000ab", "name": "GET /cart", "kind": 2,
            "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000001000000",
            "attributes": [tag_sent],
        }]}],
    }]});
    let body = body.to_string();
    let sent = http::post(
        jaeger.ports.otlp_http,
        "/v1/traces",
        "application/json",
        body.as_bytes(),
    )
    .await;
    assert_eq!(sent.unwrap().status, 200);

    let trace = jaeger
        .wait_for_trace(&trace_id, 1, Duration::from_secs(10))
        .await;
    let [span] = spans(&trace) else {
        panic!("{trace}");
    };
    assert_eq!(span["operationName"], "GET /cart");
    assert_eq!(*tag(span, "cart.size"), json!(3));
    assert_eq!(*tag(span, "absent"), Value::Null);
    assert_eq!(jaeger.services().await, ["shop"]);
    assert_eq!(jaeger.trace(&"b".repeat(32)).await, None);
}
