//! Mistakes and what is said about them, one row a mistake.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::config::yaml;
use crate::model::HostPort;
use crate::model::HumanDuration;

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    text: String,
    small: u8,
    count: usize,
    ratio: f64,
    on: bool,
    wait: Option<HumanDuration>,
    words: Vec<String>,
    named: BTreeMap<String, String>,
    places: Vec<Pair>,
    inner: Option<Inner>,
    choice: Choice,
    many: Vec<Choice>,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Inner {
    depth: u32,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    from: HostPort,
    to: HostPort,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Choice {
    #[default]
    Never,
    Deep(Inner),
}

fn decoded(text: &str) -> Decoded<Sample> {
    decode(yaml::parse(text).unwrap())
}

fn value(text: &str) -> Sample {
    let decoded = decoded(text);
    assert_eq!(decoded.problems, [], "{text}");
    decoded.value.unwrap()
}

#[test]
fn what_is_written_arrives() {
    let sample = value("text: 1.10\nsmall: 255\nratio: 1e-3\non: true\nwait: 5s\nwords: [1, b]\n");
    assert_eq!(sample.text, "1.10", "as written, not as a number");
    assert_eq!((sample.small, sample.ratio, sample.on), (255, 0.001, true));
    assert_eq!(sample.wait, Some(HumanDuration::from_secs(5)));
    assert_eq!(sample.words, ["1", "b"]);
    for (text, expected) in [
        ("choice: never", Choice::Never),
        ("choice: deep", Choice::Deep(Inner { depth: 0 })),
        ("choice: {deep: }", Choice::Deep(Inner { depth: 0 })),
        (
            "choice: {deep: {depth: 3}}",
            Choice::Deep(Inner { depth: 3 }),
        ),
    ] {
        assert_eq!(value(text).choice, expected, "{text}");
    }
    for nothing in [
        "",
        "text:\nwords:\ninner: ~\nchoice:\nnamed: {a: }\nplaces:",
    ] {
        assert_eq!(value(nothing), Sample::default(), "{nothing:?}");
    }
}

#[test]
fn each_mistake_has_its_message_path_and_place() {
    for (text, message, path, line_column, help) in [
        (
            "txet: a",
            "unknown key `txet`",
            "txet",
            (1, 1),
            "did you mean `text`?",
        ),
        (
            "Text: a",
            "unknown key `Text`",
            "Text",
            (1, 1),
            "did you mean `text`?",
        ),
        (
            "inner:\n  zzz: 1",
            "unknown key `zzz` in `inner`",
            "inner.zzz",
            (2, 3),
            "known here: depth",
        ),
        (
            "text: [a]",
            "expected a text, found a list",
            "text",
            (1, 1),
            "",
        ),
        (
            "text: {a: 1}",
            "expected a text, found a mapping",
            "text",
            (1, 1),
            "",
        ),
        ("small: 256", "256 is outside 0 to 255", "small", (1, 8), ""),
        ("small: -1", "-1 is outside 0 to 255", "small", (1, 8), ""),
        ("count: -1", "-1 is below 0", "count", (1, 8), ""),
        (
            "small: '1'",
            "expected a whole number, found the text \"1\"",
            "small",
            (1, 8),
            "remove the quotes",
        ),
        (
            "small: 1.5",
            "expected a whole number, found the number 1.5",
            "small",
            (1, 8),
            "",
        ),
        (
            "ratio: lots",
            "expected a number, found the text \"lots\"",
            "ratio",
            (1, 8),
            "",
        ),
        (
            "ratio: .inf",
            "expected a number, found the text \".inf\"",
            "ratio",
            (1, 8),
            "",
        ),
        (
            "on: yes",
            "expected `true` or `false`, found the text \"yes\"",
            "on",
            (1, 5),
            "",
        ),
        (
            "on: 1",
            "expected `true` or `false`, found the number 1",
            "on",
            (1, 5),
            "",
        ),
        (
            "words: a",
            "expected a list, found the text \"a\"",
            "words",
            (1, 8),
            "write [a]",
        ),
        (
            "words: [[a]]",
            "expected a text, found a list",
            "words[0]",
            (1, 9),
            "",
        ),
        (
            "named: [a]",
            "expected a mapping of `key: value` lines, found a list",
            "named",
            (1, 1),
            "",
        ),
        (
            "inner: 5",
            "expected a mapping of `key: value` lines, found the number 5",
            "inner",
            (1, 8),
            "known here: depth",
        ),
        (
            "choice: nevr",
            "`nevr` is not one of `never` or `deep`",
            "choice",
            (1, 9),
            "did you mean `never`?",
        ),
        (
            "choice: {deep: 1}",
            "expected a mapping of `key: value` lines, found the number 1",
            "choice.deep",
            (1, 16),
            "known here: depth",
        ),
        (
            "choice: {never: 1}",
            "`never` takes no settings, found the number 1",
            "choice.never",
            (1, 17),
            "",
        ),
        (
            "choice: {never: , deep: }",
            "`never` and `deep` exclude each other: write one of `never` or `deep`",
            "choice",
            (1, 19),
            "",
        ),
        (
            "choice: {}",
            "expected one of `never` or `deep`",
            "choice",
            (1, 1),
            "",
        ),
        (
            "many: [never, {deeep: {}}]",
            "`deeep` is not one of `never` or `deep`",
            "many[1]",
            (1, 16),
            "did you mean `deep`?",
        ),
        (
            "places: [{from: a:1}]",
            "`to` is missing",
            "places[0]",
            (1, 10),
            "",
        ),
        (
            "wait: 5",
            "\"5\" is not a duration: write a number with a unit, such as 250ms, 10s or 1m30s",
            "wait",
            (1, 7),
            "",
        ),
    ] {
        let found = decoded(text);
        let [problem] = found.problems.as_slice() else {
            panic!("{text:?}: {:?}", found.problems);
        };
        assert_eq!(problem.message, message, "{text:?}");
        assert_eq!(problem.path.to_string(), path, "{text:?}");
        assert_eq!(problem.help.as_deref().unwrap_or(""), help, "{text:?}");
        let Some(Origin::File(place)) = &problem.origin else {
            panic!("{text:?}: {:?}", problem.origin);
        };
        assert_eq!((place.line, place.column), line_column, "{text:?}");
        assert!(found.value.is_some(), "{text:?}: the rest is decoded");
    }
}

#[test]
fn one_mistake_does_not_hide_or_cause_another() {
    let found = decoded(
        "places:\n  - {from: nowhere, to: b:1}\n  - {from: a:1, to: b}\n  - {from: a:1, to: b:1}\n\
         choice: {deep: {depth: x}}\nmany: [{deep: 3}, deep]\nsmall: 7\n",
    );
    let paths: Vec<String> = found.problems.iter().map(|p| p.path.to_string()).collect();
    assert_eq!(
        paths,
        [
            "places[0].from",
            "places[1].to",
            "choice.deep.depth",
            "many[0].deep"
        ]
    );
    let sample = found.value.unwrap();
    assert_eq!(sample.places.len(), 1);
    assert_eq!(sample.many, [Choice::Deep(Inner { depth: 0 })]);
    assert_eq!(sample.small, 7);
}

#[test]
fn looking_for_mistakes_ends() {
    let text: String = (0..500).map(|n| format!("unknown{n}: 1\n")).collect();
    assert_eq!(decoded(&text).problems.len(), MAX_PROBLEMS);
}

#[test]
fn what_a_reference_stood_for_is_not_shown() {
    let mut tree = yaml::parse("small: ${SECRET}").unwrap();
    let env = [("SECRET".to_owned(), "hunter2".to_owned())].into();
    assert_eq!(crate::config::substitute::substitute(&mut tree, &env), []);
    let found = decode::<Sample>(tree);
    assert_eq!(
        found.problems[0].message,
        "expected a whole number, found the text \"${SECRET}\""
    );
}
