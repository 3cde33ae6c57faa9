//! `cargo bench --bench linking`: runs the linking benchmark, prints its table, writes its data.
//!
//! Arguments (behind `--`): `--app`, `--pattern`, `--profile`, `--concurrency`, `--reuse`, `--ids` take lists with
//! commas; `--requests N` in each row; `--runs N` times; `--turns N`: everything N times, each with programs begun anew, because
//! one start costs more than the next; `--json FILE`; `--docs` writes the summary into
//! docs/linking.md, with `--from FILE,...` that of earlier runs without a new one. What is not said has a short default;
//! `--full` runs every axis.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people, and an expectation that fails is how it fails"
)]

#[path = "mod.rs"]
mod linking;

use std::env;
use std::fs;

use linking::apps::APPS;
use linking::apps::App;
use linking::backend;
use linking::collector::Collector;
use linking::process::Around;
use linking::process::Reuse;
use linking::process::Running;
use linking::profiles::PROFILES;
use linking::profiles::Profile;
use linking::report;
use linking::report::Conditions;
use linking::report::Kept;
use linking::row;
use linking::row::Plan;
use linking::row::Row;
use linking::summary;
use linking::truth::Ids;
use linking::truth::PATTERNS;
use linking::truth::Pattern;

/// The axes of a run.
struct Axes {
    apps: Vec<App>,
    profiles: Vec<&'static Profile>,
    patterns: Vec<Pattern>,
    concurrency: Vec<usize>,
    reuse: Vec<Reuse>,
    ids: Vec<Ids>,
    n_requests: usize,
    n_runs: usize,
    n_turns: usize,
    json: Option<String>,
    from: Vec<String>,
    docs: bool,
}

fn main() -> Result<(), String> {
    let axes = Axes::read(env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if !axes.from.is_empty() {
        return axes.summarise();
    }
    let rows = runtime.block_on(measure(&axes));
    println!("{}{}", report::table(&rows), summary::costs(&rows));
    if axes.docs {
        summary::write(&rows, &[axes.conditions()])?;
    }
    axes.save(&rows)
}

async fn measure(axes: &Axes) -> Vec<Row> {
    let mut rows = Vec::new();
    let collector = Collector::start().await;
    let around = Around {
        backend: backend::start().await,
        collector: collector.address,
    };
    for turn in 0..axes.n_turns {
        for app in &axes.apps {
            for profile in &axes.profiles {
                for reuse in &axes.reuse {
                    let running = match Running::start(app, profile, *reuse, around).await {
                        Ok(running) => running,
                        Err(reason) => {
                            eprintln!("SKIP: {}: {reason}", app.name);
                            continue;
                        }
                    };
                    for plan in axes.plans(turn) {
                        let names = (app.name, profile.name, *reuse);
                        let row = row::run(names, &running, &collector, plan).await;
                        eprint!("{}", report::line(&row));
                        rows.push(row);
                    }
                    // What is there is kept when the run is interrupted.
                    if let Err(reason) = axes.save(&rows) {
                        eprintln!("{reason}");
                    }
                }
            }
        }
    }
    rows
}

impl Axes {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut axes = Self {
            apps: APPS.to_vec(),
            profiles: PROFILES.iter().collect(),
            patterns: PATTERNS.to_vec(),
            concurrency: vec![32],
            reuse: vec![Reuse::Pooled],
            ids: vec![Ids::Blinded],
            n_requests: 400,
            n_runs: 1,
            n_turns: 1,
            json: None,
            from: Vec::new(),
            docs: false,
        };
        while let Some(argument) = arguments.next() {
            // Cargo's own.
            if argument == "--bench" {
                continue;
            }
            if argument == "--docs" {
                axes.docs = true;
                continue;
            }
            if argument == "--full" {
                axes.concurrency = vec![1, 8, 32, 128];
                axes.reuse = vec![Reuse::Fresh, Reuse::Kept, Reuse::Pooled];
                axes.ids = vec![Ids::Blinded, Ids::Kept];
                continue;
            }
            let value = arguments.next().ok_or(format!("{argument}: no value"))?;
            axes.set(&argument, &value)?;
        }
        Ok(axes)
    }

    fn set(&mut self, argument: &str, value: &str) -> Result<(), String> {
        match argument {
            "--app" => self.apps = list(value, linking::apps::named)?,
            "--profile" => self.profiles = list(value, Profile::named)?,
            "--pattern" => self.patterns = list(value, Pattern::named)?,
            "--concurrency" => self.concurrency = list(value, |n| n.parse().ok())?,
            "--reuse" => {
                self.reuse = list(value, |name| match name {
                    "fresh" => Some(Reuse::Fresh),
                    "kept" => Some(Reuse::Kept),
                    "pooled" => Some(Reuse::Pooled),
                    _ => None,
                })?;
            }
            "--ids" => {
                self.ids = list(value, |name| match name {
                    "blinded" => Some(Ids::Blinded),
                    "kept" => Some(Ids::Kept),
                    _ => None,
                })?;
            }
            "--runs" => self.n_runs = value.parse().map_err(|_| format!("{value:?}"))?,
            "--turns" => self.n_turns = value.parse().map_err(|_| format!("{value:?}"))?,
            "--requests" => self.n_requests = value.parse().map_err(|_| format!("{value:?}"))?,
            "--from" => self.from = list(value, |file| Some(file.to_owned()))?,
            "--json" => self.json = Some(value.to_owned()),
            other => return Err(format!("unknown argument {other}")),
        }
        Ok(())
    }

    fn conditions(&self) -> Conditions {
        Conditions::now(self.n_requests, self.n_runs * self.n_turns)
    }

    /// Writes the data, where that was asked for.
    fn save(&self, rows: &[Row]) -> Result<(), String> {
        let Some(file) = &self.json else {
            return Ok(());
        };
        let text = report::data(rows, &self.conditions());
        fs::write(file, text).map_err(|error| format!("{file}: {error}"))
    }

    /// Writes the summary of earlier runs.
    fn summarise(&self) -> Result<(), String> {
        let (mut rows, mut conditions) = (Vec::new(), Vec::new());
        for file in &self.from {
            let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
            let kept: Kept =
                serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
            rows.extend(kept.rows);
            conditions.push(kept.conditions);
        }
        summary::write(&rows, &conditions)
    }

    fn plans(&self, turn: usize) -> Vec<Plan> {
        let mut plans = Vec::new();
        let runs = turn * self.n_runs..(turn + 1) * self.n_runs;
        for run in runs {
            for pattern in &self.patterns {
                for concurrency in &self.concurrency {
                    plans.extend(self.ids.iter().map(|ids| Plan {
                        pattern: *pattern,
                        concurrency: *concurrency,
                        n_requests: self.n_requests,
                        ids: *ids,
                        run,
                    }));
                }
            }
        }
        plans
    }
}

fn list<T>(value: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    value
        .split(',')
        .map(|name| read(name).ok_or(format!("unknown: {name:?}")))
        .collect()
}
