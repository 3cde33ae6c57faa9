//! The measuring scripts in tests/bench/redirect, with small numbers: that they run, and what they count.

use std::path::Path;
use std::process::Command;

use crate::support::netns::Net;
use crate::support::netns::has;

fn run(script: &str, args: &[&str]) -> Option<String> {
    let tools = ["unshare", "nsenter", "setpriv", "ip", "nft", "python3"];
    // A namespace of a test's own says why there can be none.
    if !tools.into_iter().all(has) || Net::new().is_none() {
        return None;
    }
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/redirect");
    let mut command = Command::new("python3");
    crate::support::pillion::scrub(&mut command);
    command.arg("-B").arg(at.join(script)).args(args);
    command.args(["--pillion", env!("CARGO_BIN_EXE_pillion")]);
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}{error}");
    Some(printed)
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    for mode in ["redirect", "tproxy"] {
        let few = ["--seconds", "2", "--rate", "60", "--mode", mode];
        let Some(printed) = run("connections", &few) else {
            return;
        };
        for claim in [" 0 failed", "taken for loops 0; still open 0", "\nok\n"] {
            assert!(printed.contains(claim), "{claim}: {printed}");
        }
    }
}

#[test]
fn splicing_is_measured_beside_copying() {
    if let Some(printed) = run("splice", &["--mib", "8", "--rounds", "1"]) {
        assert!(
            printed.contains("spliced: ") && printed.contains("copied : "),
            "{printed}"
        );
    }
}
