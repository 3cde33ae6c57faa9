//! Pillion's own logs and every metric name.

pub mod metrics;
