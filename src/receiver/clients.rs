//! What Jaeger clients say of their own losses.
//!
//! A client that numbers its batches names itself by the process tag `client-uuid`. The first batch only tells where its
//! counts stand; from then on differences are counted. A batch whose number is not new says nothing.
//! Source: jaeger v1.67 `cmd/agent/app/reporter/client_metrics.go`.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use crate::codec::thrift::Batch;
use crate::codec::thrift::ClientStats;
use crate::codec::thrift::TagValue;
use crate::model::Text;
use crate::telemetry::metrics::ClientMetrics;
use crate::telemetry::metrics::LossCause;
use crate::telemetry::metrics::Metrics;

/// Clients remembered at once.
const MAX_CLIENTS: usize = 1_000;
/// Clients with series of their own, over the whole life of the process; further ones share `_other`.
const MAX_SERIES: usize = 64;
/// How long a client is remembered after its last batch.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// Every client that has numbered a batch within the last hour.
pub(super) struct Clients {
    metrics: Metrics,
    known: HashMap<Text, Client>,
    /// Names that have series; they stay, as series do.
    series: HashMap<Text, ClientMetrics>,
    swept: Option<Instant>,
}

struct Client {
    sequence: i64,
    stats: ClientStats,
    heard: Instant,
    metrics: ClientMetrics,
}

impl Clients {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            known: HashMap::new(),
            series: HashMap::new(),
            swept: None,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Takes note of a batch.
    pub(super) fn hear(&mut self, batch: &Batch, now: Instant) {
        let (Some(sequence), Some(name)) = (batch.sequence, name(batch)) else {
            return;
        };
        let stats = batch.stats.unwrap_or_default();
        if let Some(client) = self.known.get_mut(&name) {
            client.hear(sequence, stats, now);
            return;
        }
        self.sweep(now);
        if self.known.len() >= MAX_CLIENTS {
            return;
        }
        let metrics = self.metrics_of(&name);
        metrics.received.increment(1);
        let client = Client {
            sequence,
            stats,
            heard: now,
            metrics,
        };
        self.known.insert(name, client);
    }

    fn metrics_of(&mut self, name: &Text) -> ClientMetrics {
        let has_room = self.series.len() < MAX_SERIES && is_plain(name);
        let name = if self.series.contains_key(name) || has_room {
            name.clone()
        } else {
            Text::new_static("_other")
        };
        let metrics = &self.metrics;
        self.series
            .entry(name.clone())
            .or_insert_with(|| metrics.client(&name))
            .clone()
    }

    /// Forgets who has been silent for long; at most once a minute.
    fn sweep(&mut self, now: Instant) {
        let swept = self.swept.get_or_insert(now);
        if now.saturating_duration_since(*swept) < Duration::from_secs(60) {
            return;
        }
        *swept = now;
        self.known
            .retain(|_, client| now.saturating_duration_since(client.heard) < REMEMBERED);
    }
}

impl Client {
    fn hear(&mut self, sequence: i64, stats: ClientStats, now: Instant) {
        self.heard = now;
        if sequence <= self.sequence {
            return;
        }
        let more = |new: i64, old: i64| u64::try_from(new.saturating_sub(old)).unwrap_or(0);
        self.metrics.received.increment(1);
        self.metrics.sent.increment(more(sequence, self.sequence));
        for (cause, new, old) in [
            (
                LossCause::FullQueue,
                stats.full_queue,
                self.stats.full_queue,
            ),
            (LossCause::TooLarge, stats.too_large, self.stats.too_large),
            (
                LossCause::SendFailure,
                stats.failed_to_emit,
                self.stats.failed_to_emit,
            ),
        ] {
            self.metrics.lose(cause, more(new, old));
        }
        (self.sequence, self.stats) = (sequence, stats);
    }
}

fn name(batch: &Batch) -> Option<Text> {
    let tag = batch
        .process
        .tags
        .iter()
        .find(|tag| tag.key == "client-uuid")?;
    match &tag.value {
        TagValue::Str(name) if !name.is_empty() && name.len() <= 64 => Some(name.clone()),
        _ => None,
    }
}

/// A uuid, or a number in hex.
fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::thrift::Process;
    use crate::codec::thrift::Tag;

    fn batch(name: &str, sequence: i64, full_queue: i64) -> Batch {
        Batch {
            process: Process {
                tags: vec![Tag::text("client-uuid", name)],
                ..Process::default()
            },
            sequence: Some(sequence),
            stats: Some(ClientStats {
                full_queue,
                ..ClientStats::default()
            }),
            ..Batch::default()
        }
    }

    fn value(metrics: &Metrics, series: &str) -> u64 {
        let text = metrics.render();
        let line = text.lines().find(|line| line.starts_with(series));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{series}\n{text}"))
    }

    #[test]
    fn differences_are_counted_and_old_numbers_say_nothing() {
        let metrics = Metrics::new();
        let mut clients = Clients::new(metrics.clone());
        let now = Instant::now();
        for (sequence, lost, why) in [
            (5, 100, "the first tells where it stands"),
            (6, 103, "three lost"),
            (6, 200, "the same number again"),
            (4, 300, "an older one"),
            (9, 103, "two batches are missing"),
        ] {
            clients.hear(&batch("ab-1", sequence, lost), now);
            assert_eq!(clients.len(), 1, "{why}");
        }
        let client = r#"client="ab-1""#;
        let lost =
            format!(r#"pillion_receiver_client_lost_spans_total{{{client},cause="full_queue"}}"#);
        assert_eq!(value(&metrics, &lost), 3);
        for (state, expected) in [("sent", 4), ("received", 3)] {
            let series =
                format!(r#"pillion_receiver_client_batches_total{{{client},state="{state}"}}"#);
            assert_eq!(value(&metrics, &series), expected, "{state}");
        }
    }

    #[test]
    fn clients_and_series_are_bounded_and_the_silent_are_forgotten() {
        let metrics = Metrics::new();
        let mut clients = Clients::new(metrics.clone());
        let now = Instant::now();
        for n in 0..2 * MAX_CLIENTS {
            clients.hear(&batch(&format!("c{n}"), 1, 0), now);
        }
        clients.hear(&batch("not \"plain\"", 1, 0), now);
        assert_eq!(clients.len(), MAX_CLIENTS);
        assert_eq!(clients.series.len(), MAX_SERIES + 1);
        let text = metrics.render();
        assert!(text.contains(r#"client="_other""#) && !text.contains("plain"));
        clients.hear(&batch("late", 1, 0), now + REMEMBERED);
        assert_eq!(clients.len(), 1, "only the late one");
    }
}
