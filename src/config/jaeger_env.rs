//! `JAEGER_*`: the variables of Jaeger's own client libraries.
//!
//! Source: jaeger-client-go `config/config_env.go` and `README.md`; jaeger-client-java `Configuration.java`;
//! jaeger-client-node `configuration_env.js`.

use crate::config::otel_env::formats;
use crate::config::standard_env::Standard;
use crate::config::standard_env::Subject;
use crate::config::standard_env::pairs;
use crate::model::HumanDuration;
use crate::reporter::Endpoint;
use crate::sampling::Probability;
use crate::sampling::TracesPerSecond;

const TYPE: &str = "JAEGER_SAMPLER_TYPE";
const PARAM: &str = "JAEGER_SAMPLER_PARAM";
const AGENT_HOST: &str = "JAEGER_AGENT_HOST";
const AGENT_PORT: &str = "JAEGER_AGENT_PORT";
const WIRES: [&str; 2] = ["jaeger_udp", "jaeger_http"];

/// Applies every variable that any of the clients knows and that means something here.
pub(super) fn apply(env: &mut Standard<'_>) {
    identity(env);
    if let Some(list) = env.text("JAEGER_PROPAGATION")
        && env.claim(Subject::Propagation, "JAEGER_PROPAGATION")
    {
        formats(env, "JAEGER_PROPAGATION", list);
    }
    sampler(env);
    reporters(env);
}

/// Go's `strconv.ParseBool`.
fn truth(env: &mut Standard<'_>, name: &str) -> Option<bool> {
    match env.text(name)? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        other => {
            env.bad(name, format!("expected `true` or `false`, found {other:?}"));
            None
        }
    }
}

/// Go's durations; a bare number is milliseconds, as in Java and Node.
fn duration(env: &mut Standard<'_>, name: &str) -> Option<HumanDuration> {
    let text = env.text(name)?;
    if let Ok(millis) = text.parse() {
        return Some(HumanDuration::from_millis(millis));
    }
    env.parsed(name, "a duration such as 1s or a number of milliseconds")
}

fn identity(env: &mut Standard<'_>) {
    let name = "JAEGER_DISABLED";
    if truth(env, name) == Some(true) && env.claim(Subject::Enabled, name) {
        env.set("spans.enabled", name, "false");
    }
    let name = "JAEGER_SERVICE_NAME";
    if let Some(service) = env.text(name)
        && env.claim(Subject::Service, name)
    {
        env.set("service", name, service);
    }
    let name = "JAEGER_TAGS";
    if let Some(text) = env.text(name) {
        match pairs(text) {
            None => env.bad(name, "expected key=value,key=value"),
            Some(tags) if env.claim(Subject::Resource, name) => {
                for (key, value) in tags {
                    let value = expanded(env, value);
                    env.set_entry("resource", key, name, &value);
                }
            }
            Some(_) => {}
        }
    }
    let name = "JAEGER_TRACEID_128BIT";
    if let Some(wide) = truth(env, name) {
        env.set("spans.trace_id_128bit", name, wide.to_string());
    }
}

/// `${NAME:default}` as a whole value.
fn expanded(env: &Standard<'_>, value: &str) -> String {
    let inner = value.strip_prefix("${").and_then(|v| v.strip_suffix('}'));
    let Some(inner) = inner else {
        return value.to_owned();
    };
    let (name, default) = inner.split_once(':').unwrap_or((inner, ""));
    env.text(name).unwrap_or(default).to_owned()
}

/// Any sampler variable without a type means `remote`, the clients' default.
fn sampler(env: &mut Standard<'_>) {
    let others = [
        PARAM,
        "JAEGER_SAMPLING_ENDPOINT",
        "JAEGER_SAMPLER_MANAGER_HOST_PORT",
        "JAEGER_SAMPLER_HOST",
        "JAEGER_SAMPLER_PORT",
        "JAEGER_SAMPLER_MAX_OPERATIONS",
        "JAEGER_SAMPLER_REFRESH_INTERVAL",
    ];
    let mut names = std::iter::once(TYPE).chain(others);
    let Some(first) = names.find(|name| env.text(name).is_some()) else {
        return;
    };
    if !env.claim(Subject::Sampling, first) {
        return;
    }
    let kind = env.text(TYPE).unwrap_or("remote").to_ascii_lowercase();
    match kind.as_str() {
        "const" => {
            let param: Option<f64> = param(env, "0 or 1");
            let decision = param.is_none_or(|p| p != 0.0);
            env.set("sampling.constant.decision", first, decision.to_string());
        }
        "probabilistic" => {
            let rate = checked(env, Probability::new).unwrap_or(Probability::INITIAL);
            env.set("sampling.probabilistic.rate", first, rate.to_string());
        }
        "ratelimiting" | "rate_limiting" => {
            let rate = checked(env, TracesPerSecond::new).unwrap_or(TracesPerSecond::TEN);
            env.set(
                "sampling.rate_limiting.traces_per_second",
                first,
                rate.to_string(),
            );
        }
        "remote" => remote(env, first),
        other => env.bad(TYPE, format!("there is no sampler {other:?}")),
    }
}

fn param<T: std::str::FromStr>(env: &mut Standard<'_>, expected: &str) -> Option<T> {
    env.parsed(PARAM, expected)
}

fn checked<T, E: std::fmt::Display>(
    env: &mut Standard<'_>,
    check: impl Fn(f64) -> Result<T, E>,
) -> Option<T> {
    let number = param(env, "a number")?;
    match check(number) {
        Ok(value) => Some(value),
        Err(error) => {
            env.bad(PARAM, error);
            None
        }
    }
}

/// The parameter is the rate until the backend answers; without one it is 0.001 (Go's client would use 0).
fn remote(env: &mut Standard<'_>, first: &str) {
    env.choose("sampling.remote", first);
    if let Some(rate) = checked(env, Probability::new) {
        env.set("sampling.remote.initial_rate", PARAM, rate.to_string());
    }
    if let Some((name, url)) = strategy_url(env) {
        match url.parse::<Endpoint>() {
            Ok(_) => env.set("sampling.remote.endpoint", name, url),
            Err(error) => env.bad(name, error),
        }
    }
    let name = "JAEGER_SAMPLER_MAX_OPERATIONS";
    if let Some(operations) = env.parsed::<u32>(name, "a number of operations") {
        env.set(
            "sampling.remote.max_operations",
            name,
            operations.to_string(),
        );
    }
    let name = "JAEGER_SAMPLER_REFRESH_INTERVAL";
    match duration(env, name) {
        Some(interval) if interval.0.is_zero() => env.bad(name, "it must be longer than 0"),
        Some(interval) => env.set("sampling.remote.poll_interval", name, interval.to_string()),
        None => {}
    }
}

/// The newest spelling that is set; the agent's host alone moves the strategies to its port 5778, as in Go.
fn strategy_url(env: &Standard<'_>) -> Option<(&'static str, String)> {
    if let Some(url) = env.text("JAEGER_SAMPLING_ENDPOINT") {
        return Some(("JAEGER_SAMPLING_ENDPOINT", url.to_owned()));
    }
    let name = "JAEGER_SAMPLER_MANAGER_HOST_PORT";
    if let Some(text) = env.text(name) {
        let url = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}/sampling"),
        };
        return Some((name, url));
    }
    let host = env.text("JAEGER_SAMPLER_HOST");
    let port = env.text("JAEGER_SAMPLER_PORT");
    if host.is_some() || port.is_some() {
        let host = host.unwrap_or("localhost");
        let port = port.unwrap_or("5778");
        let path = env
            .text("JAEGER_SAMPLER_SAMPLING_PATH")
            .unwrap_or("/sampling");
        return Some(("JAEGER_SAMPLER_HOST", format!("http://{host}:{port}{path}")));
    }
    let host = env.text(AGENT_HOST)?;
    Some((AGENT_HOST, format!("http://{host}:5778/sampling")))
}

/// A collector URL or an agent's address replaces the reporters of the file.
fn reporters(env: &mut Standard<'_>) {
    let endpoint = "JAEGER_ENDPOINT";
    let mut kinds: Vec<(&'static str, &str)> = Vec::new();
    if env.text(endpoint).is_some() {
        kinds.push(("jaeger_http", endpoint));
    } else if let Some(name) = [AGENT_HOST, AGENT_PORT]
        .into_iter()
        .find(|name| env.text(name).is_some())
    {
        kinds.push(("jaeger_udp", name));
    }
    let log_spans = "JAEGER_REPORTER_LOG_SPANS";
    if truth(env, log_spans) == Some(true) {
        kinds.push(("log", log_spans));
    }
    if let Some((_, name)) = kinds.first() {
        if !env.claim(Subject::Reporters, name) {
            return;
        }
        if kinds.len() > 1 || *name != log_spans {
            env.set_reporters(&kinds, name);
        } else {
            env.add_reporter("log", log_spans);
        }
    }
    address(env, endpoint);
    let name = "JAEGER_REPORTER_MAX_QUEUE_SIZE";
    match env.parsed::<u32>(name, "a number of spans") {
        Some(0) => env.bad(name, "0 spans are too few"),
        Some(spans) => env.set_in_reporters(&WIRES, "queue.capacity", name, &spans.to_string()),
        None => {}
    }
    let name = "JAEGER_REPORTER_FLUSH_INTERVAL";
    if let Some(interval) = duration(env, name) {
        env.set_in_reporters(&WIRES, "queue.flush_interval", name, &interval.to_string());
    }
}

fn address(env: &mut Standard<'_>, endpoint: &str) {
    if let Some(url) = env.text(endpoint) {
        match url.parse::<Endpoint>() {
            Ok(_) => env.set_in_reporters(&["jaeger_http"], "endpoint", endpoint, url),
            Err(error) => env.bad(endpoint, error),
        }
        credentials(env);
        return;
    }
    let host = env.text(AGENT_HOST);
    if host.is_none() && env.text(AGENT_PORT).is_none() {
        return;
    }
    let port = env.parsed::<u16>(AGENT_PORT, "a port").unwrap_or(6831);
    let name = host.map_or(AGENT_PORT, |_| AGENT_HOST);
    let host = host.unwrap_or("localhost");
    let host = match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    env.set_in_reporters(&["jaeger_udp"], "endpoint", name, &format!("{host}:{port}"));
}

fn credentials(env: &mut Standard<'_>) {
    let (user, password) = ("JAEGER_USER", "JAEGER_PASSWORD");
    match (env.text(user), env.text(password)) {
        (Some(name), Some(secret)) => {
            env.set_in_reporters(&["jaeger_http"], "basic_auth.user", user, name);
            env.set_in_reporters(&["jaeger_http"], "basic_auth.password", password, secret);
        }
        (Some(_), None) => env.bad(user, format!("{password} is missing")),
        (None, Some(_)) => env.bad(password, format!("{user} is missing")),
        (None, None) => {
            if let Some(token) = env.text("JAEGER_AUTH_TOKEN") {
                env.set_in_reporters(&["jaeger_http"], "bearer_token", "JAEGER_AUTH_TOKEN", token);
            }
        }
    }
}
