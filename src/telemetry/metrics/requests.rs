//! Requests and their duration: the only families whose labels vary per request.
//!
//! Each worker holds one [`RequestMetrics`]: a small map from packed labels to handles, so that the steady state is a
//! hash of one integer and an uncontended lock. Behind it lies one table for all workers, with a cap on the number of
//! series; what does not fit is counted under `_other`, and how often that happened is counted too.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;
use std::time::Duration;

use parking_lot::Mutex;

use super::Counter;
use super::Histogram;
use super::Metrics;
use super::families;
use super::labels::Direction;
use super::labels::ErrorType;
use super::labels::Label;
use super::labels::Method;
use super::labels::Version;
use crate::model::Text;

/// Most distinct label sets of the request families.
const MAX_SERIES: usize = 2_000;
/// Most distinct routes.
const MAX_ROUTES: usize = 500;
const OTHER: &str = "_other";

/// A route template in the table of routes. Held by whoever holds the route, not looked up per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteId(u32);

impl RouteId {
    /// No template matched: the label is absent.
    pub const NONE: Self = Self(0);
    /// The table is full.
    pub const OTHER: Self = Self(1);
}

/// What one exchange is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLabels {
    /// Which way it went.
    pub direction: Direction,
    /// Its method.
    pub method: Method,
    /// Its route template, from [`Metrics::route`].
    pub route: RouteId,
    /// The status of its response; `None` when there was none.
    pub status: Option<http::StatusCode>,
    /// The version that the downstream peer spoke.
    pub version: Version,
    /// Why it failed, if it did.
    pub error: Option<ErrorType>,
}

/// One worker's view of the request families.
#[derive(Debug)]
pub struct RequestMetrics {
    metrics: Metrics,
    overflow: Counter,
    cache: Mutex<Cache>,
}

/// The handles that one worker has met.
#[derive(Debug, Default)]
struct Cache {
    series: Map<Handles>,
    /// The table of all workers is full, and all of it is here.
    is_whole: bool,
    /// Where everything else is counted then, by direction.
    other: [Option<Handles>; Direction::ALL.len()],
}

#[derive(Debug, Clone)]
struct Handles {
    total: Counter,
    duration: Histogram,
}

/// What all workers share.
#[derive(Debug, Default)]
pub(super) struct Registry {
    series: Mutex<Map<Handles>>,
    routes: Mutex<Vec<Text>>,
}

type Map<V> = HashMap<u64, V, BuildHasherDefault<PackedHasher>>;

impl Metrics {
    /// The place of a route template in the table of routes; [`RouteId::OTHER`] when the table is full.
    ///
    /// Searches the table: to be called when a route is configured or learned, not per request.
    pub fn route(&self, template: &str) -> RouteId {
        let mut routes = self.inner.requests.routes.lock();
        let known = routes.iter().position(|route| route == template);
        let index = match known {
            Some(index) => index,
            None if routes.len() < MAX_ROUTES => {
                routes.push(template.into());
                routes.len() - 1
            }
            None => {
                drop(routes);
                self.counter(&families::HTTP_ROUTES_OVERFLOW, &[])
                    .increment(1);
                return RouteId::OTHER;
            }
        };
        u32::try_from(index + 2).map_or(RouteId::OTHER, RouteId)
    }

    /// The request families, for one worker.
    pub fn requests(&self) -> RequestMetrics {
        // So that it is exported before the table is full.
        self.counter(&families::HTTP_ROUTES_OVERFLOW, &[])
            .increment(0);
        RequestMetrics {
            overflow: self.counter(&families::HTTP_SERIES_OVERFLOW, &[]),
            metrics: self.clone(),
            cache: Mutex::default(),
        }
    }

    fn route_name(&self, route: RouteId) -> Option<Text> {
        match route {
            RouteId::NONE => None,
            RouteId::OTHER => Some(OTHER.into()),
            RouteId(id) => {
                let routes = self.inner.requests.routes.lock();
                Some(routes.get(id as usize - 2).cloned().unwrap_or(OTHER.into()))
            }
        }
    }

    fn register_requests(&self, labels: &RequestLabels) -> Handles {
        let status = labels.status.map(status_label);
        let route = self.route_name(labels.route);
        let error = labels.error.map(|error| match (error, &status) {
            // The convention's value for an error that the status tells.
            (ErrorType::Status, Some(status)) => status.clone(),
            _ => error.as_str().into(),
        });
        let mut list = vec![
            (Direction::KEY, labels.direction.as_str()),
            (Method::KEY, labels.method.as_str()),
            (Version::KEY, labels.version.as_str()),
        ];
        list.extend(route.as_deref().map(|route| ("http_route", route)));
        list.extend(
            status
                .as_deref()
                .map(|status| ("http_response_status_code", status)),
        );
        list.extend(error.as_deref().map(|error| (ErrorType::KEY, error)));
        self.request_handles(&list)
    }

    fn register_overflow(&self, direction: Direction) -> Handles {
        self.request_handles(&[
            (Direction::KEY, direction.as_str()),
            (Method::KEY, OTHER),
            (Version::KEY, OTHER),
            ("http_route", OTHER),
            ("http_response_status_code", OTHER),
        ])
    }

    fn request_handles(&self, labels: &[(&'static str, &str)]) -> Handles {
        Handles {
            total: self.counter(&families::HTTP_REQUESTS, labels),
            duration: self.histogram(&families::HTTP_DURATION, labels),
        }
    }
}

impl RequestMetrics {
    /// Counts one exchange that ended.
    pub fn record(&self, labels: &RequestLabels, duration: Duration) {
        let packed = pack(labels);
        let mut cache = self.cache.lock();
        if let Some(handles) = cache.series.get(&packed) {
            handles.count(duration);
            return;
        }
        self.unmet(labels, packed, &mut cache).count(duration);
    }

    /// The handles of labels that this worker has not met, or that have no series.
    #[cold]
    fn unmet<'a>(&self, labels: &RequestLabels, packed: u64, cache: &'a mut Cache) -> &'a Handles {
        if !cache.is_whole {
            self.learn(labels, packed, cache);
        }
        if let Some(handles) = cache.series.get(&packed) {
            return handles;
        }
        self.overflow.increment(1);
        let other = &mut cache.other[labels.direction.index()];
        other.get_or_insert_with(|| self.metrics.register_overflow(labels.direction))
    }

    /// Takes handles from the table of all workers, made if there is room; from a full table all, for nothing will be
    /// added to it.
    fn learn(&self, labels: &RequestLabels, packed: u64, cache: &mut Cache) {
        let mut series = self.metrics.inner.requests.series.lock();
        if series.len() >= MAX_SERIES {
            cache.series.clone_from(&series);
            cache.is_whole = true;
            return;
        }
        let handles = series
            .entry(packed)
            .or_insert_with(|| self.metrics.register_requests(labels));
        cache.series.insert(packed, handles.clone());
    }
}

impl Handles {
    fn count(&self, duration: Duration) {
        self.total.increment(1);
        self.duration.record(duration);
    }
}

/// The label value of a status: three digits of the registered classes, else `_other`.
fn status_label(status: http::StatusCode) -> Text {
    match status.as_u16() {
        100..=599 => status.as_str().into(),
        _ => OTHER.into(),
    }
}

/// The labels in one integer, without collisions: route 32 bits, status 10, method, version and error 5 each,
/// direction 1.
pub(super) fn pack(labels: &RequestLabels) -> u64 {
    let status = match labels.status.map(|status| status.as_u16()) {
        None => 0,
        Some(code @ 100..=599) => u64::from(code),
        Some(_) => 600,
    };
    let error = labels.error.map_or(0, |error| error.index() as u64 + 1);
    [
        (status, 10),
        (labels.method.index() as u64, 5),
        (labels.version.index() as u64, 5),
        (error, 5),
        (labels.direction.index() as u64, 1),
    ]
    .iter()
    .fold(u64::from(labels.route.0), |packed, (value, bits)| {
        packed << bits | value
    })
}

/// Mixes one integer. Keys are ours, so no peer can choose colliding ones beyond the cap on series.
#[derive(Debug, Default)]
struct PackedHasher(u64);

impl Hasher for PackedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn labels(number: u32) -> RequestLabels {
        RequestLabels {
            direction: Direction::Inbound,
            method: Method::Get,
            route: RouteId(number + 2),
            status: None,
            version: Version::Http11,
            error: None,
        }
    }

    #[test]
    fn beyond_the_cap_no_request_waits_for_another_worker() {
        let metrics = Metrics::new();
        let (requests, other_worker) = (metrics.requests(), metrics.requests());
        for number in 0..MAX_SERIES as u32 {
            other_worker.record(&labels(number), Duration::ZERO);
        }
        let beyond = labels(MAX_SERIES as u32);
        requests.record(&beyond, Duration::ZERO);
        let held = metrics.inner.requests.series.lock();
        std::thread::scope(|scope| {
            let counting = scope.spawn(|| {
                requests.record(&beyond, Duration::ZERO);
                requests.record(&labels(7), Duration::ZERO);
            });
            let deadline = Instant::now() + Duration::from_secs(10);
            while !counting.is_finished() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            let is_counted = counting.is_finished();
            drop(held);
            assert!(is_counted, "it waited");
        });
        let counted = |route: &str| {
            let text = metrics.render();
            let mut lines = text.lines().filter(|line| {
                line.starts_with("pillion_http_requests_total{") && line.contains(route)
            });
            lines.find_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        };
        assert_eq!(
            counted(r#"http_request_method="_other""#),
            Some(2.0),
            "both beyond the cap"
        );
    }
}
