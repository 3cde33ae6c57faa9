//! The table and the data.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde::Deserialize;
use serde::Serialize;
use serde_json::json;

use super::row::Row;
use super::score::Score;
use super::score::share;

const HEAD: &str = "\
| program | pattern | at once | conns | ids | profile | precision | recall | wrong | unknown | missing | false parents | late wrong | whole | off by | req/s | p50 ms | p99 ms | CPU us |
|---|---|--:|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
";

/// All rows, then each program and profile in sum, as Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = HEAD.to_owned();
    for row in rows {
        text.push_str(&line(row));
    }
    text.push_str("\n| program | profile | precision | recall | wrong merges | whole | right/wrong by method/confidence |\n|---|---|--:|--:|--:|--:|---|\n");
    for ((app, profile), score) in sums(rows) {
        let methods: Vec<String> = score
            .methods
            .iter()
            .map(|(name, (right, wrong))| format!("{name} {right}/{wrong}"))
            .collect();
        writeln!(
            text,
            "| {app} | {profile} | {} | {} | {} | {} | {} |",
            percent(score.precision()),
            percent(score.recall()),
            score.wrong_merges(),
            percent(share(score.whole, score.requests)),
            methods.join(", ")
        )
        .unwrap();
    }
    text
}

/// One row with its line end.
pub(crate) fn line(row: &Row) -> String {
    let mut text = String::new();
    let score = &row.score;
    let [reuse, ids] =
        [json!(row.reuse), json!(row.ids)].map(|name| name.as_str().unwrap_or_default().to_owned());
    write!(
        text,
        "| {} | {} | {} | {reuse} | {ids} | {} | {} | {} | {} | {} | {} | {}/{} | {}/{} | {} | {} |",
        row.app,
        row.pattern,
        row.concurrency,
        row.profile,
        percent(score.precision()),
        percent(score.recall()),
        score.wrong,
        score.unknown,
        score.missing,
        score.false_parents,
        score.background,
        score.late_wrong,
        score.late,
        percent(share(score.whole, score.requests)),
        percent(score.calibration_error()),
    )
    .unwrap();
    if score.paced > 0 {
        write!(
            text,
            " {} paced: {} of {} right, {} wrong;",
            score.paced, score.paced_right, score.paced_calls, score.paced_wrong,
        )
        .unwrap();
    }
    writeln!(
        text,
        " {:.0} | {:.1} | {:.1} | {:.0} |{}",
        row.rate,
        row.p50_ms,
        row.p99_ms,
        row.cpu_us,
        match row.failures {
            0 => String::new(),
            n => format!(" {n} requests failed"),
        }
    )
    .unwrap();
    text
}

/// What a run's figures depend on besides the tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Conditions {
    /// Of its end: year, month, day.
    pub(crate) date: String,
    pub(crate) processors: usize,
    pub(crate) kernel: String,
    /// Mean of 15 minutes.
    pub(crate) load_average: f64,
    /// `debug` or `release`.
    pub(crate) build: String,
    pub(crate) requests_a_row: usize,
    pub(crate) runs: usize,
}

impl Conditions {
    /// Those of a run that has just ended.
    pub(crate) fn now(requests_a_row: usize, runs: usize) -> Self {
        let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            date: date.map_or_else(|_| String::new(), |date| text_of(&date.stdout)),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: load
                .split(' ')
                .nth(2)
                .and_then(|text| text.parse().ok())
                .unwrap_or(-1.0),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
            requests_a_row,
            runs,
        }
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// A run as it is kept.
#[derive(Debug, Deserialize)]
pub(crate) struct Kept {
    pub(crate) conditions: Conditions,
    pub(crate) rows: Vec<Row>,
}

/// Everything as JSON, a row in each line; what `Kept` reads.
pub(crate) fn data(rows: &[Row], conditions: &Conditions) -> String {
    let rows: Vec<String> = rows.iter().map(|row| json!(row).to_string()).collect();
    let rows = rows.join(",\n");
    format!(
        "{{\"conditions\": {},\n\"rows\": [\n{rows}\n]}}\n",
        json!(conditions)
    )
}

/// A program and a profile.
type Key<'a> = (&'a str, &'a str);

/// What each program and profile came to.
fn sums(rows: &[Row]) -> Vec<(Key<'_>, Score)> {
    let mut sums: Vec<(Key<'_>, Score)> = Vec::new();
    for row in rows {
        let key = (row.app.as_str(), row.profile.as_str());
        match sums.iter_mut().find(|(other, _)| *other == key) {
            Some((_, sum)) => sum.add(&row.score),
            None => sums.push((key, row.score.clone())),
        }
    }
    sums
}

/// Two places; a dash for nothing.
pub(crate) fn percent(share: Option<f64>) -> String {
    // Never rounded up to a perfect score.
    share.map_or("-".to_owned(), |share| {
        format!("{:.2}", (share * 1e4).floor() / 1e2)
    })
}
