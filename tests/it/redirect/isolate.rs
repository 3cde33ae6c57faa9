//! `pillion exec --isolate`: a program that ignores every proxy, in a network of its own, with one command.

use std::process::Command;

use crate::redirect::PYTHON;
use crate::redirect::http::PROGRAM;
use crate::redirect::wait_for;
use crate::support::netns::Net;
use crate::support::netns::has;
use crate::support::netns::program;
use crate::support::pillion::Pillion;
use crate::support::skip::skip;

/// Logs spans, listens on free ports.
const CONFIG: &str = "
reporters: [{ log: {} }]
sampling: { constant: { decision: true } }
view: { enabled: false }
admin: { listen: '127.0.0.1:0' }
";

fn net() -> Option<Net> {
    let tools = ["ip", "nft", "curl"].into_iter().all(has);
    tools.then(Net::new).flatten()
}

/// `exec --isolate`, the pod being the machine.
fn exec(net: &Net, args: &[&str]) -> Pillion {
    // Outlives the test, whole at any time: the program reads it when it gets there.
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let config = tempfile::NamedTempFile::new_in(folder).unwrap();
    std::fs::write(config.path(), CONFIG).unwrap();
    let path = folder.join("isolate.yaml");
    config.persist(&path).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    crate::support::pillion::scrub(&mut command);
    command.args(["exec", "--isolate", "--log-format", "json", "-c"]);
    command.arg(path).args(args);
    net.pod.run(move || Pillion::spawn(command))
}

fn spans(printed: &str) -> Vec<serde_json::Value> {
    let json = printed
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    json.filter(|line: &serde_json::Value| line.get("span_id").is_some())
        .collect()
}

#[test]
fn calls_are_traced_and_the_machine_stays_as_it_was() {
    let Some(net) = net() else { return };
    let _far = net.world.spawn(program(&[
        PYTHON,
        "-m",
        "http.server",
        "8080",
        "--bind",
        "::",
    ]));
    let _near = net.pod.spawn(program(&[
        PYTHON,
        "-m",
        "http.server",
        "8081",
        "--bind",
        "127.0.0.1",
    ]));
    wait_for("the services", || {
        net.pod.sh("curl -sf 10.77.0.2:8080 127.0.0.1:8081").ok()
    });
    // Where the machine has a way for IPv6, the program has one.
    net.pod.sh("ip -6 route add default via fd77::2").unwrap();
    let look = || {
        net.pod
            .sh("nft list ruleset; ip -br address; ip route; ip -6 route; ls /var/run/netns 2>&1")
            .unwrap()
    };
    let before = look();
    let script = "curl -sf -o /dev/null http://10.77.0.2:8080/ && curl -sf -o /dev/null http://127.0.0.1:8081/ \
                  && curl -sf -o /dev/null 'http://[fd77::2]:8080/' && curl -s http://10.77.0.2:9/; echo ended $? $HTTP_PROXY; exit 7";
    let mut pillion = exec(&net, &["--", "sh", "-c", script]);
    assert_eq!(pillion.wait().code(), Some(7), "{}", pillion.stderr());
    let printed = pillion.stdout();
    assert!(
        printed.contains("ended 0"),
        "{printed}\n{}",
        pillion.stderr()
    );
    let spans = spans(&printed);
    let urls: Vec<_> = spans
        .iter()
        .map(|span| span["attributes"]["url.full"].as_str().unwrap())
        .collect();
    assert_eq!(urls.len(), 4, "{urls:?}");
    for url in [
        "http://10.77.0.2:8080/",
        "http://127.0.0.1:8081/",
        "http://10.77.0.2:9/",
        "http://[fd77::2]:8080/",
    ] {
        assert!(urls.contains(&url), "{url} in {urls:?}");
    }
    assert_eq!(look(), before);
}

#[test]
fn a_service_in_its_own_network_serves_and_calls() {
    let Some(net) = net() else { return };
    let _far = net
        .world
        .spawn(program(&[PYTHON, "-m", "http.server", "8080"]));
    let mut pillion = exec(
        &net,
        &["--app", "127.0.0.1:3000", "--", PYTHON, "-c", PROGRAM],
    );
    let port = pillion.port("inbound");
    let url = format!("http://10.77.0.1:{port}/call?http://10.77.0.2:8080/");
    let answer = wait_for("an answer", || {
        net.world
            .sh(&format!("curl -sf --max-time 10 '{url}'"))
            .ok()
    });
    assert!(answer.contains("Directory listing"), "{answer}");
    assert!(
        net.pod.sh("curl -s 127.0.0.1:3000").is_err(),
        "it is not on the machine's loopback"
    );
    pillion.signal(rustix::process::Signal::TERM);
    pillion.wait();
    let spans = spans(&pillion.stdout());
    let of = |kind: &str| {
        spans
            .iter()
            .rfind(|span| span["kind"] == kind)
            .unwrap()
            .clone()
    };
    let (server, client) = (of("server"), of("client"));
    assert_eq!(
        client["trace_id"],
        server["trace_id"],
        "{spans:#?}\n{}",
        pillion.stderr()
    );
    assert_eq!(client["parent_span_id"], server["span_id"], "{spans:#?}");
}

#[test]
fn names_are_resolved_by_the_machine_s_name_server() {
    // Whatever is asked, the answer is the world.
    const NAME_SERVER: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
while True:
    q, peer = s.recvfrom(4096)
    end = q.index(b'\\0', 12) + 5
    is_a = q[end - 4:end - 2] == b'\\0\\x01'
    a = b'\\xc0\\x0c\\0\\x01\\0\\x01\\0\\0\\0\\x3c\\0\\x04' + bytes([10, 77, 0, 2])
    s.sendto(q[:2] + b'\\x81\\x80\\0\\x01\\0' + bytes([is_a]) + b'\\0\\0\\0\\0' + q[12:end] + a * is_a, peer)
";
    let Some(net) = net() else { return };
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let named = text
        .lines()
        .find_map(|line| line.strip_prefix("nameserver"));
    let server = named.map_or("127.0.0.1", str::trim).to_owned();
    if server.contains(':') {
        return skip("the machine's name server has an IPv6 address");
    }
    net.pod
        .sh(&format!("ip addr add {server}/32 dev lo || true"))
        .unwrap();
    let mut command = Command::new(PYTHON);
    command.args(["-c", NAME_SERVER, &server]);
    let _names = net.pod.spawn(command);
    let _far = net
        .world
        .spawn(program(&[PYTHON, "-m", "http.server", "8080"]));
    wait_for("the service", || net.pod.sh("curl -sf 10.77.0.2:8080").ok());
    let mut pillion = exec(
        &net,
        &[
            "--",
            "curl",
            "-sSf",
            "--retry",
            "5",
            "--retry-all-errors",
            "http://shop.example:8080/",
        ],
    );
    let status = pillion.wait();
    assert!(
        status.success(),
        "{}\n{}",
        pillion.stdout(),
        pillion.stderr()
    );
    assert!(
        pillion.stdout().contains("shop.example:8080"),
        "the span names it"
    );
}

#[test]
fn a_missing_privilege_is_told() {
    use std::os::unix::process::CommandExt;

    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    crate::support::pillion::scrub(&mut command);
    command.args([
        "exec",
        "--isolate",
        "--outbound",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--",
        "true",
    ]);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let Ok(output) = command.output() else {
        return skip("another user cannot run it");
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{error}");
    assert!(
        error.contains("SYS_ADMIN") && error.contains("without --isolate"),
        "{error}"
    );
}
