//! The preload library where program and sidecar start apart, as in a pod: different users, no process of one is a child
//! of the other, and nothing shared but a directory.

use std::fs;
use std::fs::Permissions;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use rustix::fs::MemfdFlags;
use rustix::fs::SealFlags;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::linking_hostile::linking;
use crate::support::apps;
use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::http;
use crate::support::otlp;
use crate::support::otlp::Span;
use crate::support::pillion::LIMIT;
use crate::support::pillion::Pillion;
use crate::support::pillion::scrub;
use crate::support::skip::skip;
use crate::support::upstream::Upstream;

/// Users of the sidecar and of the program, where the tests may choose.
const USERS: (u32, u32) = (15606, 65534);
const GREETING: &[u8] = b"pillion-evidence 2\n";

/// A directory as pods share it, the ports of a pod, and what both sides talk to.
struct Pod {
    dir: TempDir,
    upstream: Upstream,
    collector: Collector,
    app: u16,
    inbound: u16,
    outbound: u16,
    /// What `pillion shims` said.
    variables: Vec<(String, String)>,
}

impl Pod {
    /// With the library laid out, or a skip.
    async fn new() -> Option<Self> {
        if !apps::commands(&["/usr/bin/python3"]) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        // As the kubelet makes an emptyDir.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        scrub(&mut command);
        let output = command.args(["shims", "--to"]).arg(dir.path()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let pairs = text.lines().map(|line| line.split_once('=').unwrap());
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let variables: Vec<_> = pairs
            .filter(|(name, _)| ["LD_PRELOAD", "_PILLION_EVIDENCE"].contains(name))
            .map(own)
            .collect();
        if variables.is_empty() {
            skip("this build has no preload library: no C compiler");
            return None;
        }
        Some(Self {
            dir,
            upstream: Upstream::start().await,
            collector: Collector::start(Speaks::Http1, Vec::new(), Reply::Accept).await,
            app: apps::free_port(),
            inbound: apps::free_port(),
            outbound: apps::free_port(),
            variables,
        })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("evidence.sock")
    }

    /// The sidecar, by its own user.
    fn sidecar(&self) -> Pillion {
        let config = json!({
            "service": "shop",
            "app": format!("127.0.0.1:{}", self.app),
            "inbound": { "listen": format!("127.0.0.1:{}", self.inbound) },
            "outbound": { "listen": format!("127.0.0.1:{}", self.outbound) },
            "admin": { "listen": "127.0.0.1:0" },
            // The thread alone may speak.
            "linking": {
                "preload": true, "preload_socket": self.socket(),
                "kernel": "off", "exclusive": false, "values": false, "forwarded": false,
            },
            "reporters": [{ "otlp": {
                "endpoint": format!("http://{}", self.collector.addr), "queue": { "flush_interval": "50ms" },
            } }],
            "sampling": { "constant": { "decision": true } },
        });
        let file = self.dir.path().join("config.yaml");
        fs::write(&file, config.to_string()).unwrap();
        let mut command = by(USERS.0, Path::new(env!("CARGO_BIN_EXE_pillion")));
        command
            .args(["run", "--log-format", "json", "-c"])
            .arg(file);
        let process = Pillion::spawn(command);
        process.port("outbound");
        process
    }

    /// The program, by another user, in so many processes.
    async fn program(&self, processes: usize) -> Pillion {
        let mut command = by(USERS.1, Path::new("/usr/bin/python3"));
        // Read by us: it lies where that user may not look.
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/apps/threads.py");
        command.arg("-c").arg(fs::read_to_string(file).unwrap());
        command.env("PORT", self.app.to_string());
        command.env("PROCESSES", processes.to_string());
        command.env("HTTP_PROXY", format!("http://127.0.0.1:{}", self.outbound));
        command.env(
            "UPSTREAM",
            format!("http://127.0.0.1:{}", self.upstream.port),
        );
        command.envs(self.variables.iter().cloned());
        let process = Pillion::spawn(command);
        apps::listening(self.app).await;
        process
    }

    /// One request through the sidecar; its client span, when it has arrived.
    async fn call(&self, path: &str) -> Span {
        assert_eq!(http::get(self.inbound, path).await.unwrap().status, 200);
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut found = otlp::spans(&self.collector).into_iter();
            if let Some(span) = found.rfind(|span| is_call(span, path)) {
                return span;
            }
            assert!(Instant::now() < deadline, "no span of {path}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What `/linking` says of the library.
    fn preload(&self, sidecar: &Pillion) -> Value {
        let state = linking(([127, 0, 0, 1], sidecar.port("admin")).into());
        let mut layers = state["layers"].as_array().unwrap().iter();
        layers
            .find(|layer| layer["layer"] == "thread, preload")
            .unwrap()
            .clone()
    }

    /// Calls until a thread is known again.
    async fn until_linked(&self, sidecar: &Pillion, name: &str) -> usize {
        let deadline = Instant::now() + LIMIT;
        for n in 0.. {
            let span = self.call(&format!("/{name}/{n}")).await;
            if span.attribute("pillion.link.method") == "thread" {
                assert!(!span.parent_id.is_empty());
                assert_eq!(self.preload(sidecar)["active"], true);
                return n;
            }
            assert_eq!(span.parent_id, "", "{span:?}");
            assert!(Instant::now() < deadline, "{name}: never linked");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        unreachable!()
    }
}

/// A command of another user where we may choose one and that one may read the program.
fn by(user: u32, program: &Path) -> Command {
    let user = user.to_string();
    let other = |program: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        command.arg(program);
        command
    };
    let may = other(Path::new("test")).arg("-x").arg(program).status();
    let mut command = match may.is_ok_and(|status| status.success()) {
        true => other(program),
        false => Command::new(program),
    };
    scrub(&mut command);
    command
}

fn is_call(span: &Span, path: &str) -> bool {
    span.kind == 3 && span.attribute("url.full").ends_with(path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_another_user_says_which_request_each_thread_works_on() {
    const REQUESTS: usize = 96;
    let Some(pod) = Pod::new().await else {
        return;
    };
    let _sidecar = pod.sidecar();
    // Three processes, forked after the library was loaded: each finds the memory by itself.
    let program = pod.program(3).await;
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..16 {
        let port = pod.inbound;
        lanes.spawn(async move {
            for n in (lane..REQUESTS).step_by(16) {
                let answer = http::get(port, &format!("/request/{n}/")).await.unwrap();
                // Empty where the program answered: its own call failed.
                let said = String::from_utf8_lossy(&answer.body);
                assert_eq!(answer.status, 200, "{said}");
            }
        });
    }
    lanes.join_all().await;
    let deadline = Instant::now() + LIMIT;
    let spans = loop {
        let spans = otlp::spans(&pod.collector);
        if spans.len() >= 2 * REQUESTS {
            break spans;
        }
        assert!(Instant::now() < deadline, "{} spans", spans.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for n in 0..REQUESTS {
        let path = format!("/request/{n}/");
        let call = spans.iter().find(|span| is_call(span, &path)).unwrap();
        let request = spans
            .iter()
            .find(|span| span.kind == 2 && span.attribute("url.path") == path)
            .unwrap();
        assert_eq!(call.attribute("pillion.link.method"), "thread", "{call:?}");
        assert_eq!(call.parent_id, request.span_id, "{call:?}");
    }
    assert_eq!(program.stderr(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_may_be_first_and_the_sidecar_may_start_anew() {
    let Some(pod) = Pod::new().await else {
        return;
    };
    let program = pod.program(1).await;
    // Nobody is there: the call fails, the program does not.
    for _ in 0..3 {
        assert_eq!(http::get(pod.app, "/alone").await.unwrap().status, 502);
    }
    let sidecar = pod.sidecar();
    let needs = pod.preload(&sidecar)["needs"].clone();
    assert_eq!(
        needs,
        "a call of a program that has loaded the library: none has come yet"
    );
    pod.until_linked(&sidecar, "first").await;
    // Killed: it leaves its socket behind, and the program memory that nobody reads any more.
    sidecar.signal(rustix::process::Signal::KILL);
    drop(sidecar);
    assert!(pod.socket().exists());
    assert!(UnixStream::connect(pod.socket()).is_err());
    assert_eq!(http::get(pod.app, "/between").await.unwrap().status, 502);
    let mut sidecar = pod.sidecar();
    pod.until_linked(&sidecar, "anew").await;
    sidecar.signal(rustix::process::Signal::TERM);
    assert!(sidecar.wait().success());
    assert!(!pod.socket().exists(), "the socket goes with its sidecar");
    assert_eq!(program.stderr(), "");
}

/// What is put in the socket's place.
type Becomes = fn(&Path);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_the_socket_meanwhile_both_go_on() {
    let Some(pod) = Pod::new().await else {
        return;
    };
    let mut sidecar = pod.sidecar();
    let program = pod.program(1).await;
    pod.until_linked(&sidecar, "first").await;
    let becomes: [(&str, Becomes); 4] = [
        ("gone", |_| ()),
        ("file", |path| fs::write(path, "theirs").unwrap()),
        ("directory", |path| fs::create_dir(path).unwrap()),
        ("link", |path| {
            std::os::unix::fs::symlink(path, path).unwrap();
        }),
    ];
    for (name, become_it) in becomes {
        let socket = pod.socket();
        fs::remove_file(&socket)
            .or_else(|_| fs::remove_dir(&socket))
            .ok();
        become_it(&socket);
        // Beyond the time after which the program looks again.
        let until = Instant::now() + Duration::from_millis(2_200);
        for n in 0.. {
            let span = pod.call(&format!("/{name}/{n}")).await;
            assert_eq!(span.attribute("pillion.link.method"), "thread", "{span:?}");
            if Instant::now() > until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    sidecar.signal(rustix::process::Signal::TERM);
    assert!(sidecar.wait().success());
    let left = fs::symlink_metadata(pod.socket()).unwrap();
    assert!(left.is_symlink(), "it takes nothing away but its own");
    assert_eq!(program.stderr(), "");
}

/// What answers at the socket instead of Pillion.
type Stranger = fn(&UnixStream);

fn tell(program: &UnixStream, text: &[u8], files: &[OwnedFd]) {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    control.push(SendAncillaryMessage::ScmRights(&files));
    let parts = [IoSlice::new(text)];
    // It may have gone.
    rustix::net::sendmsg(program, &parts, &mut control, SendFlags::NOSIGNAL).ok();
}

fn memory(size: u64, seals: SealFlags) -> OwnedFd {
    let memory = rustix::fs::memfd_create("stranger", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&memory, size).unwrap();
    rustix::fs::fcntl_add_seals(&memory, seals).unwrap();
    memory
}

const STRANGERS: [(&str, Option<Stranger>); 9] = [
    ("nobody", None),
    (
        "says nothing",
        Some(|_| std::thread::sleep(Duration::from_millis(300))),
    ),
    ("closes", Some(|_| {})),
    (
        "other words",
        Some(|program| {
            tell(
                program,
                b"HTTP/1.1 400 Bad Request\r\n\r\n",
                &[memory(524_288, SealFlags::SHRINK)],
            );
        }),
    ),
    (
        "another version",
        Some(|program| {
            tell(
                program,
                b"pillion-evidence 1\n",
                &[memory(524_288, SealFlags::SHRINK)],
            );
        }),
    ),
    ("no file", Some(|program| tell(program, GREETING, &[]))),
    (
        "too small",
        Some(|program| tell(program, GREETING, &[memory(4096, SealFlags::SHRINK)])),
    ),
    (
        "can be made smaller",
        Some(|program| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(524_288).unwrap();
            tell(
                program,
                GREETING,
                &[file.into(), memory(524_288, SealFlags::empty())],
            );
        }),
    ),
    (
        "a pipe",
        Some(|program| {
            let (reader, _writer) = rustix::pipe::pipe().unwrap();
            tell(program, GREETING, &[reader]);
        }),
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_answers_at_the_socket_the_program_goes_on() {
    let Some(mut pod) = Pod::new().await else {
        return;
    };
    // No sidecar: calls go to one that answers them.
    pod.outbound = pod.upstream.port;
    for (what, stranger) in STRANGERS {
        let asked = stranger.map(|stranger| {
            let listener = UnixListener::bind(pod.socket()).unwrap();
            fs::set_permissions(pod.socket(), Permissions::from_mode(0o666)).unwrap();
            std::thread::spawn(move || {
                let (program, _) = listener.accept().unwrap();
                stranger(&program);
            })
        });
        let mut program = pod.program(1).await;
        let before = open_files(&program);
        let started = Instant::now();
        for _ in 0..5 {
            assert_eq!(http::get(pod.app, "/").await.unwrap().status, 200, "{what}");
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{what}");
        if let Some(asked) = asked {
            asked.join().unwrap();
            fs::remove_file(pod.socket()).unwrap();
        }
        let deadline = Instant::now() + LIMIT;
        while open_files(&program) > before {
            assert!(Instant::now() < deadline, "{what}: a descriptor stays");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(program.stderr(), "", "{what}");
        program.kill();
    }
}

fn open_files(program: &Pillion) -> usize {
    let dir = format!("/proc/{}/fd", program.pid().as_raw_nonzero());
    fs::read_dir(dir).unwrap().count()
}
