//! Names, labels, caps, guards, and what Prometheus' own linter says.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

/// A recorder with every handle made and used once.
fn everything() -> Metrics {
    let metrics = Metrics::new();
    for direction in Direction::ALL {
        let traffic = metrics.traffic(*direction);
        drop(traffic.active.enter());
        traffic.added.record(0.000_2);
        metrics.server(*direction).detected.count(Detected::Http1);
        metrics.pool(*direction).connect_duration.record(0.001);
        for peer in Peer::ALL {
            drop(metrics.connections(*direction, *peer).open());
            metrics.tls(*peer).handshakes.count(Outcome::Success);
        }
    }
    metrics.spans().started.increment(1);
    metrics
        .reporter("otlp", &["queue_full"])
        .duration
        .record(0.1);
    drop(metrics.spool("otlp"));
    metrics
        .links(&["single"])
        .count("single", LinkOutcome::Exact);
    metrics
        .propagation(&["b3", "jaeger"])
        .conflicts
        .increment(1);
    metrics.receivers().clients.set(1.0);
    metrics.client("a").lose(LossCause::FullQueue, 1);
    metrics.sampler(&["const"]).decided("const", true);
    metrics.config().set_ready(true);
    metrics.logs().suppressed.increment(3);
    metrics.injector();
    metrics.build_info(&[("version", "0.1.0")]);
    metrics
        .requests()
        .record(&labels(), Duration::from_millis(7));
    metrics
}

fn labels() -> RequestLabels {
    RequestLabels {
        direction: Direction::Inbound,
        method: Method::Get,
        route: RouteId::NONE,
        status: Some(http::StatusCode::OK),
        version: Version::Http11,
        error: None,
    }
}

/// The value of the series that is written exactly like this.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let rendered = metrics.render();
    let line = rendered
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().unwrap())
}

#[test]
fn every_family_is_named_as_prometheus_wants_it() {
    let mut names = BTreeSet::new();
    for family in FAMILIES {
        let name = family.name;
        assert!(names.insert(name), "{name} twice");
        assert!(name.starts_with("pillion_"), "{name}");
        assert!(
            name.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
            "{name}"
        );
        assert_eq!(
            name.ends_with("_total"),
            family.kind == Kind::Counter,
            "{name}"
        );
        assert!(
            family.help.ends_with('.') && !family.help.contains('\n'),
            "{name}"
        );
        if let Kind::Histogram(buckets) = family.kind {
            assert!(
                name.ends_with("_seconds") || name.ends_with("_bytes"),
                "{name}"
            );
            assert!(!buckets.is_empty(), "{name}");
            assert!(buckets.is_sorted_by(|a, b| a < b), "{name}: {buckets:?}");
        }
    }
}

#[test]
fn every_family_is_exported_with_help_and_type() {
    let rendered = everything().render();
    for family in FAMILIES {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let header = format!(
            "# HELP {0} {1}\n# TYPE {0} {kind}\n{0}",
            family.name, family.help
        );
        assert!(rendered.contains(&header), "{header}\n{rendered}");
    }
}

#[test]
fn rendering_is_sorted_and_stable() {
    let metrics = everything();
    // The process_* values move; everything else must not.
    let own = || {
        metrics
            .render()
            .lines()
            .filter(|line| line.contains("pillion_"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(own(), own());
    let families: Vec<_> = own()
        .iter()
        .filter_map(|line| line.strip_prefix("# TYPE ").map(str::to_owned))
        .collect();
    assert!(families.is_sorted(), "{families:?}");
    let closed: Vec<_> = own()
        .into_iter()
        .filter(|line| line.starts_with("pillion_connections_closed_total"))
        .collect();
    assert!(closed.len() > 8 && closed.is_sorted(), "{closed:?}");
}

#[test]
fn a_histograms_buckets_stay_in_the_order_of_their_bounds() {
    let rendered = everything().render();
    let bounds: Vec<f64> = rendered
        .lines()
        .filter(|line| line.starts_with("pillion_http_request_duration_seconds_bucket"))
        .filter_map(|line| line.split("le=\"").nth(1)?.split('"').next()?.parse().ok())
        .collect();
    assert_eq!(bounds.len(), 15, "{rendered}");
    assert!(bounds.is_sorted(), "{bounds:?}");
}

#[test]
fn two_recorders_in_one_process_do_not_meet() {
    let (one, other) = (Metrics::new(), Metrics::new());
    one.spans().started.increment(2);
    other.spans().started.increment(5);
    assert_eq!(value(&one, "pillion_spans_started_total"), Some(2.0));
    assert_eq!(value(&other, "pillion_spans_started_total"), Some(5.0));
}

#[test]
fn requests_are_counted_under_their_labels() {
    let metrics = Metrics::new();
    let requests = metrics.requests();
    let route = metrics.route("/users/{id}");
    assert_eq!(metrics.route("/users/{id}"), route);
    let failed = RequestLabels {
        route,
        status: Some(http::StatusCode::BAD_GATEWAY),
        error: Some(ErrorType::Status),
        ..labels()
    };
    requests.record(&labels(), Duration::from_millis(7));
    requests.record(&failed, Duration::from_millis(7));
    requests.record(&failed, Duration::from_millis(7));
    // Another worker counts into the same series.
    metrics.requests().record(&failed, Duration::from_millis(7));
    let unanswered = RequestLabels {
        status: None,
        error: Some(ErrorType::Connect),
        ..labels()
    };
    requests.record(&unanswered, Duration::ZERO);

    let common = r#"direction="inbound",http_request_method="GET",network_protocol_version="1.1""#;
    for (rest, count) in [
        (r#",http_response_status_code="200""#, 1.0),
        (
            r#",http_route="/users/{id}",http_response_status_code="502",error_type="502""#,
            3.0,
        ),
        (r#",error_type="connect""#, 1.0),
    ] {
        for family in [
            "pillion_http_requests_total",
            "pillion_http_request_duration_seconds_count",
        ] {
            let series = format!("{family}{{{common}{rest}}}");
            assert_eq!(
                value(&metrics, &series),
                Some(count),
                "{series}\n{}",
                metrics.render()
            );
        }
    }
}

#[test]
fn series_and_routes_beyond_their_caps_are_counted_as_other() {
    let metrics = Metrics::new();
    let requests = metrics.requests();
    for i in 0..520 {
        metrics.route(&format!("/r{i}"));
    }
    assert_eq!(metrics.route("/one-more"), RouteId::OTHER);
    assert_ne!(metrics.route("/r0"), RouteId::OTHER, "already in the table");
    assert_eq!(
        value(&metrics, "pillion_http_route_overflow_total"),
        Some(21.0)
    );

    let mut sent = 0;
    for i in 0..500 {
        for method in [
            Method::Get,
            Method::Put,
            Method::Post,
            Method::Head,
            Method::Other,
        ] {
            let route = metrics.route(&format!("/r{i}"));
            let labels = RequestLabels {
                method,
                route,
                ..labels()
            };
            requests.record(&labels, Duration::ZERO);
            sent += 1;
        }
    }
    assert_eq!(
        value(&metrics, "pillion_http_series_overflow_total"),
        Some(500.0)
    );
    let rendered = metrics.render();
    let counted: Vec<f64> = rendered
        .lines()
        .filter(|line| line.starts_with("pillion_http_requests_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(counted.len(), 2_001);
    assert_eq!(counted.iter().sum::<f64>(), f64::from(sent));
}

#[test]
fn packed_labels_do_not_collide() {
    let mut seen = BTreeSet::new();
    let mut made = 0;
    for direction in Direction::ALL {
        for method in Method::ALL {
            for version in Version::ALL {
                for status in [None, Some(100), Some(200), Some(599), Some(999)] {
                    for error in [None, Some(ErrorType::Connect), Some(ErrorType::Internal)] {
                        seen.insert(requests::pack(&RequestLabels {
                            direction: *direction,
                            method: *method,
                            route: RouteId::OTHER,
                            status: status.map(|s| http::StatusCode::from_u16(s).unwrap()),
                            version: *version,
                            error,
                        }));
                        made += 1;
                    }
                }
            }
        }
    }
    assert_eq!(seen.len(), made);
}

#[test]
fn ledgers_are_published_as_they_stand() {
    let metrics = Metrics::new();
    let reporter = metrics.reporter("otlp", &["queue_full", "rejected"]);
    let publish = |accepted, full| {
        reporter.publish_ledger(&ReporterLedger {
            accepted,
            exported: 4,
            dropped: &[("queue_full", full), ("unheard_of", 2)],
            queued: 3,
            capacity: 100,
            attempts: 6,
            failures: 1,
            panics: 0,
        });
    };
    publish(10, 1);
    publish(12, 3);
    for (series, expected) in [
        (
            r#"pillion_reporter_spans_accepted_total{reporter="otlp"}"#,
            12.0,
        ),
        (
            r#"pillion_reporter_spans_exported_total{reporter="otlp"}"#,
            4.0,
        ),
        (
            r#"pillion_reporter_spans_dropped_total{reporter="otlp",reason="queue_full"}"#,
            3.0,
        ),
        (
            r#"pillion_reporter_spans_dropped_total{reporter="otlp",reason="rejected"}"#,
            0.0,
        ),
        (
            r#"pillion_reporter_spans_dropped_total{reporter="otlp",reason="_other"}"#,
            2.0,
        ),
        (r#"pillion_reporter_queue_spans{reporter="otlp"}"#, 3.0),
        (
            r#"pillion_reporter_queue_capacity_spans{reporter="otlp"}"#,
            100.0,
        ),
    ] {
        assert_eq!(value(&metrics, series), Some(expected), "{series}");
    }
}

#[test]
fn guards_count_in_and_out() {
    let metrics = Metrics::new();
    let connections = metrics.connections(Direction::Inbound, Peer::Downstream);
    let active = r#"pillion_connections_active{direction="inbound",peer="downstream"}"#;
    let mut one = connections.open();
    let other = connections.open();
    assert_eq!(value(&metrics, active), Some(2.0));
    one.reason = CloseReason::Idle;
    drop(one);
    drop(other);
    assert_eq!(value(&metrics, active), Some(0.0));
    for (reason, count) in [("idle", 1.0), ("peer", 1.0), ("drain", 0.0)] {
        let series = format!(
            "pillion_connections_closed_total{{direction=\"inbound\",peer=\"downstream\",reason=\"{reason}\"}}"
        );
        assert_eq!(value(&metrics, &series), Some(count), "{reason}");
    }
}

#[test]
fn a_failed_reload_keeps_the_time_of_the_last_good_one() {
    let metrics = Metrics::new();
    let config = metrics.config();
    config.loaded(Duration::from_secs(100));
    config.reloaded(Outcome::Failure, Duration::from_secs(200));
    let time = "pillion_config_last_reload_success_timestamp_seconds";
    assert_eq!(
        value(&metrics, "pillion_config_last_reload_successful"),
        Some(0.0)
    );
    assert_eq!(value(&metrics, time), Some(100.0));
    config.reloaded(Outcome::Success, Duration::from_secs(300));
    assert_eq!(value(&metrics, time), Some(300.0));
}

/// Asks Prometheus' own linter, where it is installed.
#[test]
fn promtool_has_nothing_to_say() {
    use std::io::Write;
    use std::process::Command;
    use std::process::Stdio;

    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: promtool is not installed");
        return;
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(everything().render().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
