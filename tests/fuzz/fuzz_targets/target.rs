//! Runs the parser named by the environment variable `FUZZ_TARGET` on what the fuzzer makes up.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../targets.rs"]
mod targets;

static TARGET: LazyLock<&'static targets::Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let names: Vec<_> = targets::TARGETS.iter().map(|target| target.name).collect();
    let target = targets::TARGETS.iter().find(|target| target.name == name);
    target.unwrap_or_else(|| panic!("set FUZZ_TARGET to one of {names:?}, not {name:?}"))
});

fuzz_target!(|data: &[u8]| {
    (TARGET.run)(data);
});
