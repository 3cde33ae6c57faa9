//! Every metric: names, labels, help texts, and the handles that the rest of the program holds.
//!
//! [`Metrics`] owns one recorder; nothing is global, so tests may have several. Modules get handle structs when they
//! are built and hold them: no name is looked up per request. Label values come from the closed sets in `labels` or
//! from tables that `app` hands down once (formats, reporters); routes are interned into a bounded table.
//!
//! Series are registered when their handle struct is built, so a counter is exported as 0 before its first event.

mod families;
mod handles;
mod labels;
mod process;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use metrics::Key;
use metrics::KeyName;
use metrics::Level;
use metrics::Metadata;
use metrics::Recorder;
use metrics_exporter_prometheus::Matcher;
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_exporter_prometheus::PrometheusHandle;
use metrics_exporter_prometheus::PrometheusRecorder;

pub use families::{FAMILIES, Family, Kind};
pub use handles::{
    ActiveGauge, ActiveGuard, ClientMetrics, ConfigMetrics, ConnectionMetrics, CounterSet,
    CounterTable, DoorMetrics, ExtractMetrics, InjectorMetrics, LinkMetrics, LogMetrics,
    OpenConnection, PoolMetrics, PropagationMetrics, ReceiverMetrics, ReporterLedger,
    ReporterMetrics, SamplerMetrics, ServerMetrics, SpanMetrics, SpoolLedger, SpoolMetrics,
    TlsMetrics, TrafficMetrics,
};
pub use labels::{
    CloseReason, ConnectFailure, Detected, Direction, Door, ErrorType, ExtractResult, Label,
    LinkOutcome, LogLevel, LossCause, Method, Outcome, Peer, Receipt, Rejection, ReviewOutcome,
    StrategyAnswer, Version,
};
pub use metrics::{Counter, Gauge, Histogram};
pub use requests::{RequestLabels, RequestMetrics, RouteId};

/// The `Content-Type` of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How often [`Metrics::upkeep`] is to be called. Without it every histogram sample stays in memory.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// One recorder with its table of routes. Cloning shares both.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    requests: requests::Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A recorder with no series yet.
    pub fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for family in FAMILIES {
            if let Kind::Histogram(buckets) = family.kind {
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(family.name.to_owned()), buckets)
                    .expect("only an empty list is refused, and the table has none");
            }
        }
        Self::with(builder.build_recorder())
    }

    fn with(recorder: PrometheusRecorder) -> Self {
        for family in FAMILIES {
            let name = KeyName::from_const_str(family.name);
            match family.kind {
                Kind::Counter => recorder.describe_counter(name, None, family.help.into()),
                Kind::Gauge => recorder.describe_gauge(name, None, family.help.into()),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, family.help.into()),
            }
        }
        Self {
            inner: Arc::new(Inner {
                handle: recorder.handle(),
                recorder,
                requests: requests::Registry::default(),
            }),
        }
    }

    /// Every series in the Prometheus text format, families sorted by name and series by their labels.
    pub fn render(&self) -> String {
        let rendered = self.inner.handle.render();
        let mut blocks: Vec<(String, String)> = rendered
            .split("\n\n")
            .filter(|block| !block.is_empty())
            .map(sort_block)
            .collect();
        blocks.extend(process::blocks());
        blocks.sort();
        blocks.into_iter().map(|(_, text)| text).collect()
    }

    /// Moves histogram samples into their buckets. To be called every [`UPKEEP_INTERVAL`].
    pub fn upkeep(&self) {
        self.inner.handle.run_upkeep();
    }

    /// Calls [`Metrics::upkeep`] for as long as the future is polled.
    pub async fn run_upkeep(self) {
        let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.upkeep();
        }
    }

    fn counter(&self, family: &Family, labels: &[(&'static str, &str)]) -> Counter {
        debug_assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        self.inner
            .recorder
            .register_counter(&key(family, labels), &METADATA)
    }

    fn gauge(&self, family: &Family, labels: &[(&'static str, &str)]) -> Gauge {
        debug_assert_eq!(family.kind, Kind::Gauge, "{}", family.name);
        self.inner
            .recorder
            .register_gauge(&key(family, labels), &METADATA)
    }

    fn histogram(&self, family: &Family, labels: &[(&'static str, &str)]) -> Histogram {
        debug_assert!(matches!(family.kind, Kind::Histogram(_)), "{}", family.name);
        self.inner
            .recorder
            .register_histogram(&key(family, labels), &METADATA)
    }
}

fn key(family: &Family, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<metrics::Label> = labels
        .iter()
        .map(|(key, value)| metrics::Label::new(*key, (*value).to_owned()))
        .collect();
    Key::from_parts(family.name, labels)
}

/// Sorts one family's series and returns the block under its name. A histogram's lines stay together, in the order
/// of their bounds: its series end with the `_count` line.
fn sort_block(block: &str) -> (String, String) {
    let (header, lines): (Vec<&str>, Vec<&str>) =
        block.lines().partition(|line| line.starts_with('#'));
    let name = header
        .last()
        .and_then(|line| line.split(' ').nth(2))
        .unwrap_or_default();
    let is_histogram = header.iter().any(|line| line.ends_with(" histogram"));
    let count_line = format!("{name}_count");
    let mut series: Vec<Vec<&str>> = Vec::new();
    let mut open = false;
    for line in lines {
        match series.last_mut() {
            Some(group) if open => group.push(line),
            _ => series.push(vec![line]),
        }
        open = is_histogram && !line.starts_with(&count_line);
    }
    series.sort();
    let text: String = header
        .into_iter()
        .chain(series.into_iter().flatten())
        .flat_map(|line| [line, "\n"])
        .collect();
    (name.to_owned(), text)
}

#[cfg(test)]
mod tests;
