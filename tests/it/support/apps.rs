//! Real programs, each behind a sidecar process: the ones in `tests/interop/apps`, with the tools that
//! `tests/interop/install.sh` installs.

use std::net::TcpListener;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::support::http;
use crate::support::jaeger;
use crate::support::pillion::LIMIT;
use crate::support::pillion::Pillion;
use crate::support::pillion::scrub;
use crate::support::skip::skip;

/// What runs the programs.
#[derive(Debug, Clone)]
pub(crate) enum Runtime {
    /// The virtual environment with the packages.
    Python(PathBuf),
    /// Node, with its packages beside.
    Node,
}

/// A program's sidecar.
pub(crate) struct Sidecar {
    pub(crate) process: Pillion,
    /// Where the program is to listen.
    pub(crate) app_port: u16,
    /// Where callers of the program connect.
    pub(crate) inbound: u16,
    /// The program's HTTP proxy.
    pub(crate) outbound: u16,
    pub(crate) admin: u16,
}

/// A program; dropping it ends it.
pub(crate) struct App {
    process: Pillion,
}

/// Python with the packages, or a skip.
pub(crate) fn python() -> Option<Runtime> {
    let python = jaeger::tools()?.join("python/bin/python");
    if !python.is_file() || !python.with_file_name("../installed.txt").is_file() {
        skip("no Python packages: run tests/interop/install.sh python");
        return None;
    }
    Some(Runtime::Python(python))
}

/// Node with the packages, or a skip.
pub(crate) fn node() -> Option<Runtime> {
    let modules = jaeger::tools()?.join("node/node_modules/jaeger-client");
    if !modules.is_dir() || !command("node") {
        skip("no Node packages: run tests/interop/install.sh node");
        return None;
    }
    Some(Runtime::Node)
}

/// True when the command is installed.
pub(crate) fn command(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// True when all of these commands are installed, or a skip.
pub(crate) fn commands(names: &[&str]) -> bool {
    let missing: Vec<_> = names.iter().filter(|name| !command(name)).collect();
    if !missing.is_empty() {
        skip(&format!(
            "{missing:?} not installed: run tests/interop/install.sh debian"
        ));
    }
    missing.is_empty()
}

/// True when this build has the library of `pillion exec --preload`, or a skip.
pub(crate) fn has_preload_library() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    scrub(&mut command);
    let output = command.args(["shims", "--to"]).arg(dir.path()).output();
    let has = dir.path().join("libpillion_thread.so").exists();
    if !has {
        assert!(output.unwrap().status.success());
        skip("this build has no preload library: no C compiler");
    }
    has
}

/// A port below the range that the system gives out by itself, free at this moment.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Reports all spans to this OTLP collector at once.
pub(crate) fn otlp(endpoint: &str) -> Value {
    json!({
        "reporters": [{ "otlp": { "endpoint": endpoint, "queue": { "flush_interval": "50ms" } } }],
        "sampling": { "constant": { "decision": true } },
    })
}

impl Sidecar {
    /// Starts `pillion run` for a program that will listen on a free port.
    ///
    /// `settings` are further keys of the configuration.
    pub(crate) fn start(service: &str, settings: &Value) -> Self {
        Self::beside(service, free_port(), settings)
    }

    /// [`Sidecar::start`] for a program at a port.
    pub(crate) fn beside(service: &str, app_port: u16, settings: &Value) -> Self {
        let mut config = json!({
            "service": service,
            "app": format!("127.0.0.1:{app_port}"),
            "inbound": { "listen": "127.0.0.1:0" },
            "outbound": { "listen": "127.0.0.1:0" },
            "admin": { "listen": "127.0.0.1:0" },
            "workers": 2,
            // The same whoever runs the tests.
            "linking": { "kernel": "off" },
        });
        for (key, value) in settings.as_object().unwrap() {
            config[key] = value.clone();
        }
        // JSON is YAML.
        let process = Pillion::run(&config.to_string());
        Self {
            app_port,
            inbound: process.port("inbound"),
            outbound: process.port("outbound"),
            admin: process.port("admin"),
            process,
        }
    }

    /// The URL under which other programs call this one.
    pub(crate) fn url(&self) -> String {
        format!("http://localhost:{}", self.inbound)
    }

    /// The program's HTTP proxy.
    pub(crate) fn proxy(&self) -> String {
        format!("http://127.0.0.1:{}", self.outbound)
    }

    /// One of its metrics, summed over the series whose labels contain `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> f64 {
        let answer = http::get(self.admin, "/metrics").await.unwrap();
        String::from_utf8_lossy(&answer.body)
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(labels))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until every span that started has been exported, with none lost; how many there were.
    pub(crate) async fn accounted_for(&self, reporter: &str) -> f64 {
        let deadline = Instant::now() + LIMIT;
        loop {
            let started = self.metric("pillion_spans_started_total", "").await;
            let received = self.metric("pillion_spans_received_total", "").await;
            let unsampled = self.metric("pillion_spans_unsampled_total", "").await;
            let active = self.metric("pillion_spans_active", "").await;
            let label = format!("reporter=\"{reporter}\"");
            let exported = self
                .metric("pillion_reporter_spans_exported_total", &label)
                .await;
            let dropped = self
                .metric("pillion_reporter_spans_dropped_total", &label)
                .await;
            let queued = self.metric("pillion_reporter_queue_spans", &label).await;
            assert_eq!(dropped, 0.0, "spans dropped\n{}", self.process.stderr());
            let all = started + received;
            if active == 0.0 && queued == 0.0 && all == exported + unsampled {
                return started;
            }
            assert!(
                Instant::now() < deadline,
                "started {started}, unsampled {unsampled}, active {active}, exported {exported}, queued {queued}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl App {
    /// Starts a program of `tests/interop/apps` on this port and waits until it accepts connections.
    pub(crate) async fn start(
        runtime: &Runtime,
        file: &str,
        args: &[&str],
        port: u16,
        variables: &[(&str, &str)],
    ) -> Self {
        let mut process = run(
            runtime,
            file,
            args,
            &[variables, &[("PORT", &port.to_string())]].concat(),
        );
        tokio::select! {
            () = listening(port) => {}
            () = ended(&mut process) => panic!("{file} ended\n{}", process.stderr()),
        }
        Self { process }
    }

    /// What it printed as errors.
    pub(crate) fn stderr(&self) -> String {
        self.process.stderr()
    }
}

/// Waits until something listens on the port.
pub(crate) async fn listening(port: u16) {
    let deadline = Instant::now() + LIMIT;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {port}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ended(process: &mut Pillion) {
    while !process.has_ended() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Starts a program of `tests/interop/apps` with `pillion exec` and these arguments.
pub(crate) fn exec(
    runtime: &Runtime,
    args: &[&str],
    file: &str,
    variables: &[(&str, String)],
) -> Pillion {
    let program = command_of(runtime, file);
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    scrub(&mut command);
    command.arg("exec").args(args);
    command.args([
        "--outbound=127.0.0.1:0",
        "--admin=127.0.0.1:0",
        "--log-format=json",
        "--",
    ]);
    command.arg(program.get_program()).args(program.get_args());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    Pillion::spawn(command)
}

/// Starts a program of `tests/interop/apps` with its streams read.
pub(crate) fn run(
    runtime: &Runtime,
    file: &str,
    args: &[&str],
    variables: &[(&str, &str)],
) -> Pillion {
    let mut command = command_of(runtime, file);
    scrub(&mut command);
    if let (Runtime::Node, Some(tools)) = (runtime, jaeger::tools()) {
        command.env("NODE_PATH", tools.join("node/node_modules"));
    }
    command.args(args).env("PYTHONUNBUFFERED", "1");
    command.envs(variables.iter().copied());
    Pillion::spawn(command)
}

fn command_of(runtime: &Runtime, file: &str) -> Command {
    let apps = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/interop/apps");
    let mut command = match runtime {
        Runtime::Python(python) => Command::new(python),
        Runtime::Node => Command::new("node"),
    };
    command.arg(apps.join(file));
    command
}

/// Runs a command to its end; what it printed. Fails when it fails.
pub(crate) async fn output(mut process: Pillion, what: &str) -> String {
    let (process, status) = tokio::task::spawn_blocking(move || {
        let status = process.wait();
        (process, status)
    })
    .await
    .unwrap();
    assert!(
        status.success(),
        "{what}: {status}\n{}\n{}",
        process.stdout(),
        process.stderr()
    );
    process.stdout()
}
