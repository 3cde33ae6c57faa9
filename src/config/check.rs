//! Rules that need more than one setting, or more than a type can say.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::config::error::Problem;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Path;
use crate::config::schema::Schema;
use crate::config::tree::Config;
use crate::model::HostPort;
use crate::net::tls::Alpn;
use crate::net::tls::ClientTls;
use crate::net::tls::ServerTls;
use crate::net::tls::TlsError;
use crate::proxy::config::Inbound;
use crate::sampling;
use crate::telemetry::logs::Chain;

/// More threads than this are a mistake, not a wish.
const MAX_WORKERS: usize = 1024;
/// Everything for the program waits some windows long while a request is paced.
const MAX_WINDOW: Duration = Duration::from_millis(100);
/// Where agents and collectors of Jaeger answer for strategies.
const STRATEGIES_PORT: u16 = 5778;

/// Something that a check found.
pub(crate) struct Finding {
    /// False for what is doubtful but works.
    pub(crate) fatal: bool,
    /// What it is about.
    pub(crate) problem: Problem,
    /// The other setting, when two do not fit together: either may be the one that was written.
    pub(crate) other: Option<Path>,
}

/// The sampling that applies when none is configured, and why.
///
/// With a collector of OTLP or of Jaeger's wires: what its host says on Jaeger's port 5778, as Jaeger's own clients do.
/// Without: everything, since either nobody but the view is there to be flooded, or the system is one whose own agents
/// send everything too (Zipkin, SkyWalking, Datadog) and which knows no strategies.
pub(crate) fn default_sampling(config: &Config) -> (sampling::Config, &'static str) {
    let mut collectors = config
        .reporters
        .iter()
        .filter_map(|reporter| Some((reporter.kind(), reporter.collector()?)));
    let first = collectors.clone().next();
    let jaeger = collectors.find(|(kind, _)| kind.starts_with("jaeger"));
    let Some((_, collector)) = jaeger.or(first) else {
        let everything = sampling::constant::Config { decision: true };
        return (
            sampling::Config::Constant(everything),
            "no reporter leads to a server of strategies",
        );
    };
    let server = HostPort::new(&collector.host, STRATEGIES_PORT);
    if own_receiver(config, &server).is_some() {
        let everything = sampling::constant::Config { decision: true };
        return (
            sampling::Config::Constant(everything),
            "on the collector's host nobody but this process answers for strategies",
        );
    }
    let mut remote = sampling::remote::Config::default();
    if let Ok(endpoint) = format!("http://{server}/sampling").try_into() {
        remote.endpoint = endpoint;
    }
    (
        sampling::Config::Remote(remote),
        "reporters send to a collector and no sampling is set",
    )
}

/// Checks what decoding cannot.
pub(crate) fn check(config: &Config) -> Vec<Finding> {
    let mut found = Findings(Vec::new());
    listeners(config, &mut found);
    names(config, &mut found);
    if let Err(error) = config.injector.check() {
        found.error(&format!("injector.{}", error.key), error.reason, None);
    }
    numbers(config, &mut found);
    found.0
}

/// Checks every written number against the bounds that its setting states (`#[schemars(range(...))]`).
pub(crate) fn bounds(tree: &Node) -> Vec<Finding> {
    let mut found = Findings(Vec::new());
    within(tree, &Path::default(), &mut found);
    found.0
}

fn within(node: &Node, path: &Path, found: &mut Findings) {
    match &node.kind {
        Kind::Map(entries) => {
            for entry in entries {
                within(&entry.value, &path.join(&entry.key), found);
            }
        }
        Kind::List(items) => {
            for (index, item) in items.iter().enumerate() {
                within(item, &path.index(index), found);
            }
        }
        Kind::Scalar(scalar) => {
            let Ok(number) = scalar.text.parse::<f64>() else {
                return;
            };
            let (low, high) = Schema::get().bounds(path);
            let message = match (low, high) {
                (Some(low), Some(high)) if number < low || number > high => {
                    format!("{} is outside {low} to {high}", scalar.text)
                }
                (Some(low), None) if number < low => format!("{} is below {low}", scalar.text),
                (None, Some(high)) if number > high => format!("{} is above {high}", scalar.text),
                _ => return,
            };
            found.0.push(Finding {
                fatal: true,
                problem: Problem {
                    message,
                    path: path.clone(),
                    origin: Some(node.origin.clone()),
                    help: None,
                },
                other: None,
            });
        }
        Kind::Null | Kind::Removed => {}
    }
}

/// Checks what settings refer to: certificates, keys, and whether each reporter can be built.
pub(crate) fn materials(config: &Config) -> Vec<Finding> {
    let mut found = Findings(Vec::new());
    let mut tls = |path: &str, result: Result<(), TlsError>| {
        if let Err(error) = result {
            found.error(path, Chain(&error).to_string(), None);
        }
    };
    if let Some(settings) = &config.inbound.tls {
        let result = ServerTls::new(settings, Alpn::Http).map(drop);
        tls("inbound.tls", result);
    }
    if config.outbound.enabled {
        tls(
            "outbound.tls",
            ClientTls::new(&config.outbound.tls).map(drop),
        );
    }
    for (index, route) in config.routes.iter().enumerate() {
        if let Some(settings) = &route.tls {
            let result = ClientTls::new(settings).map(drop);
            tls(&format!("routes[{index}].tls"), result);
        }
    }
    for (index, reporter) in config.reporters.iter().enumerate() {
        if let Err(error) = reporter.check() {
            let path = format!("reporters[{index}].{}", reporter.kind());
            found.error(&path, Chain(&error).to_string(), None);
        }
    }
    found.0
}

/// Checks the certificate of the injector.
pub(crate) fn injector_materials(config: &Config) -> Vec<Finding> {
    let mut found = Findings(Vec::new());
    if let Err(error) = ServerTls::new(&config.injector.tls, Alpn::Http) {
        found.error("injector.tls", Chain(&error).to_string(), None);
    }
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
            other: None,
        });
    }
}

fn listeners(config: &Config, found: &mut Findings) {
    let mut taken: Vec<(String, HostPort)> = Vec::new();
    if config.app.is_some() {
        taken.push(("inbound.listen".to_owned(), config.inbound.listen.clone()));
    } else if config.inbound.listen != Inbound::default().listen {
        found.warning(
            "inbound.listen",
            format!(
                "nothing listens on {}: it is not known where the program is",
                config.inbound.listen
            ),
            Some("set `app` (--app) to the program's address".to_owned()),
        );
    }
    if config.outbound.enabled {
        taken.push(("outbound.listen".to_owned(), config.outbound.listen.clone()));
        if !is_loopback(&config.outbound.listen) {
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
    if let Some(redirect) = &config.inbound.redirect {
        taken.push((
            "inbound.redirect.listen".to_owned(),
            redirect.listen.clone(),
        ));
    }
    if let Some(redirect) = &config.outbound.redirect {
        taken.push((
            "outbound.redirect.listen".to_owned(),
            redirect.listen.clone(),
        ));
    }
    for (index, route) in config.routes.iter().enumerate() {
        taken.push((format!("routes[{index}].listen"), route.listen.clone()));
        if reaches(&route.to, &route.listen) {
            found.error(
                &format!("routes[{index}].to"),
                format!("{} is this route's own listener", route.to),
                None,
            );
        }
    }
    for (path, listen) in [
        ("admin.listen", &config.admin.listen),
        ("admin.probe_listen", &config.admin.probe_listen),
    ] {
        match listen.parse() {
            _ if listen.is_empty() => {}
            Ok(listen) => taken.push((path.to_owned(), listen)),
            Err(error) => found.error(path, format!("{error}"), None),
        }
    }
    for (path, listen) in config.receivers.listens() {
        taken.push((path.to_owned(), listen.clone()));
    }
    collisions(&taken, found);
    let datagrams = config.receivers.datagram_listens();
    let datagrams: Vec<_> = datagrams
        .map(|(path, listen)| (path.to_owned(), listen.clone()))
        .collect();
    collisions(&datagrams, found);
    circles(config, found);
    if let Some(app) = &config.app
        && reaches(app, &config.inbound.listen)
    {
        found.error(
            "app",
            format!("{app} is the inbound listener itself, requests would go in circles"),
            Some("write the address on which the program listens".to_owned()),
        );
    }
}

/// Spans and questions that would come back to who sent them.
fn circles(config: &Config, found: &mut Findings) {
    let elsewhere = || Some("write who else is to be reached, or move the receiver".to_owned());
    for (index, reporter) in config.reporters.iter().enumerate() {
        for to in reporter.destinations() {
            if let Some(receiver) = own_receiver(config, &to) {
                found.error(
                    &format!("reporters[{index}].{}", reporter.kind()),
                    format!("{to} is `{receiver}` of this process, spans would go in circles"),
                    elsewhere(),
                );
            }
        }
    }
    if let sampling::Config::Remote(remote) = &config.sampling
        && let to = remote.endpoint.host_port()
        && let Some(receiver) = own_receiver(config, &to)
    {
        found.error(
            "sampling.remote.endpoint",
            format!("{to} is `{receiver}` of this process, it would ask itself"),
            elsewhere(),
        );
    }
}

/// The receiver of ours that is reached there.
fn own_receiver(config: &Config, target: &HostPort) -> Option<&'static str> {
    let receivers = &config.receivers;
    let mut all = receivers.listens().chain(receivers.datagram_listens());
    let (path, _) = all.find(|(_, listen)| reaches(target, listen))?;
    Some(path)
}

/// Listeners that would take each other's port.
fn collisions(taken: &[(String, HostPort)], found: &mut Findings) {
    for (index, (path, listen)) in taken.iter().enumerate() {
        let mut earlier = taken.iter().take(index);
        if let Some((other, _)) = earlier.find(|(_, a)| collide(a, listen)) {
            found.error(
                path,
                format!("`{other}` and `{path}` both listen on port {}", listen.port),
                None,
            );
            if let Some(last) = found.0.last_mut() {
                last.other = Some(Path::parse(other));
            }
        }
    }
}

fn collide(a: &HostPort, b: &HostPort) -> bool {
    let overlap = address(a) == address(b) || is_everywhere(a) || is_everywhere(b);
    a.port != 0 && a.port == b.port && overlap
}

fn reaches(target: &HostPort, listen: &HostPort) -> bool {
    let here = is_loopback(target) || is_everywhere(target);
    let same = address(target) == address(listen) || (is_everywhere(listen) && here);
    target.port != 0 && target.port == listen.port && same
}

/// The host as an address; `localhost` is the only name known without asking.
fn address(addr: &HostPort) -> Option<IpAddr> {
    match &*addr.host {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => addr.ip(),
    }
}

fn is_loopback(addr: &HostPort) -> bool {
    address(addr).is_some_and(|ip| ip.is_loopback())
}

fn is_everywhere(addr: &HostPort) -> bool {
    address(addr).is_some_and(|ip| ip.is_unspecified())
}

fn names(config: &Config, found: &mut Findings) {
    if config.resource.contains_key("service.name") {
        found.error(
            "resource",
            "`service.name` is set by the key `service`".to_owned(),
            Some("move it there".to_owned()),
        );
    }
    let mut router = matchit::Router::new();
    for (index, template) in config.spans.routes.iter().enumerate() {
        if let Err(error) = router.insert(template.as_str(), ()) {
            found.error(
                &format!("spans.routes[{index}]"),
                format!("{template:?} is not usable as a route template: {error}"),
                Some("write it like /users/{id} or /files/{*path}".to_owned()),
            );
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

/// Numbers whose type allows what makes no sense.
fn numbers(config: &Config, found: &mut Findings) {
    let limits = &config.limits;
    for (path, value) in [
        ("limits.headers", limits.headers),
        ("limits.connections", limits.connections),
        ("limits.requests", limits.requests),
        ("limits.upstream_connections", limits.upstream_connections),
        ("limits.http2_streams", limits.http2_streams as usize),
    ] {
        if value == 0 {
            found.error(path, "0 would refuse everything".to_owned(), None);
        }
    }
    if limits.head_size.0 < 1024 {
        found.error(
            "limits.head_size",
            format!("{} is too small for usual requests", limits.head_size),
            Some("write at least 1KiB".to_owned()),
        );
    }
    let window = config.linking.pacing.window;
    if window.0.is_zero() || window.0 > MAX_WINDOW {
        found.error(
            "linking.pacing.window",
            format!("{window} is not between 0 and 100ms"),
            Some("everything for the program waits some windows long".to_owned()),
        );
    }
    let credits = config.receivers.jaeger.debug_credits;
    if !credits.is_finite() || credits < 0.0 {
        found.error(
            "receivers.jaeger.debug_credits",
            "a rate is not negative".to_owned(),
            Some("0 means that no client may force a trace".to_owned()),
        );
    }
    if config.inbound.trust.max_forced_per_second < 0.0 {
        found.error(
            "inbound.trust.max_forced_per_second",
            "a rate is not negative".to_owned(),
            Some("0 means no cap".to_owned()),
        );
    }
    if usize::from(config.workers) > MAX_WORKERS {
        found.error(
            "workers",
            format!(
                "{} threads are more than the {MAX_WORKERS} allowed",
                config.workers
            ),
            None,
        );
    }
}
