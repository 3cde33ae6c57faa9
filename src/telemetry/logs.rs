//! Pillion's own log lines: to standard error, as text, JSON or logfmt, at levels that can change at run time.
//!
//! Lines are written by a thread of their own behind a bounded queue: a reader that stalls costs lines, which are
//! counted, and never holds up traffic. Control characters are escaped on the way out, whoever they came from, so
//! one event is one line and no peer can steer a terminal.

mod limit;
mod output;

use std::error::Error;
use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use tracing::Event;
use tracing::Level;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::telemetry::metrics::LogLevel;
use crate::telemetry::metrics::LogMetrics;

pub use limit::RateLimit;

/// Settings of our own logs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace` or `off` for our own lines, or directives in the
    /// syntax of `RUST_LOG`, such as `info,pillion::proxy=debug,hyper=warn`.
    ///
    /// Default: `info`. Reload: live.
    pub level: Directives,
    /// The form of a line.
    ///
    /// Values: `text`, `json`, `logfmt`. Default: `text`. Reload: restart.
    pub format: Format,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// `key=value` pairs.
    Logfmt,
}

/// What is logged, known to be valid. A bare level is that of our own lines; libraries then log warnings at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives(String);

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directives are not in the syntax of `RUST_LOG`.
    #[error(
        "{0:?} is no log level: write error, warn, info, debug, trace, off or RUST_LOG directives"
    )]
    Directives(String),
    /// Something else receives the process's log events already.
    #[error("logs are set up already")]
    Taken,
    /// The writing thread could not be started.
    #[error("cannot start the log thread")]
    Thread(#[source] std::io::Error),
}

/// The logs of the process. Held by `main` until the end: dropping it writes what is queued.
#[derive(Debug)]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    output: output::Output,
}

/// How long dropping [`Logs`] waits for a reader that stalls.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Sends the process's log events to standard error.
///
/// # Errors
/// See [`LogError`].
pub fn init(config: &Config, metrics: Option<LogMetrics>) -> Result<Logs, LogError> {
    let (subscriber, logs) = build(config, metrics, std::io::stderr())?;
    subscriber.try_init().map_err(|_| LogError::Taken)?;
    Ok(logs)
}

/// Like [`init`], to any writer and without making it the process's: for tests and embedding.
///
/// # Errors
/// [`LogError::Thread`].
pub fn build<W: Write + Send + 'static>(
    config: &Config,
    metrics: Option<LogMetrics>,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, Logs), LogError> {
    let lost = metrics.as_ref().map(|metrics| metrics.lost.clone());
    let output = output::Output::start(writer, lost).map_err(LogError::Thread)?;
    let (filter, handle) = reload::Layer::new(config.level.filter());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(output.clone())
        .with_ansi(false);
    let lines: Box<dyn Layer<_> + Send + Sync> = match config.format {
        Format::Text => Box::new(lines),
        Format::Json => Box::new(lines.json().flatten_event(true)),
        Format::Logfmt => Box::new(
            lines
                .event_format(tracing_logfmt::EventsFormatter::default())
                .fmt_fields(tracing_logfmt::FieldsFormatter::default()),
        ),
    };
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(metrics.map(Count));
    let logs = Logs {
        filter: handle,
        output,
    };
    Ok((subscriber, logs))
}

impl Logs {
    /// Changes what is logged, from the next event on.
    pub fn set_level(&self, directives: &Directives) {
        // Fails only when the subscriber is gone, and then nothing is logged anyway.
        self.filter.reload(directives.filter()).unwrap_or_default();
    }

    /// Waits until what is queued is written, at most `timeout`. To be called before the process is ended by other
    /// means than returning from `main`.
    pub fn flush(&self, timeout: Duration) {
        self.output.flush(timeout);
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.flush(LAST_LINES);
    }
}

impl Default for Directives {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl Directives {
    fn filter(&self) -> EnvFilter {
        // Checked when it was made.
        EnvFilter::builder().parse_lossy(expand(&self.0))
    }
}

impl FromStr for Directives {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        let text = text.trim();
        let error = || LogError::Directives(text.to_owned());
        if text.is_empty() {
            return Err(error());
        }
        EnvFilter::builder()
            .parse(expand(text))
            .map_err(|_| error())?;
        // The filter takes any lone word for the name of a module, so a misspelt level would log nothing.
        let is_known = |part: &str| part.contains(['=', ':', '[']) || is_level(part.trim());
        if !text.split(',').all(is_known) {
            return Err(error());
        }
        Ok(Self(text.to_owned()))
    }
}

fn expand(text: &str) -> String {
    match is_level(text) && !text.eq_ignore_ascii_case("off") {
        true => format!("warn,pillion={text}"),
        false => text.to_owned(),
    }
}

fn is_level(word: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"]
        .iter()
        .any(|level| level.eq_ignore_ascii_case(word))
}

impl fmt::Display for Directives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Directives {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Directives {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Directives {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LogDirectives".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A level (off, error, warn, info, debug, trace) or RUST_LOG directives.",
            "examples": ["info", "info,pillion::proxy=debug"]
        })
    }
}

/// An error with its causes, on one line: `cannot read a.pem: No such file or directory`.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

/// Counts the lines that the filter lets through.
struct Count(LogMetrics);

impl<S: Subscriber> Layer<S> for Count {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        self.0.messages.count(match level {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            Level::INFO => LogLevel::Info,
            Level::DEBUG => LogLevel::Debug,
            _ => LogLevel::Trace,
        });
    }
}

#[cfg(test)]
mod tests;
