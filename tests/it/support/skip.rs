//! How a test says that it cannot run here, and the switch that turns this into a failure.

use std::io::Write;

/// Prints why a test does not run. With `PILLION_TEST_REQUIRE=1` it fails instead.
///
/// Written past the capture of the test runner, so that a skip is always seen.
pub(crate) fn skip(reason: &str) {
    let required = std::env::var_os("PILLION_TEST_REQUIRE").is_some_and(|value| value == "1");
    assert!(
        !required,
        "cannot run, and PILLION_TEST_REQUIRE=1: {reason}"
    );
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    writeln!(std::io::stderr(), "SKIP: {test}: {reason}").ok();
}
