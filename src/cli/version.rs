//! What `--version` says.

use std::sync::OnceLock;

use crate::admin::Build;

/// The package's version.
pub(crate) const SHORT: &str = env!("CARGO_PKG_VERSION");

/// Version, source revision, compiler and optional parts.
pub(crate) fn long() -> &'static str {
    static LONG: OnceLock<String> = OnceLock::new();
    LONG.get_or_init(|| {
        let build = Build::default();
        let or = |text: String, otherwise: &str| match text.is_empty() {
            true => otherwise.to_owned(),
            false => text,
        };
        format!(
            "{SHORT}\ncommit: {}\nrustc: {}\nfeatures: {}",
            or(build.commit, "unknown"),
            or(build.rustc, "unknown"),
            or(build.features.join(", "), "none"),
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
