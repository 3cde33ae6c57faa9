//! The configuration tree: loading, checking, reloading.

mod node;
mod substitute;
mod yaml;
