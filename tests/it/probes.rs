//! Probes in real runtimes: which task, goroutine or event sent a call, where threads say nothing.
//!
//! Each test waits until the calls of one pattern are all found, which nothing but a probe can do with eight requests at
//! once on one thread, and nearly all of the other patterns; meanwhile no parent may be wrong.

use std::os::unix::fs::symlink;
use std::time::Duration;
use std::time::Instant;

use crate::linking::Behind;
use crate::linking::bench::apps;
use crate::linking::bench::apps::App;
use crate::linking::bench::process::Reuse;
use crate::linking::bench::report;
use crate::linking::bench::row::Row;
use crate::linking::bench::truth::Ids;
use crate::support::skip::skip;

/// Longest wait for a probe to be at work.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program behind the kernel's evidence.
struct Probed(Behind);

impl Probed {
    /// `None`, with the reason printed: it cannot run here.
    async fn start(app: &App, reuse: Reuse) -> Option<Self> {
        Some(Self(Behind::start(app, "bpf", reuse).await?))
    }

    async fn row(&self, pattern: &str) -> Row {
        let row = self.0.row(pattern, (8, 60), Ids::Blinded).await;
        let line = report::line(&row);
        assert_eq!(row.score.missing, 0, "a call without a span: {line}");
        assert_eq!(
            row.score.wrong_merges(),
            0,
            "{line} {:?}",
            row.score.methods
        );
        // What is never called cannot be wrong.
        let n_late = if pattern == "late" { 60 } else { 0 };
        assert_eq!(row.score.late, n_late, "{line}");
        let are_jobs = pattern == "background";
        assert!(
            !are_jobs || row.score.background > 0,
            "no job has called: {line}"
        );
        row
    }

    /// Waits until a share of this pattern's calls are found: the first request on a connection may be one that no probe
    /// sees, and how many connections there are is up to the machine.
    async fn wait(&self, pattern: &str, share: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let row = self.row(pattern).await;
            if row.score.right as f64 >= share * row.score.calls as f64 {
                return;
            }
            assert!(Instant::now() < deadline, "{}", report::line(&row));
        }
    }
}

/// Every call of these patterns is found, and none of the others has a wrong parent.
async fn follows(app: &App, reuse: Reuse, found: &[&str]) {
    let Some(probed) = Probed::start(app, reuse).await else {
        return;
    };
    probed.wait("one", 1.0).await;
    for pattern in ["one", "seq2", "par2", "sleep", "background", "late"] {
        match found.contains(&pattern) {
            true => probed.wait(pattern, 0.95).await,
            false => drop(probed.row(pattern).await),
        }
    }
}

async fn follows_named(name: &str, found: &[&str]) {
    follows(&apps::named(name).unwrap(), Reuse::Pooled, found).await;
}

const ALL: &[&str] = &["one", "seq2", "par2", "sleep", "background"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_of_python_are_followed_through_tasks() {
    follows_named("aiohttp", ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_of_python_are_followed_when_a_loop_outside_it_reads() {
    follows_named("fastapi-uvloop", ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_of_python_are_followed_into_threads() {
    // par2 starts threads of the program's own, which inherit no context.
    follows_named("fastapi-def", &["one", "seq2", "sleep", "background"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_python_that_is_installed_is_known() {
    let mut any = false;
    for version in 8..=14 {
        if let Some(interpreter) = python(&format!("python3.{version}")) {
            any = true;
            let app = apps::interpreted(interpreter.leak(), "streams.py");
            follows(&app, Reuse::Pooled, ALL).await;
        }
    }
    if !any {
        skip("no python3.8 to python3.14");
    }
}

/// Where an interpreter of this name is that runs: on the path, or where pyenv keeps those that are not chosen.
pub(crate) fn python(name: &str) -> Option<String> {
    let home = std::env::var("HOME").unwrap_or_default();
    let versions = std::fs::read_dir(format!("{home}/.pyenv/versions"));
    let versions = versions.into_iter().flatten().flatten();
    let places = versions.filter_map(|version| version.path().join("bin").to_str().map(Into::into));
    let mut names = std::iter::once(name.to_owned())
        .chain(places.map(|place: String| format!("{place}/{name}")));
    names.find(|name| {
        let version = std::process::Command::new(name).arg("-V").output();
        version.is_ok_and(|output| output.status.success())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goroutines_are_followed() {
    for (name, reuse) in [
        ("go", Reuse::Fresh),
        ("go", Reuse::Pooled),
        ("go-1.19", Reuse::Pooled),
    ] {
        follows(&apps::named(name).unwrap(), reuse, ALL).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_tokio_are_followed() {
    for (name, reuse) in [
        ("tokio", Reuse::Pooled),
        ("tokio", Reuse::Fresh),
        ("tokio-current", Reuse::Pooled),
    ] {
        let Some(probed) = Probed::start(&apps::named(name).unwrap(), reuse).await else {
            return;
        };
        probed.wait("one", 1.0).await;
        for pattern in [
            "seq2",
            "par2",
            "sleep",
            "saturated",
            "executor",
            "background",
        ] {
            probed.wait(pattern, 0.95).await;
        }
        probed.row("late").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_tokio_that_share_a_connection_are_not_mixed_up() {
    let app = apps::named("tokio-h2").unwrap();
    let Some(probed) = Probed::start(&app, Reuse::Pooled).await else {
        return;
    };
    for pattern in ["one", "seq2", "par2", "fan8", "background", "late"] {
        probed.row(pattern).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_node_are_followed() {
    for name in ["node-http", "node-fetch"] {
        let Some(probed) = Probed::start(&apps::named(name).unwrap(), Reuse::Pooled).await else {
            return;
        };
        probed.wait("one", 1.0).await;
        // Whether a connection that is used again at once was waited for cannot always be told.
        for pattern in ["seq2", "par2"] {
            probed.wait(pattern, 0.5).await;
        }
        for pattern in ["sleep", "saturated", "executor", "background", "late"] {
            probed.row(pattern).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_only_has_pythons_name_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("python3.12");
    let path_of = std::env::var_os("PATH").unwrap_or_default();
    let node = std::env::split_paths(&path_of).map(|place| place.join("node"));
    let Some(node) = node.into_iter().find(|file| file.is_file()) else {
        return skip("no node");
    };
    symlink(node, &path).unwrap();
    let interpreter: &'static str = path.to_str().unwrap().to_owned().leak();
    let app = apps::interpreted(interpreter, "node.js");
    let Some(probed) = Probed::start(&app, Reuse::Pooled).await else {
        return;
    };
    for pattern in ["seq2", "par2", "background"] {
        probed.row(pattern).await;
    }
}
