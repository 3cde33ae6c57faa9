//! The ledger at a scrape: where every span that started is now.
//!
//! `started + received = unsampled + open + exported + dropped + queued` for each reporter that was there from the start. The
//! later stages are read first, and what lies between two readings counts as queued, so the sum is exact every time.

use crate::model::Text;
use crate::reporter::Reporters;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::ReporterLedger;
use crate::tracer::Ledger;

/// Copies the books into the metrics. `first`: the reporters that were there from the start.
pub(super) fn publish(metrics: &Metrics, ledger: &Ledger, reporters: &Reporters, first: &[Text]) {
    let books = reporters.snapshot();
    let spans = ledger.snapshot();
    for book in books {
        let dropped: Vec<(&'static str, u64)> = book
            .dropped
            .iter()
            .map(|(reason, count)| (reason.name(), *count))
            .collect();
        let reasons: Vec<&'static str> = dropped.iter().map(|(reason, _)| *reason).collect();
        let settled = book.exported + book.dropped_total();
        // A reporter that a reload added was not offered the spans before it.
        let accepted = if first.contains(&book.name) {
            spans.reported
        } else {
            book.accepted
        };
        metrics
            .reporter(&book.name, &reasons)
            .publish_ledger(&ReporterLedger {
                accepted,
                exported: book.exported,
                dropped: &dropped,
                queued: accepted.saturating_sub(settled),
                capacity: book.capacity,
                attempts: book.attempts,
                failures: book.failures,
                panics: book.panics,
            });
        if book.spool.capacity > 0 {
            metrics.spool(&book.name).publish_ledger(&book.spool);
        }
    }
    let handles = metrics.spans();
    handles.started.absolute(spans.started);
    handles.unsampled.absolute(spans.unsampled);
    handles.received.absolute(spans.received);
    handles
        .finished
        .absolute(spans.reported.saturating_sub(spans.received));
    handles.active.set(spans.open);
    handles.kept_errors.absolute(spans.kept_errors);
    handles.kept_slow.absolute(spans.kept_slow);
    handles.keep_limited.absolute(spans.turned_away);
}
