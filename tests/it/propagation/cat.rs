//! CAT: three spellings of three message ids, and no word for the decision.

use pillion::model::SamplingState;
use pillion::model::SpanId;
use pillion::model::TraceId;

use super::assert_malformed;
use super::headers;
use super::parent;
use super::passed_on;

const ROOT: &str = "web-shop-0a010203-446677-12";
const CALLER: &str = "web-shop-0a010203-446677-13";
const CHILD: &str = "stock-0a010203-446677-1";

#[test]
fn every_spelling_is_read() {
    for names in [
        ["x-cat-root-id", "x-cat-parent-id", "x-cat-id"],
        [
            "_catrootmessageid",
            "_catparentmessageid",
            "_catchildmessageid",
        ],
    ] {
        let carrier = headers(&[(names[0], ROOT), (names[1], CALLER), (names[2], CHILD)]);
        let context = parent("cat", &carrier).unwrap();
        assert_eq!(context.trace_id, TraceId::of_text(ROOT));
        assert_eq!(context.span_id, SpanId::of_text(CALLER));
        assert_eq!(context.state, SamplingState::Defer);
        let written = passed_on("cat", &carrier, "1");
        assert!(
            written.contains(&format!("{}: {ROOT}", names[0])),
            "{written:?}"
        );
        let ours = "pillion.0000000000000001-00000000-0-0";
        assert!(
            written.contains(&format!("{}: {ours}", names[1])),
            "{written:?}"
        );
    }
    let first = parent("cat", &headers(&[("x-cat-parent-id", CALLER)])).unwrap();
    assert_eq!(first.trace_id, TraceId::of_text(CALLER), "its own root");
}

#[test]
fn malformed_headers_are_refused() {
    assert_malformed(
        "cat",
        &[
            (&[("x-cat-root-id", ROOT)], "no caller"),
            (&[("x-cat-parent-id", "a-b")], "two parts"),
            (&[("x-cat-parent-id", "-0a010203-1-2")], "no domain"),
            (&[("x-cat-parent-id", "web-xyz-1-2")], "no address"),
            (&[("x-cat-parent-id", "web-0a010203-1-x")], "no number"),
            (&[("x-cat-parent-id", "pillion.0-00000000-0-0")], "zero"),
        ],
    );
}
