//! What several test files share: real counterparts, helpers to reach them, the way to skip.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod apps;
pub(crate) mod collector;
pub(crate) mod echo;
pub(crate) mod frames;
pub(crate) mod http;
pub(crate) mod jaeger;
pub(crate) mod json_patch;
pub(crate) mod kafka;
pub(crate) mod kubernetes;
pub(crate) mod left;
pub(crate) mod netns;
pub(crate) mod otlp;
pub(crate) mod pillion;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod receivers;
pub(crate) mod seen;
pub(crate) mod server;
pub(crate) mod skip;
pub(crate) mod spans;
pub(crate) mod upstream;
