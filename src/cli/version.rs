//! What `--version` says.

use std::sync::OnceLock;

use crate::admin::Build;

/// The package's version.
pub(crate) const SHORT: &str = env!("CARGO_PKG_VERSION");

/// Version, source revision, compiler and optional parts.
pub(crate) fn long() -> &'static str {
    static LONG: OnceLock<String> = OnceLock::new();
    LONG.get_or_init(|| {
        let known =
            |text: Option<&'static str>| text.filter(|t| !t.is_empty()).unwrap_or("unknown");
        format!(
            "{SHORT}\ncommit: {}\nrustc: {}\nfeatures: none",
            known(option_env!("PILLION_BUILD_COMMIT")),
            known(option_env!("PILLION_BUILD_RUSTC")),
        )
    })
}

/// The same for the admin port and the metrics.
pub(crate) fn build() -> Build {
    let known = |text: Option<&'static str>| text.unwrap_or_default().to_owned();
    Build {
        version: SHORT.to_owned(),
        commit: known(option_env!("PILLION_BUILD_COMMIT")),
        rustc: known(option_env!("PILLION_BUILD_RUSTC")),
        features: Vec::new(),
    }
}
