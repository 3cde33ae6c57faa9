//! What the straight path and the HTTP library must both do is asked of each: these tests run again with the straight
//! path switched off, which debug builds allow.

use std::process::Command;

/// What says something about an exchange, whoever carries it.
const SUITES: [&str; 4] = ["fidelity::", "hostile::", "limits::", "overload::"];

#[test]
fn the_library_alone_passes_the_same_suites() {
    let tests = std::env::current_exe().unwrap();
    let run = Command::new(tests)
        .args(SUITES)
        .env("PILLION_TEST_LIBRARY_ALONE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
    let n_passed = said.matches(" ... ok").count();
    assert!(n_passed > 80, "{n_passed} tests ran\n{said}");
}
