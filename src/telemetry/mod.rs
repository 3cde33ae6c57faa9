//! Pillion's own logs and every metric name.
