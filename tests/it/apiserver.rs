//! Real API servers: they call the injector over HTTPS, accept what comes of each pod, and change
//! nothing when the pod is given again; and they take every manifest. `tests/kube/run` does it.

use std::path::Path;
use std::process::Command;

use crate::support::jaeger::tools;
use crate::support::pillion::scrub;
use crate::support::skip::skip;

fn check(version: &str) {
    let server = tools().map(|tools| tools.join("kube").join(version));
    let Some(server) = server.filter(|server| server.join("kube-apiserver").exists()) else {
        return skip(&format!(
            "no API server {version} (tests/interop/install.sh apiservers)"
        ));
    };
    if Command::new("openssl").arg("version").output().is_err() {
        return skip("openssl is not installed");
    }
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube/run"));
    scrub(&mut command);
    command.arg("--server").arg(server);
    command.args(["--pillion", env!("CARGO_BIN_EXE_pillion")]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{version}: {said}");
    let injected = said.matches(": injected by ").count();
    let refused = said.matches(": not injected: ").count();
    assert!(injected >= 15 && refused >= 6, "{version}: {said}");
    assert!(said.contains(" manifests: "), "{version}: {said}");
}

#[test]
fn the_newest_kubernetes_takes_every_shape() {
    check("v1.36.3");
}

#[test]
#[ignore = "each takes minutes to build: tests/interop/install.sh older_apiservers"]
fn older_kubernetes_take_every_shape() {
    for version in ["v1.29.6", "v1.33.13"] {
        check(version);
    }
}
