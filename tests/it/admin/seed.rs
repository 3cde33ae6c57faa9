//! Made-up but lifelike traces in OTLP JSON: a small shop with errors, a deep and wide trace, doubtful links.

use serde_json::Value;
use serde_json::json;

/// Nanoseconds since the epoch at which the made-up traffic begins.
pub(crate) const START: u64 = 1_795_165_654_000_000_000;
const MILLI: u64 = 1_000_000;

/// A span to be written.
#[derive(Clone)]
pub(crate) struct Made {
    service: String,
    value: Value,
}

/// Where in its trace a span stands.
pub(crate) struct Place {
    pub(crate) trace: u128,
    pub(crate) id: u64,
    /// Zero: none.
    pub(crate) parent: u64,
    /// Nanoseconds since the epoch.
    pub(crate) start: u64,
    /// Nanoseconds.
    pub(crate) duration: u64,
}

/// Builds a span; `kind` as OTLP counts.
pub(crate) fn span(service: &str, name: &str, kind: u8, place: &Place, tags: Value) -> Made {
    let mut value = json!({
        "traceId": format!("{:032x}", place.trace),
        "spanId": format!("{:016x}", place.id),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": place.start.to_string(),
        "endTimeUnixNano": (place.start + place.duration).to_string(),
        "attributes": attributes(&tags),
    });
    if place.parent != 0 {
        value["parentSpanId"] = json!(format!("{:016x}", place.parent));
    }
    if tags["error.type"].is_string() {
        value["status"] = json!({ "code": 2 });
    }
    Made {
        service: service.to_owned(),
        value,
    }
}

impl Made {
    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.value[key] = value;
        self
    }
}

/// `{a: 1}` as a list of OTLP attributes.
pub(crate) fn attributes(tags: &Value) -> Value {
    let tags = tags.as_object().unwrap();
    tags.iter()
        .map(|(key, value)| {
            let value = match value {
                Value::Bool(value) => json!({ "boolValue": value }),
                Value::Number(number) if number.is_f64() => json!({ "doubleValue": number }),
                Value::Number(number) => json!({ "intValue": number.to_string() }),
                other => json!({ "stringValue": other.as_str().unwrap() }),
            };
            json!({ "key": key, "value": value })
        })
        .collect()
}

/// One export request with these spans.
pub(crate) fn request(spans: &[Made]) -> Value {
    let groups: Vec<_> = spans
        .iter()
        .map(|span| {
            let resource = json!({
                "service.name": span.service,
                "service.instance.id": format!("{}-7f9c", span.service),
                "k8s.pod.name": format!("{}-6d5f8b7c9-x2x7q", span.service),
                "k8s.namespace.name": "shop",
            });
            json!({
                "resource": { "attributes": attributes(&resource) },
                "scopeSpans": [{ "scope": { "name": "pillion" }, "spans": [span.value] }],
            })
        })
        .collect();
    json!({ "resourceSpans": groups })
}

/// The hello-world of distributed tracing: `hello` calls `formatter`, then `publisher`. Five spans, or an error.
pub(crate) fn hello(trace: u128, start: u64, random: &mut fastrand::Rng) -> Vec<Made> {
    let id = |n: u64| (trace as u64) << 8 | n;
    let at = |n: u64, parent: u64, after: u64, duration: u64| Place {
        trace,
        id: id(n),
        parent: if parent == 0 { 0 } else { id(parent) },
        start: start + after * MILLI / 100,
        duration: duration * MILLI / 100,
    };
    let slow = if random.u8(..12) == 0 { 900 } else { 0 };
    let format = random.u64(120..700);
    let publish = random.u64(200..900) + slow;
    let fails = random.u8(..9) == 0;
    let total = format + publish + 260;
    let root = json!({
        "http.request.method": "GET", "url.path": "/hello/Ada", "url.scheme": "http",
        "http.route": "/hello/{name}", "http.response.status_code": if fails { 502 } else { 200 },
        "server.address": "hello", "server.port": 8080, "client.address": "10.1.4.23",
        "network.protocol.version": "1.1", "user_agent.original": "curl/8.11.1",
        "sampler.type": "probabilistic", "sampler.param": 0.25,
    });
    let mut root = root;
    if fails {
        root["error.type"] = json!("502");
    }
    let call = |to: &str,
                port: u16,
                status: u16,
                method: &str,
                confidence: &str,
                candidates: u8| {
        let mut tags = json!({
            "http.request.method": "GET", "url.full": format!("http://{to}:{port}/"),
            "server.address": to, "server.port": port, "http.response.status_code": status,
            "pillion.link.method": method, "pillion.link.confidence": confidence,
            "pillion.link.candidates": candidates, "pillion.response.origin": "upstream",
            "network.protocol.version": "1.1", "pillion.sampling.decided_by": "parent",
            "pillion.connection.reused": false, "pillion.time.connect_us": 180, "pillion.time.send_us": 240,
            "pillion.time.first_byte_us": 1_900, "pillion.time.body_us": 310,
        });
        if status >= 400 {
            tags["error.type"] = json!(status.to_string());
        }
        tags
    };
    let serve = |status: u16, path: &str| {
        let mut tags = json!({
            "http.request.method": "GET", "url.path": path, "url.scheme": "http",
            "http.response.status_code": status, "network.protocol.version": "1.1",
        });
        if status >= 500 {
            tags["error.type"] = json!(status.to_string());
        }
        tags
    };
    let status = if fails { 503 } else { 200 };
    let exhausted = json!([{
        "timeUnixNano": (start + (150 + format) * MILLI / 100).to_string(),
        "name": "exception",
        "attributes": attributes(&json!({
            "exception.type": "QueueFull", "exception.message": "publisher queue is full (1024)",
        })),
    }]);
    let publisher = span(
        "publisher",
        "GET /publish",
        2,
        &at(5, 4, 150 + format, publish),
        serve(status, "/publish"),
    );
    vec![
        span("hello", "GET /hello/{name}", 2, &at(1, 0, 0, total), root),
        span(
            "hello",
            "GET",
            3,
            &at(2, 1, 60, format),
            call("formatter", 8081, 200, "exclusive", "exact", 1),
        ),
        span(
            "formatter",
            "GET /format",
            2,
            &at(3, 2, 90, format - 60),
            serve(200, "/format"),
        ),
        span(
            "hello",
            "GET",
            3,
            &at(4, 1, 120 + format, publish + 60),
            call("publisher", 8082, status, "forwarded", "exact", 3),
        ),
        if fails {
            publisher.with("events", exhausted)
        } else {
            publisher
        },
    ]
}

/// A checkout over eight services: `n` spans, deep and wide, with a failing branch, a database and long names.
pub(crate) fn checkout(trace: u128, start: u64, n: u64) -> Vec<Made> {
    let services = [
        "gateway",
        "checkout",
        "cart",
        "inventory",
        "payment",
        "fraud-detection-with-a-very-long-service-name",
        "shipping",
        "email",
    ];
    let mut spans = Vec::new();
    let id = |n: u64| 0xc0de_0000 + n;
    let tags = json!({
        "http.request.method": "POST", "url.path": "/checkout", "http.route": "/checkout",
        "http.response.status_code": 500, "error.type": "500",
        "sampler.type": "lowerbound", "sampler.param": 0.001,
    });
    let root = Place {
        trace,
        id: id(1),
        parent: 0,
        start,
        duration: 842 * MILLI,
    };
    spans.push(span("gateway", "POST /checkout", 2, &root, tags));
    for i in 2..=n {
        // A chain through all services, then calls of each of them; every tenth goes to a database.
        let client = i % 2 == 0;
        let database = i > 16 && i % 10 == 8;
        let parent = match i {
            ..=16 => i - 1,
            _ if client => 1 + 2 * ((i / 2) % 7),
            _ => i - 1,
        };
        let caller = if i <= 16 { (i - 1) / 2 } else { (i / 2) % 7 };
        let callee = if i <= 16 || client {
            caller
        } else {
            (caller + 1 + i % 3).min(7)
        };
        let service = services[callee as usize];
        let peer = if database {
            "orders-db"
        } else {
            services[(caller as usize + 1).min(7)]
        };
        let before = if i <= 16 {
            (i - 2) * 9
        } else {
            40 + (i - 16) / 2 * 15 + i % 2 * 2
        };
        let length = if i <= 16 {
            840 - 20 * i
        } else {
            46 + (i / 2 * 37) % 60 - i % 2 * 5
        };
        if i > 16 && i % 10 == 9 {
            continue;
        }
        let mut tags = json!({
            "http.request.method": "GET", "http.response.status_code": 200,
            "server.address": peer, "server.port": if database { 5432 } else { 8080 },
        });
        if client {
            let (method, confidence, candidates) = [
                ("thread", "exact", 1),
                ("pacing", "high", 4),
                ("value", "low", 7),
            ][(i % 3) as usize];
            tags["pillion.link.method"] = json!(method);
            tags["pillion.link.confidence"] = json!(confidence);
            tags["pillion.link.candidates"] = json!(candidates);
        }
        if i == 16 || i == 61 {
            tags["error.type"] = json!("timeout");
            tags["http.response.status_code"] = json!(504);
        }
        let name = match i % 7 {
            0 => {
                "GET /api/v2/warehouses/{warehouse}/shelves/{shelf}/positions/{position}/availability-of-everything"
            }
            1 => "GET /items/{id}",
            2 => "GET",
            3 => "SELECT shop.orders",
            _ => "POST /rpc/{method}",
        };
        let place = Place {
            trace,
            id: id(i),
            parent: id(parent),
            start: start + before * MILLI,
            duration: length.min(800) * MILLI,
        };
        spans.push(span(
            service,
            name,
            if client { 3 } else { 2 },
            &place,
            tags,
        ));
    }
    spans
}

/// A call that could not be tied to a request: a trace of its own with links to two candidates.
pub(crate) fn unlinked(trace: u128, start: u64, candidates: [(u128, u64); 2]) -> Vec<Made> {
    let links: Vec<_> = candidates
        .iter()
        .map(|(trace, span)| {
            json!({
                "traceId": format!("{trace:032x}"), "spanId": format!("{span:016x}"),
                "attributes": attributes(&json!({ "pillion.link.reason": "candidate" })),
            })
        })
        .collect();
    let tags = json!({
        "http.request.method": "GET", "url.full": "http://rates.example:443/eur", "server.address": "rates.example",
        "server.port": 443, "error.type": "connection_refused", "pillion.response.origin": "pillion",
        "pillion.link.method": "none", "pillion.link.confidence": "none", "pillion.link.candidates": 2,
        "sampler.type": "ratelimiting", "sampler.param": 2.0,
    });
    let place = Place {
        trace,
        id: 0xbeef,
        parent: 0,
        start,
        duration: 3 * MILLI,
    };
    vec![span("hello", "GET", 3, &place, tags).with("links", json!(links))]
}

/// A few minutes of all of it, the newest last.
pub(crate) fn traffic() -> Vec<Made> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut spans = Vec::new();
    for i in 0..60 {
        let start = START + i * 3_100 * MILLI + random.u64(..2_000) * MILLI;
        spans.extend(hello(0x1000 + u128::from(i), start, &mut random));
    }
    spans.extend(checkout(
        0xabcd_0000_0000_0000_0000_0000_0000_0001,
        START + 90_000 * MILLI,
        110,
    ));
    spans.extend(unlinked(
        0x99,
        START + 170_000 * MILLI,
        [(0x1001, 0x10_0101), (0x1002, 0x10_0201)],
    ));
    spans
}
