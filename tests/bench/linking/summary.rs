//! What a run came to, for people: written between two marks of docs/linking.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::apps::APPS;
use super::profiles::PROFILES;
use super::report;
use super::report::percent;
use super::row::Row;
use super::score::Score;

const START: &str = "<!-- figures -->\n";
const END: &str = "<!-- end of figures -->\n";

/// Puts the figures of these rows where the page shows them.
///
/// # Errors
/// The page cannot be read or written, or has lost its marks.
pub(crate) fn write(rows: &[Row], n_requests: usize, n_runs: usize) -> Result<(), String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/linking.md");
    let page = fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let marks = page.split_once(START);
    let marks = marks.and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = marks.ok_or("docs/linking.md has no place for figures")?;
    let text = text(rows, &conditions(n_requests, n_runs));
    fs::write(&file, format!("{before}{START}{text}{END}{after}"))
        .map_err(|error| error.to_string())
}

fn conditions(n_requests: usize, n_runs: usize) -> String {
    let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    let date = date.map_or_else(|_| String::new(), |date| text_of(&date.stdout));
    let kernel = fs::read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read("/proc/loadavg").unwrap_or_default();
    let load = text_of(&load);
    let load = load.split(' ').nth(2).unwrap_or("?").to_owned();
    format!(
        "Figures of {date}: {} processors, Linux {}, load of the machine {load} (mean of 15 minutes), {} build, {n_requests} requests \
         a row, {n_runs} runs.",
        std::thread::available_parallelism().map_or(0, usize::from),
        text_of(&kernel),
        if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
    )
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The summary of these rows.
pub(crate) fn text(rows: &[Row], conditions: &str) -> String {
    let mut text = format!("\n{conditions}\n");
    found(rows, &mut text);
    patterns(rows, &mut text);
    cost(rows, &mut text);
    text.push('\n');
    text
}

/// Recall and wrong merges by program and profile.
fn found(rows: &[Row], text: &mut String) {
    let profiles = present(PROFILES.iter().map(|profile| profile.name), |name| {
        rows.iter().any(|row| row.profile == name)
    });
    text.push_str("\nCalls with the right parent in percent, and in brackets wrong parents (late and background calls included) of all that were given:\n\n| program |");
    for profile in &profiles {
        write!(text, " {profile} |").unwrap();
    }
    text.push_str("\n|---|");
    text.push_str(&"--:|".repeat(profiles.len()));
    text.push('\n');
    let sums: BTreeMap<report::Key, Score> = report::sums(rows).into_iter().collect();
    for app in APPS {
        if !rows.iter().any(|row| row.app == app.name) {
            continue;
        }
        write!(text, "| {} |", app.name).unwrap();
        for profile in &profiles {
            match sums.get(&(app.name, *profile)) {
                Some(score) => write!(text, " {} |", cell(score, median(rows, app.name, profile))),
                None => write!(text, " - |"),
            }
            .unwrap();
        }
        text.push('\n');
    }
}

fn cell(score: &Score, recall: Option<f64>) -> String {
    let wrong = score.wrong_merges();
    let given: usize = score
        .methods
        .values()
        .map(|(right, wrong)| right + wrong)
        .sum();
    format!("{} ({wrong} of {given})", percent(recall))
}

/// The middle one of the runs.
fn median(rows: &[Row], app: &str, profile: &str) -> Option<f64> {
    let mut runs: BTreeMap<usize, Score> = BTreeMap::new();
    for row in rows
        .iter()
        .filter(|row| row.app == app && row.profile == profile)
    {
        runs.entry(row.run).or_default().add(&row.score);
    }
    middle(runs.values().filter_map(Score::recall).collect())
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The same by pattern, over all programs: what each kind of evidence is good for.
fn patterns(rows: &[Row], text: &mut String) {
    text.push_str("\n| profile | pattern | precision | recall | wrong | false parents of jobs | late calls wrong | traces whole | stated against right, apart |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n");
    let mut sums: BTreeMap<(&str, &str), Score> = BTreeMap::new();
    for row in rows {
        sums.entry((row.profile, row.pattern))
            .or_default()
            .add(&row.score);
    }
    for ((profile, pattern), score) in sums {
        writeln!(
            text,
            "| {profile} | {pattern} | {} | {} | {} of {} | {} of {} | {} of {} | {} | {} |",
            percent(score.precision()),
            percent(score.recall()),
            score.wrong,
            score.calls,
            score.false_parents,
            score.background,
            score.late_wrong,
            score.late,
            percent(super::score::share(score.whole, score.requests)),
            percent(score.calibration_error()),
        )
        .unwrap();
    }
}

/// What each profile costs beside the one without any layer, where both were run.
fn cost(rows: &[Row], text: &mut String) {
    let mut beside: BTreeMap<&str, [Vec<f64>; 4]> = BTreeMap::new();
    for row in rows {
        let is_base = |other: &&Row| {
            other.profile == "off"
                && (other.app, other.pattern, other.concurrency, other.run)
                    == (row.app, row.pattern, row.concurrency, row.run)
                && (other.reuse, other.ids) == (row.reuse, row.ids)
        };
        let Some(base) = rows.iter().find(is_base).filter(|_| row.profile != "off") else {
            continue;
        };
        let differences = [
            row.rate / base.rate - 1.0,
            row.p50_ms - base.p50_ms,
            row.p99_ms - base.p99_ms,
            row.cpu_us - base.cpu_us,
        ];
        let sums = beside.entry(row.profile).or_default();
        for (all, one) in sums.iter_mut().zip(differences) {
            all.push(one);
        }
    }
    if beside.is_empty() {
        return;
    }
    text.push_str("\nBeside a Pillion without any layer, medians of all rows:\n\n| profile | requests a second | p50 ms | p99 ms | processor time of Pillion for a request with its calls, us |\n|---|--:|--:|--:|--:|\n");
    for (profile, differences) in beside {
        let [rate, p50, p99, cpu] = differences.map(|all| middle(all).unwrap_or_default());
        writeln!(
            text,
            "| {profile} | {:+.1} % | {p50:+.2} | {p99:+.2} | {cpu:+.1} |",
            rate * 1e2
        )
        .unwrap();
    }
}

fn present<'a>(
    names: impl Iterator<Item = &'a str>,
    is_there: impl Fn(&str) -> bool,
) -> Vec<&'a str> {
    names.filter(|name| is_there(name)).collect()
}
