//! The data path: inbound, outbound, upstream connections.
