//! What the standard variables do to the tree, one row a rule.

use super::*;
use crate::config::yaml;

fn run(file: &str, env: &[(&str, &str)]) -> (Node, Vec<String>) {
    let mut tree = yaml::parse(file).unwrap();
    let env = env
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let warnings = apply(&mut tree, &env);
    (tree, warnings.into_iter().map(|w| w.message).collect())
}

/// The tree in one line, values without origin: `{a: 1, b: [x]}`.
fn shown(node: &Node) -> String {
    match &node.kind {
        Kind::Null | Kind::Removed => "~".to_owned(),
        Kind::Scalar(scalar) => scalar.text.clone(),
        Kind::List(items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        Kind::Map(entries) => {
            let entry = |e: &Entry| format!("{}: {}", e.key, shown(&e.value));
            let entries: Vec<String> = entries.iter().map(entry).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

#[test]
fn variables_become_settings() {
    for (env, tree) in [
        (
            &[("OTEL_SDK_DISABLED", "TRUE")][..],
            "{spans: {enabled: false}}",
        ),
        (&[("OTEL_SDK_DISABLED", "false")], "{}"),
        (&[("OTEL_SERVICE_NAME", " shop ")], "{service: shop}"),
        (&[("OTEL_SERVICE_NAME", "")], "{}"),
        (
            &[(
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=a,deployment.environment.name=x%20y",
            )],
            "{service: a, resource: {deployment.environment.name: x y}}",
        ),
        (
            &[
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a"),
                ("OTEL_SERVICE_NAME", "b"),
            ],
            "{service: b}",
        ),
        (
            &[("OTEL_PROPAGATORS", "b3,tracecontext,b3")],
            "{propagation: {extract: [b3, tracecontext], inject: [b3, tracecontext]}}",
        ),
        (
            &[("OTEL_PROPAGATORS", "none")],
            "{propagation: {extract: [], inject: []}}",
        ),
        (
            &[
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ],
            "{sampling: {probabilistic: {rate: 0.25}}}",
        ),
        (
            &[("OTEL_TRACES_SAMPLER", "traceidratio")],
            "{sampling: {probabilistic: {rate: 1}}}",
        ),
        (
            &[("OTEL_TRACES_SAMPLER", "always_off")],
            "{sampling: {constant: {decision: false}}}",
        ),
        (
            &[
                ("OTEL_TRACES_SAMPLER", "parentbased_jaeger_remote"),
                (
                    "OTEL_TRACES_SAMPLER_ARG",
                    "endpoint=http://jaeger:14250,pollingIntervalMs=5000,initialSamplingRate=0.25",
                ),
            ],
            "{sampling: {remote: {endpoint: http://jaeger:5778/sampling, poll_interval: 5000ms, initial_rate: 0.25}}}",
        ),
        (
            &[
                ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
                ("OTEL_TRACES_SAMPLER_ARG", "endpoint=http://j:5778"),
            ],
            "{sampling: {remote: {endpoint: http://j:5778/sampling}}}",
        ),
        (
            &[("OTEL_TRACES_SAMPLER", "jaeger_remote")],
            "{sampling: {remote: {}}}",
        ),
        (
            &[("OTEL_TRACES_SAMPLER", "parentbased_xray")],
            "{sampling: {xray: {}}}",
        ),
        (
            &[
                ("OTEL_TRACES_SAMPLER", "xray"),
                (
                    "OTEL_TRACES_SAMPLER_ARG",
                    "endpoint=http://daemon:2000,polling_interval=360",
                ),
            ],
            "{sampling: {xray: {endpoint: http://daemon:2000, rules_interval: 360s}}}",
        ),
        (
            &[("OTEL_TRACES_EXPORTER", "otlp,console")],
            "{reporters: [{otlp: {}}, {log: {}}]}",
        ),
        (&[("OTEL_TRACES_EXPORTER", "none")], "{reporters: []}"),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/base/")],
            "{reporters: [{otlp: {endpoint: http://c:4318/base/v1/traces}}]}",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/x"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://d"),
            ],
            "{reporters: [{otlp: {endpoint: http://c/x}}]}",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
            ],
            "{reporters: [{otlp: {protocol: grpc, endpoint: http://c:4317}}]}",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ],
            "{reporters: [{otlp: {protocol: grpc, endpoint: http://c:4317}}]}",
        ),
        (
            &[
                ("OTEL_TRACES_EXPORTER", "otlp"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "X-Token=a%3Db, y=2"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ],
            "{reporters: [{otlp: {headers: {x-token: a=b, y: 2}, timeout: 2500ms, compression: gzip, tls: {ca_file: /ca.pem}}}]}",
        ),
        (
            &[
                ("OTEL_TRACES_EXPORTER", "otlp,console"),
                ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
                ("OTEL_BSP_SCHEDULE_DELAY", "200"),
            ],
            "{reporters: [{otlp: {queue: {capacity: 10, flush_interval: 200ms}}}, {log: {queue: {capacity: 10, flush_interval: 200ms}}}]}",
        ),
        (
            &[("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "64")],
            "{spans: {max_value_length: 64}}",
        ),
        (&[("JAEGER_DISABLED", "1")], "{spans: {enabled: false}}"),
        (&[("JAEGER_SERVICE_NAME", "a")], "{service: a}"),
        (
            &[
                ("JAEGER_TAGS", "a = 1, b=${HOME_TOWN:Ulm}, c=${SET:x}"),
                ("SET", "yes"),
            ],
            "{resource: {a: 1, b: Ulm, c: yes}}",
        ),
        (
            &[("JAEGER_TRACEID_128BIT", "false")],
            "{spans: {trace_id_128bit: false}}",
        ),
        (
            &[("JAEGER_PROPAGATION", "jaeger,w3c")],
            "{propagation: {extract: [jaeger, tracecontext], inject: [jaeger, tracecontext]}}",
        ),
        (
            &[("JAEGER_AGENT_HOST", "agent")],
            "{reporters: [{jaeger_udp: {endpoint: agent:6831}}]}",
        ),
        (
            &[("JAEGER_AGENT_PORT", "16831")],
            "{reporters: [{jaeger_udp: {endpoint: localhost:16831}}]}",
        ),
        (
            &[
                ("JAEGER_ENDPOINT", "http://c:14268/api/traces"),
                ("JAEGER_AGENT_HOST", "agent"),
                ("JAEGER_USER", "u"),
                ("JAEGER_PASSWORD", "p"),
            ],
            "{reporters: [{jaeger_http: {endpoint: http://c:14268/api/traces, basic_auth: {user: u, password: p}}}]}",
        ),
        (
            &[
                ("JAEGER_ENDPOINT", "http://c"),
                ("JAEGER_AUTH_TOKEN", "t"),
                ("JAEGER_REPORTER_FLUSH_INTERVAL", "500"),
                ("JAEGER_REPORTER_MAX_QUEUE_SIZE", "7"),
            ],
            "{reporters: [{jaeger_http: {endpoint: http://c, bearer_token: t, queue: {capacity: 7, flush_interval: 500ms}}}]}",
        ),
        (
            &[("JAEGER_REPORTER_LOG_SPANS", "true")],
            "{reporters: [{log: {}}]}",
        ),
        (
            &[
                ("JAEGER_SAMPLER_TYPE", "Const"),
                ("JAEGER_SAMPLER_PARAM", "0"),
            ],
            "{sampling: {constant: {decision: false}}}",
        ),
        (
            &[
                ("JAEGER_SAMPLER_TYPE", "ratelimiting"),
                ("JAEGER_SAMPLER_PARAM", "2.5"),
            ],
            "{sampling: {rate_limiting: {traces_per_second: 2.5}}}",
        ),
        (
            &[
                ("JAEGER_SAMPLER_TYPE", "probabilistic"),
                ("JAEGER_SAMPLER_PARAM", "0.5"),
            ],
            "{sampling: {probabilistic: {rate: 0.5}}}",
        ),
        (
            &[
                ("JAEGER_SAMPLER_PARAM", "0.1"),
                ("JAEGER_SAMPLER_MANAGER_HOST_PORT", "j:5778"),
                ("JAEGER_SAMPLER_REFRESH_INTERVAL", "1m30s"),
            ],
            "{sampling: {remote: {initial_rate: 0.1, endpoint: http://j:5778/sampling, poll_interval: 90s}}}",
        ),
        (
            &[
                ("JAEGER_SAMPLER_TYPE", "remote"),
                ("JAEGER_AGENT_HOST", "a"),
            ],
            "{sampling: {remote: {endpoint: http://a:5778/sampling}}, reporters: [{jaeger_udp: {endpoint: a:6831}}]}",
        ),
    ] {
        let (found, warnings) = run("", env);
        assert_eq!(shown(&found), tree, "{env:?}");
        assert_eq!(warnings, Vec::<String>::new(), "{env:?}");
    }
}

#[test]
fn bad_values_warn_and_count_as_unset() {
    for (name, value, why) in [
        ("OTEL_SDK_DISABLED", "yes", "expected `true` or `false`"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "a=1,b",
            "expected percent-encoded",
        ),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "a=%zz",
            "expected percent-encoded",
        ),
        ("OTEL_PROPAGATORS", "pigeon", "unknown propagation format"),
        ("OTEL_TRACES_SAMPLER", "yray", "there is no sampler"),
        (
            "OTEL_TRACES_SAMPLER_ARG",
            "0.5",
            "no effect without OTEL_TRACES_SAMPLER",
        ),
        ("OTEL_TRACES_EXPORTER", "zipkin", "no zipkin reporter"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "5s", "expected milliseconds"),
        (
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "zstd",
            "expected gzip or none",
        ),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/json",
            "http/protobuf or grpc",
        ),
        (
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "gzip",
            "there is no reporter `otlp`",
        ),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "0 spans are too few"),
        ("JAEGER_DISABLED", "yes", "expected `true` or `false`"),
        ("JAEGER_TAGS", "a", "expected key=value"),
        ("JAEGER_SAMPLER_TYPE", "magic", "there is no sampler"),
        (
            "JAEGER_REPORTER_FLUSH_INTERVAL",
            "soon",
            "expected a duration",
        ),
    ] {
        let (tree, warnings) = run("", &[(name, value)]);
        assert_eq!(shown(&tree), "{}", "{name}={value}");
        assert!(
            warnings.len() == 1 && warnings[0].contains(why),
            "{name}={value}: {warnings:?}"
        );
    }
    for (env, tree, why) in [
        (
            &[
                ("OTEL_TRACES_SAMPLER", "traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "7"),
            ][..],
            "{sampling: {probabilistic: {rate: 1}}}",
            "7 is not a probability from 0 to 1",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector")],
            "{reporters: [{otlp: {}}]}",
            "not a URL",
        ),
        (
            &[
                ("JAEGER_SAMPLER_TYPE", "probabilistic"),
                ("JAEGER_SAMPLER_PARAM", "-1"),
            ],
            "{sampling: {probabilistic: {rate: 0.001}}}",
            "-1 is not a probability",
        ),
        (
            &[("JAEGER_ENDPOINT", "http://c"), ("JAEGER_USER", "u")],
            "{reporters: [{jaeger_http: {endpoint: http://c}}]}",
            "JAEGER_PASSWORD is missing",
        ),
        (
            &[("OTEL_PROPAGATORS", "b3,pigeon")],
            "{propagation: {extract: [b3], inject: [b3]}}",
            "unknown propagation format",
        ),
    ] {
        let (found, warnings) = run("", env);
        assert_eq!(shown(&found), tree, "{env:?}");
        assert!(
            warnings.len() == 1 && warnings[0].contains(why),
            "{env:?}: {warnings:?}"
        );
    }
}

#[test]
fn otel_wins_over_jaeger_with_one_warning() {
    let env = [
        ("OTEL_SERVICE_NAME", "otel"),
        ("JAEGER_SERVICE_NAME", "jaeger"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("JAEGER_SAMPLER_TYPE", "const"),
        ("JAEGER_SAMPLER_PARAM", "0"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
        ("JAEGER_AGENT_HOST", "agent"),
    ];
    let (tree, warnings) = run("", &env);
    assert_eq!(
        shown(&tree),
        "{service: otel, sampling: {constant: {decision: true}}, \
         reporters: [{otlp: {endpoint: http://c:4318/v1/traces}}]}"
    );
    let [warning] = warnings.as_slice() else {
        panic!("{warnings:?}");
    };
    for name in [
        "JAEGER_SERVICE_NAME",
        "JAEGER_SAMPLER_TYPE",
        "JAEGER_AGENT_HOST",
    ] {
        assert!(warning.contains(name), "{warning}");
    }
}

#[test]
fn the_file_gives_way_where_a_variable_speaks_and_stays_elsewhere() {
    for (file, env, tree) in [
        (
            "reporters: [{otlp: {endpoint: 'http://a', compression: gzip}}, log]",
            &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b")][..],
            "{reporters: [{otlp: {endpoint: http://b, compression: gzip}}]}",
        ),
        (
            "reporters: [log, otlp]",
            &[("OTEL_BSP_MAX_QUEUE_SIZE", "5")],
            "{reporters: [{log: {queue: {capacity: 5}}}, {otlp: {queue: {capacity: 5}}}]}",
        ),
        (
            "reporters: [otlp]",
            &[("JAEGER_REPORTER_LOG_SPANS", "true")],
            "{reporters: [otlp, {log: {}}]}",
        ),
        (
            "sampling: {remote: {endpoint: 'http://a/s', timeout: 1s}}",
            &[("JAEGER_SAMPLER_PARAM", "0.5")],
            "{sampling: {remote: {endpoint: http://a/s, timeout: 1s, initial_rate: 0.5}}}",
        ),
        (
            "sampling: {remote: {endpoint: 'http://a/s'}}",
            &[("OTEL_TRACES_SAMPLER", "always_on")],
            "{sampling: {constant: {decision: true}}}",
        ),
        (
            "resource: {a: 1, b: 2}",
            &[("OTEL_RESOURCE_ATTRIBUTES", "b=3")],
            "{resource: {a: 1, b: 3}}",
        ),
    ] {
        let (found, _) = run(file, env);
        assert_eq!(shown(&found), tree, "{file} {env:?}");
    }
}

#[test]
fn inside_a_cluster_the_pod_describes_itself_where_nothing_else_does() {
    let cluster = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    let pod = ("POD_NAME", "cart-7d4b9c6f5d-x2x9k");
    let node = ("NODE_NAME", "n1");
    for (file, env, tree) in [
        ("", &[pod, node][..], "{}"),
        (
            "",
            &[cluster, pod, node],
            "{resource: {k8s.pod.name: cart-7d4b9c6f5d-x2x9k, k8s.node.name: n1}, service: cart}",
        ),
        (
            "{service: a, resource: {k8s.node.name: b}}",
            &[cluster, node],
            "{service: a, resource: {k8s.node.name: b}}",
        ),
        (
            "",
            &[
                cluster,
                pod,
                ("OTEL_SERVICE_NAME", "a"),
                ("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=b"),
            ],
            "{resource: {k8s.pod.name: b}, service: a}",
        ),
        (
            "",
            &[
                cluster,
                pod,
                ("JAEGER_SERVICE_NAME", "a"),
                ("JAEGER_TAGS", "k8s.pod.name=b"),
            ],
            "{service: a, resource: {k8s.pod.name: b}}",
        ),
    ] {
        let (found, warnings) = run(file, env);
        assert_eq!(shown(&found), tree, "{env:?}");
        assert_eq!(warnings, Vec::<String>::new(), "{env:?}");
    }
}
