//! A running proxy takes a new configuration, or keeps the old one and says why.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
const START: &str =
    "admin: {listen: '127.0.0.1:0'}\noutbound: {listen: '127.0.0.1:0'}\nlog: {format: json}\n";

/// The program with a configuration file of its own; ended when dropped.
struct Proxy {
    child: Child,
    admin: String,
    outbound: String,
    lines: mpsc::Receiver<String>,
    file: PathBuf,
    _dir: TempDir,
}

impl Proxy {
    fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pillion.yaml");
        fs::write(&file, format!("{START}{settings}")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_pillion"))
            .env_clear()
            .args(["run", "-c"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut proxy = Self {
            child,
            admin: String::new(),
            outbound: String::new(),
            lines,
            file,
            _dir: dir,
        };
        proxy.outbound = proxy.address("outbound");
        proxy.admin = proxy.address("admin");
        proxy
    }

    /// Where the listener of this role is; they are logged in order.
    fn address(&self, role: &str) -> String {
        let line = self.log_line(&format!(r#""role":"{role}""#));
        let log: serde_json::Value = serde_json::from_str(&line).unwrap();
        log["address"].as_str().unwrap().to_owned()
    }

    /// The next log line that contains `part`.
    fn log_line(&self, part: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(part) => return line,
                Ok(_) => {}
                Err(error) => panic!("no log line with {part}: {error}"),
            }
        }
    }

    fn ask(&self, method: &str, path: &str) -> String {
        let mut conn = TcpStream::connect(&self.admin).unwrap();
        conn.set_read_timeout(Some(DEADLINE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.admin
        );
        conn.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        conn.read_to_string(&mut answer).unwrap();
        answer
    }

    fn write(&self, settings: &str) {
        fs::write(&self.file, format!("{START}{settings}")).unwrap();
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_changed_file_takes_effect_and_says_what_changed() {
    let proxy = Proxy::start("");
    proxy.write("spans: {routes: [/a]}\nworkers: 3\n");
    let line = proxy.log_line("changed settings wait for a restart");
    assert!(line.contains(r#""settings":"workers""#), "{line}");
    assert!(line.contains(r#""level":"WARN""#), "{line}");
    let line = proxy.log_line("configuration reloaded");
    assert!(line.contains("spans.routes (new connections)"), "{line}");
    assert!(line.contains("workers (restart)"), "{line}");
    let dump = proxy.ask("GET", "/config_dump");
    assert!(dump.contains("routes: [/a]"), "{dump}");
    // Read again, it still waits; as it was at the start, it does not.
    let waits = "waiting for a restart. Still in force:\n#   workers: 0\n";
    assert!(dump.contains(waits), "{dump}");
    proxy.ask("POST", "/reload");
    let dump = proxy.ask("GET", "/config_dump");
    assert!(dump.contains(waits), "{dump}");
    proxy.write("spans: {routes: [/b]}\nworkers: 0\n");
    proxy.ask("POST", "/reload");
    let dump = proxy.ask("GET", "/config_dump");
    assert!(!dump.contains("waiting") && dump.contains("/b"), "{dump}");
}

#[test]
fn a_bad_file_changes_nothing_and_is_reported() {
    let proxy = Proxy::start("spans: {routes: [/a]}\n");
    proxy.write("spans: {routes: [/b]}\nworkers: many\n");
    let line = proxy.log_line("configuration not reloaded");
    assert!(line.contains("pillion.yaml:5:10"), "{line}");
    let dump = proxy.ask("GET", "/config_dump");
    assert!(dump.contains("routes: [/a]"), "{dump}");
    let metrics = proxy.ask("GET", "/metrics");
    let gauge = metrics
        .lines()
        .find(|line| line.starts_with("pillion_config_last_reload_successful"));
    assert_eq!(gauge, Some("pillion_config_last_reload_successful 0"));
    let answer = proxy.ask("POST", "/reload");
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("expected a whole number"), "{answer}");
}

#[test]
fn sighup_and_an_order_reload_too() {
    let proxy = Proxy::start("");
    proxy.signal(Signal::HUP);
    let line = proxy.log_line("configuration reloaded");
    assert!(line.contains(r#""cause":"SIGHUP""#), "{line}");
    let answer = proxy.ask("POST", "/reload");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn healthcheck_follows_the_proxy_and_sigterm_ends_it_cleanly() {
    let mut proxy = Proxy::start("");
    let healthcheck = Command::new(env!("CARGO_BIN_EXE_pillion"))
        .env_clear()
        .args(["healthcheck", "--admin", &proxy.admin])
        .status()
        .unwrap();
    assert_eq!(healthcheck.code(), Some(0));
    proxy.signal(Signal::TERM);
    let end = Instant::now() + DEADLINE;
    let status = loop {
        match proxy.child.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(Instant::now() < end, "still running"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn warnings_of_a_new_configuration_are_logged() {
    let proxy = Proxy::start("");
    proxy.write("inbound: {listen: '127.0.0.1:1'}\n");
    let line = proxy.log_line("doubtful setting");
    assert!(line.contains("nothing listens on 127.0.0.1:1"), "{line}");
}

#[test]
fn spans_that_are_lost_at_the_end_are_reported() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    let proxy = Proxy::start(&format!(
        "sampling: {{constant: {{decision: true}}}}\nshutdown: {{flush_timeout: 100ms}}\n\
         reporters: [{{otlp: {{endpoint: 'http://{nobody}', queue: {{flush_interval: 10ms}}}}}}]\n"
    ));
    // Answered with 502, which is a span as well.
    let mut conn = TcpStream::connect(&proxy.outbound).unwrap();
    conn.set_read_timeout(Some(DEADLINE)).unwrap();
    let head =
        format!("GET http://{nobody}/ HTTP/1.1\r\nHost: {nobody}\r\nConnection: close\r\n\r\n");
    conn.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    conn.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    // The first failure uses up what the reporter may say for a while.
    proxy.log_line("export failed");
    proxy.signal(Signal::TERM);
    let line = proxy.log_line("spans lost");
    assert!(line.contains(r#""level":"ERROR""#), "{line}");
    assert!(line.contains(r#""reporter":"otlp""#), "{line}");
    assert!(line.contains(r#""spans":1"#), "{line}");
}
