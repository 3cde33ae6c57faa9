//! What is written for which event at which level.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::debug;
use tracing::info;
use tracing::warn;

use super::*;
use crate::telemetry::metrics::Metrics;

/// A writer that others can read.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written while `log` runs.
fn written(config: &Config, metrics: Option<LogMetrics>, log: impl FnOnce(&Logs)) -> String {
    let shared = Shared::default();
    let (subscriber, logs) = build(config, metrics, shared.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || log(&logs));
    logs.flush(Duration::from_secs(10));
    let bytes = shared.0.lock().clone();
    String::from_utf8(bytes).unwrap()
}

fn format(format: Format) -> Config {
    Config {
        format,
        ..Config::default()
    }
}

fn one_event(_: &Logs) {
    let path = "/a\u{1b}[2J\n2026-11-20T00:00:00Z ERROR pillion: forged \"quoted\"";
    warn!(%path, attempts = 3, "upstream connect failed");
}

#[test]
fn an_event_is_one_line_whatever_the_peer_sent() {
    for kind in [Format::Text, Format::Json, Format::Logfmt] {
        let text = written(&format(kind), None, one_event);
        assert_eq!(text.matches('\n').count(), 1, "{kind:?}: {text}");
        assert!(!text.contains('\u{1b}'), "{kind:?}: {text}");
        for part in ["attempts", "3", "upstream connect failed", "forged"] {
            assert!(text.contains(part), "{kind:?}: {part}: {text}");
        }
    }
}

#[test]
fn json_lines_are_json_and_keep_the_value() {
    let text = written(&format(Format::Json), None, |_| {
        warn!(path = "\u{1b}\u{9b}\u{202e}\n\"", "upstream connect failed");
    });
    let event: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(event["path"], "\u{1b}\u{9b}\u{202e}\n\"");
    assert_eq!(event["message"], "upstream connect failed");
    assert_eq!(event["level"], "WARN");
}

#[test]
fn the_level_changes_at_run_time() {
    let text = written(&Config::default(), None, |logs| {
        debug!("first");
        logs.set_level(&"debug".parse().unwrap());
        debug!("second");
        logs.set_level(&"off".parse().unwrap());
        warn!("third");
        logs.set_level(&"pillion::telemetry=info".parse().unwrap());
        info!("fourth");
        debug!("fifth");
    });
    for (word, expected) in [
        ("first", false),
        ("second", true),
        ("third", false),
        ("fourth", true),
        ("fifth", false),
    ] {
        assert_eq!(text.contains(word), expected, "{word}: {text}");
    }
}

#[test]
fn a_bare_level_is_that_of_our_own_lines() {
    let config = Config {
        level: "debug".parse().unwrap(),
        ..Config::default()
    };
    let text = written(&config, None, |_| {
        debug!(target: "h2::codec", "a frame");
        warn!(target: "h2::codec", "odd frame");
        debug!("ours");
    });
    assert!(!text.contains("a frame"), "{text}");
    assert!(
        text.contains("odd frame") && text.contains("ours"),
        "{text}"
    );
}

#[test]
fn levels_and_directives_are_checked() {
    for text in [
        "info",
        "WARN",
        "off",
        "info,pillion::proxy=debug,hyper=off",
        "pillion[conn{id=3}]=trace",
        "debug,h2=warn",
    ] {
        let parsed: Directives = text.parse().unwrap();
        assert_eq!(parsed.to_string(), text);
    }
    for (text, why) in [
        ("", "empty"),
        ("inof", "misspelt"),
        ("info,debgu", "misspelt"),
        ("pillion=loud", "no such level"),
    ] {
        let parsed: Result<Directives, _> = text.parse();
        assert!(
            matches!(parsed, Err(LogError::Directives(_))),
            "{why}: {text}"
        );
    }
    let config: Config = serde_json::from_str(r#"{"level": "debug", "format": "logfmt"}"#).unwrap();
    assert_eq!(config.format, Format::Logfmt);
    assert!(serde_json::from_str::<Config>(r#"{"level": "loud"}"#).is_err());
    assert!(serde_json::from_str::<Config>(r#"{"levle": "info"}"#).is_err());
}

#[test]
fn lines_are_counted_by_level() {
    let metrics = Metrics::new();
    written(&Config::default(), Some(metrics.logs()), |_| {
        warn!("one");
        warn!("two");
        debug!("below the level");
    });
    let rendered = metrics.render();
    for series in [
        r#"pillion_log_messages_total{level="warn"} 2"#,
        r#"pillion_log_messages_total{level="debug"} 0"#,
        "pillion_log_lost_total 0",
    ] {
        assert!(rendered.contains(series), "{series}\n{rendered}");
    }
}

#[test]
fn a_chain_names_every_cause() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot read a.pem")]
    struct Outer(#[source] io::Error);
    let error = Outer(io::Error::other("no such file"));
    assert_eq!(Chain(&error).to_string(), "cannot read a.pem: no such file");
}
