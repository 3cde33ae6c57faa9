//! Where handles come from: [`Metrics`] makes each struct with its labels, and registers every series of it.

use std::sync::Arc;

use super::ActiveGauge;
use super::ClientMetrics;
use super::ConfigMetrics;
use super::ConnectionMetrics;
use super::CounterSet;
use super::CounterTable;
use super::DoorMetrics;
use super::ExtractMetrics;
use super::InjectorMetrics;
use super::LinkMetrics;
use super::LogMetrics;
use super::PoolMetrics;
use super::PropagationMetrics;
use super::ReceiverMetrics;
use super::ReporterMetrics;
use super::SamplerMetrics;
use super::ServerMetrics;
use super::SpanMetrics;
use super::SpoolMetrics;
use super::TlsMetrics;
use super::TrafficMetrics;
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::Door;
use crate::telemetry::metrics::Label;
use crate::telemetry::metrics::LossCause;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::Peer;
use crate::telemetry::metrics::families;

impl Metrics {
    /// For the requests of one direction.
    pub fn traffic(&self, direction: Direction) -> TrafficMetrics {
        let labels = [(Direction::KEY, direction.as_str())];
        TrafficMetrics {
            active: ActiveGauge(self.gauge(&families::HTTP_ACTIVE, &labels)),
            added: self.histogram(&families::HTTP_ADDED, &labels),
            rejections: CounterSet::new(self, &families::REJECTIONS, &labels),
        }
    }

    /// For connections of one direction to one kind of peer.
    pub fn connections(&self, direction: Direction, peer: Peer) -> Arc<ConnectionMetrics> {
        let labels = [
            (Direction::KEY, direction.as_str()),
            (Peer::KEY, peer.as_str()),
        ];
        Arc::new(ConnectionMetrics {
            received: self.counter(&families::RECEIVED, &labels),
            sent: self.counter(&families::SENT, &labels),
            opened: self.counter(&families::CONNECTIONS_OPENED, &labels),
            active: self.gauge(&families::CONNECTIONS_ACTIVE, &labels),
            closed: CounterSet::new(self, &families::CONNECTIONS_CLOSED, &labels),
        })
    }

    /// For an upstream pool of one direction.
    pub fn pool(&self, direction: Direction) -> PoolMetrics {
        let labels = [(Direction::KEY, direction.as_str())];
        PoolMetrics {
            idle: self.gauge(&families::POOL_IDLE, &labels),
            in_use: ActiveGauge(self.gauge(&families::POOL_IN_USE, &labels)),
            waits: self.counter(&families::POOL_WAITS, &labels),
            rejected: self.counter(&families::POOL_REJECTED, &labels),
            stale_retries: self.counter(&families::POOL_STALE, &labels),
            connect_duration: self.histogram(&families::CONNECT_DURATION, &labels),
            connect_failures: CounterSet::new(self, &families::CONNECT_FAILURES, &labels),
        }
    }

    /// For the accept loop of one direction.
    pub fn server(&self, direction: Direction) -> ServerMetrics {
        let labels = [(Direction::KEY, direction.as_str())];
        ServerMetrics {
            accept_errors: self.counter(&families::ACCEPT_ERRORS, &labels),
            detected: CounterSet::new(self, &families::DETECTED, &labels),
        }
    }

    /// For TLS towards one kind of peer.
    pub fn tls(&self, peer: Peer) -> TlsMetrics {
        let labels = [(Peer::KEY, peer.as_str())];
        TlsMetrics {
            handshakes: CounterSet::new(self, &families::TLS_HANDSHAKES, &labels),
            reloads: CounterSet::new(self, &families::TLS_RELOADS, &labels),
        }
    }

    /// For the tracer.
    pub fn spans(&self) -> SpanMetrics {
        SpanMetrics {
            started: self.counter(&families::SPANS_STARTED, &[]),
            unsampled: self.counter(&families::SPANS_UNSAMPLED, &[]),
            finished: self.counter(&families::SPANS_FINISHED, &[]),
            received: self.counter(&families::SPANS_RECEIVED, &[]),
            active: ActiveGauge(self.gauge(&families::SPANS_ACTIVE, &[])),
            kept_errors: self.counter(&families::SPANS_KEPT, &[("reason", "error")]),
            kept_slow: self.counter(&families::SPANS_KEPT, &[("reason", "slow")]),
            keep_limited: self.counter(&families::SPANS_NOT_KEPT, &[]),
        }
    }

    /// For the reporter of this name, which comes from the configuration; `reasons` are all it can drop for.
    pub fn reporter(&self, name: &str, reasons: &[&'static str]) -> ReporterMetrics {
        let labels = [("reporter", name)];
        ReporterMetrics {
            duration: self.histogram(&families::REPORTER_DURATION, &labels),
            attempts: self.counter(&families::REPORTER_ATTEMPTS, &labels),
            failures: self.counter(&families::REPORTER_FAILURES, &labels),
            panics: self.counter(&families::REPORTER_PANICS, &labels),
            accepted: self.counter(&families::REPORTER_ACCEPTED, &labels),
            exported: self.counter(&families::REPORTER_EXPORTED, &labels),
            dropped: CounterTable::new(
                self,
                &families::REPORTER_DROPPED,
                &labels,
                "reason",
                reasons,
            ),
            queued: self.gauge(&families::REPORTER_QUEUED, &labels),
            capacity: self.gauge(&families::REPORTER_CAPACITY, &labels),
        }
    }

    /// For a reporter's spool.
    pub fn spool(&self, reporter: &str) -> SpoolMetrics {
        let labels = [("reporter", reporter)];
        SpoolMetrics {
            spans: self.gauge(&families::SPOOL_SPANS, &labels),
            bytes: self.gauge(&families::SPOOL_BYTES, &labels),
            capacity: self.gauge(&families::SPOOL_CAPACITY, &labels),
            written: self.counter(&families::SPOOL_WRITTEN, &labels),
            failures: self.counter(&families::SPOOL_FAILURES, &labels),
            damaged: self.counter(&families::SPOOL_DAMAGED, &labels),
            recovered: self.counter(&families::SPOOL_RECOVERED, &labels),
            recovered_exported: self.counter(&families::SPOOL_RECOVERED_EXPORTED, &labels),
            recovered_dropped: self.counter(&families::SPOOL_RECOVERED_DROPPED, &labels),
            recovered_queued: self.gauge(&families::SPOOL_RECOVERED_QUEUED, &labels),
        }
    }

    /// For the receivers.
    pub fn receivers(&self) -> ReceiverMetrics {
        let door = |door: &Door| {
            let labels = [(Door::KEY, door.as_str())];
            DoorMetrics {
                messages: CounterSet::new(self, &families::RECEIVER_MESSAGES, &labels),
                spans: self.counter(&families::RECEIVER_SPANS, &labels),
                invalid: self.counter(&families::RECEIVER_INVALID, &labels),
            }
        };
        ReceiverMetrics {
            strategies: CounterSet::new(self, &families::RECEIVER_STRATEGIES, &[]),
            clients: self.gauge(&families::RECEIVER_CLIENTS, &[]),
            doors: Door::ALL.iter().map(door).collect(),
        }
    }

    /// For one Jaeger client; the caller bounds how many names there are.
    pub fn client(&self, name: &str) -> ClientMetrics {
        let batches = |state| {
            let labels = [("client", name), ("state", state)];
            self.counter(&families::RECEIVER_CLIENT_BATCHES, &labels)
        };
        let lost = |cause: &LossCause| {
            let labels = [("client", name), (LossCause::KEY, cause.as_str())];
            self.counter(&families::RECEIVER_CLIENT_LOST, &labels)
        };
        ClientMetrics {
            sent: batches("sent"),
            received: batches("received"),
            lost: LossCause::ALL.iter().map(lost).collect(),
        }
    }

    /// For `correlate`, with the names of all its methods.
    pub fn links(&self, methods: &[&'static str]) -> LinkMetrics {
        let set =
            |method: &'static str| CounterSet::new(self, &families::LINKS, &[("method", method)]);
        LinkMetrics {
            methods: methods
                .iter()
                .map(|method| (*method, set(method)))
                .collect(),
            other: set("_other"),
        }
    }

    /// For the propagator, with the names of the formats in its order.
    pub fn propagation(&self, formats: &[&'static str]) -> PropagationMetrics {
        let format = |format: &&'static str| {
            let labels = [("format", *format)];
            ExtractMetrics {
                format,
                extracted: CounterSet::new(self, &families::EXTRACTS, &labels),
            }
        };
        PropagationMetrics {
            formats: formats.iter().map(format).collect(),
            conflicts: self.counter(&families::CONFLICTS, &[]),
        }
    }

    /// For the samplers, with the values that `sampler.type` can have.
    pub fn sampler(&self, kinds: &[&'static str]) -> SamplerMetrics {
        let table = |sampled| {
            let labels = [("sampled", sampled)];
            CounterTable::new(
                self,
                &families::SAMPLER_DECISIONS,
                &labels,
                "sampler_type",
                kinds,
            )
        };
        SamplerMetrics {
            queries: CounterSet::new(self, &families::SAMPLER_QUERIES, &[]),
            updates: CounterSet::new(self, &families::SAMPLER_UPDATES, &[]),
            last_update: self.gauge(&families::SAMPLER_LAST_UPDATE, &[]),
            operations: self.gauge(&families::SAMPLER_OPERATIONS, &[]),
            sampled: table("true"),
            rejected: table("false"),
        }
    }

    /// For the injector.
    pub fn injector(&self) -> InjectorMetrics {
        InjectorMetrics {
            reviews: CounterSet::new(self, &families::INJECTOR_REVIEWS, &[]),
            duration: self.histogram(&families::INJECTOR_DURATION, &[]),
        }
    }

    /// For `app`.
    pub fn config(&self) -> ConfigMetrics {
        ConfigMetrics {
            ready: self.gauge(&families::READY, &[]),
            draining: self.gauge(&families::DRAINING, &[]),
            reloads: CounterSet::new(self, &families::CONFIG_RELOADS, &[]),
            last_ok: self.gauge(&families::CONFIG_LAST_OK, &[]),
            last_time: self.gauge(&families::CONFIG_LAST_TIME, &[]),
        }
    }

    /// For the log layer.
    pub fn logs(&self) -> LogMetrics {
        LogMetrics {
            messages: CounterSet::new(self, &families::LOG_MESSAGES, &[]),
            suppressed: self.counter(&families::LOG_SUPPRESSED, &[]),
            lost: self.counter(&families::LOG_LOST, &[]),
        }
    }

    /// Sets `pillion_build_info`: pairs such as `("version", "0.1.0")`, `("revision", …)`, `("rustc", …)`.
    pub fn build_info(&self, labels: &[(&'static str, &str)]) {
        self.gauge(&families::BUILD_INFO, labels).set(1.0);
    }
}
