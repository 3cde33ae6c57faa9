//! stub

pub(super) const NAMES: &[&str] = &[];
