//! A sidecar that outlives the program beside it, and what it says of the programs.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;
use serde_json::json;

use crate::linking::bench::apps;
use crate::linking::bench::backend;
use crate::linking::bench::collector::Collector;
use crate::linking::bench::load;
use crate::linking::bench::score;
use crate::linking::bench::score::Score;
use crate::linking::bench::truth::Ids;
use crate::linking::bench::truth::Pattern;
use crate::linking::bench::truth::Truth;
use crate::linking_hostile::linking;
use crate::support::pillion::Pillion;
use crate::support::skip::skip;

/// Longest wait for anything on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// So long nothing more has come.
const QUIET: Duration = Duration::from_millis(300);

/// The sidecar, and what is around the program.
pub(crate) struct Beside {
    pub(crate) pillion: Pillion,
    /// Where the program is to listen.
    pub(crate) port: u16,
    collector: Collector,
    inbound: SocketAddr,
    admin: SocketAddr,
    route: SocketAddr,
    deadline: Mutex<Instant>,
}

/// What `/linking` says of one process.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) pid: i32,
    pub(crate) runtime: String,
    pub(crate) is_active: bool,
    pub(crate) refused: Option<String>,
}

impl Seen {
    /// The probe is attached; tokio's may still have to see tasks.
    pub(crate) fn is_looking(&self) -> bool {
        let refused = self.refused.as_deref();
        self.is_active || refused == Some("too few of its tasks have been seen yet")
    }
}

/// A running program; dropping it kills it.
pub(crate) struct Program(Mutex<Child>);

impl Beside {
    /// `None`, with the reason printed: the kernel permits nothing here.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_pillion"))).await
    }

    /// The same by another command, which `run` and its arguments are added to.
    pub(crate) async fn start_by(mut command: Command) -> Option<Self> {
        let (collector, backend) = (Collector::start().await, backend::start().await);
        let [program, inbound, route, admin] = free_ports();
        let settings = json!({
            "service": "lives",
            "app": program.to_string(),
            "inbound": { "listen": inbound.to_string() },
            "outbound": { "listen": "127.0.0.1:0" },
            "routes": [{ "listen": route.to_string(), "to": backend.to_string() }],
            "admin": { "listen": admin.to_string() },
            "view": { "enabled": false },
            "sampling": { "constant": { "decision": true } },
            "reporters": [{ "otlp": {
                "endpoint": format!("http://{}", collector.address),
                "queue": { "capacity": 200_000, "flush_interval": "50ms" },
            } }],
            "linking": { "kernel": "required" },
        });
        command.args(["run", "--log-format", "json", "-c", "-"]);
        let mut pillion = Pillion::spawn(command);
        let mut stdin = pillion.stdin.take().unwrap();
        stdin.write_all(settings.to_string().as_bytes()).unwrap();
        drop(stdin);
        let deadline = Instant::now() + PATIENCE;
        while load::get(&load::client(), admin, "/healthz")
            .await
            .is_none()
        {
            if pillion.has_ended() {
                let told = pillion.stderr();
                assert!(told.contains("linking.kernel is required"), "{told}");
                skip(&told);
                return None;
            }
            assert!(Instant::now() < deadline, "{}", pillion.stderr());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(Self {
            pillion,
            port: program.port(),
            collector,
            inbound,
            admin,
            route,
            deadline: Mutex::new(deadline),
        })
    }

    /// Waits until the program answers through it.
    pub(crate) async fn serves(&self) {
        self.begin();
        while load::get(&load::client(), self.inbound, "/jobs/off").await != Some(200) {
            self.in_time("the program serves");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.begin();
    }

    /// Sends so many requests, eight at a time; which they were, and how many failed.
    pub(crate) async fn sends(&self, pattern: &str, n_requests: usize) -> (Truth, usize) {
        let truth = Truth::new(Pattern::named(pattern).unwrap(), Ids::Blinded, n_requests);
        let seen = load::drive(self.inbound, truth.targets.clone(), 8).await;
        (truth, seen.failures)
    }

    /// Sends so many requests, eight at a time, and judges the calls that came of them.
    pub(crate) async fn row(&self, pattern: &str, n_requests: usize) -> Score {
        self.collector.take();
        let (truth, failures) = self.sends(pattern, n_requests).await;
        let pattern = Pattern::named(pattern).unwrap();
        let expected = match failures {
            0 => n_requests * pattern.spans(),
            _ => usize::MAX,
        };
        let (mut reported, mut since) = (0, Instant::now());
        while reported < expected && since.elapsed() < QUIET {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = self.n_calls();
            if now != reported {
                (reported, since) = (now, Instant::now());
            }
        }
        // The server spans end after the calls below them.
        tokio::time::sleep(QUIET / 2).await;
        score::judge(pattern, &truth, &self.collector.take())
    }

    /// Waits until so many calls of the row were reported.
    pub(crate) async fn until_calls(&self, count: usize) {
        self.begin();
        while self.n_calls() < count {
            self.in_time("calls are reported");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn n_calls(&self) -> usize {
        self.collector.n_calls(|_| true)
    }

    /// What `/linking` says.
    pub(crate) fn linking(&self) -> Value {
        linking(self.admin)
    }

    /// The probes that it tells of.
    pub(crate) fn probes(&self) -> Vec<Seen> {
        probes_of(&self.linking())
    }

    /// Waits until the probes are so.
    pub(crate) fn until_probes(&self, what: &str, is_so: impl Fn(&[Seen]) -> bool) {
        self.until_linking(what, |state| is_so(&probes_of(state)));
    }

    /// Waits until `/linking` says so.
    pub(crate) fn until_linking(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        tokio::task::block_in_place(|| {
            let limit = Instant::now() + PATIENCE;
            loop {
                let state = self.linking();
                if is_so(&state) {
                    return;
                }
                assert!(Instant::now() < limit, "{what}: {state}");
                std::thread::sleep(Duration::from_millis(10));
            }
        });
    }

    /// How often the log has this.
    pub(crate) fn times_told(&self, text: &str) -> usize {
        self.pillion.stderr().matches(text).count()
    }

    fn begin(&self) {
        *self.deadline.lock().unwrap() = Instant::now() + PATIENCE;
    }

    /// Fails when what is waited for takes too long.
    pub(crate) fn in_time(&self, what: &str) {
        let is_in_time = Instant::now() < *self.deadline.lock().unwrap();
        assert!(is_in_time, "{what}\n{}", self.pillion.stderr());
    }
}

impl Program {
    /// Starts it where the sidecar expects it, with its calls led through the sidecar.
    pub(crate) fn start(beside: &Beside, command: &[OsString], variables: &[(&str, &str)]) -> Self {
        let child = Command::new(&command[0])
            .args(&command[1..])
            .env("PORT", beside.port.to_string())
            .env("BACKEND", format!("http://{}", beside.route))
            .env("OUT", "pooled")
            .envs(variables.iter().copied())
            .current_dir(apps::directory())
            // A group of its own, so that nothing is left behind.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(Mutex::new(child.unwrap()))
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> i32 {
        Pid::from_child(&self.0.lock().unwrap())
            .as_raw_nonzero()
            .get()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.0.lock().unwrap()), signal).unwrap();
    }

    /// Ends it at once, with all that it has started.
    pub(crate) fn kill(&self) {
        let mut child = self.0.lock().unwrap();
        rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL).ok();
        child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills a process that the program has started.
pub(crate) fn kill(pid: i32) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn probes_of(state: &Value) -> Vec<Seen> {
    let probes = state["probes"].as_array().unwrap();
    probes.iter().map(read).collect()
}

fn read(probe: &Value) -> Seen {
    Seen {
        pid: probe["pid"].as_i64().unwrap() as i32,
        runtime: probe["runtime"].as_str().unwrap().to_owned(),
        is_active: probe["active"].as_bool().unwrap(),
        refused: probe["refused"].as_str().map(str::to_owned),
    }
}

fn free_ports() -> [SocketAddr; 4] {
    let sockets = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap())
}
