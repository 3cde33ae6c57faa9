//! Network namespaces of a test's own: a "pod" with the proxy and its program, and the "world" outside, joined by a veth
//! pair. They end with their test; nothing on the machine changes.
//!
//! A namespace is a thread that left the machine's: what it starts (threads, programs, sockets) is inside.

use std::os::unix::process::CommandExt;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::support::skip::skip;

/// The pod's addresses.
pub(crate) const POD: [&str; 2] = ["10.77.0.1", "fd77::1"];
/// The world's addresses.
pub(crate) const WORLD: [&str; 2] = ["10.77.0.2", "fd77::2"];
/// The user that programs run as; the proxy under test runs as root.
pub(crate) const PROGRAM_UID: u32 = 65534;

type Job = Box<dyn FnOnce() + Send>;

/// A namespace; dropping it lets it go.
pub(crate) struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

/// Both, joined.
pub(crate) struct Net {
    pub(crate) pod: Namespace,
    pub(crate) world: Namespace,
}

impl Namespace {
    fn new() -> Result<Self, String> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (started, starting) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let left = pillion::net::netns::enter_new();
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            started.send(left.map(|()| tid)).unwrap();
            for job in inbox {
                job();
            }
        });
        let tid = starting.recv().unwrap().map_err(|e| e.to_string())?;
        let namespace = Self {
            jobs: Some(jobs),
            thread: Some(thread),
            tid,
        };
        namespace.sh("ip link set lo up")?;
        Ok(namespace)
    }

    /// Runs something inside and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || {
            done.send(job()).ok();
        };
        self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        result.recv().expect("the job panicked")
    }

    /// Runs a shell line inside; its standard output.
    pub(crate) fn sh(&self, line: &str) -> Result<String, String> {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        text_of(line, self.output(command))
    }

    /// Runs a program inside, as the user of programs; its standard output.
    pub(crate) fn as_program(&self, args: &[&str]) -> Result<String, String> {
        let line = args.join(" ");
        text_of(&line, self.output(program(args)))
    }

    /// Runs a program inside to its end.
    pub(crate) fn output(&self, mut command: Command) -> Output {
        self.run(move || command.stdin(Stdio::null()).output().unwrap())
    }

    /// Starts a program inside.
    pub(crate) fn spawn(&self, mut command: Command) -> Running {
        Running(self.run(move || command.stdin(Stdio::null()).spawn().unwrap()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        self.thread.take().unwrap().join().ok();
    }
}

impl Net {
    /// Both namespaces with addresses; `None` after saying why it cannot be.
    pub(crate) fn new() -> Option<Self> {
        match Self::try_new() {
            Ok(net) => Some(net),
            Err(reason) => {
                skip(&format!("no network namespaces: {reason}"));
                None
            }
        }
    }

    fn try_new() -> Result<Self, String> {
        let (pod, world) = (Namespace::new()?, Namespace::new()?);
        pod.sh(&format!(
            "ip link add pod0 type veth peer name world0 netns {}",
            world.tid
        ))?;
        for (namespace, device, addresses) in [(&pod, "pod0", POD), (&world, "world0", WORLD)] {
            let [v4, v6] = addresses;
            namespace.sh(&format!(
                "ip addr add {v4}/24 dev {device} && ip addr add {v6}/64 dev {device} nodad && ip link set {device} up"
            ))?;
        }
        Ok(Self { pod, world })
    }
}

/// A program; dropping it kills it.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A command that runs as the user of programs.
pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(args[0]);
    command.args(&args[1..]).uid(PROGRAM_UID).gid(PROGRAM_UID);
    for (name, _) in std::env::vars_os() {
        if name
            .to_string_lossy()
            .to_ascii_lowercase()
            .ends_with("_proxy")
        {
            command.env_remove(name);
        }
    }
    command.current_dir("/");
    command
}

/// Says that a tool is missing, and skips.
pub(crate) fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(tool).is_file());
    if !found {
        skip(&format!("{tool} is not installed"));
    }
    found
}

fn text_of(line: &str, output: Output) -> Result<String, String> {
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        let line: String = line.chars().take(200).collect();
        return Err(format!("{line}: {}: {error}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
