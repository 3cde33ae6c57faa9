//! SkyWalking v3: `sw8` carries the context, `sw8-correlation` the baggage; `sw8-x` passes as it is.
//!
//! Ids are text and spans numbers in a segment: [`skywalking`] says how they and ours stand for each other. Agents refuse a
//! header with an empty field, so every field has something in it. Correlation has room for three items of 128 bytes.
//! Source: apache/skywalking `docs/en/api/x-process-propagation-headers-v3.md`, `x-process-correlation-headers-v1.md`.

use http::HeaderMap;
use http::HeaderName;
use http::header::HOST;

use crate::codec::skywalking;
use crate::codec::skywalking::Reference;
use crate::model::BaggageItem;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::model::Text;
use crate::propagation::Caller;
use crate::propagation::ExtractError;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::Items;
use crate::propagation::wire;

static SW8: HeaderName = HeaderName::from_static("sw8");
static CORRELATION: HeaderName = HeaderName::from_static("sw8-correlation");
static EXTENSION: HeaderName = HeaderName::from_static("sw8-x");
static READS: [&HeaderName; 3] = [&SW8, &CORRELATION, &EXTENSION];
static WRITES: [&HeaderName; 1] = [&SW8];

/// What agents write at most.
const MAX_LEN: usize = 2048;
const MAX_ITEMS: usize = 3;
const MAX_VALUE: usize = 128;

/// The format `skywalking`.
pub(super) struct SkyWalking;

impl Format for SkyWalking {
    fn name(&self) -> &'static str {
        "skywalking"
    }

    fn reads(&self) -> &'static [&'static HeaderName] {
        &READS
    }

    fn writes(&self) -> &'static [&'static HeaderName] {
        &WRITES
    }

    fn names_endpoint(&self) -> bool {
        true
    }

    fn extract(&self, headers: &HeaderMap) -> Result<Option<Found>, ExtractError> {
        let Some(value) = wire::text(&SW8, MAX_LEN, headers)? else {
            return Ok(None);
        };
        let context = Reference::parse(value).and_then(|reference| {
            let state = if reference.sampled {
                SamplingState::Accept
            } else {
                SamplingState::Reject
            };
            Some(wire::context(
                reference.trace_id()?,
                reference.span_id(),
                state,
            ))
        });
        let mut context = context.ok_or(ExtractError::Malformed("sw8"))?;
        context.carried = [(skywalking::SW8, Text::new(value))].into_iter().collect();
        Ok(Some(Found::Parent(context)))
    }

    fn baggage(&self, headers: &HeaderMap, items: &mut Items) -> Result<(), ExtractError> {
        let Some(list) = wire::text(&CORRELATION, MAX_LEN, headers)? else {
            return Ok(());
        };
        let mut result = Ok(());
        for item in list.split(',').filter(|item| !item.is_empty()) {
            match skywalking::correlation_item(item) {
                Some((key, value)) => items.push(&key, &value, ""),
                None => result = Err(ExtractError::Malformed("sw8-correlation")),
            }
        }
        result
    }

    fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        self.inject_by(&Caller::default(), context, headers);
    }

    fn inject_by(&self, caller: &Caller, context: &SpanContext, headers: &mut HeaderMap) {
        let endpoint = context.carried.get(skywalking::ENDPOINT).cloned();
        // Without a span of our own between, the program passed on what we wrote on the way in.
        let passed_on = || skywalking::carried(context).map(|known| known.endpoint.into());
        let endpoint = endpoint
            .or_else(passed_on)
            .filter(|endpoint| !endpoint.is_empty());
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let header = Reference {
            sampled: context.state.is_sampled(),
            trace: skywalking::trace_text(context),
            segment: skywalking::segment_text(context.trace_id, context.span_id),
            span: 0,
            service: caller.service.to_string(),
            instance: caller.instance.to_string(),
            endpoint: endpoint.map_or_else(|| "/".to_owned(), String::from),
            peer: host
                .filter(|host| !host.is_empty())
                .unwrap_or("unknown")
                .to_owned(),
        };
        wire::put(&SW8, header.header().as_bytes(), headers);
    }

    fn inject_baggage(&self, items: &[BaggageItem], headers: &mut HeaderMap) {
        // Agents send an empty list where there is none.
        if headers
            .get(&CORRELATION)
            .is_some_and(|list| !list.is_empty())
        {
            return;
        }
        let fitting = items.iter().filter(|item| item.value.len() < MAX_VALUE);
        let list: Vec<_> = fitting
            .take(MAX_ITEMS)
            .map(|item| skywalking::correlation_text(&item.key, &item.value))
            .collect();
        if !list.is_empty() {
            wire::put(&CORRELATION, list.join(",").as_bytes(), headers);
        }
    }
}
