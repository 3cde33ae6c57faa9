//! SkyWalking: an agent's header becomes a parent, ours names the service, texts survive, correlation is baggage.

use http::HeaderMap;

use pillion::codec::skywalking::Reference;
use pillion::model::BaggageItem;
use pillion::propagation::Caller;
use pillion::propagation::Config;
use pillion::propagation::Propagator;

use super::assert_malformed;
use super::baggage_of;
use super::format;
use super::headers;
use super::parent;

/// Trace `a.b.c`, segment `d.e.f`, span 3, service `s`, instance `i`, endpoint `/e`, peer `p:1`.
const TEXTS: &str = "1-YS5iLmM=-ZC5lLmY=-3-cw==-aQ==-L2U=-cDox";

#[test]
fn a_trace_named_by_text_leaves_under_its_name() {
    let propagator = Propagator::new(&Config::from_list("skywalking").0).with_caller(Caller {
        service: "orders".into(),
        instance: "orders-7".into(),
    });
    let answer = propagator.extract(&headers(&[("sw8", TEXTS)]));
    let mut context = answer.extracted.parent.unwrap();
    let caller = context.span_id;
    context.span_id = caller.successor();
    let mut outgoing = headers(&[("host", "stock:8080")]);
    propagator.inject(&context, &mut outgoing);
    let written = Reference::parse(outgoing["sw8"].to_str().unwrap()).unwrap();
    assert_eq!(written.trace, "a.b.c");
    assert_eq!(
        (written.service.as_str(), written.instance.as_str()),
        ("orders", "orders-7")
    );
    assert_eq!(written.peer, "stock:8080");
    assert_eq!(written.endpoint, "/e", "what the program passed on");
    let read_back = propagator.extract(&outgoing).extracted.parent.unwrap();
    assert_eq!(read_back.trace_id, context.trace_id);
    assert_eq!(
        read_back.span_id, context.span_id,
        "ours are told by their segment"
    );
}

#[test]
fn no_field_is_ever_empty() {
    let mut written = HeaderMap::new();
    format("skywalking").inject(
        &super::context(super::TRACE, super::SPAN, super::SamplingState::Reject),
        &mut written,
    );
    let reference = Reference::parse(written["sw8"].to_str().unwrap()).unwrap();
    assert!(!reference.sampled);
    for text in [
        reference.service,
        reference.instance,
        reference.endpoint,
        reference.peer,
    ] {
        assert!(!text.is_empty());
    }
}

#[test]
fn correlation_holds_three_short_items() {
    let carrier = headers(&[("sw8-correlation", "dXNlcg==:YSBi,a2V5:,bad,")]);
    let items = vec!["user=a b".to_owned(), "key=".to_owned()];
    assert_eq!(baggage_of("skywalking", &carrier), (items, false));
    assert_eq!(
        baggage_of("skywalking", &headers(&[("sw8-correlation", "")])),
        (vec![], true)
    );

    let item = |key: &str, value: &str| BaggageItem {
        key: key.into(),
        value: value.into(),
        properties: Default::default(),
    };
    let long = "x".repeat(128);
    let items = [
        item("a", "1"),
        item("long", &long),
        item("b", "2"),
        item("c", "é"),
        item("d", "4"),
    ];
    let mut written = headers(&[("sw8-correlation", "")]);
    format("skywalking").inject_baggage(&items, &mut written);
    assert_eq!(written["sw8-correlation"], "YQ==:MQ==,Yg==:Mg==,Yw==:w6k=");
}

#[test]
fn malformed_headers_are_refused() {
    assert!(
        parent("skywalking", &headers(&[("sw8", "")])).is_none(),
        "empty is absent"
    );
    assert_malformed(
        "skywalking",
        &[
            (&[("sw8", "1-YQ==")], "two fields"),
            (&[("sw8", TEXTS), ("sw8", TEXTS)], "twice"),
            (
                &[(
                    "sw8",
                    "1-MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA=-YQ==-0-cw==-aQ==-ZQ==-cA==",
                )],
                "zero trace",
            ),
        ],
    );
}
