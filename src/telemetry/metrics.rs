//! Every metric: names, labels, help texts, and the handles that the rest of the program holds.
//!
//! [`Metrics`] owns its series; nothing is global, so tests may have several. Modules get handle structs when they
//! are built and hold them: no name is looked up per request. Label values come from the closed sets in `labels` or
//! from tables that `app` hands down once (formats, reporters); routes are interned into a bounded table.
//!
//! Series are registered when their handle struct is built, so a counter is exported as 0 before its first event.

mod families;
mod handles;
mod labels;
mod process;
mod requests;
mod series;

use std::sync::Arc;

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

/// The series with their table of routes. Cloning shares both.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    series: series::Series,
    requests: requests::Registry,
}

impl Metrics {
    /// No series yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every series in the Prometheus text format, families sorted by name and series by their labels.
    pub fn render(&self) -> String {
        let mut blocks = self.inner.series.blocks();
        blocks.extend(process::blocks());
        blocks.sort();
        blocks.into_iter().map(|(_, text)| text).collect()
    }

    fn counter(&self, family: &Family, labels: &[(&'static str, &str)]) -> Counter {
        debug_assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        self.inner.series.counter(family, labels)
    }

    fn gauge(&self, family: &Family, labels: &[(&'static str, &str)]) -> Gauge {
        debug_assert_eq!(family.kind, Kind::Gauge, "{}", family.name);
        self.inner.series.gauge(family, labels)
    }

    fn histogram(&self, family: &Family, labels: &[(&'static str, &str)]) -> Histogram {
        debug_assert!(matches!(family.kind, Kind::Histogram(_)), "{}", family.name);
        self.inner.series.histogram(family, labels)
    }
}

#[cfg(test)]
mod tests;
