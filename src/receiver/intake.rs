//! Where every received span passes: its resource is shared, it is counted, the reporters get it.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::codec::DecodeError;
use crate::codec::Decoded;
use crate::codec::Limits;
use crate::codec::cut_resource;
use crate::codec::jaeger;
use crate::codec::thrift::Batch;
use crate::codec::thrift::Datagram;
use crate::codec::thrift::Protocol;
use crate::codec::thrift::decode_datagram;
use crate::codec::zipkin;
use crate::model::Resource;
use crate::receiver::clients::Clients;
use crate::reporter::Sink;
use crate::telemetry::metrics::Door;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::Receipt;
use crate::telemetry::metrics::ReceiverMetrics;
use crate::tracer::Ledger;

/// The way from the receivers to the reporters. Shared by all of them.
pub struct Intake {
    sink: Arc<dyn Sink>,
    ledger: Arc<Ledger>,
    pub(super) metrics: ReceiverMetrics,
    clients: Mutex<Clients>,
    origins: Mutex<Origins>,
    pub(super) limits: Limits,
    /// Largest message, before and after decompression.
    pub(super) max_message: usize,
}

impl Intake {
    /// Spans go to `sink` and are entered into `ledger`.
    pub fn new(
        sink: Arc<dyn Sink>,
        ledger: Arc<Ledger>,
        metrics: &Metrics,
        max_message: usize,
    ) -> Self {
        Self {
            sink,
            ledger,
            metrics: metrics.receivers(),
            clients: Mutex::new(Clients::new(metrics.clone())),
            origins: Mutex::default(),
            limits: Limits::default(),
            max_message,
        }
    }

    /// Takes decoded spans over: one message's.
    pub(super) fn take(&self, door: Door, decoded: Decoded) {
        let metrics = self.metrics.door(door);
        metrics.messages.count(Receipt::Accepted);
        metrics.invalid.increment(decoded.rejected);
        let spans = decoded.spans.len() as u64;
        metrics.spans.increment(spans);
        self.ledger.receive(spans);
        for span in decoded.spans {
            self.sink.report(Arc::new(span));
        }
    }

    /// Counts a message that was refused.
    pub(super) fn refuse(&self, door: Door, receipt: Receipt) {
        self.metrics.door(door).messages.count(receipt);
    }

    /// Takes a datagram, whatever it is.
    pub(super) fn datagram(&self, door: Door, protocol: Protocol, bytes: &[u8], now: Instant) {
        match decode_datagram(bytes, protocol, self.limits) {
            Ok(Datagram::Jaeger(message)) => self.batch(door, message.batch, now),
            Ok(Datagram::Zipkin(spans)) => {
                let decoded = zipkin::received_v1(spans, &mut |resource| self.shared(resource));
                self.take(door, decoded);
            }
            Err(error) => self.refuse(door, receipt_of(&error)),
        }
    }

    /// Takes a batch of Jaeger's, with what its client says of its losses.
    pub(super) fn batch(&self, door: Door, batch: Batch, now: Instant) {
        if batch.sequence.is_some() {
            let mut clients = self.clients.lock();
            clients.hear(&batch, now);
            self.metrics.clients.set(clients.len() as f64);
        }
        let decoded = jaeger::received(batch, &mut |resource| self.shared(resource));
        self.take(door, decoded);
    }

    /// The copy of this resource that earlier spans have, or this one for later spans.
    pub(super) fn shared(&self, resource: Resource) -> Arc<Resource> {
        self.origins.lock().shared(resource)
    }
}

/// What counts for an error.
pub(super) fn receipt_of(error: &DecodeError) -> Receipt {
    match error {
        DecodeError::TooMany(_) => Receipt::TooLarge,
        DecodeError::Malformed(_) | DecodeError::TooDeep => Receipt::Malformed,
    }
}

/// The resources seen last: a program's spans come in many messages, and each would bring a copy of its own.
#[derive(Default)]
struct Origins {
    known: Vec<Arc<Resource>>,
    next: usize,
}

/// Programs in one pod, each with a handful of libraries that record spans.
const MAX_ORIGINS: usize = 64;

impl Origins {
    fn shared(&mut self, mut resource: Resource) -> Arc<Resource> {
        cut_resource(&mut resource);
        if let Some(known) = self.known.iter().find(|known| ***known == resource) {
            return Arc::clone(known);
        }
        let resource = Arc::new(resource);
        if self.known.len() < MAX_ORIGINS {
            self.known.push(Arc::clone(&resource));
        } else if let Some(place) = self.known.get_mut(self.next) {
            *place = Arc::clone(&resource);
            self.next = (self.next + 1) % MAX_ORIGINS;
        }
        resource
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_resources_are_shared_and_no_more_are_kept_than_the_bound() {
        let mut origins = Origins::default();
        let named = |n: usize| Resource {
            service: n.to_string().into(),
            ..Resource::default()
        };
        let first = origins.shared(named(0));
        assert!(Arc::ptr_eq(&first, &origins.shared(named(0))));
        for n in 0..10 * MAX_ORIGINS {
            origins.shared(named(n));
        }
        assert_eq!(origins.known.len(), MAX_ORIGINS);
        let last = named(10 * MAX_ORIGINS - 1);
        let known = origins.known.iter().any(|known| **known == last);
        assert!(known, "the newest are kept");
    }
}
