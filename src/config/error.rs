//! What is wrong with a configuration, shown the way a compiler shows it.

use std::fmt;
use std::fmt::Write as _;

use crate::config::node::Origin;
use crate::config::node::Path;
use crate::config::node::Place;

/// One mistake.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    /// What is wrong, lower-case, without a final stop.
    pub(crate) message: String,
    /// The setting; empty for the file as a whole.
    pub(crate) path: Path,
    /// Where it was written; `None` when it was not written at all.
    pub(crate) origin: Option<Origin>,
    /// What to do about it.
    pub(crate) help: Option<String>,
}

impl Problem {
    /// File first, by line and column; then environment, then flags.
    pub(crate) fn order(&self) -> (u8, usize, usize) {
        match &self.origin {
            Some(Origin::File(place)) => (0, place.line, place.column),
            Some(Origin::Env(_)) => (1, 0, 0),
            Some(Origin::Flag(_)) => (2, 0, 0),
            Some(Origin::Derived(_)) | None => (3, 0, 0),
        }
    }
}

/// Every mistake of a configuration, ready to print.
#[derive(Debug, Clone)]
pub struct ConfigErrors {
    pub(crate) problems: Vec<Problem>,
    pub(crate) source: Source,
}

/// The file that the problems point into.
#[derive(Debug, Clone, Default)]
pub(crate) struct Source {
    /// The name to print; empty when there is no file.
    pub(crate) name: String,
    /// The text.
    pub(crate) text: String,
}

impl ConfigErrors {
    /// How many mistakes there are.
    pub fn len(&self) -> usize {
        self.problems.len()
    }

    /// True when nothing is wrong, which never leaves this crate.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// One line a mistake, `file:line:column: message`: for logs and the answer to `POST /reload`.
    pub fn lines(&self) -> Vec<String> {
        self.problems
            .iter()
            .map(|problem| {
                let place = location(&self.source, problem);
                match place.is_empty() {
                    true => problem.message.clone(),
                    false => format!("{place}: {}", problem.message),
                }
            })
            .collect()
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            f.write_str(&render(&self.source, "error", problem))?;
            f.write_char('\n')?;
        }
        let count = self.problems.len();
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        write!(f, "invalid configuration: {count} {noun}")
    }
}

/// A help text longer than this goes on its own line.
const BESIDE: usize = 60;

/// One problem with the line it stands on.
pub(crate) fn render(source: &Source, severity: &str, problem: &Problem) -> String {
    let mut out = format!("{severity}: {}\n", printable(&problem.message));
    let place = location(source, problem);
    let path = problem.path.to_string();
    let width = match &problem.origin {
        Some(Origin::File(place)) => place.line.to_string().len(),
        _ => 1,
    };
    let gutter = " ".repeat(width);
    if !place.is_empty() {
        out.push_str(&format!("{gutter}--> {place}"));
        if !path.is_empty() {
            out.push_str(&format!(" ({})", printable(&path)));
        }
        out.push('\n');
    }
    let help = problem.help.as_deref();
    let beside = help.filter(|help| help.len() <= BESIDE);
    let snippet = match &problem.origin {
        Some(Origin::File(place)) => snippet(source, *place, &gutter, beside),
        _ => None,
    };
    let below = help.filter(|_| snippet.is_none() || beside.is_none());
    out.push_str(&snippet.unwrap_or_default());
    if let Some(help) = below {
        out.push_str(&format!("{gutter} = {}\n", printable(help)));
    }
    out
}

fn location(source: &Source, problem: &Problem) -> String {
    match &problem.origin {
        Some(Origin::File(place)) if place.line > 0 => {
            format!("{}:{}:{}", source.name, place.line, place.column)
        }
        Some(Origin::File(_)) => source.name.clone(),
        Some(Origin::Env(name)) => format!("environment variable {name}"),
        Some(Origin::Flag(name)) => format!("flag {name}"),
        Some(Origin::Derived(_)) | None => String::new(),
    }
}

fn snippet(source: &Source, place: Place, gutter: &str, help: Option<&str>) -> Option<String> {
    let line = source.text.lines().nth(place.line.checked_sub(1)?)?;
    if line.chars().count() > 200 {
        return None;
    }
    let line = printable(line);
    let before = place.column.saturating_sub(1);
    let room = line.chars().count().saturating_sub(before);
    let marks = "^".repeat(place.len.min(room).max(1));
    let mut out = format!(
        "{gutter} |\n{} | {line}\n{gutter} | {}{marks}",
        place.line,
        " ".repeat(before)
    );
    if let Some(help) = help {
        out.push_str(&format!(" {}", printable(help)));
    }
    out.push('\n');
    Some(out)
}

/// Control characters of a file must not reach a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
