//! Starts and finishes spans.
