//! Finds the inbound request behind an outbound call.
