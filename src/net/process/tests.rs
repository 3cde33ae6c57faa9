//! What is read from processes, and what foreign bytes cannot do.

use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use super::look::Seen;
use super::look::compiled_for;
use super::look::event_loop_of;
use super::look::has_green_threads;
use super::look::runtime_of;
use super::*;

#[test]
fn a_line_is_read_whatever_the_name_in_it_holds() {
    let rest = "S 7 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 12 0 31337 0 0";
    let expected = Some(Stat {
        state: b'S',
        parent: 7,
        threads: 12,
        started: 31_337,
    });
    for name in ["node", "a b", ") R 1 (", "\u{e9}\n"] {
        let line = format!("42 ({name}) {rest}\n");
        assert_eq!(stat::parse(line.as_bytes()), expected, "{name:?}");
    }
    for (line, why) in [
        (&b""[..], "empty"),
        (b"42 (node", "no end of the name"),
        (b"42 (node) S", "nothing behind the state"),
        (
            b"42 (node) S x 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1",
            "no number",
        ),
        (b"42 (node) \xff\xff 7", "not UTF-8"),
    ] {
        assert_eq!(stat::parse(line), None, "{why}");
    }
}

#[test]
fn names_and_libraries_tell_the_runtime() {
    let lib = b"7f00-7f01 r-xp 0 00:00 1 /usr/lib/libpython3.12.so.1.0\n";
    for (name, maps, runtime, version) in [
        ("python3.11", &b""[..], Runtime::Python, "3.11"),
        ("python", b"", Runtime::Python, ""),
        ("uwsgi", lib, Runtime::Python, "3.12"),
        ("node", b"", Runtime::Node, ""),
        ("nodemon-like", b"", Runtime::Unknown, ""),
        ("javac2", b"", Runtime::Unknown, ""),
        ("app", b"/opt/jdk/lib/server/libjvm.so", Runtime::Java, ""),
        ("", b"\xff\xfe/libruby", Runtime::Ruby, ""),
    ] {
        let expected = (runtime, Text::from(version));
        assert_eq!(runtime_of(name, maps), expected, "{name}");
    }
}

#[test]
fn what_waits_for_connections_is_told_or_unknown() {
    let seen = |maps: &[u8], polls, is_open| Seen {
        is_open,
        maps: maps.to_vec(),
        polls,
        threads: String::new(),
    };
    let asyncio = b"/lib-dynload/_asyncio.cpython-311.so /site-packages/x";
    let uvloop = b"/lib-dynload/_asyncio.cpython-311.so /site-packages/uvloop/loop.so";
    for (runtime, seen, expected) in [
        (
            Runtime::Python,
            seen(asyncio, Some(true), true),
            EventLoop::Asyncio,
        ),
        (
            Runtime::Python,
            seen(uvloop, Some(true), true),
            EventLoop::Uvloop,
        ),
        (
            Runtime::Python,
            seen(asyncio, Some(false), true),
            EventLoop::None,
        ),
        (Runtime::Python, seen(b"", None, false), EventLoop::Unknown),
        (Runtime::Java, seen(b"", Some(true), true), EventLoop::Other),
        (Runtime::Node, seen(b"", None, false), EventLoop::Libuv),
    ] {
        assert_eq!(event_loop_of(runtime, &seen), expected, "{runtime:?}");
    }
    let gevent = seen(
        b"/site-packages/gevent/_gevent_c_hub_local.so",
        Some(true),
        true,
    );
    assert!(has_green_threads(Runtime::Python, &gevent));
    let mut java = seen(b"", Some(true), true);
    assert!(!has_green_threads(Runtime::Java, &java));
    java.threads = "java\nVirtualThread-u\n".to_owned();
    assert!(has_green_threads(Runtime::Java, &java));
}

#[test]
fn compilers_leave_their_marks() {
    let check = |content: &[u8], expected| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        assert_eq!(compiled_for(file.path()), expected);
    };
    check(b"\x7fELF nothing", Runtime::Native);
    check(b"", Runtime::Native);
    let mut far = vec![0; (1 << 20) - 5];
    far.extend(b"\xff Go buildinf:");
    check(&far, Runtime::Go);
    check(
        b"x/tokio-1.54.0/src/runtime/scheduler/current_thread",
        Runtime::Tokio,
    );
    check(b"/smol-1.0/src/runtime/scheduler/", Runtime::Native);
    assert_eq!(
        compiled_for(std::path::Path::new("/nowhere")),
        Runtime::Unknown
    );
}

#[test]
fn whoever_holds_a_listening_socket_is_found_and_its_end_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut search = Search::new(port).unwrap();
    search.again(&[]);
    assert_eq!(search.found, [], "this process looks for others");
    // The child's standard input is the socket.
    let child = Command::new("sleep")
        .arg("60")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .spawn();
    let mut child = child.unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    // Until it has become `sleep` it is a copy of this process.
    while !search
        .found
        .iter()
        .any(|program| program.pid == pid && program.name.contains("sleep"))
    {
        assert!(Instant::now() < deadline, "{:?}", search.found);
        search.again(&[]);
    }
    assert_eq!(search.found[0].runtime, Runtime::Native);
    assert!(!search.again(&[]), "nothing has changed");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(search.again(&[]), "it has ended");
    assert_eq!(search.found, []);
}

#[test]
fn a_fork_and_an_exec_are_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    // Its standard input is the socket, so files tell it what to do.
    let script = "until test -e fork; do sleep 0.01; done; sleep 60 <&0 & \
                  until test -e exec; do sleep 0.01; done; exec sleep 61";
    let child = Command::new("bash")
        .args(["-c", script])
        .current_dir(directory.path())
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .spawn();
    let mut child = child.unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let mut search = Search::new(port).unwrap();
    let until = |search: &mut Search, what: &str, is_so: &dyn Fn(&Program) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !search.found.iter().any(is_so) {
            assert!(Instant::now() < deadline, "{what}: {:?}", search.found);
            search.again(&[]);
        }
    };
    until(&mut search, "bash", &|one| {
        one.pid == pid && one.name == "bash"
    });
    std::fs::write(directory.path().join("fork"), "").unwrap();
    let is_fork = |one: &Program| one.pid != pid && one.name != "bash";
    until(&mut search, "a process that was forked", &is_fork);
    std::fs::write(directory.path().join("exec"), "").unwrap();
    let is_another = |one: &Program| one.pid == pid && one.name != "bash";
    until(&mut search, "another program in its place", &is_another);
    let pids: Vec<i32> = search.found.iter().map(|program| program.pid).collect();
    for pid in pids {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
    child.wait().unwrap();
    assert!(search.again(&[]));
}
