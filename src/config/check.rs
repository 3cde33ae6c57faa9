//! Rules that need more than one setting, or more than a type can say.

use std::net::IpAddr;
use std::net::SocketAddr;

use crate::config::error::Problem;
use crate::config::nearest::nearest;
use crate::config::node::Path;
use crate::config::pending::Sampling;
use crate::config::tree::Config;
use crate::model::HostPort;
use crate::telemetry::metrics::Metrics;
use crate::tracer;

/// Something that a check found.
pub(crate) struct Finding {
    /// False for what is doubtful but works.
    pub(crate) fatal: bool,
    /// What it is about.
    pub(crate) problem: Problem,
}

/// The sampling that applies when none is configured, and why.
pub(crate) fn default_sampling(config: &Config) -> (Sampling, &'static str) {
    (Sampling::default(), "no reporter sends to a collector")
}

/// Checks what decoding cannot.
pub(crate) fn check(config: &Config) -> Vec<Finding> {
    let mut found = Findings(Vec::new());
    listeners(config, &mut found);
    names(config, &mut found);
    log(config, &mut found);
    found.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, path: &str, message: String, help: Option<String>) {
        self.push(true, path, message, help);
    }

    fn warning(&mut self, path: &str, message: String, help: Option<String>) {
        self.push(false, path, message, help);
    }

    fn push(&mut self, fatal: bool, path: &str, message: String, help: Option<String>) {
        self.0.push(Finding {
            fatal,
            problem: Problem {
                message,
                path: Path::parse(path),
                origin: None,
                help,
            },
        });
    }
}

fn listeners(config: &Config, found: &mut Findings) {
    let mut taken: Vec<(String, SocketAddr)> = Vec::new();
    if config.app.is_some() {
        taken.push(("inbound.listen".to_owned(), config.inbound.listen));
    }
    if config.outbound.enabled {
        taken.push(("outbound.listen".to_owned(), config.outbound.listen));
        if !config.outbound.listen.ip().is_loopback() {
            found.warning(
                "outbound.listen",
                format!(
                    "{} is not a loopback address: whoever can reach it can use it as a proxy",
                    config.outbound.listen
                ),
                None,
            );
        }
    }
    for (index, route) in config.routes.iter().enumerate() {
        taken.push((format!("routes[{index}].listen"), route.listen));
        if reaches(&route.to, route.listen) {
            found.error(
                &format!("routes[{index}].to"),
                format!("{} is this route's own listener", route.to),
                None,
            );
        }
    }
    if let Ok(listen) = config.admin.listen.parse() {
        taken.push(("admin.listen".to_owned(), listen));
    }
    for (index, (path, listen)) in taken.iter().enumerate() {
        let earlier = taken.iter().take(index);
        if let Some((other, _)) = earlier.into_iter().find(|(_, a)| collide(*a, *listen)) {
            found.error(path, format!("{listen} is taken by `{other}`"), None);
        }
    }
    if let Some(app) = &config.app {
        if reaches(app, config.inbound.listen) {
            found.error(
                "app",
                format!("{app} is the inbound listener itself, requests would go in circles"),
                Some("write the address on which the program listens".to_owned()),
            );
        }
    }
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && overlap
}

fn reaches(target: &HostPort, listen: SocketAddr) -> bool {
    let local = match target.ip() {
        Some(ip) => ip == listen.ip() || (listen.ip().is_unspecified() && is_here(ip)),
        None => &*target.host == "localhost" && is_here(listen.ip()),
    };
    target.port != 0 && target.port == listen.port() && local
}

fn is_here(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

fn names(config: &Config, found: &mut Findings) {
    if config.resource.contains_key("service.name") {
        found.error(
            "resource",
            "`service.name` is set by the key `service`".to_owned(),
            Some("move it there".to_owned()),
        );
    }
    for (index, template) in config.spans.routes.iter().enumerate() {
        if let Err(error) = tracer::Routes::new([template], &Metrics::new()) {
            found.error(&format!("spans.routes[{index}]"), error.to_string(), None);
        }
    }
    let headers = [
        ("spans.request_headers", &config.spans.request_headers),
        ("spans.response_headers", &config.spans.response_headers),
    ];
    for (path, names) in headers {
        for (index, name) in names.iter().enumerate() {
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                found.error(
                    &format!("{path}[{index}]"),
                    format!("{name:?} is not a header name"),
                    None,
                );
            }
        }
    }
}

fn log(config: &Config, found: &mut Findings) {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let path = "log.level";
    for directive in config.log.level.split(',').map(str::trim) {
        let word = directive.rsplit('=').next().unwrap_or(directive);
        let known = LEVELS.contains(&word.to_ascii_lowercase().as_str());
        let target = !directive.contains('=') && (word.contains("::") || word.contains('['));
        if !known && !target {
            found.error(
                path,
                format!("{word:?} is no log level: write error, warn, info, debug or trace"),
                nearest(word, LEVELS).map(|near| format!("did you mean `{near}`?")),
            );
            return;
        }
    }
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&config.log.level) {
        found.error(path, format!("this is no log filter: {error}"), None);
    }
}
