//! Tells the program what it was built from: `PILLION_BUILD_COMMIT` and `PILLION_BUILD_RUSTC`, shown by `--version`;
//! and builds the library of `pillion exec --preload` where there is a C compiler.
//!
//! Asks the compiler and, in a checkout, git. `PILLION_COMMIT` says the revision where there is no checkout, as in an
//! image's build. Needs no network; what cannot be found out stays empty.

use std::env;
use std::path::Path;
use std::process::Command;
use std::process::ExitStatus;

const PRELOAD: &str = "src/app/shims/thread.c";
const PRELOAD_PARTS: &[&str] = &[
    "src/app/shims/loop.h",
    "src/app/shims/offered.h",
    "src/app/shims/slots.h",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PILLION_COMMIT");
    let commit = match env::var("PILLION_COMMIT") {
        Ok(commit) if !commit.is_empty() => commit,
        _ => from_git(),
    };
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = output(&rustc, &["--version"]);
    let version = version.trim_start_matches("rustc ");
    println!("cargo::rustc-env=PILLION_BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=PILLION_BUILD_RUSTC={version}");
    build_preload();
}

/// The library for programs of the target's architecture, with any C library. An empty file stands for none.
fn build_preload() {
    for source in PRELOAD_PARTS.iter().chain([&PRELOAD]) {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=CC");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let (host, target) = (variable("HOST"), variable("TARGET"));
    let architecture = |triple: &str| triple.split('-').next().unwrap_or_default().to_owned();
    let for_target = format!("CC_{}", target.replace('-', "_"));
    println!("cargo::rerun-if-env-changed={for_target}");
    let compiler = match (variable(&for_target), variable("CC")) {
        (for_target, _) if !for_target.is_empty() => for_target,
        _ if architecture(&host) != architecture(&target) => {
            format!("{}-linux-gnu-gcc", architecture(&target))
        }
        (_, named) if !named.is_empty() => named,
        _ => "cc".to_owned(),
    };
    let library = Path::new(&variable("OUT_DIR")).join("libpillion_thread.so");
    let built = Command::new(compiler)
        .args([
            "-shared",
            "-fPIC",
            "-O2",
            "-nostdlib",
            "-fvisibility=hidden",
        ])
        .args(["-Wall", "-Wl,-s", "-o"])
        .arg(&library)
        .arg(PRELOAD)
        .status();
    if built.as_ref().is_ok_and(ExitStatus::success) {
        return;
    }
    if built.is_ok() {
        println!(
            "cargo::warning={PRELOAD} does not compile here: this build has no preload library"
        );
    }
    if let Err(error) = std::fs::write(&library, []) {
        println!("cargo::error={}: {error}", library.display());
    }
}

fn from_git() -> String {
    if !Path::new(".git").exists() {
        // A source archive inside somebody else's repository must not take that one's revision.
        return String::new();
    }
    for file in ["HEAD", "logs/HEAD"] {
        let path = output("git", &["rev-parse", "--git-path", file]);
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    output("git", &["rev-parse", "--short=12", "HEAD"])
}

/// The first line a program prints; empty when it fails.
fn output(program: &str, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&output.stdout);
    match output.status.success() {
        true => text.lines().next().unwrap_or_default().to_owned(),
        false => String::new(),
    }
}
