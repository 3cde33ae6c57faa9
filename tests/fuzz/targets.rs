//! One function for every parser of foreign bytes: it may refuse its input, but never panic, hang or take much memory.
//!
//! Adding one: its function below, its row in [`TARGETS`], a folder `corpus/{name}` with at least one input that is
//! accepted. The fuzzer (`fuzz_targets/target.rs`) and the test suite (`tests/it/fuzz_corpus.rs`) both walk the table.
//! An input that once crashed stays in the corpus.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

use pillion::propagation::Config;
use pillion::propagation::FORMATS;
use pillion::propagation::Propagator;

/// A parser under test.
pub(crate) struct Target {
    /// The folder of its corpus.
    pub(crate) name: &'static str,
    /// Feeds the parser; panics when an invariant breaks.
    pub(crate) run: fn(&[u8]),
}

/// Every parser, sorted by name.
pub(crate) static TARGETS: &[Target] = &[
    Target {
        name: "propagation",
        run: propagation,
    },
    Target {
        name: "propagation_config",
        run: propagation_config,
    },
];

/// Lines `name: value` become headers; what is read must survive being written.
fn propagation(data: &[u8]) {
    let mut headers = header_block(data);
    let names: Vec<_> = FORMATS.iter().map(|format| format.name()).collect();
    let (config, _) = Config::from_list(&names.join(","));
    let propagator = Propagator::new(&config);
    let first = propagator.extract(&headers);
    let Some(parent) = first.extracted.parent else {
        return;
    };
    propagator.inject(&parent, &mut headers);
    let second = propagator.extract(&headers);
    assert!(!second.conflict, "own headers disagree: {headers:?}");
    let read_back = second.extracted.parent.expect("own headers are readable");
    assert_eq!(
        (read_back.trace_id, read_back.span_id),
        (parent.trace_id, parent.span_id)
    );
    assert_eq!(read_back.state.is_sampled(), parent.state.is_sampled());
    assert_eq!(read_back.trace_state, parent.trace_state);
}

/// The list in `OTEL_PROPAGATORS`.
fn propagation_config(data: &[u8]) {
    let (config, unknown) = Config::from_list(&String::from_utf8_lossy(data));
    for error in unknown {
        assert!(!error.to_string().is_empty());
    }
    assert!(config.inject.len() <= FORMATS.len());
}

/// Reads `name: value` lines into headers and skips what no HTTP library would let through.
fn header_block(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(256) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}
