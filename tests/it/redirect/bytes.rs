//! What is not HTTP: bytes and ends as they are, greetings without delay, and clear outcomes for odd connections.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;

use crate::redirect::Bench;
use crate::redirect::PYTHON;
use crate::redirect::at;
use crate::redirect::both;
use crate::redirect::redirect;
use crate::redirect::wait_for;
use crate::support::netns::Namespace;
use crate::support::netns::Net;
use crate::support::netns::POD;
use crate::support::netns::WORLD;
use crate::support::netns::has;

const LIMIT: Duration = Duration::from_secs(10);
const DETECTED: &str = "pillion_detected_protocols_total";

/// Serves each connection in a thread of its own, inside.
fn serve(namespace: &Namespace, port: u16, each: fn(TcpStream)) {
    namespace.run(move || {
        let listener = TcpListener::bind(("::", port)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || each(stream));
            }
        });
    });
}

/// Connects from inside.
fn connect(namespace: &Namespace, to: &str, port: u16) -> TcpStream {
    let to = at(to, port);
    namespace.run(move || {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    })
}

/// Answers at the end of what is sent with its bytes in reverse.
fn reverse(mut stream: TcpStream) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all.reverse();
    stream.write_all(&all).unwrap();
}

fn all_of(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    Ok(all)
}

#[test]
fn bytes_pass_unchanged_and_each_direction_ends_by_itself() {
    let serving = |bench: &Bench| serve(&bench.net.pod, 3000, reverse);
    // Spliced, and copied.
    for splice in [true, false] {
        let settings = json!({ "passthrough": { "hold": "100ms", "splice": splice } });
        Bench::both(settings, &[], serving, bytes_pass);
    }
}

fn bytes_pass(bench: &Bench) {
    // Enough to be spliced, and no number of buffers.
    let noise: Vec<u8> = (0..3_000_001_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut detected = 0.0;
    for pod in both(POD) {
        for (sent, why) in [
            (&noise[..], "noise"),
            (b"EHLO x\r\n", "begins like HTTP"),
            (b"GE", "one half of a method"),
            (b"", "the end alone"),
            (
                b"CONNECT a.example:443 HTTP/1.1\r\n\r\n\x16\x03",
                "a way through another proxy",
            ),
        ] {
            let mut stream = connect(&bench.net.world, pod, 3000);
            stream.write_all(sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut expected = sent.to_vec();
            expected.reverse();
            assert!(all_of(stream).unwrap() == expected, "{why}");
            detected += 1.0;
        }
    }
    bench.counted(DETECTED, &["inbound", "closed"], 2.0);
    bench.counted(DETECTED, &["inbound", "opaque"], detected - 2.0);
    bench.counted(
        "pillion_connections_active",
        &["downstream", "inbound"],
        0.0,
    );
    let sent = bench.metric("pillion_sent_bytes_total", &["downstream", "inbound"]);
    let received = bench.metric("pillion_received_bytes_total", &["downstream", "inbound"]);
    assert!(sent == received && sent > 6_000_000.0, "{sent} {received}");
}

#[test]
fn a_reset_is_passed_on_in_both_directions_whatever_carries_the_bytes() {
    // Sends until it cannot, or is told to break.
    fn pour(mut stream: TcpStream) {
        let mut how = [0; 2];
        stream.read_exact(&mut how).unwrap();
        for _ in 0..200 {
            if stream.write_all(&[7; 65_536]).is_err() {
                return;
            }
        }
        if how[1] == b'R' {
            reset(&stream);
        }
    }
    for splice in [true, false] {
        let settings = json!({ "passthrough": { "splice": splice } });
        let Some(bench) = Bench::start(settings, &[]) else {
            return;
        };
        serve(&bench.net.pod, 3000, pour);
        let closed = "pillion_connections_closed_total";
        // The server breaks.
        let mut stream = connect(&bench.net.world, POD[0], 3000);
        stream.write_all(b"\0R").unwrap();
        let mut all = Vec::new();
        let error = stream.read_to_end(&mut all).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(all.iter().all(|byte| *byte == 7));
        bench.counted(closed, &["upstream", "inbound", "error"], 1.0);
        // The client breaks while bytes are on their way.
        let mut stream = connect(&bench.net.world, POD[0], 3000);
        stream.write_all(b"\0C").unwrap();
        stream.read_exact(&mut vec![0; 1_000_000]).unwrap();
        reset(&stream);
        drop(stream);
        bench.counted(closed, &["downstream", "inbound", "error"], 1.0);
        bench.counted("pillion_connections_active", &["inbound"], 0.0);
    }
}

/// Closing it is a reset.
fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

#[test]
fn what_is_not_named_passes_untouched_and_uncounted() {
    const UDP: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(b'ping', (sys.argv[1], 5353))
print(s.recv(10).decode())
";
    fn tell_peer(mut stream: TcpStream) {
        let peer = stream.peer_addr().unwrap().ip().to_canonical();
        write!(stream, "{peer}").unwrap();
    }
    let excluded = [
        "--exclude-outbound-ports",
        "9100",
        "--exclude-inbound-ports",
        "3100",
    ];
    let serving = |bench: &Bench| {
        for (namespace, ports) in [(&bench.net.world, [9100, 53]), (&bench.net.pod, [22, 3100])] {
            for port in ports {
                serve(namespace, port, tell_peer);
            }
        }
        bench.net.world.run(|| {
            let socket = std::net::UdpSocket::bind("[::]:5353").unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 16];
                while let Ok((n, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..n], from).unwrap();
                }
            });
        });
    };
    Bench::both(json!({}), &excluded, serving, |bench| {
        let (pod, world) = (&bench.net.pod, &bench.net.world);
        for (inside, outside) in both(POD).zip(both(WORLD)) {
            assert_eq!(
                pod.as_program(&[PYTHON, "-c", UDP, outside])
                    .unwrap()
                    .trim(),
                "ping"
            );
            for port in [9100, 53] {
                assert_eq!(told(pod, outside, port), inside);
            }
            for port in [22, 3100] {
                assert_eq!(
                    all_of(connect(world, inside, port)).unwrap(),
                    outside.as_bytes()
                );
            }
        }
        let opened = bench.metric("pillion_connections_opened_total", &[]);
        assert_eq!(opened, 0.0, "{:?}", bench.mode);
        // And what is named is counted.
        all_of(connect(world, POD[0], 3999)).unwrap_err();
        bench.counted("pillion_connections_opened_total", &["downstream"], 1.0);
    });
}

/// What a server tells the program.
fn told(namespace: &Namespace, to: &str, port: u16) -> String {
    const CALL: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
print(s.makefile().read())
";
    let args = [PYTHON, "-c", CALL, to, &port.to_string()];
    namespace.as_program(&args).unwrap().trim().to_owned()
}

#[test]
fn a_server_that_speaks_first_waits_for_nobody() {
    // Were anything waited for, it would take much longer than the test allows.
    let settings = json!({ "timeouts": { "detect": "1h" }, "passthrough": { "hold": "1h" } });
    let Some(bench) = Bench::start(settings, &[]) else {
        return;
    };
    fn greet(mut stream: TcpStream) {
        stream.write_all(b"220 ready\r\n").unwrap();
        reverse(stream);
    }
    for port in [25, 2600] {
        serve(&bench.net.pod, port, greet);
        for _ in 0..3 {
            let mut stream = connect(&bench.net.world, POD[0], port);
            let mut greeting = [0; 11];
            stream.read_exact(&mut greeting).unwrap();
            assert_eq!(&greeting, b"220 ready\r\n");
            stream.write_all(b"QUIT").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(all_of(stream).unwrap(), b"TIUQ");
        }
    }
    bench.counted(DETECTED, &["inbound", "server_first"], 6.0);
}

#[test]
fn odd_connections_have_a_clear_end_and_harm_no_other() {
    let settings = json!({
        "timeouts": { "detect": "300ms", "connect": "400ms" },
        "passthrough": { "hold": "100ms" },
    });
    let serving = |bench: &Bench| {
        serve(&bench.net.pod, 3000, reverse);
        let hole = "table inet hole { chain input { type filter hook input priority 0; tcp dport 9999 drop; }; }";
        let line = format!("nft -f - <<'END'\n{hole}\nEND");
        bench.net.world.sh(&line).unwrap();
        let within = line.replace("tcp dport 9999", "iifname lo tcp dport 3998");
        bench.net.pod.sh(&within).unwrap();
    };
    Bench::both(settings, &[], serving, odd_connections);
}

fn odd_connections(bench: &Bench) {
    let world = &bench.net.world;
    // Dialled directly: the proxy would call itself.
    for port in ["inbound_redirect", "outbound_redirect"] {
        let port = bench.pillion.address(port).port();
        let error = all_of(connect(world, POD[0], port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    bench.counted("pillion_rejections_total", &["inbound", "loop"], 1.0);
    bench.counted("pillion_rejections_total", &["outbound", "loop"], 1.0);

    // Opened and closed.
    drop(connect(world, POD[0], 3000));
    bench.counted(DETECTED, &["inbound", "closed"], 1.0);

    // A byte, then silence: it is passed on, and what follows later too.
    let mut stream = connect(world, POD[0], 3000);
    stream.write_all(b"G").unwrap();
    bench.counted(DETECTED, &["inbound", "timeout"], 1.0);
    stream.write_all(b"ET / HTTP/1.1\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all_of(stream).unwrap(), b"\n\r\n\r1.1/PTTH / TEG");

    // Silence from both sides.
    let silent = connect(world, POD[0], 3000);
    bench.counted(DETECTED, &["inbound", "timeout"], 2.0);
    drop(silent);

    // Nobody listens: a reset, but an answer to HTTP.
    let start = Instant::now();
    let error = all_of(connect(world, POD[0], 3999)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(start.elapsed() < Duration::from_secs(5));
    let mut stream = connect(world, POD[0], 3999);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let answer = String::from_utf8(all_of(stream).unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.0 502"), "{answer}");
    assert!(
        bench.metric(
            "pillion_upstream_connect_failures_total",
            &["inbound", "refused"]
        ) >= 1.0
    );

    // A black hole, inbound, for a client that speaks no HTTP and for one that says nothing.
    for said in [&b"\0"[..], b""] {
        let start = Instant::now();
        let mut stream = connect(world, POD[0], 3998);
        stream.write_all(said).unwrap();
        let error = all_of(stream).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    let failures = "pillion_upstream_connect_failures_total";
    bench.counted(failures, &["inbound", "timeout"], 2.0);

    // A black hole, outbound.
    let start = Instant::now();
    let status = [
        "curl",
        "-sS",
        "--noproxy",
        "*",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ];
    let mut args = status.to_vec();
    args.push("http://10.77.0.2:9999/");
    assert_eq!(bench.net.pod.as_program(&args).unwrap(), "504");
    assert!(start.elapsed() < Duration::from_secs(5));

    // All the while others are served.
    let mut stream = connect(world, POD[0], 3000);
    stream.write_all(b"\0abc").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all_of(stream).unwrap(), b"cba\0");
    bench.counted(
        "pillion_connections_active",
        &["downstream", "inbound"],
        0.0,
    );
}

#[test]
fn nobody_who_arrives_is_led_to_our_own_ports_on_loopback() {
    if !["ip", "nft", "curl"].into_iter().all(has) {
        return;
    }
    let Some(Net { pod, world }) = Net::new() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pillion.yaml");
    let settings = json!({
        "inbound": { "redirect": { "to": "loopback" } },
        "admin": { "listen": "127.0.0.1:2001" },
        "receivers": { "zipkin": { "enabled": true, "listen": "127.0.0.1:2002" } },
    });
    std::fs::write(&file, settings.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    crate::support::pillion::scrub(&mut command);
    command.args(["run", "-c"]).arg(&file);
    let log = folder.path().join("log");
    command.stderr(std::fs::File::create(&log).unwrap());
    let _proxy = pod.spawn(command);
    serve(&pod, 3000, reverse);
    let get = "curl -sS --noproxy '*' --max-time 9";
    let ready = format!("{get} -f --retry 9 --retry-connrefused http://127.0.0.1:2001/readyz");
    pod.sh(&ready).unwrap();
    // Rules that do not know where these listen.
    redirect(&pod, &["install", "--exclude-uids", "0"]).unwrap();
    for port in [2001, 2002] {
        let answer = format!(
            "{get} -i http://{}/config_dump 2>&1 || true",
            at(POD[0], port)
        );
        let answer = world.sh(&answer).unwrap();
        assert!(answer.starts_with("curl: ("), "{port}: {answer}");
    }
    let metrics = pod
        .sh(&format!("{get} http://127.0.0.1:2001/metrics"))
        .unwrap();
    let loops = metrics.lines().find(|line| {
        let wanted = ["pillion_rejections_total", "\"inbound\"", "\"loop\""];
        wanted.iter().all(|part| line.contains(part))
    });
    assert!(loops.is_some_and(|line| line.ends_with(" 2")), "{loops:?}");
    let log = std::fs::read_to_string(&log).unwrap();
    let said = log.matches("to this proxy itself closed").count();
    assert_eq!(said, 1, "nobody can fill the log: {log}");
    let mut stream = connect(&world, POD[0], 3000);
    stream.write_all(b"\0abc").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all_of(stream).unwrap(), b"cba\0", "the program is reached");
}

#[test]
fn a_proxy_protocol_header_names_the_caller_and_is_taken_off() {
    let Some(bench) = Bench::start(json!({ "inbound": { "proxy_protocol": true } }), &[]) else {
        return;
    };
    serve(&bench.net.pod, 3000, reverse);
    serve(&bench.net.pod, 3080, |mut stream| {
        let mut head = [0; 18];
        stream.read_exact(&mut head).unwrap();
        stream
            .write_all(b"HTTP/1.0 204 No Content\r\n\r\n")
            .unwrap();
    });
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 80\r\n";
    let mut stream = connect(&bench.net.world, POD[0], 3000);
    stream.write_all(&[&header[..], b"\0abc"].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all_of(stream).unwrap(), b"cba\0");

    let mut stream = connect(&bench.net.world, POD[0], 3080);
    stream
        .write_all(&[&header[..], b"GET / HTTP/1.0\r\n\r\n"].concat())
        .unwrap();
    assert!(all_of(stream).unwrap().starts_with(b"HTTP/1.0 204"));
    assert_eq!(bench.spans(1)[0].attribute("client.address"), "192.0.2.7");

    let mut stream = connect(&bench.net.world, POD[0], 3000);
    stream.write_all(b"\0abc").unwrap();
    assert_ne!(
        all_of(stream).unwrap_or_default(),
        b"cba\0",
        "no header, no way in"
    );
    bench.counted("pillion_rejections_total", &["inbound", "malformed"], 1.0);
}

#[test]
fn many_connections_leave_nothing_behind() {
    let Some(bench) = Bench::start(json!({ "passthrough": { "hold": "50ms" } }), &[]) else {
        return;
    };
    serve(&bench.net.pod, 3000, reverse);
    let n_open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let round = |n: usize| {
        for index in 0..n {
            let mut stream = connect(&bench.net.world, POD[index % 2], 3000);
            stream.write_all(&[0, index as u8]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(all_of(stream).unwrap(), [index as u8, 0]);
        }
    };
    round(20);
    let before = n_open();
    round(1500);
    bench.counted("pillion_connections_active", &["inbound"], 0.0);
    // Other tests of this process open and close theirs meanwhile.
    wait_for("the descriptors of closed connections", || {
        (n_open() < before + 200).then_some(())
    });
    bench.counted(DETECTED, &["inbound", "opaque"], 1520.0);
    assert_eq!(bench.metric("pillion_rejections_total", &["loop"]), 0.0);
}

/// Greetings of a server on port 3306 by two addresses, one redirected and one not, in turns.
pub(super) fn greetings_cost_little(what: &str, bench: &Bench, rounds: u32) {
    const CLIENT: &str = "
import socket, time, statistics, sys
def greeting(host):
    start = time.perf_counter()
    s = socket.create_connection((host, 3306))
    assert s.recv(1)
    took = time.perf_counter() - start
    s.close()
    return took
pairs = [(greeting('10.77.0.3'), greeting('10.77.0.2')) for _ in range(int(sys.argv[1]))]
print(*[round(statistics.median(times) * 1e6) for times in zip(*pairs)])
";
    let world = &bench.net.world;
    world.sh("ip addr add 10.77.0.3/24 dev world0").unwrap();
    let args = [PYTHON, "-c", CLIENT, &rounds.to_string()];
    let printed = bench.net.pod.as_program(&args).unwrap();
    let medians: Vec<i64> = printed
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    let line = format!(
        "{what}: greeting after {} us directly, {} us through the redirect (medians of {rounds})",
        medians[0], medians[1]
    );
    eprintln!("{line}");
    assert!(medians[1] - medians[0] < 1000, "{line}");
}

#[test]
fn greetings_come_as_fast_as_without_a_proxy() {
    let Some(bench) = Bench::start(json!({}), &["--exclude-outbound-cidrs", "10.77.0.3"]) else {
        return;
    };
    serve(&bench.net.world, 3306, |mut stream| {
        stream.write_all(b"hello").unwrap();
        all_of(stream).unwrap_or_default();
    });
    greetings_cost_little("a server", &bench, 300);
    bench.counted(DETECTED, &["outbound", "server_first"], 300.0);
}
