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
    cache: Mutex<Map<Handles>>,
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
        if let Some(handles) = cache.get(&packed) {
            handles.count(duration);
            return;
        }
        match self.shared(labels, packed) {
            Some(handles) => {
                handles.count(duration);
                cache.insert(packed, handles);
            }
            None => {
                self.overflow.increment(1);
                self.metrics
                    .register_overflow(labels.direction)
                    .count(duration);
            }
        }
    }

    /// Handles from the table of all workers, made if there is room. `None`: the table is full.
    fn shared(&self, labels: &RequestLabels, packed: u64) -> Option<Handles> {
        let mut series = self.metrics.inner.requests.series.lock();
        if let Some(handles) = series.get(&packed) {
            return Some(handles.clone());
        }
        if series.len() >= MAX_SERIES {
            return None;
        }
        let handles = self.metrics.register_requests(labels);
        series.insert(packed, handles.clone());
        Some(handles)
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
