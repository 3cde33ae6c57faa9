//! EagleEye: numbered and placed spans, trace ids of any length, baggage.

use pillion::model::SamplingState;

use super::assert_malformed;
use super::baggage_of;
use super::headers;
use super::parent;
use super::passed_on;

/// What an ARMS agent sent.
const AGENT: [(&str, &str); 6] = [
    ("eagleeye-traceid", "eac0a8020116974429411421021d0001"),
    ("eagleeye-rpcid", "0.2.1"),
    ("eagleeye-spanid", "-1207596966212570593"),
    ("eagleeye-pspanid", "-7254661991881594415"),
    ("eagleeye-sampled", "s0"),
    ("eagleeye-pappname", "shop"),
];

#[test]
fn an_agents_headers_are_read_and_passed_on() {
    let context = parent("eagleeye", &headers(&AGENT)).unwrap();
    assert_eq!(context.trace_id.to_string(), AGENT[0].1);
    assert_eq!(context.span_id.to_u64() as i64, -7_254_661_991_881_594_415);
    assert_eq!(context.state, SamplingState::Reject);
    let written = passed_on("eagleeye", &headers(&AGENT), "7");
    for line in [
        "eagleeye-traceid: eac0a8020116974429411421021d0001",
        "eagleeye-rpcid: 0.2.1.00000000000000000007",
        "eagleeye-pspanid: 7",
        "eagleeye-sampled: s0",
    ] {
        assert!(written.contains(&line.to_owned()), "{line}: {written:?}");
    }
}

#[test]
fn older_agents_name_the_place_alone_and_ids_keep_their_length() {
    let carrier = headers(&[
        ("eagleeye-traceid", "0ad1348f1403169275002100356696"),
        ("eagleeye-rpcid", "0.1.00000000000000000009"),
    ]);
    let context = parent("eagleeye", &carrier).unwrap();
    assert_eq!(context.span_id.to_u64(), 9, "a place of ours");
    assert_eq!(context.state, SamplingState::Defer);
    let written = passed_on("eagleeye", &carrier, "7");
    assert!(written.contains(&"eagleeye-traceid: 0ad1348f1403169275002100356696".to_owned()));
    assert!(
        written.contains(&"eagleeye-rpcid: 0.1.00000000000000000007".to_owned()),
        "{written:?}"
    );
    let items = baggage_of(
        "eagleeye",
        &headers(&[("eagleeye-userdata", "a=1&b=2=3&=x")]),
    );
    assert_eq!(items, (vec!["a=1".to_owned(), "b=2=3".to_owned()], false));
}

#[test]
fn malformed_headers_are_refused() {
    assert_malformed(
        "eagleeye",
        &[
            (&[("eagleeye-traceid", "00")], "zero"),
            (
                &[("eagleeye-traceid", "1"), ("eagleeye-rpcid", "a.b")],
                "no place",
            ),
            (
                &[("eagleeye-traceid", "1"), ("eagleeye-pspanid", "x")],
                "no number",
            ),
            (
                &[("eagleeye-traceid", "1"), ("eagleeye-sampled", "x")],
                "no decision",
            ),
        ],
    );
}
