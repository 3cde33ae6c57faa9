//! A sidecar process of the demo: a proxy as `run` starts it, with settings from the demo instead of a file.

use std::error::Error;
use std::fmt;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::app::demo::DemoError;
use crate::app::demo::service;
use crate::app::run::Running;
use crate::config;
use crate::config::Config;
use crate::config::ConfigErrors;
use crate::config::Sources;
use crate::telemetry::logs;
use crate::telemetry::metrics::Metrics;

/// The hidden command that runs one.
pub(super) const COMMAND: &str = "demo-sidecar";

/// What a sidecar is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// The name of its service.
    pub service: String,
    /// Where its service listens.
    pub app: SocketAddr,
    /// The page that receives its spans.
    pub collector: SocketAddr,
}

/// Where it listens, as it says on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    /// For requests to its service.
    pub(super) inbound: SocketAddr,
    /// For requests of its service.
    pub(super) outbound: SocketAddr,
}

impl Sidecar {
    /// The arguments that say this.
    pub(super) fn args(&self) -> [String; 3] {
        [
            self.service.clone(),
            self.app.to_string(),
            self.collector.to_string(),
        ]
    }

    fn failed(&self, error: impl Error + Send + Sync + 'static) -> DemoError {
        DemoError::Child {
            name: format!("the sidecar of {}", self.service),
            source: io::Error::other(error),
        }
    }

    /// The settings, as an operator would give them in the environment.
    fn config(&self) -> Result<Config, ConfigErrors> {
        let settings = [
            ("SERVICE", self.service.clone()),
            ("APP", self.app.to_string()),
            ("INBOUND__LISTEN", "127.0.0.1:0".to_owned()),
            ("OUTBOUND__LISTEN", "127.0.0.1:0".to_owned()),
            ("SPANS__ROUTES", service::ROUTES.join(",")),
            ("SAMPLING__CONSTANT__DECISION", "true".to_owned()),
            (
                "REPORTERS__0__OTLP__ENDPOINT",
                format!("http://{}", self.collector),
            ),
            // The page is looked at while it happens.
            (
                "REPORTERS__0__OTLP__QUEUE__FLUSH_INTERVAL",
                "100ms".to_owned(),
            ),
            ("VIEW__ENABLED", "false".to_owned()),
            // What is shown is the same whoever looks.
            ("LINKING__KERNEL", "off".to_owned()),
            ("LOG__LEVEL", "warn".to_owned()),
            ("WORKERS", "1".to_owned()),
        ];
        let env = settings
            .into_iter()
            .map(|(name, value)| (format!("PILLION_{name}"), value));
        let sources = Sources {
            env: env.collect(),
            ..Sources::default()
        };
        Ok(config::load(&sources)?.config)
    }
}

/// Runs a sidecar until its standard input closes.
///
/// # Errors
/// It could not start.
pub fn demo_sidecar(sidecar: &Sidecar) -> Result<(), DemoError> {
    let metrics = Metrics::new();
    let config = sidecar.config().map_err(|error| sidecar.failed(error))?;
    let logs = logs::init(&config.log, Some(metrics.logs()));
    let logs = logs.map_err(|error| sidecar.failed(error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let running = Running::start(config, metrics).await;
        let running = running.map_err(|error| sidecar.failed(error))?;
        let at = |wanted: &str| {
            let found = running.addresses.iter().find(|(role, _)| *role == wanted);
            found.map(|(_, address)| *address)
        };
        if let (Some(inbound), Some(outbound)) = (at("inbound"), at("outbound")) {
            writeln!(io::stdout(), "{}", Ports { inbound, outbound })?;
        }
        service::input_closed().await;
        running.stop().await;
        Ok::<_, DemoError>(())
    })?;
    drop(logs);
    Ok(())
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.inbound, self.outbound)
    }
}

impl FromStr for Ports {
    type Err = io::Error;

    fn from_str(line: &str) -> Result<Self, io::Error> {
        let parsed = line.trim().split_once(' ').and_then(|(inbound, outbound)| {
            Some(Self {
                inbound: inbound.parse().ok()?,
                outbound: outbound.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, line.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_said() {
        let ports = Ports {
            inbound: "127.0.0.1:1".parse().unwrap(),
            outbound: "127.0.0.1:65535".parse().unwrap(),
        };
        assert_eq!(format!("{ports}\n").parse::<Ports>().unwrap(), ports);
        for (line, why) in [
            ("", "nothing"),
            ("127.0.0.1:1", "one address"),
            ("127.0.0.1:1 x", "no address"),
        ] {
            assert!(line.parse::<Ports>().is_err(), "{why}");
        }
    }
}
