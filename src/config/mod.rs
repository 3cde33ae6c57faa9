//! The configuration tree: loading, checking, reloading.
