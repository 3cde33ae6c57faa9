//! The configuration tree: loading, checking, reloading.

mod decode;
mod error;
mod nearest;
mod node;
mod substitute;
mod yaml;
