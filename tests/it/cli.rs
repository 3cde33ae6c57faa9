//! The program as people meet it: commands, messages, exit statuses.

use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use tempfile::TempDir;

/// Five mistakes of five kinds: a misspelt key, a bad address, a bad duration, a wrong type, a value out of range.
const FIVE_MISTAKES: &str = "\
servise: shop
app: 127.0.0.1
shutdown:
  drain_timeout: 5 parsecs
workers: many
sampling:
  probabilistic:
    rate: 1.5
";

/// The program with nothing in its environment.
fn pillion(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.env_clear().args(args);
    command
}

fn file(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pillion.yaml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

fn stdout(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn five_mistakes_are_all_reported_with_line_and_column() {
    let (_dir, path) = file(FIVE_MISTAKES);
    let name = path.to_str().unwrap();
    let assert = pillion(&["validate", "-c", name]).assert().code(78);
    assert_eq!(stdout(&assert), "");
    let shown = stderr(&assert);
    for (place, message) in [
        (":1:1", "error: unknown key `servise`"),
        (
            ":2:6",
            "error: \"127.0.0.1\" is not an address: the port is missing",
        ),
        (":4:18", "error: \"5 parsecs\" is not a duration"),
        (
            ":5:10",
            "error: expected a whole number, found the text \"many\"",
        ),
        (":8:11", "error: 1.5 is not a probability from 0 to 1"),
    ] {
        assert!(shown.contains(message), "{message}\n{shown}");
        assert!(
            shown.contains(&format!("--> {name}{place}")),
            "{place}\n{shown}"
        );
    }
    assert!(
        shown.contains("1 | servise: shop\n  | ^^^^^^^ did you mean `service`?"),
        "{shown}"
    );
    assert!(shown.contains("(sampling.probabilistic.rate)"), "{shown}");
    assert!(
        shown.ends_with("invalid configuration: 5 mistakes\n"),
        "{shown}"
    );
}

#[test]
fn every_command_that_loads_refuses_a_bad_file_with_78() {
    let (_dir, path) = file("workers: many\n");
    let name = path.to_str().unwrap();
    for args in [
        &["-c", name][..],
        &["run", "-c", name],
        &["--check", "-c", name],
        &["--print-config", "-c", name],
        &["print-config", "-c", name],
        &["healthcheck", "-c", name],
        &["exec", "-c", name, "--", "true"],
        &["-c", name, "validate"],
    ] {
        let assert = pillion(args).assert().code(78);
        assert!(stderr(&assert).contains("pillion.yaml:1:10"), "{args:?}");
    }
    let assert = pillion(&["validate", "-c", "/nowhere.yaml"])
        .assert()
        .code(78);
    assert!(stderr(&assert).starts_with("error: cannot read /nowhere.yaml: No such file"));
}

#[test]
fn wrong_usage_ends_with_2() {
    for (args, message) in [
        (&[][..], "Usage: pillion"),
        (&["fly"], "unrecognized subcommand 'fly'"),
        (&["--app", "3000"], "the port is missing, write HOST:PORT"),
        (
            &["--log-format", "xml"],
            "[possible values: text, json, logfmt]",
        ),
        (&["exec"], "required"),
        (&["completions", "tcsh"], "invalid value 'tcsh'"),
        (&["demo", "--duration", "soon"], "is not a duration"),
        (&["--outbound-redirect", "15602"], "the port is missing"),
    ] {
        let assert = pillion(args).assert().code(2);
        assert!(
            stderr(&assert).contains(message),
            "{args:?}: {}",
            stderr(&assert)
        );
        assert_eq!(stdout(&assert), "", "{args:?}");
    }
}

#[test]
fn what_was_asked_for_goes_to_standard_output_and_ends_with_0() {
    let (_dir, path) = file("service: shop\n");
    let name = path.to_str().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for (args, text) in [
        (&["validate", "-c", name][..], format!("{name}: valid\n")),
        (&["validate"], "configuration: valid\n".to_owned()),
        (&["--check", "-c", name], format!("{name}: valid\n")),
        (&["-V"], format!("pillion {version}\n")),
        (&["--version"], "commit: ".to_owned()),
        (&["--help"], "Exit status:".to_owned()),
        (&["completions", "bash"], "_pillion()".to_owned()),
        (&["completions", "zsh"], "#compdef pillion".to_owned()),
        (&["man"], ".TH pillion 1".to_owned()),
        (&["schema"], "\"title\": \"Pillion\"".to_owned()),
        (&["schema", "--yaml"], "drain_timeout: 20s".to_owned()),
        (
            &["print-config", "-c", name],
            "service: shop  # file, line 1".to_owned(),
        ),
        (
            &["--print-config", "-c", name],
            "service: shop  # file, line 1".to_owned(),
        ),
    ] {
        let assert = pillion(args).assert().code(0);
        assert!(
            stdout(&assert).contains(&text),
            "{args:?}: {}",
            stdout(&assert)
        );
        assert_eq!(stderr(&assert), "", "{args:?}");
    }
}

#[test]
fn standard_input_can_be_the_file() {
    let assert = pillion(&["validate", "-c", "-"])
        .write_stdin("servise: x\n")
        .assert()
        .code(78);
    assert!(stderr(&assert).contains("--> <stdin>:1:1"));
}

#[test]
fn flags_beat_environment_beats_file_beats_default() {
    let (_dir, path) = file("service: from-file\n");
    let name = path.to_str().unwrap();
    let printed = |env: &[(&str, &str)], args: &[&str]| {
        let mut command = pillion(&["print-config"]);
        command.args(args).envs(env.iter().copied());
        let text = stdout(&command.assert().code(0));
        let line = text.lines().find(|line| line.starts_with("service:"));
        line.unwrap().to_owned()
    };
    let otel = ("OTEL_SERVICE_NAME", "from-otel");
    let own = ("PILLION_SERVICE", "from-env");
    let config = ("PILLION_CONFIG", name);
    for (env, args, line) in [
        (&[][..], &[][..], "service: null  # default"),
        (&[], &["-c", name], "service: from-file  # file, line 1"),
        (&[config], &[], "service: from-file  # file, line 1"),
        (
            &[config, otel],
            &[],
            "service: from-otel  # environment, OTEL_SERVICE_NAME",
        ),
        (
            &[config, otel, own],
            &[],
            "service: from-env  # environment, PILLION_SERVICE",
        ),
        (
            &[config, otel, own],
            &["--service", "from-flag"],
            "service: from-flag  # flag --service",
        ),
        (
            &[config, ("PILLION_SERVICE", "")],
            &[],
            "service: from-file  # file, line 1",
        ),
    ] {
        assert_eq!(printed(env, args), line);
    }
}

#[test]
fn secrets_are_not_printed() {
    let (_dir, path) = file(
        "reporters:\n  - otlp:\n      endpoint: http://collector:4318\n      headers:\n        authorization: Bearer hunter2\n        x-key: ${KEY}\n",
    );
    let name = path.to_str().unwrap();
    let assert = pillion(&["print-config", "-c", name])
        .env("KEY", "hunter3")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-other=hunter4")
        .assert()
        .code(0);
    let text = stdout(&assert);
    assert!(!text.contains("hunter"), "{text}");
    assert_eq!(text.matches("<redacted>").count(), 3, "{text}");

    // Nor in the message about a mistake: the reference is shown, not what it stands for.
    let (_dir, path) = file("workers: ${KEY}\n");
    let assert = pillion(&["validate", "-c", path.to_str().unwrap()])
        .env("KEY", "hunter3")
        .assert()
        .code(78);
    assert!(!stderr(&assert).contains("hunter"), "{}", stderr(&assert));
}

#[test]
fn a_variable_that_is_wrong_names_itself() {
    let assert = pillion(&["validate"])
        .env("PILLION_WORKERS", "many")
        .env("PILLION_SHUTDOWN__DRAIN_TIMEOUT", "5")
        .assert()
        .code(78);
    let shown = stderr(&assert);
    assert!(
        shown.contains("--> environment variable PILLION_WORKERS (workers)"),
        "{shown}"
    );
    assert!(
        shown.contains("PILLION_SHUTDOWN__DRAIN_TIMEOUT (shutdown.drain_timeout)"),
        "{shown}"
    );
}

#[test]
fn standard_variables_warn_and_only_strict_refuses() {
    let env = [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "lots"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
    ];
    let assert = pillion(&["validate"]).envs(env).assert().code(0);
    assert_eq!(stdout(&assert), "configuration: valid, 1 warning\n");
    assert!(
        stderr(&assert).starts_with("warning: OTEL_BSP_MAX_QUEUE_SIZE is ignored"),
        "{}",
        stderr(&assert)
    );
    pillion(&["validate", "--strict"])
        .envs(env)
        .assert()
        .code(78);
}

#[test]
fn sampling_follows_the_reporters_unless_it_is_configured() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://jaeger:4318");
    for (env, lines) in [
        (
            &[][..],
            &["  constant:", "    decision: true  # derived, no reporter"][..],
        ),
        (
            &[endpoint],
            &[
                "  remote:",
                "    endpoint: http://jaeger:5778/sampling  # derived, reporters send to a collector",
                "    initial_rate: 0.001  # derived",
            ],
        ),
        (
            &[endpoint, ("OTEL_TRACES_SAMPLER", "always_on")],
            &["    decision: true  # environment, OTEL_TRACES_SAMPLER"],
        ),
        (
            &[("OTEL_TRACES_EXPORTER", "console")],
            &["    decision: true  # derived"],
        ),
    ] {
        let mut command = pillion(&["print-config"]);
        command.envs(env.iter().copied());
        let text = stdout(&command.assert().code(0));
        for expected in lines {
            assert!(
                text.lines().any(|l| l.starts_with(expected)),
                "{env:?} {expected}\n{text}"
            );
        }
    }
}

#[test]
fn the_admin_port_can_be_turned_off_by_its_flag() {
    let assert = pillion(&["print-config", "--admin", ""]).assert().code(0);
    let shown = stdout(&assert);
    assert!(shown.contains("listen: \"\"  # flag --admin"), "{shown}");
    let assert = pillion(&["healthcheck", "--admin", ""]).assert().code(1);
    assert!(
        stderr(&assert).contains("switched off"),
        "{}",
        stderr(&assert)
    );
    pillion(&["run", "--admin", "x"]).assert().code(2);
}

#[test]
fn healthcheck_of_nothing_fails() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = free.local_addr().unwrap().to_string();
    drop(free);
    let assert = pillion(&["healthcheck", "--admin", &addr]).assert().code(1);
    assert!(
        stderr(&assert).starts_with("not ready: no answer from"),
        "{}",
        stderr(&assert)
    );
}

#[test]
fn a_port_in_use_is_named_with_its_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for (flag, other, setting) in [
        ("--admin", "--outbound", "admin.listen"),
        ("--outbound", "--admin", "outbound.listen"),
    ] {
        let assert = pillion(&["run", flag, &addr, other, "127.0.0.1:0"])
            .assert()
            .code(1);
        let shown = stderr(&assert);
        assert!(
            shown.starts_with(&format!("error: `{setting}` cannot be opened\n")),
            "{shown}"
        );
        assert!(
            shown.contains(&format!("cannot listen on {addr}\n")),
            "{shown}"
        );
        assert!(shown.contains("in use"), "{shown}");
    }
}

#[test]
fn a_proxy_that_lacks_a_worker_does_not_start() {
    // 64 listening sockets fit, 64 runtimes of three descriptors each do not.
    let script = "ulimit -n 200 && exec \"$0\" run --outbound 127.0.0.1:0 --admin 127.0.0.1:0";
    let assert = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_pillion")])
        .env_clear()
        .env("PILLION_WORKERS", "64")
        .timeout(std::time::Duration::from_secs(30))
        .assert()
        .code(1);
    let shown = stderr(&assert);
    assert!(shown.contains("Too many open files"), "{shown}");
    assert!(!shown.contains("listening"), "{shown}");
}

#[test]
fn files_and_reporters_that_cannot_be_used_are_mistakes_too() {
    let (_dir, path) = file(
        "inbound:\n  tls:\n    cert_file: /nowhere/tls.crt\n    key_file: /nowhere/tls.key\nreporters:\n  - log: {}\n  - jaeger_http:\n      bearer_token: a\n      basic_auth: {user: a, password: b}\n",
    );
    let name = path.to_str().unwrap();
    for command in ["validate", "run"] {
        let assert = pillion(&[command, "-c", name]).assert().code(78);
        let shown = stderr(&assert);
        assert!(
            shown.contains("cannot read /nowhere/tls.crt: No such file"),
            "{shown}"
        );
        assert!(shown.contains("pillion.yaml:2:3 (inbound.tls)"), "{shown}");
        assert!(shown.contains("(reporters[1].jaeger_http)"), "{shown}");
    }
    pillion(&["print-config", "-c", name]).assert().code(0);
}

#[test]
fn without_arguments_only_a_setting_in_the_environment_starts_anything() {
    for (name, value, code) in [
        ("PILLION_SERVICE_HOST", "10.0.0.1", 2),
        ("PILLION_TEST_REQUIRE", "1", 2),
        ("PILLION_WORKERS", "many", 78),
        ("PILLION_CONFIG", "/nowhere.yaml", 78),
    ] {
        pillion(&[]).env(name, value).assert().code(code);
    }
}
