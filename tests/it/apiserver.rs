//! Real API servers: they call the injector over HTTPS, accept what comes of each pod, and change
//! nothing when the pod is given again; and they take every manifest. `tests/kube/run` does it, and
//! `tests/kube/page` follows the page with kubectl and helm.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::jaeger::tools;
use crate::support::left;
use crate::support::left::until;
use crate::support::pillion::scrub;
use crate::support::skip::skip;

const NEWEST: &str = "v1.36.3";

/// Where the programs of one version are.
fn server(version: &str) -> Option<PathBuf> {
    let server = tools().map(|tools| tools.join("kube").join(version));
    let there = server.filter(|server| server.join("kube-apiserver").exists());
    if there.is_none() {
        skip(&format!(
            "no API server {version} (tests/interop/install.sh apiservers)"
        ));
    } else if Command::new("openssl").arg("version").output().is_err() {
        skip("openssl is not installed");
        return None;
    }
    there
}

/// One of `tests/kube`.
fn program(name: &str, server: &Path) -> Command {
    let mut command = Command::new(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/kube")
            .join(name),
    );
    scrub(&mut command);
    command.arg("--server").arg(server);
    command.args(["--pillion", env!("CARGO_BIN_EXE_pillion")]);
    command
}

/// Runs it; what it said. It must be content.
fn run(name: &str, server: &Path, more: &[&Path]) -> String {
    let output = program(name, server).args(more).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    said
}

fn check(version: &str) {
    let Some(server) = server(version) else {
        return;
    };
    let said = run("run", &server, &[]);
    if version.starts_with("v1.27.") {
        // The plain form alone.
        let injected = said.matches(": injected by ").count();
        return assert_eq!(injected, 2, "{version}: {said}");
    }
    let injected = said.matches(": injected by ").count();
    let refused = said.matches(": not injected: ").count();
    assert!(injected >= 15 && refused >= 6, "{version}: {said}");
    assert!(said.contains(" manifests: "), "{version}: {said}");
}

#[test]
fn the_newest_kubernetes_takes_every_shape() {
    check(NEWEST);
}

#[test]
#[ignore = "each takes minutes to build: tests/interop/install.sh older_apiservers"]
fn older_kubernetes_take_every_shape() {
    for version in ["v1.27.3", "v1.29.6", "v1.33.13"] {
        check(version);
    }
}

#[test]
fn a_killed_run_leaves_nothing() {
    let Some(server) = server(NEWEST) else {
        return;
    };
    for signal in [Signal::TERM, Signal::KILL] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = program("run", &server);
        command.env("TMPDIR", folder.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        until("etcd", || left::names(folder.path()));
        left::end(&mut child, signal);
        until("the end of what was started", || {
            !left::names(folder.path())
        });
        if signal == Signal::TERM {
            let files = fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(files, 0, "files stay");
        }
    }
}

#[test]
fn the_page_is_followed_with_kubectl_and_helm() {
    let Some(server) = server(NEWEST) else {
        return;
    };
    let tools = tools().unwrap();
    for file in [
        tools.join("bin/helm"),
        tools.join("kube/crds"),
        server.join("kubectl"),
    ] {
        if !file.exists() {
            let file = file.display();
            return skip(&format!(
                "no {file} (tests/interop/install.sh kubernetes apiservers)"
            ));
        }
    }
    let alone = Command::new("unshare").args(["--net", "true"]).output();
    if !alone.is_ok_and(|output| output.status.success()) {
        return skip("no network namespaces: not root");
    }
    let said = run("page", &server, &[Path::new("--tools"), &tools]);
    for text in [
        "deployment \"pillion-injector\" successfully rolled out",
        "Forwarding from 127.0.0.1:15690",
        "release \"pillion-injector\" uninstalled",
        "page: ",
    ] {
        assert!(said.contains(text), "{text} is missing: {said}");
    }
}
