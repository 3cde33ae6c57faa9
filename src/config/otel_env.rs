//! `OTEL_*`.
//!
//! Source: opentelemetry-specification `specification/configuration/sdk-environment-variables.md`,
//! `specification/protocol/exporter.md`.

use crate::config::standard_env::Standard;
use crate::config::standard_env::Subject;
use crate::config::standard_env::decoded;
use crate::config::standard_env::pairs;
use crate::propagation;
use crate::reporter::Endpoint;
use crate::sampling::Probability;

const ENDPOINT: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// Applies every variable that concerns traces.
pub(super) fn apply(env: &mut Standard<'_>) {
    enabled(env);
    identity(env);
    propagators(env);
    sampler(env);
    exporters(env);
    otlp(env);
    queue(env);
    limits(env);
}

/// Only `true` is true, in any case; anything but `false` beside it is worth a warning.
fn truth(env: &mut Standard<'_>, name: &str) -> bool {
    match env.text(name).map(str::to_ascii_lowercase).as_deref() {
        Some("true") => true,
        Some("false") | None => false,
        Some(other) => {
            env.bad(name, format!("expected `true` or `false`, found {other:?}"));
            false
        }
    }
}

fn enabled(env: &mut Standard<'_>) {
    let name = "OTEL_SDK_DISABLED";
    if truth(env, name) && env.claim(Subject::Enabled, name) {
        env.set("spans.enabled", name, "false");
    }
}

fn identity(env: &mut Standard<'_>) {
    let name = "OTEL_RESOURCE_ATTRIBUTES";
    if let Some(text) = env.text(name) {
        let attributes: Option<Vec<(&str, String)>> = pairs(text).and_then(|pairs| {
            pairs
                .into_iter()
                .map(|(key, value)| Some((key, decoded(value)?)))
                .collect()
        });
        match attributes {
            None => env.bad(name, "expected percent-encoded key=value,key=value"),
            Some(attributes) if env.claim(Subject::Resource, name) => {
                for (key, value) in attributes {
                    if key == "service.name" {
                        env.claim(Subject::Service, name);
                        env.set("service", name, value);
                    } else {
                        env.set_entry("resource", key, name, &value);
                    }
                }
            }
            Some(_) => {}
        }
    }
    let name = "OTEL_SERVICE_NAME";
    if let Some(service) = env.text(name) {
        env.claim(Subject::Service, name);
        env.set("service", name, service);
    }
}

fn propagators(env: &mut Standard<'_>) {
    let name = "OTEL_PROPAGATORS";
    if let Some(list) = env.text(name)
        && env.claim(Subject::Propagation, name)
    {
        formats(env, name, list);
    }
}

/// Sets both lists of `propagation` from names; those that no format has are left out with a warning.
pub(super) fn formats(env: &mut Standard<'_>, name: &str, list: &str) {
    let (config, unknown) = propagation::Config::from_list(list);
    for error in unknown {
        env.warn(name, format!("{name}: {error}"));
    }
    let words: Vec<&str> = config.inject.iter().map(|format| format.as_str()).collect();
    let none = list.trim().eq_ignore_ascii_case("none");
    if words.is_empty() && !none {
        return;
    }
    env.set_words("propagation.extract", name, &words);
    env.set_words("propagation.inject", name, &words);
}

/// Parents are respected with every sampler here, so `parentbased_` makes no difference.
fn sampler(env: &mut Standard<'_>) {
    let Some(text) = env.text(SAMPLER) else {
        if env.text(SAMPLER_ARG).is_some() {
            env.warn(
                SAMPLER_ARG,
                format!("{SAMPLER_ARG} has no effect without {SAMPLER}"),
            );
        }
        return;
    };
    let lowered = text.to_ascii_lowercase();
    let kind = lowered.strip_prefix("parentbased_").unwrap_or(&lowered);
    if !matches!(
        kind,
        "always_on" | "always_off" | "traceidratio" | "jaeger_remote" | "xray"
    ) {
        env.bad(SAMPLER, format!("there is no sampler {text:?}"));
        return;
    }
    if !env.claim(Subject::Sampling, SAMPLER) {
        return;
    }
    match kind {
        "always_on" => env.set("sampling.constant.decision", SAMPLER, "true"),
        "always_off" => env.set("sampling.constant.decision", SAMPLER, "false"),
        "traceidratio" => {
            let rate: Option<f64> = env.parsed(SAMPLER_ARG, "a number from 0 to 1");
            let rate = rate.filter(|rate| in_range(env, *rate));
            let (name, rate) = match rate {
                Some(rate) => (SAMPLER_ARG, rate),
                None => (SAMPLER, 1.0),
            };
            env.set("sampling.probabilistic.rate", name, rate.to_string());
        }
        "xray" => xray(env),
        _ => jaeger_remote(env),
    }
}

fn in_range(env: &mut Standard<'_>, rate: f64) -> bool {
    let result = Probability::new(rate);
    if let Err(error) = result {
        env.bad(SAMPLER_ARG, error);
    }
    result.is_ok()
}

/// The sampler's argument where it is a list.
fn arguments<'a>(env: &mut Standard<'a>) -> Vec<(&'a str, &'a str)> {
    let pairs = pairs(env.text(SAMPLER_ARG).unwrap_or_default());
    if pairs.is_none() {
        env.bad(SAMPLER_ARG, "expected key=value,key=value");
    }
    pairs.unwrap_or_default()
}

/// `endpoint=http://localhost:14250,pollingIntervalMs=5000,initialSamplingRate=0.25`, every part optional.
fn jaeger_remote(env: &mut Standard<'_>) {
    env.choose("sampling.remote", SAMPLER);
    for (key, value) in arguments(env) {
        match key {
            "endpoint" => match strategy_url(value) {
                Some(url) => env.set("sampling.remote.endpoint", SAMPLER_ARG, url),
                None => env.bad(SAMPLER_ARG, format!("endpoint {value:?} is no URL")),
            },
            "pollingIntervalMs" => match value.parse::<u64>() {
                Ok(millis) if millis > 0 => {
                    env.set(
                        "sampling.remote.poll_interval",
                        SAMPLER_ARG,
                        format!("{millis}ms"),
                    );
                }
                _ => env.bad(SAMPLER_ARG, format!("{key} is {value:?}, not milliseconds")),
            },
            "initialSamplingRate" => match value.parse() {
                Ok(rate) if in_range(env, rate) => {
                    env.set(
                        "sampling.remote.initial_rate",
                        SAMPLER_ARG,
                        rate.to_string(),
                    );
                }
                Ok(_) => {}
                Err(_) => env.bad(SAMPLER_ARG, format!("{key} is {value:?}, not a number")),
            },
            _ => env.warn(SAMPLER_ARG, format!("{SAMPLER_ARG}: {key:?} is not known")),
        }
    }
}

/// `endpoint=http://localhost:2000,polling_interval=360`, as AWS's distributions of the SDKs read it; both optional.
fn xray(env: &mut Standard<'_>) {
    env.choose("sampling.xray", SAMPLER);
    for (key, value) in arguments(env) {
        match key {
            "endpoint" => match value.parse::<Endpoint>() {
                Ok(_) => env.set("sampling.xray.endpoint", SAMPLER_ARG, value),
                Err(_) => env.bad(SAMPLER_ARG, format!("endpoint {value:?} is no URL")),
            },
            "polling_interval" => match value.parse::<u32>() {
                Ok(seconds) if seconds > 0 => {
                    let interval = format!("{seconds}s");
                    env.set("sampling.xray.rules_interval", SAMPLER_ARG, interval);
                }
                _ => env.bad(SAMPLER_ARG, format!("{key} is {value:?}, not seconds")),
            },
            _ => env.warn(SAMPLER_ARG, format!("{SAMPLER_ARG}: {key:?} is not known")),
        }
    }
}

/// Strategies are asked for over HTTP. A URL that names a gRPC port of Jaeger or no path means the HTTP service beside.
fn strategy_url(text: &str) -> Option<String> {
    let with_scheme = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let endpoint: Endpoint = with_scheme.parse().ok()?;
    let host = match endpoint.host() {
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    };
    if matches!(endpoint.port(), 14250 | 5779) {
        return Some(format!("http://{host}:5778/sampling"));
    }
    match endpoint.uri().path() {
        "" | "/" => Some(format!("{}/sampling", with_scheme.trim_end_matches('/'))),
        _ => Some(with_scheme),
    }
}

/// The exporters named, or OTLP when only its endpoint is: they replace the reporters of the file.
fn exporters(env: &mut Standard<'_>) {
    let endpoint = ENDPOINT.into_iter().find(|name| env.text(name).is_some());
    let mut kinds: Vec<(&'static str, &str)> = Vec::new();
    let mut none = false;
    if let Some(list) = env.text(EXPORTER) {
        for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word.to_ascii_lowercase().as_str() {
                "otlp" => kinds.push(("otlp", EXPORTER)),
                "console" | "logging" => kinds.push(("log", EXPORTER)),
                "none" => none = true,
                "zipkin" => env.bad(EXPORTER, "there is no zipkin reporter in this version"),
                other => env.bad(EXPORTER, format!("there is no exporter {other:?}")),
            }
        }
    } else if let Some(name) = endpoint {
        kinds.push(("otlp", name));
    }
    kinds.dedup();
    let Some((_, name)) = kinds.first() else {
        if none && env.claim(Subject::Reporters, EXPORTER) {
            env.set_reporters(&[], EXPORTER);
        }
        return;
    };
    if env.claim(Subject::Reporters, name) {
        env.set_reporters(&kinds, name);
    }
}

/// The variable of an OTLP setting: the one for traces before the general one.
fn otlp_name(env: &Standard<'_>, setting: &str) -> Option<String> {
    ["TRACES_", ""]
        .into_iter()
        .map(|signal| format!("OTEL_EXPORTER_OTLP_{signal}{setting}"))
        .find(|name| env.text(name).is_some())
}

fn otlp(env: &mut Standard<'_>) {
    let mut grpc = false;
    if let Some(name) = otlp_name(env, "PROTOCOL") {
        match env.text(&name).unwrap_or_default() {
            "grpc" => {
                grpc = true;
                env.set_in_reporters(&["otlp"], "protocol", &name, "grpc");
            }
            "http/protobuf" => {
                env.set_in_reporters(&["otlp"], "protocol", &name, "http_protobuf");
            }
            "http/json" => env.bad(&name, "spans go out as http/protobuf or grpc"),
            other => env.bad(&name, format!("there is no protocol {other:?}")),
        }
    }
    otlp_endpoint(env, grpc);
    if let Some(name) = otlp_name(env, "HEADERS") {
        match env.text(&name).and_then(pairs) {
            Some(pairs) => {
                for (key, value) in pairs {
                    let key = key.to_ascii_lowercase();
                    match decoded(value) {
                        Some(value) => otlp_header(env, &name, &key, &value),
                        None => env.bad(&name, format!("the value of {key} is badly encoded")),
                    }
                }
            }
            None => env.bad(&name, "expected key=value,key=value"),
        }
    }
    if let Some(name) = otlp_name(env, "TIMEOUT")
        && let Some(millis) = env.parsed::<u64>(&name, "milliseconds")
    {
        env.set_in_reporters(&["otlp"], "timeout", &name, &format!("{millis}ms"));
    }
    if let Some(name) = otlp_name(env, "COMPRESSION") {
        match env.text(&name).unwrap_or_default() {
            word @ ("gzip" | "none") => {
                env.set_in_reporters(&["otlp"], "compression", &name, word);
            }
            other => env.bad(&name, format!("expected gzip or none, found {other:?}")),
        }
    }
    for (setting, key) in [
        ("CERTIFICATE", "tls.ca_file"),
        ("CLIENT_CERTIFICATE", "tls.cert_file"),
        ("CLIENT_KEY", "tls.key_file"),
    ] {
        if let Some(name) = otlp_name(env, setting) {
            let file = env.text(&name).unwrap_or_default();
            env.set_in_reporters(&["otlp"], key, &name, file);
        }
    }
}

fn otlp_header(env: &mut Standard<'_>, name: &str, key: &str, value: &str) {
    for reporter in env.reporters(&["otlp"]) {
        env.set_entry(&format!("{reporter}.headers"), key, name, value);
    }
}

fn otlp_endpoint(env: &mut Standard<'_>, grpc: bool) {
    let [for_traces, general] = ENDPOINT;
    let (name, is_base) = match (env.text(for_traces), env.text(general)) {
        (Some(_), _) => (for_traces, false),
        (None, Some(_)) => (general, true),
        (None, None) => return,
    };
    let text = env.text(name).unwrap_or_default();
    let mut url = text.to_owned();
    if grpc && !text.contains("://") {
        let insecure = otlp_name(env, "INSECURE");
        let plain = insecure.is_some_and(|name| truth(env, &name));
        url = format!("{}://{text}", if plain { "http" } else { "https" });
    }
    if let Err(error) = url.parse::<Endpoint>() {
        env.bad(name, error);
        return;
    }
    if is_base && !grpc {
        url = format!("{}/v1/traces", url.trim_end_matches('/'));
    }
    env.set_in_reporters(&["otlp"], "endpoint", name, &url);
}

fn queue(env: &mut Standard<'_>) {
    for (name, key) in [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "queue.capacity"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "queue.batch"),
    ] {
        match env.parsed::<u32>(name, "a number of spans") {
            Some(0) => env.bad(name, "0 spans are too few"),
            Some(spans) => env.set_in_reporters(&[], key, name, &spans.to_string()),
            None => {}
        }
    }
    let name = "OTEL_BSP_SCHEDULE_DELAY";
    if let Some(millis) = env.parsed::<u64>(name, "milliseconds") {
        env.set_in_reporters(&[], "queue.flush_interval", name, &format!("{millis}ms"));
    }
    let name = "OTEL_BSP_EXPORT_TIMEOUT";
    if let Some(millis) = env.parsed::<u64>(name, "milliseconds") {
        for reporter in env.reporters(&["otlp", "jaeger_http"]) {
            env.set(
                &format!("{reporter}.retry.max_elapsed"),
                name,
                format!("{millis}ms"),
            );
        }
    }
}

/// Only lengths are set: the number of attributes, events and links of a span is small by construction.
fn limits(env: &mut Standard<'_>) {
    let names = [
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    ];
    if let Some(name) = names.into_iter().find(|name| env.text(name).is_some())
        && let Some(length) = env.parsed::<u32>(name, "a number of characters")
    {
        env.set("spans.max_value_length", name, length.to_string());
    }
}
