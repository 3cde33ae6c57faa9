//! Pillion's own logs and every metric name.

pub mod logs;
pub mod metrics;
