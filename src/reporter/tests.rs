//! The table, the ledger under scripted senders, shutdown and reload.

use std::sync::Arc;

use crate::codec::tests::full_span;
use crate::model::Span;
use crate::model::SpanId;

use super::*;

/// A span whose id is this number.
pub(super) fn span(id: u64) -> Arc<Span> {
    let mut span = full_span();
    span.context.span_id = SpanId::from_u64(id).unwrap();
    Arc::new(span)
}

#[test]
fn every_example_builds_and_unknown_keys_are_refused() {
    for (name, example) in KINDS {
        let config: Config = serde_saphyr::from_str(example).unwrap_or_else(|error| {
            panic!("{name}: {error}");
        });
        assert_eq!(config.kind(), *name);
        config.check().unwrap();
        let misspelt = format!("{name}: {{ no_such_key: 1 }}");
        assert!(
            serde_saphyr::from_str::<Config>(&misspelt).is_err(),
            "{name}"
        );
        let bare = format!("{name}: {{}}");
        let config: Config = serde_saphyr::from_str(&bare).unwrap();
        config.check().unwrap();
        let printed = serde_json::to_value(&config).unwrap();
        assert_eq!(
            serde_json::from_value::<Config>(printed).unwrap(),
            config,
            "{name}"
        );
    }
}
