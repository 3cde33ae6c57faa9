//! Matching and reservoirs by the clock; the service itself is scripted in `tests/it/xray_sampling.rs`.

use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Uri;

use super::*;

fn rule(name: &str, priority: i64, reservoir_size: i64, share: f64) -> Found {
    Found {
        name: name.to_owned(),
        priority,
        share: Probability::new(share).unwrap(),
        reservoir_size,
        host: "*".to_owned(),
        method: "*".to_owned(),
        path: "*".to_owned(),
        service: "*".to_owned(),
        service_type: "*".to_owned(),
    }
}

fn following(rules: Vec<Found>) -> (XRay, Fetched) {
    let sampler = XRay::new("shop", "");
    let fetched = Fetched {
        here: sampler.epoch,
        there: 1_000_000.0,
    };
    sampler.load(rules, fetched);
    (sampler, fetched)
}

/// How many of ten traces with ids that no share below one takes are sampled.
fn of_ten(sampler: &XRay, now: Instant) -> usize {
    let unlikely = TraceId::from_halves(0, u64::MAX >> 1).unwrap();
    (0..10)
        .filter(|_| sampler.sample(unlikely, "GET", now).sampled)
        .count()
}

#[test]
fn patterns_match_as_in_the_sdks() {
    for (pattern, text, expected) in [
        ("*", "anything", true),
        ("", "", true),
        ("", "a", false),
        ("a?c", "aBc", true),
        ("a?c", "ac", false),
        ("/api/*", "/api/move/up", true),
        ("/api/*", "/apix", false),
        ("*.example.com", "SHOP.example.COM", true),
        ("*a*b*c", "xxaxxbxxc", true),
        ("*a*b*c", "xxaxxbxx", false),
        ("a**", "a", true),
        ("?*", "a", true),
        ("*?", "abc", true),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
    }
}

#[test]
fn a_pattern_of_stars_takes_no_longer_than_its_length_times_the_texts() {
    let (pattern, text) = (format!("{}b", "*a".repeat(64)), "a".repeat(8_000));
    let start = Instant::now();
    assert!(!matches(&pattern, &text));
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn the_first_rule_by_priority_and_name_that_matches_decides() {
    let mut moves = rule("moves", 10, 0, 1.0);
    moves.path = "/api/move/*".to_owned();
    moves.method = "post".to_owned();
    let mut others = rule("others", 5, 0, 1.0);
    others.service = "warehouse".to_owned();
    let mut hosts = rule("hosts", 10, 0, 0.0);
    hosts.host = "*.example.com".to_owned();
    let (sampler, _) = following(vec![rule("Default", 10_000, 0, 0.0), moves, others, hosts]);
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("shop.example.com"));
    let count = |name: &str| {
        let rules = sampler.rules.load();
        let rule = rules.rules.iter().find(|rule| rule.order.1 == name);
        rule.unwrap().counts.requests.load(Ordering::Relaxed)
    };
    let (named, nameless) = (headers, HeaderMap::new());
    for (method, uri, headers, decides) in [
        (Method::POST, "/api/move/up?x=1", &named, "hosts"),
        (Method::POST, "/api/move/up", &nameless, "hosts"),
        (Method::POST, "http://other/api/move/up", &named, "moves"),
        (Method::GET, "http://other/api/move/up", &named, "Default"),
        (Method::POST, "http://other/api", &named, "Default"),
    ] {
        let before = count(decides);
        let uri: Uri = uri.parse().unwrap();
        let request = Head {
            method: &method,
            uri: &uri,
            headers,
        };
        let trace_id = TraceId::from_halves(0, 5).unwrap();
        sampler.sample_request(trace_id, "x", request, sampler.epoch);
        assert_eq!(count(decides), before + 1, "{method} {uri}");
    }
    assert_eq!(count("others"), 0, "another service's");
}

#[test]
fn a_reservoir_lends_one_a_second_until_there_is_a_grant_and_again_after_it() {
    let (sampler, fetched) = following(vec![rule("Default", 10_000, 5, 0.0)]);
    let t0 = sampler.epoch;
    let at = |seconds: f64| t0 + Duration::from_secs_f64(seconds);
    assert_eq!((of_ten(&sampler, t0), of_ten(&sampler, at(0.9))), (1, 0));
    assert_eq!(of_ten(&sampler, at(1.0)), 1, "the next second");
    let mut target = Target {
        name: "Default".to_owned(),
        share: None,
        quota: Some(3),
        until: Some(fetched.there + 10.0),
    };
    sampler.grant(&[target.clone()], fetched);
    assert_eq!(of_ten(&sampler, at(2.0)), 3, "granted");
    assert_eq!(of_ten(&sampler, at(2.5)), 0, "spent");
    assert_eq!(of_ten(&sampler, at(10.0)), 3, "to the end");
    assert_eq!(of_ten(&sampler, at(11.0)), 1, "borrowed again");
    target.quota = Some(0);
    target.until = Some(fetched.there + 60.0);
    sampler.grant(&[target.clone()], fetched);
    assert_eq!(of_ten(&sampler, at(12.0)), 0, "a grant of none is one");
    target.share = Some(Probability::ONE);
    (target.quota, target.until) = (None, None);
    sampler.grant(&[target], fetched);
    assert_eq!(of_ten(&sampler, at(13.0)), 10, "by share alone");
    let rules = sampler.rules.load();
    let counts = &rules.rules[0].counts;
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    assert_eq!(read(&counts.requests), 90);
    assert_eq!((read(&counts.sampled), read(&counts.borrowed)), (16, 3));
}

#[test]
fn without_a_reservoir_nothing_is_borrowed() {
    let (sampler, _) = following(vec![rule("Default", 10_000, 0, 0.0)]);
    assert_eq!(of_ten(&sampler, sampler.epoch), 0);
}

#[test]
fn rules_that_stay_keep_their_grants_and_counts() {
    let (sampler, fetched) = following(vec![rule("Default", 10_000, 5, 0.0)]);
    let target = Target {
        name: "Default".to_owned(),
        share: None,
        quota: Some(2),
        until: Some(fetched.there + 100.0),
    };
    sampler.grant(&[target], fetched);
    assert_eq!(of_ten(&sampler, sampler.epoch), 2);
    sampler.load(
        vec![rule("Default", 10_000, 5, 0.0), rule("new", 20_000, 0, 1.0)],
        fetched,
    );
    assert_eq!(of_ten(&sampler, sampler.epoch), 0, "spent before");
    let rules = sampler.rules.load();
    assert_eq!(rules.rules[0].counts.requests.load(Ordering::Relaxed), 20);
}

#[test]
fn without_rules_or_an_hour_after_the_last_the_sdks_own_rule_decides() {
    let sampler = XRay::new("shop", "");
    assert_eq!(of_ten(&sampler, sampler.epoch), 1);
    let (sampler, _) = following(vec![rule("Default", 10_000, 0, 1.0)]);
    let hour = Duration::from_secs(3600);
    assert_eq!(of_ten(&sampler, sampler.epoch + hour), 10);
    assert_eq!(of_ten(&sampler, sampler.epoch + hour + hour), 1);
}

#[test]
fn answers_are_read_and_rules_of_other_kinds_left_out() {
    let page = parse_rules(include_bytes!(
        "../../../tests/data/xray/sampling-rules.json"
    ))
    .unwrap();
    let names: Vec<_> = page.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["Default", "checkout"]);
    assert_eq!(page.next, None);
    let targets = parse_targets(include_bytes!(
        "../../../tests/data/xray/sampling-targets.json"
    ))
    .unwrap();
    assert_eq!(targets.modified, Some(1_794_000_000.0));
    assert_eq!(targets.targets[0].quota, Some(4));
    for (body, why) in [
        ("", "nothing"),
        ("[]", "no object"),
        (r#"{"SamplingRuleRecords":[{}]}"#, "no rule"),
        (r#"{"message":"Signature expired"}"#, "an error"),
    ] {
        assert!(parse_rules(body.as_bytes()).is_err(), "{why}");
    }
    let twice = r#"{"SamplingTargetDocuments":[{"RuleName":"a","FixedRate":2}]}"#;
    assert!(parse_targets(twice.as_bytes()).is_err(), "above one");
}
