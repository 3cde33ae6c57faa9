//! `OTEL_*` and `JAEGER_*`: the variables that programs in this field are configured with.

use std::collections::BTreeMap;

use crate::config::error::Problem;
use crate::config::node::Node;

/// Applies the variables to the tree and returns what is wrong with them.
pub(crate) fn apply(_tree: &mut Node, _env: &BTreeMap<String, String>) -> Vec<Problem> {
    Vec::new()
}
