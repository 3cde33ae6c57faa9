//! The receivers of programs' spans, bound to the reporters and the sampler's backend of this proxy.

use std::io;

use crate::app::build::Lasting;
use crate::config::Config;
use crate::receiver;
use crate::receiver::Intake;
use crate::receiver::Receivers;
use crate::receiver::Strategies;
use crate::telemetry::metrics::Metrics;

/// Starts the receivers on the ports that were opened for them.
pub(super) fn start(
    ports: receiver::Bound,
    config: &Config,
    lasting: &Lasting,
) -> io::Result<Receivers> {
    let intake = Intake::new(
        lasting.sink.clone(),
        lasting.ledger.clone(),
        &lasting.metrics,
        config.receivers.max_message.as_usize(),
    );
    let strategies = strategies(config, &lasting.metrics);
    let jaeger = config.receivers.jaeger.clone();
    Receivers::start(ports, jaeger, intake, strategies)
}

/// What programs that ask are told about sampling.
pub(super) fn strategies(config: &Config, metrics: &Metrics) -> Strategies {
    Strategies::new(&config.sampling, metrics.receivers().strategies)
}
