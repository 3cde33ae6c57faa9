//! Whole configurations: what is refused although every value by itself is fine, and where the mistake is said to be.

use super::*;
use crate::sampling;

fn load(text: &str) -> Result<Loaded, ConfigErrors> {
    let sources = Sources {
        file: Some("x.yaml".into()),
        ..Sources::default()
    };
    load_text(&sources, Some(text.to_owned()))
}

#[test]
fn what_does_not_fit_together_is_refused_at_its_place() {
    for (text, line) in [
        (
            "app: localhost:15606",
            "x.yaml:1:6: localhost:15606 is the inbound listener itself, requests would go in circles",
        ),
        (
            "app: a:1\ninbound: {listen: '127.0.0.1:15601'}",
            "x.yaml:2:19: `inbound.listen` and `outbound.listen` both listen on port 15601",
        ),
        (
            "admin: {listen: '0.0.0.0:15601'}",
            "x.yaml:1:17: `outbound.listen` and `admin.listen` both listen on port 15601",
        ),
        (
            "admin: {listen: here}",
            "x.yaml:1:17: \"here\" is not an address",
        ),
        (
            "resource: {service.name: a}",
            "x.yaml:1:1: `service.name` is set by the key `service`",
        ),
        (
            "spans: {routes: [/a, /a]}",
            "x.yaml:1:22: \"/a\" is not usable as a route template",
        ),
        (
            "spans: {request_headers: ['a b']}",
            "x.yaml:1:27: \"a b\" is not a header name",
        ),
        (
            "limits: {headers: 0}",
            "x.yaml:1:19: 0 would refuse everything",
        ),
        (
            "limits: {head_size: 12}",
            "x.yaml:1:21: 12 is too small for usual requests",
        ),
        (
            "workers: 60000",
            "x.yaml:1:10: 60000 threads are more than the 1024 allowed",
        ),
        (
            "inbound: {trust: {max_forced_per_second: -1}}",
            "x.yaml:1:42: a rate is not negative",
        ),
        (
            "receivers: {otlp: {enabled: true}}\nreporters: [{otlp: {}}]\nsampling: {constant: {decision: true}}",
            "x.yaml:2:14: localhost:4318 is `receivers.otlp.http` of this process, spans would go in circles",
        ),
        (
            "receivers: {zipkin: {enabled: true, listen: '0.0.0.0:9'}}\n\
             reporters: [{failover: {members: [{log: {}}, {zipkin: {endpoint: 'http://127.0.0.1:9'}}]}}]",
            "x.yaml:2:14: 127.0.0.1:9 is `receivers.zipkin.listen` of this process, spans would go in circles",
        ),
        (
            "receivers: {jaeger: {enabled: true}}\nreporters: [{jaeger_udp: {protocol: binary}}]",
            "x.yaml:2:14: localhost:6832 is `receivers.jaeger.binary` of this process, spans would go in circles",
        ),
        (
            "receivers: {skywalking: {enabled: true}}\nreporters: [log, {skywalking: {}}]",
            "x.yaml:2:19: localhost:11800 is `receivers.skywalking.grpc` of this process, spans would go in circles",
        ),
        (
            "receivers: {jaeger: {enabled: true}}\nsampling: {remote: {endpoint: 'grpc://localhost:14250'}}",
            "x.yaml:2:31: localhost:14250 is `receivers.jaeger.grpc` of this process, it would ask itself",
        ),
        (
            "linking: {pacing: {window: 1h}}",
            "x.yaml:1:28: 1h is not between 0 and 100ms",
        ),
        (
            "linking: {pacing: {window: 0s}}",
            "x.yaml:1:28: 0 is not between 0 and 100ms",
        ),
        (
            "receivers: {max_message: 0}",
            "x.yaml:1:26: must be more than zero",
        ),
        (
            "reporters: [{otlp: {queue: {capacity: 0}}}]",
            "x.yaml:1:39: 0 is outside 1 to 1000000",
        ),
        (
            "- a\n- b",
            "x.yaml:1:1: expected `key: value` lines, found a list",
        ),
        (
            "just text",
            "x.yaml:1:1: expected `key: value` lines, found the text \"just text\"",
        ),
        (
            "service: ${NAME}",
            "x.yaml:1:10: environment variable NAME is not set",
        ),
    ] {
        let errors = load(text).unwrap_err();
        let lines = errors.lines();
        assert_eq!(lines.len(), 1, "{text}: {lines:?}");
        assert!(lines[0].starts_with(line), "{text}: {lines:?}");
    }
}

#[test]
fn places_are_those_of_the_file_although_a_mistake_was_passed_over() {
    let errors = load(
        "routes:\n  - {listen: nowhere, to: b:1}\n  - {listen: '127.0.0.1:7', to: '127.0.0.1:7'}\n",
    )
    .unwrap_err();
    let lines = errors.lines();
    assert!(
        lines[0].starts_with("x.yaml:2:14: \"nowhere\" is not an address"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("x.yaml:3:33: 127.0.0.1:7 is this route's own listener"),
        "{lines:?}"
    );
    assert!(errors.to_string().contains("(routes[1].to)"), "{errors}");
}

#[test]
fn what_follows_from_a_mistake_is_not_reported() {
    // The default of `inbound.listen` would collide with `outbound.listen` here.
    let errors = load("app: a:1\ninbound: {listen: x}\noutbound: {listen: '127.0.0.1:15606'}\n")
        .unwrap_err();
    assert_eq!(errors.len(), 1, "{errors}");
}

#[test]
fn what_is_doubtful_is_a_warning() {
    let loaded = load("outbound: {listen: '0.0.0.0:15601'}").unwrap();
    let [warning] = loaded.warnings.as_slice() else {
        panic!("{:?}", loaded.warnings);
    };
    assert!(
        warning.contains("whoever can reach it can use it as a proxy"),
        "{warning}"
    );
    assert!(warning.contains("x.yaml:1:20"), "{warning}");
}

#[test]
fn an_inbound_listener_without_a_program_is_doubtful() {
    let loaded = load("inbound: {listen: '127.0.0.1:80'}").unwrap();
    let [warning] = loaded.warnings.as_slice() else {
        panic!("{:?}", loaded.warnings);
    };
    assert!(
        warning.contains("nothing listens on 127.0.0.1:80"),
        "{warning}"
    );
    assert!(warning.contains("x.yaml:1:19"), "{warning}");
    for quiet in [
        "app: a:1\ninbound: {listen: '127.0.0.1:80'}",
        "inbound: {listen: '0.0.0.0:15606'}",
    ] {
        assert_eq!(load(quiet).unwrap().warnings, Vec::<String>::new());
    }
}

#[test]
fn strategies_come_from_the_collectors_host() {
    for (reporters, endpoint) in [
        (
            "[{otlp: {endpoint: 'http://c:4318/v1/traces'}}]",
            Some("http://c:5778/sampling"),
        ),
        (
            "[{otlp: {endpoint: 'http://c'}}, {jaeger_udp: {endpoint: 'j:6831'}}]",
            Some("http://j:5778/sampling"),
        ),
        (
            "[{jaeger_udp: {endpoint: '[::1]:6831'}}]",
            Some("http://[::1]:5778/sampling"),
        ),
        ("[jaeger_http]", Some("http://localhost:5778/sampling")),
        (
            "[{failover: {members: [{zipkin: {}}, {jaeger_grpc: {endpoint: 'http://g:14250'}}]}}]",
            Some("http://g:5778/sampling"),
        ),
        ("[log]", None),
        // These know no strategies: asking for some would leave their users with one trace of a thousand.
        ("[{zipkin: {endpoint: 'http://z:9411'}}]", None),
        ("[{skywalking: {endpoint: 'http://s:11800'}}]", None),
        ("[{datadog: {endpoint: 'http://d:8126'}}]", None),
        ("[{xray: {endpoint: 'x:2000'}}]", None),
        (
            "[{zipkin: {endpoint: 'http://z:9411'}}, {otlp: {endpoint: 'http://c'}}]",
            Some("http://c:5778/sampling"),
        ),
        ("[]", None),
        // The only one there to ask is this process.
        (
            "[{otlp: {endpoint: 'http://127.0.0.1:4318'}}]\nreceivers: {jaeger: {enabled: true}}",
            None,
        ),
        (
            "[{otlp: {endpoint: 'http://c'}}]\nreceivers: {jaeger: {enabled: true}}",
            Some("http://c:5778/sampling"),
        ),
    ] {
        let loaded = load(&format!("reporters: {reporters}")).unwrap_or_else(|e| panic!("{e}"));
        let printed = loaded.print();
        let found = printed.lines().find(|line| line.contains(":5778/sampling"));
        match endpoint {
            Some(endpoint) => assert!(
                found.is_some_and(|l| l.contains(endpoint)),
                "{reporters}: {found:?}"
            ),
            None => {
                assert_eq!(found, None, "{reporters}");
                let everything = sampling::constant::Config { decision: true };
                let expected = sampling::Config::Constant(everything);
                assert_eq!(loaded.config.sampling, expected, "{reporters}");
            }
        }
    }
}
