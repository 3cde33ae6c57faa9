//! The real binary as a process: started, its listeners found in its log, signalled, and what it printed.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;

/// Longest wait for anything a process does.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A running process of ours. Dropping it kills it.
pub(crate) struct Pillion {
    child: Child,
    /// Standard input, for programs that wait for a line or for its end.
    pub(crate) stdin: Option<ChildStdin>,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    readers: Vec<JoinHandle<()>>,
}

/// The lines of a stream so far.
#[derive(Default)]
struct Lines {
    state: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Pillion {
    /// Starts it with these arguments and no variables that configure anything.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    /// [`Pillion::start`] with variables.
    pub(crate) fn start_with(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        scrub(&mut command);
        command.args(args).envs(variables.iter().copied());
        Self::spawn(command)
    }

    /// A sidecar as `run -c -` starts one: configuration as text, logs as JSON.
    pub(crate) fn run(config: &str) -> Self {
        let mut sidecar = Self::start(&["run", "--log-format", "json", "-c", "-"]);
        let mut stdin = sidecar.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, config.as_bytes()).unwrap();
        drop(stdin);
        sidecar
    }

    /// [`Pillion::run`] in a mount namespace of its own, after this command of a shell. `None`: no right to one.
    pub(crate) fn run_after(command: &str, config: &str) -> Option<Self> {
        let allowed = Command::new("unshare")
            .args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"])
            .output();
        if !allowed.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let script = format!("{command} && exec \"$0\" run --log-format json -c -");
        let mut shell = Command::new("unshare");
        scrub(&mut shell);
        shell.args(["-m", "sh", "-c", &script, env!("CARGO_BIN_EXE_pillion")]);
        let mut sidecar = Self::spawn(shell);
        let mut stdin = sidecar.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, config.as_bytes()).unwrap();
        Some(sidecar)
    }

    /// Starts any program with its streams read.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdout, stderr) = (Arc::<Lines>::default(), Arc::<Lines>::default());
        let readers = vec![
            read(child.stdout.take().unwrap(), stdout.clone()),
            read(child.stderr.take().unwrap(), stderr.clone()),
        ];
        Self {
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr,
            readers,
        }
    }

    /// Waits for a line of standard output that contains `text`.
    pub(crate) fn stdout_line(&self, text: &str) -> String {
        self.line(
            &self.stdout,
            |line| line.contains(text).then(|| line.to_owned()),
            text,
        )
    }

    /// Waits for a line of standard error that contains `text`.
    pub(crate) fn stderr_line(&self, text: &str) -> String {
        self.line(
            &self.stderr,
            |line| line.contains(text).then(|| line.to_owned()),
            text,
        )
    }

    /// Waits until the JSON log says that the listener of this role is open; its port.
    pub(crate) fn port(&self, role: &str) -> u16 {
        let found = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = match line.get("fields") {
                Some(fields) => fields,
                None => &line,
            };
            let is_it = fields["message"] == "listening" && fields["role"] == role;
            let address = fields["address"].as_str().filter(|_| is_it)?;
            address.rsplit(':').next()?.parse().ok()
        };
        self.line(&self.stderr, found, role)
    }

    fn line<T>(&self, lines: &Lines, found: impl Fn(&str) -> Option<T>, what: &str) -> T {
        let deadline = Instant::now() + LIMIT;
        let mut state = lines.state.lock().unwrap();
        loop {
            if let Some(found) = state.0.iter().find_map(|line| found(line)) {
                return found;
            }
            let (ended, now) = (state.1, Instant::now());
            if ended || now > deadline {
                drop(state);
                panic!(
                    "no {what:?} in what it printed:\n{}\n{}",
                    self.stdout(),
                    self.stderr()
                );
            }
            state = lines.changed.wait_timeout(state, deadline - now).unwrap().0;
        }
    }

    /// Bytes that it has for itself; 0 where the system does not say. Pages of the program's file come and go as the
    /// system likes.
    pub(crate) fn memory(&self) -> usize {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<usize>().ok())
            .unwrap_or_default()
            << 10
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the end; what it printed is then complete.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "does not end\n{}\n{}",
                self.stdout(),
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    /// True when the process is gone.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGTERM, then the end, which must be clean.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}\n{}", self.stderr());
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Standard output so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }
}

impl Drop for Pillion {
    fn drop(&mut self) {
        // A program that `exec` started does not end with it when that is killed.
        let programs = children(self.child.id());
        self.child.kill().ok();
        self.child.wait().ok();
        for program in programs {
            rustix::process::kill_process(program, Signal::KILL).ok();
        }
    }
}

/// The processes that a process has started and that still run.
fn children(of: u32) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{of}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let ids = |list: String| -> Vec<Pid> {
        let numbers = list.split_whitespace().filter_map(|id| id.parse().ok());
        numbers.filter_map(Pid::from_raw).collect()
    };
    lists.flat_map(ids).collect()
}

impl Lines {
    fn text(&self) -> String {
        self.state.lock().unwrap().0.join("\n")
    }
}

fn read(stream: impl Read + Send + 'static, lines: Arc<Lines>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            lines.state.lock().unwrap().0.push(line);
            lines.changed.notify_all();
        }
        lines.state.lock().unwrap().1 = true;
        lines.changed.notify_all();
    })
}

/// Takes away what would configure a proxy or a client from outside.
pub(crate) fn scrub(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_lowercase();
        let configures = ["pillion_", "otel_", "jaeger_"]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        if configures || text.ends_with("_proxy") {
            command.env_remove(name);
        }
    }
}
