//! `pillion exec`: the program's environment, streams, signals and exit status, through the real binary.

use std::io::Write;
use std::process::Command;

use rustix::process::Signal;

use crate::support::apps;
use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::http;
use crate::support::otlp;
use crate::support::pillion::Pillion;
use crate::support::skip::skip;
use crate::support::upstream::Upstream;

/// `exec` on free ports.
const EXEC: [&str; 6] = [
    "exec",
    "--outbound=127.0.0.1:0",
    "--admin=127.0.0.1:0",
    "--log-format=json",
    "--service=shop",
    "--",
];

fn exec(program: &[&str], variables: &[(&str, &str)]) -> Pillion {
    let args: Vec<&str> = EXEC.iter().chain(program).copied().collect();
    Pillion::start_with(&args, variables)
}

#[test]
fn the_programs_status_is_the_answer() {
    for (program, status, why) in [
        (&["true"][..], 0, "success"),
        (&["sh", "-c", "exit 7"], 7, "its own status"),
        (
            &["sh", "-c", "kill -KILL $$"],
            137,
            "killed: 128 and the signal",
        ),
        (&["/nonexistent/program"], 127, "no such program"),
        (&["/etc/passwd"], 126, "not executable"),
    ] {
        let mut pillion = exec(program, &[]);
        let ended = pillion.wait();
        assert_eq!(ended.code(), Some(status), "{why}\n{}", pillion.stderr());
    }
}

#[test]
fn standard_streams_are_the_programs() {
    let mut pillion = exec(&["sh", "-c", "cat; echo to stderr >&2"], &[]);
    pillion
        .stdin
        .take()
        .unwrap()
        .write_all(b"through\n")
        .unwrap();
    assert!(pillion.wait().success());
    assert_eq!(pillion.stdout(), "through");
    assert!(pillion.stderr().contains("to stderr"));
}

#[test]
fn the_environment_leads_clients_to_the_proxy_and_past_it_where_that_would_loop() {
    let script = "for n in HTTP_PROXY http_proxy HTTPS_PROXY https_proxy NO_PROXY no_proxy OTEL_X NODE_USE_ENV_PROXY; \
                  do eval echo $n=\\$$n; done";
    let mut pillion = exec(
        &["sh", "-c", script],
        &[
            ("NO_PROXY", "internal.example,10.0.0.0/8"),
            ("no_proxy", "internal.example, other.example"),
            ("https_proxy", "http://corporate.example:3128"),
            ("OTEL_X", "kept"),
            (
                "PILLION_REPORTERS__0__OTLP__ENDPOINT",
                "http://127.0.0.1:4318",
            ),
        ],
    );
    assert!(pillion.wait().success());
    let outbound = pillion.port("outbound");
    let admin = pillion.port("admin");
    let printed = pillion.stdout();
    let value = |name: &str| {
        let prefix = format!("{name}=");
        let line = printed.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("{name} in {printed}"))
            .to_owned()
    };
    let proxy = format!("http://127.0.0.1:{outbound}");
    assert_eq!(value("HTTP_PROXY"), proxy);
    assert_eq!(value("http_proxy"), proxy);
    assert_eq!(
        value("https_proxy"),
        "http://corporate.example:3128",
        "kept"
    );
    assert_eq!(value("HTTPS_PROXY"), "", "one that is set stays alone");
    assert_eq!(value("OTEL_X"), "kept");
    assert_eq!(value("NODE_USE_ENV_PROXY"), "1");
    assert_eq!(value("NO_PROXY"), value("no_proxy"));
    let no_proxy = value("NO_PROXY");
    let entries: Vec<&str> = no_proxy.split(',').collect();
    for expected in [
        "internal.example",
        "10.0.0.0/8",
        "other.example",
        &format!("127.0.0.1:{outbound}"),
        &format!("127.0.0.1:{admin}"),
        &format!("localhost:{admin}"),
        "127.0.0.1:4318",
        "127.0.0.1:5778",
    ] {
        let times = entries.iter().filter(|entry| **entry == expected).count();
        assert_eq!(times, 1, "{expected} in {no_proxy}");
    }
    for absent in ["localhost", "127.0.0.1", "::1"] {
        assert!(!entries.contains(&absent), "{absent} in {no_proxy}");
    }
}

#[test]
fn signals_are_passed_on() {
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let script = format!(
            "trap 'echo got {name}; exit 9' {name}; echo ready; while :; do read _ || exit 1; done"
        );
        let mut pillion = exec(&["bash", "-c", &script], &[]);
        pillion.stdout_line("ready");
        pillion.signal(signal);
        pillion.stdout_line(&format!("got {name}"));
        let status = pillion.wait();
        assert_eq!(status.code(), Some(9), "{name}\n{}", pillion.stderr());
    }
}

#[test]
fn ctrl_c_in_a_terminal_reaches_the_program_once() {
    let Some(python) = apps::python() else {
        return;
    };
    let program = "n=0; trap 'n=$((n+1)); echo interrupted $n' INT; echo ready; for i in 1 2 3 4 5; do sleep 0.1; done; exit 6";
    let pillion = env!("CARGO_BIN_EXE_pillion");
    let quiet = ["--log-level=error", "--", "bash", "-c", program];
    let args = [&[pillion][..], &EXEC[..3], &quiet].concat();
    let mut terminal = apps::run(&python, "terminal.py", &args, &[]);
    assert!(terminal.wait().success(), "{}", terminal.stderr());
    let printed = terminal.stdout();
    assert!(
        printed.contains("interrupted 1") && !printed.contains("interrupted 2"),
        "{printed}"
    );
    assert!(printed.contains("status 6"), "{printed}");
}

#[test]
fn a_program_that_a_signal_ends_gives_its_status() {
    let mut pillion = exec(&["sleep", "60"], &[]);
    pillion.port("outbound");
    // The line comes after the program is there to be signalled.
    pillion.stderr_line("program started");
    pillion.signal(Signal::TERM);
    assert_eq!(pillion.wait().code(), Some(143), "{}", pillion.stderr());
}

#[test]
fn as_the_first_process_it_collects_what_the_program_leaves_behind() {
    let first = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let mut attempt = Command::new("unshare");
    attempt.args(first).arg("true");
    if !attempt
        .output()
        .is_ok_and(|attempt| attempt.status.success())
    {
        skip("no new process namespace: needs unshare and root");
        return;
    }
    // Thrice a process that nobody waits for; then until none of the dead is left, but not for ever.
    let program = "for i in 1 2 3; do sh -c 'sleep 0.05 &'; done; sleep 0.2; \
                   for i in $(seq 100); do grep -q '^State:.Z' /proc/[0-9]*/status || exit 5; sleep 0.05; done; exit 6";
    let mut command = Command::new("unshare");
    command.args(first).arg(env!("CARGO_BIN_EXE_pillion"));
    command.args(EXEC).args(["sh", "-c", program]);
    let mut pillion = Pillion::spawn(command);
    assert_eq!(pillion.wait().code(), Some(5), "{}", pillion.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_the_program_are_traced_and_flushed_at_its_end() {
    let collector = Collector::start(Speaks::Http1, Vec::new(), Reply::Accept).await;
    let upstream = Upstream::start().await;
    let endpoint = collector.url();
    let mut pillion = exec(
        &["sh", "-c", "echo $http_proxy; read line; exit 5"],
        &[
            ("PILLION_REPORTERS__0__OTLP__ENDPOINT", &endpoint),
            ("PILLION_SAMPLING__CONSTANT__DECISION", "true"),
        ],
    );
    let proxy = pillion.stdout_line("http://");
    let port: u16 = proxy.rsplit(':').next().unwrap().parse().unwrap();
    let answer = http::get(
        port,
        &format!("http://localhost:{}/cart?x=1", upstream.port),
    )
    .await;
    assert_eq!(answer.unwrap().status, 200);
    let heads = upstream.heads();
    assert_eq!(heads.len(), 1);
    assert!(heads[0].contains("traceparent: 00-"), "{}", heads[0]);

    pillion.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(pillion.wait().code(), Some(5), "{}", pillion.stderr());
    let spans = otlp::spans(&collector);
    assert_eq!(spans.len(), 1, "flushed before the end");
    assert_eq!(spans[0].service, "shop");
    assert!(spans[0].attribute("url.full").ends_with("/cart?x=1"));
}

#[test]
fn a_service_without_a_name_is_called_like_its_program() {
    for (variables, service) in [
        (&[][..], "sleep"),
        (&[("OTEL_SERVICE_NAME", "named")][..], "named"),
    ] {
        let args = [
            "exec",
            "--outbound=127.0.0.1:0",
            "--admin=127.0.0.1:0",
            "--log-format=json",
        ];
        let args = [&args[..], &["--", "/bin/sleep", "60"]].concat();
        let mut pillion = Pillion::start_with(&args, variables);
        let admin = pillion.port("admin");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let state = runtime
            .block_on(http::get(admin, "/sampling"))
            .unwrap()
            .json();
        assert_eq!(state["service"], service);
        pillion.stderr_line("program started");
        pillion.signal(Signal::TERM);
        assert_eq!(pillion.wait().code(), Some(143));
    }
}

#[test]
fn several_programs_run_side_by_side_on_the_default_ports() {
    let script = "echo $HTTP_PROXY; read line";
    let start = || Pillion::start(&["exec", "--log-format=json", "--", "sh", "-c", script]);
    let (mut one, mut two) = (start(), start());
    let proxies = [one.stdout_line("http://"), two.stdout_line("http://")];
    assert_ne!(proxies[0], proxies[1]);
    assert!(one.wait().code().is_some() && two.wait().code().is_some());
}

#[test]
fn a_mistake_in_the_settings_starts_no_program() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    crate::support::pillion::scrub(&mut command);
    command.args(["exec", "--log-level=loud", "--", "echo", "started"]);
    let mut pillion = Pillion::spawn(command);
    assert_eq!(pillion.wait().code(), Some(78));
    assert_eq!(pillion.stdout(), "");
}
