//! The table and the data.

use std::fmt::Write as _;

use serde_json::Value;
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

/// Everything as JSON, a row in each line.
pub(crate) fn data(rows: &[Row], conditions: &Value) -> String {
    let rows: Vec<String> = rows.iter().map(|row| json!(row).to_string()).collect();
    let rows = rows.join(",\n");
    format!("{{\"conditions\": {conditions},\n\"rows\": [\n{rows}\n]}}\n")
}

/// A program and a profile.
pub(crate) type Key = (&'static str, &'static str);

/// What each program and profile came to.
pub(crate) fn sums(rows: &[Row]) -> Vec<(Key, Score)> {
    let mut sums: Vec<(Key, Score)> = Vec::new();
    for row in rows {
        let key = (row.app, row.profile);
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
