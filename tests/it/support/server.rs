//! Servers of other projects beside the test: started on free ports, awaited, ended by their handle.

use std::fs::File;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::support::http;
use crate::support::jaeger;
use crate::support::seen::JsonSpan;
use crate::support::seen::json_spans;
use crate::support::skip::skip;

const START_LIMIT: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(20);

/// A running process with a directory of its own. Dropping it ends it.
pub(crate) struct Server {
    child: Child,
    started: Instant,
    dir: TempDir,
}

impl Server {
    pub(crate) fn start(mut command: Command, dir: TempDir) -> Self {
        let log = File::create(dir.path().join("log")).unwrap();
        let child = command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            started: Instant::now(),
            dir,
        }
    }

    /// Waits until `GET path` on this port answers with 200, or any status where the path is a probe of life only.
    /// Fails with the log when the process ends.
    pub(crate) async fn wait_for(
        &mut self,
        port: u16,
        path: &str,
        any: bool,
    ) -> Result<(), String> {
        loop {
            match http::get(port, path).await {
                Ok(answer) if any || answer.status == 200 => return Ok(()),
                _ => self.still_starting().await?,
            }
        }
    }

    /// Waits until this stands in the log.
    pub(crate) async fn wait_for_line(&mut self, text: &str) -> Result<(), String> {
        while !self.log().contains(text) {
            self.still_starting().await?;
        }
        Ok(())
    }

    pub(crate) async fn still_starting(&mut self) -> Result<(), String> {
        if self.child.try_wait().unwrap().is_some() {
            return Err(self.log());
        }
        let waited = self.started.elapsed();
        assert!(waited < START_LIMIT, "not ready\n{}", self.log());
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// What it may write into.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Another program may take a port between our look and the server's bind: then it is started on others.
pub(crate) async fn attempts<T>(start: impl AsyncFn() -> Result<T, String>) -> T {
    const ATTEMPTS: usize = 5;
    for attempt in 1.. {
        match start().await {
            Ok(server) => return server,
            Err(log) => {
                let taken = log.to_lowercase().contains("address already in use");
                assert!(taken && attempt < ATTEMPTS, "ended at once\n{log}");
            }
        }
    }
    unreachable!("the last attempt returns or fails")
}

/// Below the range that the system gives out by itself, free at this moment for TCP and UDP, each once in this process.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    loop {
        let port = fastrand::u16(20_000..32_000);
        let mut given = GIVEN.lock().unwrap();
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", port)).is_ok();
        if is_free && !given.contains(&port) {
            given.push(port);
            return port;
        }
    }
}

/// A file that `tests/interop/install.sh PART` installs, or a skip.
fn installed(file: &str, part: &str) -> Option<PathBuf> {
    let path = jaeger::tools().map(|dir| dir.join(file));
    let path = path.filter(|path| path.is_file());
    if path.is_none() {
        skip(&format!("no {file}: run tests/interop/install.sh {part}"));
    }
    path
}

/// An OpenTelemetry Collector that writes what its receivers take into a file.
pub(crate) struct OtelCol {
    server: Server,
    pub(crate) otlp_grpc: u16,
    pub(crate) otlp_http: u16,
    pub(crate) jaeger_grpc: u16,
    pub(crate) thrift_http: u16,
    pub(crate) thrift_compact_udp: u16,
    pub(crate) thrift_binary_udp: u16,
    pub(crate) zipkin: u16,
    pub(crate) skywalking_grpc: u16,
    pub(crate) skywalking_http: u16,
    pub(crate) xray_udp: u16,
    pub(crate) datadog: u16,
    /// Lines of OTLP's JSON that are appended to it are received.
    pub(crate) watched_file: PathBuf,
}

impl OtelCol {
    pub(crate) async fn start() -> Option<Self> {
        let binary = installed("bin/otelcol", "otelcol")?;
        Some(attempts(async || Self::attempt(&binary).await).await)
    }

    async fn attempt(binary: &Path) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let mut ports = std::iter::repeat_with(free_port);
        let mut next = || ports.next().unwrap_or_default();
        let (otlp_grpc, otlp_http, jaeger_grpc, thrift_http) = (next(), next(), next(), next());
        let (thrift_compact_udp, thrift_binary_udp, zipkin) = (next(), next(), next());
        let (skywalking_grpc, skywalking_http, xray_udp, datadog) =
            (next(), next(), next(), next());
        let watched_file = dir.path().join("watched.json");
        let at = |port: u16| json!({ "endpoint": format!("127.0.0.1:{port}") });
        let receivers = json!({
            "otlp": { "protocols": { "grpc": at(otlp_grpc), "http": at(otlp_http) } },
            "jaeger": { "protocols": {
                "grpc": at(jaeger_grpc), "thrift_http": at(thrift_http),
                "thrift_compact": at(thrift_compact_udp), "thrift_binary": at(thrift_binary_udp),
            } },
            "zipkin": at(zipkin),
            "skywalking": { "protocols": { "grpc": at(skywalking_grpc), "http": at(skywalking_http) } },
            "awsxray": {
                "endpoint": format!("127.0.0.1:{xray_udp}"), "transport": "udp",
                "proxy_server": { "endpoint": format!("127.0.0.1:{}", next()), "region": "us-east-1" },
            },
            "datadog": { "endpoint": format!("127.0.0.1:{datadog}"), "trace_id_cache_size": 100 },
            "otlpjsonfile": { "include": [watched_file], "start_at": "beginning", "poll_interval": "50ms" },
        });
        let names: Vec<_> = receivers.as_object().unwrap().keys().collect();
        let config = json!({
            "service": {
                "pipelines": { "traces": { "receivers": names, "exporters": ["file"] } },
                "telemetry": { "metrics": { "level": "none" } },
            },
            "exporters": { "file": { "path": dir.path().join("spans.json"), "flush_interval": "50ms" } },
            "receivers": receivers,
        });
        // JSON is YAML.
        std::fs::write(dir.path().join("config.yaml"), config.to_string()).unwrap();
        let mut command = Command::new(binary);
        command
            .args(["--config", "config.yaml"])
            .arg("--feature-gates=receiver.datadogreceiver.Enable128BitTraceID");
        let mut server = Server::start(command, dir);
        // Receivers start one after the other, and this line is the last one's.
        server.wait_for_line("Everything is ready").await?;
        Ok(Self {
            server,
            otlp_grpc,
            otlp_http,
            jaeger_grpc,
            thrift_http,
            thrift_compact_udp,
            thrift_binary_udp,
            zipkin,
            skywalking_grpc,
            skywalking_http,
            xray_udp,
            datadog,
            watched_file,
        })
    }

    /// Waits until it wrote at least so many spans; all that it wrote.
    pub(crate) async fn spans(&self, count: usize) -> Vec<JsonSpan> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let text = std::fs::read_to_string(self.server.dir.path().join("spans.json"));
            let spans = json_spans(&text.unwrap_or_default());
            if spans.len() >= count {
                return spans;
            }
            let have = spans.len();
            assert!(
                Instant::now() < deadline,
                "{have} of {count} spans\n{}",
                self.server.log()
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A Zipkin server that keeps spans in memory.
pub(crate) struct Zipkin {
    _server: Server,
    pub(crate) port: u16,
}

impl Zipkin {
    pub(crate) async fn start() -> Option<Self> {
        let jar = installed("lib/zipkin.jar", "zipkin")?;
        Some(attempts(async || Self::attempt(&jar).await).await)
    }

    async fn attempt(jar: &Path) -> Result<Self, String> {
        let port = free_port();
        let mut command = Command::new("java");
        command
            .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-jar"])
            .arg(jar)
            .env("QUERY_PORT", port.to_string());
        let mut server = Server::start(command, tempfile::tempdir().unwrap());
        server.wait_for(port, "/health", false).await?;
        Ok(Self {
            _server: server,
            port,
        })
    }

    /// Waits for a trace with at least so many spans.
    pub(crate) async fn trace(&self, id: &str, n_spans: usize) -> Value {
        let path = format!("/api/v2/trace/{id}");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let trace = http::get(self.port, &path).await.unwrap().json();
            if trace.as_array().map_or(0, Vec::len) >= n_spans {
                return trace;
            }
            assert!(Instant::now() < deadline, "{path}: {trace}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The last line of Jaeger before 2: all parts in one process, in memory.
pub(crate) struct Jaeger1 {
    _server: Server,
    query: u16,
    pub(crate) sampling_http: u16,
    pub(crate) otlp_grpc: u16,
    pub(crate) otlp_http: u16,
    pub(crate) jaeger_grpc: u16,
    pub(crate) thrift_http: u16,
    pub(crate) thrift_compact_udp: u16,
    pub(crate) thrift_binary_udp: u16,
    pub(crate) zipkin: u16,
}

impl Jaeger1 {
    /// With these strategies for who asks.
    pub(crate) async fn start(strategies: &Value) -> Option<Self> {
        let binary = installed("bin/jaeger-all-in-one", "jaeger1")?;
        Some(attempts(async || Self::attempt(&binary, strategies).await).await)
    }

    async fn attempt(binary: &Path, strategies: &Value) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("strategies.json"), strategies.to_string()).unwrap();
        let query = free_port();
        let mut command = Command::new(binary);
        let mut port = |option: &str| {
            let port = free_port();
            command.arg(format!("--{option}=127.0.0.1:{port}"));
            port
        };
        let (otlp_grpc, otlp_http) = (
            port("collector.otlp.grpc.host-port"),
            port("collector.otlp.http.host-port"),
        );
        let (jaeger_grpc, thrift_http) = (
            port("collector.grpc-server.host-port"),
            port("collector.http-server.host-port"),
        );
        let (thrift_compact_udp, thrift_binary_udp) = (
            port("processor.jaeger-compact.server-host-port"),
            port("processor.jaeger-binary.server-host-port"),
        );
        let zipkin = port("collector.zipkin.host-port");
        let sampling_http = port("http-server.host-port");
        for unused in [
            "processor.zipkin-compact.server-host-port",
            "query.grpc-server.host-port",
            "admin.http.host-port",
        ] {
            port(unused);
        }
        command.arg(format!("--query.http-server.host-port=127.0.0.1:{query}"));
        command.arg("--sampling.strategies-file=strategies.json");
        command.env("OTEL_TRACES_SAMPLER", "always_off");
        let mut server = Server::start(command, dir);
        server.wait_for(query, "/api/services", false).await?;
        server.wait_for(thrift_http, "/", true).await?;
        Ok(Self {
            _server: server,
            query,
            otlp_grpc,
            otlp_http,
            jaeger_grpc,
            thrift_http,
            thrift_compact_udp,
            thrift_binary_udp,
            zipkin,
            sampling_http,
        })
    }

    /// Waits for a trace with at least so many spans.
    pub(crate) async fn trace(&self, id: &str, n_spans: usize) -> Value {
        let path = format!("/api/traces/{id}");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = http::get(self.query, &path).await.unwrap().json();
            if jaeger::spans(&answer["data"][0]).len() >= n_spans {
                return answer["data"][0].clone();
            }
            assert!(Instant::now() < deadline, "{path}: {answer}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}
