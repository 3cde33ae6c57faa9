//! The configuration tree: loading, checking, reloading.
//!
//! Defaults, file, environment and flags become one tree of nodes that know where they were written; that tree is
//! decoded into [`Config`] and checked, all mistakes at once. Families own their settings; only this module knows the
//! whole. Nothing below `app` names it.

mod check;
mod decode;
mod diff;
mod env;
mod error;
mod jaeger_env;
mod kubernetes_env;
mod load;
mod nearest;
mod node;
mod otel_env;
mod print;
mod reader;
mod reference;
pub mod schema;
mod standard_env;
mod substitute;
mod tree;
mod watch;
mod yaml;

pub use diff::Change;
pub use diff::Diff;
pub use diff::diff;
pub use error::ConfigErrors;
pub use load::Loaded;
pub use load::Setting;
pub use load::Sources;
pub use load::load;
pub use reference::reference;
pub use schema::Reload;
pub use tree::Config;
pub use tree::Shutdown;
pub use watch::Answer;
pub use watch::Cause;
pub use watch::Event;
pub use watch::Trigger;
pub use watch::Watch;
pub use watch::watch;
