//! What runs came to, for people: written between two marks of docs/linking.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::apps::APPS;
use super::process::Reuse;
use super::profiles::PROFILES;
use super::report::Conditions;
use super::report::percent;
use super::row::Row;
use super::score;
use super::score::Score;
use super::truth::Ids;
use super::truth::PATTERNS;

const START: &str = "<!-- figures -->\n";
const END: &str = "<!-- end of figures -->\n";

/// What the tables by program are about; the others are in the last one.
const AT_ONCE: usize = 32;

/// Puts the figures of these rows where the page shows them.
///
/// # Errors
/// The page cannot be read or written, or has lost its marks.
pub(crate) fn write(rows: &[Row], conditions: &[Conditions]) -> Result<(), String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/linking.md");
    let page = fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let marks = page.split_once(START);
    let marks = marks.and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = marks.ok_or("docs/linking.md has no place for figures")?;
    let text = text(rows, conditions);
    fs::write(&file, format!("{before}{START}{text}{END}{after}"))
        .map_err(|error| error.to_string())
}

/// The summary of these rows.
fn text(rows: &[Row], conditions: &[Conditions]) -> String {
    let mut text = format!("\n{}\n", said(conditions));
    for profile in PROFILES {
        programs(rows, profile.name, &mut text);
    }
    sums(rows, &mut text);
    text.push_str(&costs(rows));
    text.push('\n');
    text
}

fn said(conditions: &[Conditions]) -> String {
    let all = |of: fn(&Conditions) -> String| {
        let mut values: Vec<String> = conditions.iter().map(of).collect();
        values.sort();
        values.dedup();
        values.join(" and ")
    };
    let range = |of: fn(&Conditions) -> f64| {
        let mut values: Vec<f64> = conditions.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        match (values.first(), values.last()) {
            (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
            (Some(only), _) => only.to_string(),
            _ => String::new(),
        }
    };
    format!(
        "Figures of {}: {} processors, Linux {}, load of the machine {} (mean of 15 minutes), {} build, {} requests a row, {} runs.",
        all(|one| one.date.clone()),
        all(|one| one.processors.to_string()),
        all(|one| one.kernel.clone()),
        range(|one| one.load_average),
        all(|one| one.build.clone()),
        range(|one| one.requests_a_row as f64),
        range(|one| one.runs as f64),
    )
}

/// Recall of each program and pattern with one profile.
fn programs(rows: &[Row], profile: &str, text: &mut String) {
    let rows: Vec<&Row> = rows
        .iter()
        .filter(|row| row.profile == profile && row.concurrency == AT_ONCE)
        .filter(|row| row.ids == Ids::Blinded)
        .collect();
    if rows.is_empty() {
        return;
    }
    let patterns: Vec<&str> = PATTERNS
        .iter()
        .map(|pattern| pattern.name)
        .filter(|name| rows.iter().any(|row| row.pattern == *name))
        .collect();
    writeln!(
        text,
        "\nProfile `{profile}`, {AT_ONCE} requests at once: calls with the right parent in percent, the median of the runs; \
         calls after the response, which must have none; wrong parents of any call among all that were given.\n"
    )
    .unwrap();
    writeln!(text, "| program | {} | wrong |", patterns.join(" | ")).unwrap();
    writeln!(text, "|---|{}", "--:|".repeat(patterns.len() + 1)).unwrap();
    for app in APPS {
        for (reuse, name) in [
            (Reuse::Pooled, ""),
            (Reuse::Kept, ", kept connections"),
            (Reuse::Fresh, ", new connections"),
        ] {
            let own: Vec<&Row> = rows
                .iter()
                .filter(|row| row.app == app.name && row.reuse == reuse)
                .copied()
                .collect();
            if own.is_empty() {
                continue;
            }
            write!(text, "| {}{name} |", app.name).unwrap();
            for pattern in &patterns {
                let own = own.iter().filter(|row| row.pattern == *pattern);
                write!(text, " {} |", cell(own.map(|row| &row.score))).unwrap();
            }
            let mut sum = Score::default();
            own.iter().for_each(|row| sum.add(&row.score));
            writeln!(text, " {} of {} |", sum.wrong_merges(), sum.asserted()).unwrap();
        }
    }
}

/// What the runs of one program and pattern came to.
fn cell<'a>(runs: impl Iterator<Item = &'a Score>) -> String {
    let mut recalls = Vec::new();
    let mut sum = Score::default();
    for run in runs {
        if run.paced > 0 {
            recalls.extend(score::share(run.paced_right, run.paced_calls));
        } else {
            recalls.extend(run.recall());
        }
        sum.add(run);
    }
    match sum.late {
        0 => percent(middle(recalls)),
        late => format!("{late}"),
    }
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// All programs together: by pattern, and by what else is varied.
fn sums(rows: &[Row], text: &mut String) {
    text.push_str("\nAll programs and runs together:\n\n| profile | rows | precision | recall | wrong | false parents of jobs | late calls wrong | traces whole | stated against right, apart |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n");
    let mut sums: BTreeMap<(&str, String), Score> = BTreeMap::new();
    for row in rows {
        let mut kinds = vec![row.pattern.clone()];
        kinds.push(format!("at once: {:3}", row.concurrency));
        kinds.push(format!("connections: {:?}", row.reuse).to_lowercase());
        kinds.push(format!("ids: {:?}", row.ids).to_lowercase());
        for kind in kinds {
            let sum = sums.entry((&row.profile, kind)).or_default();
            sum.add(&row.score);
        }
    }
    for ((profile, kind), score) in sums {
        writeln!(
            text,
            "| {profile} | {kind} | {} | {} | {} of {} | {} of {} | {} of {} | {} | {} |",
            percent(score.precision()),
            percent(score.recall()),
            score.wrong,
            score.calls,
            score.false_parents,
            score.background,
            score.late_wrong,
            score.late,
            percent(score::share(score.whole, score.requests)),
            percent(score.calibration_error()),
        )
        .unwrap();
    }
}

/// What each profile costs beside the one without any layer, where both were run.
pub(crate) fn costs(rows: &[Row]) -> String {
    let mut beside: BTreeMap<[&str; 3], [Vec<f64>; 4]> = BTreeMap::new();
    for row in rows {
        let is_base = |other: &&Row| {
            other.profile == "off"
                && (&other.app, &other.pattern, other.concurrency, other.run)
                    == (&row.app, &row.pattern, row.concurrency, row.run)
                && (other.reuse, other.ids) == (row.reuse, row.ids)
        };
        let Some(base) = rows.iter().find(is_base).filter(|_| row.profile != "off") else {
            continue;
        };
        let differences = [
            (row.rate / base.rate - 1.0) * 1e2,
            row.p50_ms - base.p50_ms,
            row.p99_ms - base.p99_ms,
            row.cpu_us - base.cpu_us,
        ];
        let key = [&row.app, &row.pattern, &row.profile].map(String::as_str);
        let sums = beside.entry(key).or_default();
        for (all, one) in sums.iter_mut().zip(differences) {
            all.push(one);
        }
    }
    let mut text = String::new();
    if beside.is_empty() {
        return text;
    }
    text.push_str("\nBeside a Pillion without any layer, medians of the runs, in brackets the half in the middle:\n\n| program | pattern | profile | runs | requests a second, % | p50 ms | p99 ms | processor time of Pillion for a request with its calls, us |\n|---|---|---|--:|--:|--:|--:|--:|\n");
    for ([app, pattern, profile], differences) in beside {
        let runs = differences[0].len();
        let [rate, p50, p99, cpu] = differences.map(spread);
        writeln!(
            text,
            "| {app} | {pattern} | {profile} | {runs} | {rate} | {p50} | {p99} | {cpu} |",
        )
        .unwrap();
    }
    text
}

fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |quarters: usize| values[(values.len() - 1) * quarters / 4];
    format!("{:+.1} ({:+.1} to {:+.1})", at(2), at(1), at(3))
}
