//! What `--version` says.

use std::sync::OnceLock;

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
