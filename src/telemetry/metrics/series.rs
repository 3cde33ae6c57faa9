//! The series themselves: atomics that handles hold, and the Prometheus text that shows them.
//!
//! A sample of a histogram goes straight into its bucket, so nothing waits for anybody to count it. Source of the text:
//! Prometheus, "Exposition formats", text format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use metrics::Counter;
use metrics::Gauge;
use metrics::Histogram;
use metrics::HistogramFn;
use parking_lot::Mutex;

use super::Family;
use super::Kind;

/// Every series by family and labels. The same labels again are the same series.
#[derive(Debug, Default)]
pub(super) struct Series {
    families: Mutex<BTreeMap<&'static str, Block>>,
}

/// One family with its series, by their labels as they are written.
#[derive(Debug)]
struct Block {
    kind: Kind,
    help: &'static str,
    series: BTreeMap<Box<str>, Cell>,
}

#[derive(Debug)]
enum Cell {
    Counter(Arc<AtomicU64>),
    /// The bits of its value.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Buckets>),
}

/// A histogram of seconds.
#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// Samples of each bucket, not of those below it too; one more than bounds.
    counts: Box<[AtomicU64]>,
    /// In nanoseconds: whole numbers are added at once, and half a millennium fits.
    sum: AtomicU64,
}

const NANOS: f64 = 1e9;

impl Series {
    pub(super) fn counter(&self, family: &Family, labels: &[(&'static str, &str)]) -> Counter {
        let new = |_: Kind| Cell::Counter(Arc::default());
        self.with(family, labels, new, |cell| match cell {
            Cell::Counter(cell) => Counter::from_arc(Arc::clone(cell)),
            _ => Counter::noop(),
        })
    }

    pub(super) fn gauge(&self, family: &Family, labels: &[(&'static str, &str)]) -> Gauge {
        let new = |_: Kind| Cell::Gauge(Arc::default());
        self.with(family, labels, new, |cell| match cell {
            Cell::Gauge(cell) => Gauge::from_arc(Arc::clone(cell)),
            _ => Gauge::noop(),
        })
    }

    pub(super) fn histogram(&self, family: &Family, labels: &[(&'static str, &str)]) -> Histogram {
        let new = |kind: Kind| Cell::Histogram(Arc::new(Buckets::new(kind)));
        self.with(family, labels, new, |cell| match cell {
            Cell::Histogram(cell) => Histogram::from_arc(Arc::clone(cell)),
            _ => Histogram::noop(),
        })
    }

    fn with<T>(
        &self,
        family: &Family,
        labels: &[(&'static str, &str)],
        new: impl FnOnce(Kind) -> Cell,
        handle: impl FnOnce(&Cell) -> T,
    ) -> T {
        let mut families = self.families.lock();
        let block = families.entry(family.name).or_insert_with(|| Block {
            kind: family.kind,
            help: family.help,
            series: BTreeMap::new(),
        });
        let cell = block.series.entry(written(labels).into());
        handle(cell.or_insert_with(|| new(family.kind)))
    }

    /// The text of each family that has series, by name.
    pub(super) fn blocks(&self) -> Vec<(String, String)> {
        let families = self.families.lock();
        let block = |(name, block): (&&'static str, &Block)| (name.to_string(), block.text(name));
        families.iter().map(block).collect()
    }
}

impl Block {
    fn text(&self, name: &str) -> String {
        let mut out = String::new();
        // Writing to memory does not fail.
        self.write(name, &mut out).unwrap_or_default();
        out
    }

    fn write(&self, name: &str, out: &mut String) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        writeln!(out, "# HELP {name} {}", self.help)?;
        writeln!(out, "# TYPE {name} {kind}")?;
        for (labels, cell) in &self.series {
            match cell {
                Cell::Counter(cell) => {
                    writeln!(out, "{name}{labels} {}", cell.load(Ordering::Relaxed))?;
                }
                Cell::Gauge(cell) => {
                    let value = f64::from_bits(cell.load(Ordering::Relaxed));
                    writeln!(out, "{name}{labels} {value}")?;
                }
                Cell::Histogram(buckets) => buckets.write(name, labels, out)?,
            }
        }
        Ok(())
    }
}

impl Buckets {
    fn new(kind: Kind) -> Self {
        let bounds = match kind {
            Kind::Histogram(bounds) => bounds,
            _ => &[],
        };
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::default()).collect(),
            sum: AtomicU64::default(),
        }
    }

    fn write(&self, name: &str, labels: &str, out: &mut String) -> std::fmt::Result {
        let before_le = match labels.strip_suffix('}') {
            Some(labels) => format!("{labels},"),
            None => "{".to_owned(),
        };
        let mut count = 0;
        for (index, samples) in self.counts.iter().enumerate() {
            count += samples.load(Ordering::Relaxed);
            match self.bounds.get(index) {
                Some(bound) => writeln!(out, "{name}_bucket{before_le}le=\"{bound}\"}} {count}")?,
                None => writeln!(out, "{name}_bucket{before_le}le=\"+Inf\"}} {count}")?,
            }
        }
        let sum = self.sum.load(Ordering::Relaxed) as f64 / NANOS;
        writeln!(out, "{name}_sum{labels} {sum}")?;
        writeln!(out, "{name}_count{labels} {count}")
    }
}

impl HistogramFn for Buckets {
    fn record(&self, seconds: f64) {
        let index = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(samples) = self.counts.get(index) {
            samples.fetch_add(1, Ordering::Relaxed);
        }
        // Rounded; less than nothing is nothing.
        let nanos = (seconds * NANOS + 0.5) as u64;
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// The labels in braces, in the order in which they are given; nothing for none.
fn written(labels: &[(&'static str, &str)]) -> String {
    let mut out = String::new();
    for (index, (name, value)) in labels.iter().enumerate() {
        out.push(if index == 0 { '{' } else { ',' });
        out.push_str(name);
        out.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                _ => out.push(character),
            }
        }
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: Family = Family {
        name: "bytes_total",
        kind: Kind::Counter,
        help: "Bytes.",
    };
    const OPEN: Family = Family {
        name: "open",
        kind: Kind::Gauge,
        help: "Open.",
    };
    const WAIT: Family = Family {
        name: "wait_seconds",
        kind: Kind::Histogram(&[0.001, 1.0]),
        help: "Waits.",
    };

    fn text(series: &Series) -> String {
        series.blocks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn the_text_is_as_prometheus_describes_it() {
        let series = Series::default();
        let wait = series.histogram(&WAIT, &[("to", "a")]);
        for seconds in [0.0, 0.001, 0.5, 2.0] {
            wait.record(seconds);
        }
        drop(series.histogram(&WAIT, &[]));
        let open = series.gauge(&OPEN, &[]);
        open.increment(3.0);
        open.decrement(0.5);
        series.counter(&BYTES, &[]).increment(7);
        assert_eq!(
            text(&series),
            "# HELP bytes_total Bytes.\n\
             # TYPE bytes_total counter\n\
             bytes_total 7\n\
             # HELP open Open.\n\
             # TYPE open gauge\n\
             open 2.5\n\
             # HELP wait_seconds Waits.\n\
             # TYPE wait_seconds histogram\n\
             wait_seconds_bucket{le=\"0.001\"} 0\n\
             wait_seconds_bucket{le=\"1\"} 0\n\
             wait_seconds_bucket{le=\"+Inf\"} 0\n\
             wait_seconds_sum 0\n\
             wait_seconds_count 0\n\
             wait_seconds_bucket{to=\"a\",le=\"0.001\"} 2\n\
             wait_seconds_bucket{to=\"a\",le=\"1\"} 3\n\
             wait_seconds_bucket{to=\"a\",le=\"+Inf\"} 4\n\
             wait_seconds_sum{to=\"a\"} 2.501\n\
             wait_seconds_count{to=\"a\"} 4\n"
        );
    }

    #[test]
    fn the_same_labels_are_the_same_series() {
        let series = Series::default();
        for value in ["a", "b", "a"] {
            series.counter(&BYTES, &[("to", value)]).increment(1);
        }
        assert!(text(&series).ends_with("bytes_total{to=\"a\"} 2\nbytes_total{to=\"b\"} 1\n"));
    }

    #[test]
    fn what_would_end_a_label_is_escaped() {
        let labels = [("a", "say \"hi\\\"\n"), ("b", "ü")];
        let expected = r#"{a="say \"hi\\\"\n",b="ü"}"#;
        assert_eq!(written(&labels), expected);
    }

    #[test]
    fn no_sample_is_lost_between_threads() {
        let series = Series::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let wait = series.histogram(&WAIT, &[]);
                scope.spawn(move || (0..1_000).for_each(|_| wait.record(0.25)));
            }
        });
        let text = text(&series);
        assert!(
            text.contains("wait_seconds_sum 1000\nwait_seconds_count 4000\n"),
            "{text}"
        );
    }

    #[test]
    fn what_no_clock_says_breaks_nothing() {
        let series = Series::default();
        let wait = series.histogram(&WAIT, &[]);
        for seconds in [-1.0, f64::NAN] {
            wait.record(seconds);
        }
        let text = text(&series);
        assert!(
            text.contains("wait_seconds_sum 0\nwait_seconds_count 2\n"),
            "{text}"
        );
    }
}
