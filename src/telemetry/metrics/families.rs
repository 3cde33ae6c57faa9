//! Every metric family: name, kind, help text, buckets. Nothing is exported that is not a row here.

/// One metric family.
#[derive(Debug)]
pub struct Family {
    /// The exported name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The HELP text.
    pub help: &'static str,
}

/// What a family's series are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counted into buckets with these upper bounds.
    Histogram(&'static [f64]),
}

/// The bounds that OpenTelemetry's HTTP convention advises, in seconds.
const DURATIONS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// What a proxy beside its application adds, in seconds: from 10 µs to 100 ms.
const ADDED: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.1,
];
/// Opening a connection nearby or far away, in seconds.
const CONNECTS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

macro_rules! families {
    ($($const:ident = $kind:expr, $name:literal, $help:literal;)*) => {
        $(pub(super) const $const: Family = Family { name: $name, kind: $kind, help: $help };)*

        /// Every family, in no particular order.
        pub const FAMILIES: &[Family] = &[$($const,)*];
    };
}

families! {
    HTTP_REQUESTS = Kind::Counter, "pillion_http_requests_total",
        "HTTP exchanges that ended, sampled or not.";
    HTTP_DURATION = Kind::Histogram(DURATIONS), "pillion_http_request_duration_seconds",
        "Time from a request's head to the end of its response, sampled or not.";
    HTTP_ACTIVE = Kind::Gauge, "pillion_http_active_requests",
        "HTTP exchanges in flight.";
    HTTP_ADDED = Kind::Histogram(ADDED), "pillion_http_added_latency_seconds",
        "Time that the proxy itself added to an exchange before its response head went out.";
    HTTP_ROUTES_OVERFLOW = Kind::Counter, "pillion_http_route_overflow_total",
        "Routes that were counted as _other because the table of routes is full.";
    HTTP_SERIES_OVERFLOW = Kind::Counter, "pillion_http_series_overflow_total",
        "Exchanges that were counted under _other because the table of series is full.";
    REJECTIONS = Kind::Counter, "pillion_rejections_total",
        "Requests and connections refused by a parser or a limit.";

    CONNECTIONS_OPENED = Kind::Counter, "pillion_connections_opened_total",
        "Connections accepted from downstream peers and opened to upstream peers.";
    CONNECTIONS_ACTIVE = Kind::Gauge, "pillion_connections_active",
        "Connections that are open.";
    CONNECTIONS_CLOSED = Kind::Counter, "pillion_connections_closed_total",
        "Connections that ended, by the reason.";
    RECEIVED = Kind::Counter, "pillion_received_bytes_total",
        "Bytes read from the peer's sockets.";
    SENT = Kind::Counter, "pillion_sent_bytes_total",
        "Bytes written to the peer's sockets.";
    ACCEPT_ERRORS = Kind::Counter, "pillion_accept_errors_total",
        "Connections that could not be accepted.";
    DETECTED = Kind::Counter, "pillion_detected_protocols_total",
        "Connections by what their first bytes turned out to be.";
    TLS_HANDSHAKES = Kind::Counter, "pillion_tls_handshakes_total",
        "TLS handshakes by side and result.";
    TLS_RELOADS = Kind::Counter, "pillion_tls_reloads_total",
        "Attempts to load changed certificates.";

    POOL_IDLE = Kind::Gauge, "pillion_pool_idle_connections",
        "Upstream connections that wait for a request.";
    POOL_IN_USE = Kind::Gauge, "pillion_pool_in_use_connections",
        "Upstream connections with an exchange on them.";
    POOL_WAITS = Kind::Counter, "pillion_pool_waits_total",
        "Requests that waited for an upstream connection to become free.";
    POOL_REJECTED = Kind::Counter, "pillion_pool_rejected_total",
        "Requests that got no upstream connection.";
    POOL_STALE = Kind::Counter, "pillion_pool_stale_retries_total",
        "Requests sent again because a reused connection had been closed by the upstream.";
    CONNECT_DURATION = Kind::Histogram(CONNECTS), "pillion_upstream_connect_duration_seconds",
        "Time to open an upstream connection, TLS included.";
    CONNECT_FAILURES = Kind::Counter, "pillion_upstream_connect_failures_total",
        "Upstream connections that could not be opened.";

    SPANS_STARTED = Kind::Counter, "pillion_spans_started_total",
        "Spans started, sampled or not.";
    SPANS_UNSAMPLED = Kind::Counter, "pillion_spans_unsampled_total",
        "Spans that ended without being recorded because the trace is not sampled.";
    SPANS_FINISHED = Kind::Counter, "pillion_spans_finished_total",
        "Recorded spans that ended and were handed to the reporters.";
    SPANS_RECEIVED = Kind::Counter, "pillion_spans_received_total",
        "Spans of programs that were received and handed to the reporters.";
    SPANS_ACTIVE = Kind::Gauge, "pillion_spans_active",
        "Spans started and not yet ended.";

    SPANS_KEPT = Kind::Counter, "pillion_spans_kept_total",
        "Spans handed to the reporters although their trace is not sampled, by the reason.";
    SPANS_NOT_KEPT = Kind::Counter, "pillion_spans_keep_limited_total",
        "Unsampled spans that were worth keeping but beyond the limit.";

    REPORTER_ACCEPTED = Kind::Counter, "pillion_reporter_spans_accepted_total",
        "Spans handed to the reporter.";
    REPORTER_EXPORTED = Kind::Counter, "pillion_reporter_spans_exported_total",
        "Spans that the collector confirmed, or that were sent where nobody confirms.";
    REPORTER_DROPPED = Kind::Counter, "pillion_reporter_spans_dropped_total",
        "Spans lost, by the reason.";
    REPORTER_QUEUED = Kind::Gauge, "pillion_reporter_queue_spans",
        "Spans that wait or are being sent.";
    REPORTER_CAPACITY = Kind::Gauge, "pillion_reporter_queue_capacity_spans",
        "Spans that the reporter's queue can hold.";
    REPORTER_ATTEMPTS = Kind::Counter, "pillion_reporter_send_attempts_total",
        "Attempts to send a batch, repeated ones included.";
    REPORTER_FAILURES = Kind::Counter, "pillion_reporter_send_failures_total",
        "Attempts to send a batch that failed, whether or not they were repeated.";
    REPORTER_PANICS = Kind::Counter, "pillion_reporter_panics_total",
        "Panics of the reporter that were caught.";
    REPORTER_DURATION = Kind::Histogram(DURATIONS), "pillion_reporter_send_duration_seconds",
        "Time of one attempt to send a batch.";

    SPOOL_SPANS = Kind::Gauge, "pillion_spool_spans",
        "Spans of this process and earlier ones that wait on the disk.";
    SPOOL_BYTES = Kind::Gauge, "pillion_spool_bytes",
        "Bytes of the spool on the disk.";
    SPOOL_CAPACITY = Kind::Gauge, "pillion_spool_capacity_bytes",
        "Bytes that the spool may take.";
    SPOOL_WRITTEN = Kind::Counter, "pillion_spool_written_spans_total",
        "Spans written to the disk.";
    SPOOL_FAILURES = Kind::Counter, "pillion_spool_failures_total",
        "Times that the spool's folder could not be opened or written to.";
    SPOOL_DAMAGED = Kind::Counter, "pillion_spool_damaged_records_total",
        "Records on the disk that could not be read, such as one that a killed process left half written.";
    SPOOL_RECOVERED = Kind::Counter, "pillion_spool_recovered_spans_total",
        "Spans of earlier processes that were found on the disk.";
    SPOOL_RECOVERED_EXPORTED = Kind::Counter, "pillion_spool_recovered_exported_spans_total",
        "Spans of earlier processes that the collector took.";
    SPOOL_RECOVERED_DROPPED = Kind::Counter, "pillion_spool_recovered_dropped_spans_total",
        "Spans of earlier processes that were lost.";
    SPOOL_RECOVERED_QUEUED = Kind::Gauge, "pillion_spool_recovered_queue_spans",
        "Spans of earlier processes that still wait.";
    RECEIVER_MESSAGES = Kind::Counter, "pillion_receiver_messages_total",
        "Datagrams, requests and stream messages that receivers of spans were sent, by what became of them.";
    RECEIVER_SPANS = Kind::Counter, "pillion_receiver_spans_total",
        "Spans received from programs and handed to the reporters.";
    RECEIVER_INVALID = Kind::Counter, "pillion_receiver_invalid_spans_total",
        "Spans received and left out because their ids are missing or malformed.";
    RECEIVER_STRATEGIES = Kind::Counter, "pillion_receiver_strategies_total",
        "Sampling strategies that programs asked for, by where the answer came from.";
    RECEIVER_CLIENTS = Kind::Gauge, "pillion_receiver_clients",
        "Jaeger clients that number their batches and sent one within the last hour.";
    RECEIVER_CLIENT_BATCHES = Kind::Counter, "pillion_receiver_client_batches_total",
        "Batches that numbering Jaeger clients sent, and those of them that arrived.";
    RECEIVER_CLIENT_LOST = Kind::Counter, "pillion_receiver_client_lost_spans_total",
        "Spans that numbering Jaeger clients say they lost, by the cause.";

    LINKS = Kind::Counter, "pillion_links_total",
        "Outbound requests by the method that linked them to their cause and how sure it is.";
    EXTRACTS = Kind::Counter, "pillion_propagation_extract_total",
        "Trace headers read, by format and result.";
    CONFLICTS = Kind::Counter, "pillion_propagation_conflicts_total",
        "Requests whose formats named different traces.";

    SAMPLER_DECISIONS = Kind::Counter, "pillion_sampler_decisions_total",
        "Traces started here, by the sampler that decided and its decision.";
    SAMPLER_QUERIES = Kind::Counter, "pillion_sampler_queries_total",
        "Requests for sampling strategies, by the result.";
    SAMPLER_UPDATES = Kind::Counter, "pillion_sampler_updates_total",
        "Sampling strategies taken into use, or refused as invalid.";
    SAMPLER_LAST_UPDATE = Kind::Gauge, "pillion_sampler_strategy_timestamp_seconds",
        "Unix time of the last good answer of the strategy server, 0 before the first.";
    SAMPLER_OPERATIONS = Kind::Gauge, "pillion_sampler_operations",
        "Operations that have a sampler of their own.";

    INJECTOR_REVIEWS = Kind::Counter, "pillion_injector_reviews_total",
        "Questions of the API server, by what was decided.";
    INJECTOR_DURATION = Kind::Histogram(CONNECTS), "pillion_injector_review_duration_seconds",
        "Time from the head of a question to its answer.";

    CONFIG_RELOADS = Kind::Counter, "pillion_config_reloads_total",
        "Attempts to load a new configuration, by the result.";
    CONFIG_LAST_OK = Kind::Gauge, "pillion_config_last_reload_successful",
        "1 when the last attempt to load a configuration succeeded.";
    CONFIG_LAST_TIME = Kind::Gauge, "pillion_config_last_reload_success_timestamp_seconds",
        "Unix time of the last configuration taken into use.";
    READY = Kind::Gauge, "pillion_ready",
        "1 while the program takes traffic.";
    DRAINING = Kind::Gauge, "pillion_draining",
        "1 while the program finishes what is open before it stops.";
    LOG_MESSAGES = Kind::Counter, "pillion_log_messages_total",
        "Log lines written, by level.";
    LOG_LOST = Kind::Counter, "pillion_log_lost_total",
        "Log lines lost because standard error did not take them in time.";
    LOG_SUPPRESSED = Kind::Counter, "pillion_log_suppressed_total",
        "Repeated warnings that were not written.";
    BUILD_INFO = Kind::Gauge, "pillion_build_info",
        "Always 1; the labels say what was built.";
}
