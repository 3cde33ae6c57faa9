//! Tests of the store: caps, eviction, search order.
