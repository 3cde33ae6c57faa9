//! The pages that people follow from top to bottom: every command of their `sh` blocks is run, in order, in one shell
//! with a network of its own. What would change the machine stands in `console` blocks, which are read and not run.
//!
//! docs/redirect.md is run in `redirect::rules`.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::support::netns::Net;
use crate::support::netns::has;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The fenced blocks of one language, joined.
fn blocks(page: &str, language: &str) -> String {
    let open = format!("```{language}\n");
    let blocks = page.split(&open).skip(1);
    blocks
        .filter_map(|rest| rest.split("```\n").next())
        .collect()
}

/// Runs the page; what it printed, on both streams. The shell stops at the first command that fails.
fn follow(page: &str, before: &str) -> Option<String> {
    if !["curl", "python3"].into_iter().all(has) {
        return None;
    }
    let net = Net::new()?;
    let folder = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_pillion")).parent().unwrap();
    let script = format!(
        "exec 2>&1; set -e
        PATH={}:$PATH
        for name in $(env | grep -o '^[A-Za-z_]*_proxy\\|^PILLION_[A-Z_]*\\|^OTEL_[A-Z_]*\\|^JAEGER_[A-Z_]*'); do unset $name; done
        cd {}
        here=$PWD
        trap 'jobs -p >$here/jobs; kill $(cat $here/jobs) 2>/dev/null || true' EXIT
        {before}\n{}",
        binary.display(),
        folder.path().display(),
        blocks(&read(page), "sh"),
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let output = net.pod.output(command);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{page}: {}: {printed}",
        output.status
    );
    Some(printed)
}

#[test]
fn in_front_of_a_program() {
    let Some(printed) = follow("docs/reverse-proxy.md", "") else {
        return;
    };
    for text in [
        "200\n",
        "legacy",
        "direction=\"inbound\"",
        "pillion.yaml: valid",
        "service: legacy  # file, line 1",
    ] {
        assert!(printed.contains(text), "{text} is missing: {printed}");
    }
}

#[test]
fn around_a_program() {
    let Some(printed) = follow("docs/exec.md", "") else {
        return;
    };
    for text in [
        "\"url.full\":\"http://localhost:8080/\"",
        "200\n",
        "ended with 143",
        "started with the shim",
    ] {
        assert!(printed.contains(text), "{text} is missing: {printed}");
    }
}

#[test]
fn as_a_service() {
    let tree = path("");
    let before = format!("ROOT=$PWD/root; cd {}", tree.display());
    let Some(printed) = follow("docs/service.md", &before) else {
        return;
    };
    assert!(
        printed.contains("etc/pillion/pillion.yaml: valid"),
        "{printed}"
    );
    let page = read("docs/service.md");
    // What is not run names what there is.
    let commands = blocks(&page, "console");
    for line in commands.lines() {
        assert!(line.starts_with("$ "), "{line}");
    }
    for named in ["man --to target/man", "cargo deb --no-build"] {
        assert!(
            commands.contains(named) && read("Cargo.toml").contains(named),
            "{named}"
        );
    }
    let unit = read("deploy/systemd/pillion.service");
    for key in ["WatchdogSec=", "DynamicUser=yes", "EnvironmentFile="] {
        assert!(unit.contains(key), "{key}");
    }
}
