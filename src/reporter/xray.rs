//! The `xray` reporter: one segment document a datagram to an AWS X-Ray daemon.
//!
//! The address may come from `AWS_XRAY_DAEMON_ADDRESS` in the configuration file's way (`${AWS_XRAY_DAEMON_ADDRESS}`).
//! Source: AWS X-Ray Developer Guide, "Sending segment documents to X-Ray"; aws-xray-daemon `README.md`.

use std::sync::Arc;

use crate::codec::xray;
use crate::model::HostPort;
use crate::model::HumanDuration;
use crate::model::Span;
use crate::reporter::BuildError;
use crate::reporter::Settings;
use crate::reporter::datagram::Datagrams;
use crate::reporter::datagram::Packet;
use crate::reporter::ledger::Reason;
use crate::reporter::queue;
use crate::reporter::retry;
use crate::reporter::sender::Sender;
use crate::reporter::sender::Sending;

/// Settings of the `xray` reporter.
#[derive(
    Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The daemon. Names are resolved again every 30 seconds.
    ///
    /// Unit: host and port. Default: `localhost:2000`. Reload: live.
    pub endpoint: Option<HostPort>,

    /// How spans wait. Reload: live.
    pub queue: queue::Config,
}

/// What the daemon reads at most.
const MAX_PACKET: usize = 64_000;

impl Settings for Config {
    const EXAMPLE: &'static str = "xray: { endpoint: 'xray-daemon:2000' }";

    fn queue(&self) -> &queue::Config {
        &self.queue
    }

    /// X-Ray took no others for years.
    fn wants_dated_ids(&self) -> bool {
        true
    }

    /// Only for names that do not resolve: then nothing was sent.
    fn retry(&self) -> retry::Config {
        retry::Config {
            max_elapsed: HumanDuration::from_secs(30),
            ..retry::Config::default()
        }
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn sender(&self) -> Result<Box<dyn Sender>, BuildError> {
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => HostPort::new("localhost", 2000),
        };
        Ok(Box::new(XRay {
            datagrams: Datagrams::new(endpoint),
        }))
    }
}

struct XRay {
    datagrams: Datagrams,
}

impl Sender for XRay {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        let packets = batch.iter().map(|span| packet(span)).collect();
        Box::pin(self.datagrams.send(packets))
    }
}

fn packet(span: &Span) -> Packet {
    let bytes = xray::encode(span);
    if bytes.len() > MAX_PACKET {
        return Packet::Refused {
            spans: 1,
            reason: Reason::TooLarge,
        };
    }
    Packet::Ready { spans: 1, bytes }
}
