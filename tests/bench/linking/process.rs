//! One program behind one Pillion, as `pillion exec` starts them.

use std::fs;
use std::fs::File;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;
use serde_json::json;

use super::apps::App;
use super::load;
use super::profiles::Profile;

/// Longest wait for a program to answer.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// How the program keeps its connections to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reuse {
    /// A new one for each call.
    Fresh,
    /// One for each of its threads, kept.
    Kept,
    /// Kept and used again by all.
    Pooled,
}

/// What stands around the program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around {
    /// What the program calls.
    pub(crate) backend: SocketAddr,
    /// Where spans go.
    pub(crate) collector: SocketAddr,
}

/// The two processes; dropping this ends them.
pub(crate) struct Running {
    child: Child,
    _directory: tempfile::TempDir,
    /// The program itself.
    pub(crate) app: SocketAddr,
    /// Pillion's inbound listener.
    pub(crate) inbound: SocketAddr,
}

impl Running {
    /// Starts both and waits until the program answers.
    ///
    /// # Errors
    /// The program does not answer in time; the text is the end of what it printed.
    pub(crate) async fn start(
        app: &App,
        profile: &Profile,
        reuse: Reuse,
        around: Around,
    ) -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap();
        let [program, inbound, route] = free_ports();
        let config = directory.path().join("pillion.yaml");
        let settings = settings(app.name, profile, [program, inbound, route], around);
        fs::write(&config, settings.to_string()).unwrap();
        let log = directory.path().join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command
            .args(["exec", "-c"])
            .arg(&config)
            .args(profile.flags)
            .arg("--")
            // Routes stand for redirected traffic: a program that is redirected knows of no proxy.
            .args(["env", "--unset=HTTP_PROXY", "--unset=http_proxy"])
            .args(app.command(program.port())?)
            .env("PORT", program.port().to_string())
            .env("BACKEND", format!("http://{}:{}", app.host, route.port()))
            .env(
                "OUT",
                match reuse {
                    Reuse::Fresh => "fresh",
                    Reuse::Kept => "kept",
                    Reuse::Pooled => "pooled",
                },
            )
            .envs(app.variables.iter().copied())
            .current_dir(super::apps::directory())
            // A group of its own, so that nothing is left behind.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        let child = command.spawn().map_err(|error| error.to_string())?;
        let running = Self {
            child,
            _directory: directory,
            app: program,
            inbound,
        };
        running.wait(&log).await?;
        Ok(running)
    }

    async fn wait(&self, log: &Path) -> Result<(), String> {
        let client = load::client();
        let deadline = Instant::now() + STARTS_WITHIN;
        while load::get(&client, self.inbound, "/jobs/off").await != Some(200) {
            if Instant::now() > deadline || !self.alive() {
                let text = fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                return Err(lines[lines.len().saturating_sub(12)..].join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// Processor time of Pillion so far.
    pub(crate) fn processor_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let nanos = tasks.into_iter().flatten().flatten().filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        rustix::process::kill_process_group(group, Signal::TERM).ok();
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        rustix::process::kill_process_group(group, Signal::KILL).ok();
        self.child.wait().ok();
    }
}

fn settings(
    name: &str,
    profile: &Profile,
    [app, inbound, route]: [SocketAddr; 3],
    around: Around,
) -> Value {
    json!({
        "service": name,
        "app": app.to_string(),
        "inbound": { "listen": inbound.to_string() },
        "outbound": { "listen": "127.0.0.1:0" },
        "routes": [{ "listen": route.to_string(), "to": around.backend.to_string() }],
        "admin": { "listen": "127.0.0.1:0" },
        "view": { "enabled": false },
        "sampling": { "constant": { "decision": true } },
        "reporters": [{ "otlp": {
            "endpoint": format!("http://{}", around.collector),
            "queue": { "capacity": 200_000, "flush_interval": "50ms" },
        } }],
        "linking": profile.linking(),
        "log": { "level": "warn" },
    })
}

/// Ports that were free a moment ago: the program cannot be asked for the one it would choose.
fn free_ports() -> [SocketAddr; 3] {
    let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap())
}
