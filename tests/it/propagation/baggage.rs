//! W3C Baggage, rule by rule.

use pillion::model::BaggageItem;
use pillion::model::Text;

use super::baggage_of;
use super::format;
use super::headers;
use super::lines;

#[test]
fn members_are_read_and_malformed_ones_left_out() {
    for (values, expected, is_good, why) in [
        (
            &["key1=value1"][..],
            &["key1=value1"][..],
            true,
            "one member",
        ),
        (
            &["key1=value1,key2=value2"],
            &["key1=value1", "key2=value2"],
            true,
            "two members",
        ),
        (
            &["key1 = value1 ;p1; p2=v , key2\t=\tvalue2"],
            &["key1=value1;p1; p2=v", "key2=value2"],
            true,
            "blanks and properties",
        ),
        (
            &["a=1", "b=2"],
            &["a=1", "b=2"],
            true,
            "several headers combine",
        ),
        (
            &["a=1,a=2"],
            &["a=1", "a=2"],
            true,
            "duplicate keys are no error",
        ),
        (&["A=1,a=2"], &["A=1", "a=2"], true, "keys keep their case"),
        (
            &["a=b=c"],
            &["a=b=c"],
            true,
            "values may contain an equals sign",
        ),
        (
            &["a=Am%C3%A9lie%20x"],
            &["a=Amélie x"],
            true,
            "percent-encoded UTF-8",
        ),
        (&["a=%FF"], &["a=\u{fffd}"], true, "bad UTF-8"),
        (&["a=%zz"], &["a=%zz"], true, "bad encoding stays"),
        (&["a=1+1"], &["a=1+1"], true, "a plus is a plus"),
        (&["a="], &["a="], true, "empty value"),
        (&["a=1,,b=2,"], &["a=1", "b=2"], true, "empty members"),
        (&[""], &[], true, "empty header"),
        (&["a"], &[], false, "no equals sign"),
        (&["=1"], &[], false, "empty key"),
        (&["a b=1,c=2"], &["c=2"], false, "blank inside a key"),
        (&["a(=1,c=2"], &["c=2"], false, "key is no token"),
        (&["a=x y,c=2"], &["c=2"], false, "blank inside a value"),
        (&["a=\"x\",c=2"], &["c=2"], false, "quotes"),
        (&["a=é,c=2"], &["c=2"], false, "beyond ASCII"),
        (&["a;p=1"], &[], false, "properties without a pair"),
    ] {
        let pairs: Vec<_> = values.iter().map(|value| ("baggage", *value)).collect();
        let expected: Vec<_> = expected.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(
            baggage_of("baggage", &headers(&pairs)),
            (expected, is_good),
            "{why}"
        );
    }
}

#[test]
fn limits_are_64_members_and_8192_bytes() {
    let many: Vec<_> = (0..100).map(|n| format!("k{n}=v")).collect();
    let (items, _) = baggage_of("baggage", &headers(&[("baggage", &many.join(","))]));
    assert_eq!(items.len(), 64);
    let longest = format!("a={}", "v".repeat(8190));
    let (items, _) = baggage_of("baggage", &headers(&[("baggage", &longest)]));
    assert_eq!(items, std::slice::from_ref(&longest));
    let too_long = format!("{longest}v");
    assert_eq!(
        baggage_of("baggage", &headers(&[("baggage", &too_long)])),
        (vec![], false)
    );
}

fn item(key: &str, value: &str, properties: &str) -> BaggageItem {
    BaggageItem {
        key: Text::new(key),
        value: Text::new(value),
        properties: Text::new(properties),
    }
}

#[test]
fn items_are_written_encoded_with_their_properties() {
    let items = [
        item("user-id", "Amélie & co=1+1", ""),
        item("key", "a,b;c\\d\"e%f\n", "p1;p2=v"),
        item("no token", "x", ""),
        item("", "x", ""),
        item("empty", "", ""),
    ];
    let mut written = headers(&[]);
    format("baggage").inject_baggage(&items, &mut written);
    let expected = "baggage: user-id=Am%C3%A9lie%20&%20co%3D1%2B1,\
        key=a%2Cb%3Bc%5Cd%22e%25f%0A;p1;p2=v,empty=";
    assert_eq!(lines(&written), [expected]);
    let (read, is_good) = baggage_of("baggage", &written);
    assert!(is_good);
    assert_eq!(
        read,
        [
            "user-id=Amélie & co=1+1",
            "key=a,b;c\\d\"e%f\n;p1;p2=v",
            "empty="
        ]
    );
}

#[test]
fn a_header_that_is_there_is_never_written_anew() {
    let mut written = headers(&[("baggage", "a=x+y , b"), ("baggage", "c=1")]);
    let before = written.clone();
    format("baggage").inject_baggage(&[item("a", "other", ""), item("d", "1", "")], &mut written);
    assert_eq!(written, before);
}

#[test]
fn whole_members_are_dropped_beyond_the_limits() {
    let items: Vec<_> = (0..100)
        .map(|n| item(&format!("k{n}"), &"v".repeat(200), ""))
        .collect();
    let mut written = headers(&[]);
    format("baggage").inject_baggage(&items, &mut written);
    let value = written["baggage"].to_str().unwrap();
    assert!(value.len() <= 8192);
    assert!(value.split(',').count() > 30);
    assert!(
        value.split(',').all(|member| member.len() > 200),
        "no member is cut"
    );
}
