//! What an operator chooses for all pods; annotations of a pod choose otherwise.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use super::annotations;
use super::quantity::Resources;
use crate::model::HostPort;
use crate::net::tls::ServerConfig;

/// The injector. Only `pillion injector` looks at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the API server calls.
    ///
    /// Default: `0.0.0.0:15643`. Reload: restart.
    pub listen: HostPort,
    /// The certificate to show to the API server; it must be for the name `SERVICE.NAMESPACE.svc`. Setting
    /// `client_ca_file` lets nobody but the API server in.
    pub tls: ServerConfig,
    /// The image of the sidecar.
    ///
    /// Default: `pillion` in the version of this program. Reload: live.
    pub image: String,
    /// The image that redirects connections: `image` with nft beside it.
    ///
    /// Default: `image`, its tag followed by `-redirect`. Reload: live.
    pub redirect_image: Option<String>,
    /// When nodes fetch the images. Absent: as Kubernetes does by default.
    ///
    /// Default: none. Reload: live.
    pub image_pull_policy: Option<PullPolicy>,
    /// Start the sidecar as an init container that stays (`restartPolicy: Always`, Kubernetes 1.29 and later): it starts
    /// before the program, ends after it, and lets Jobs complete. `false`: as a container like others.
    ///
    /// Default: `true`. Reload: live.
    pub native_sidecar: bool,
    /// Redirect the connections of pods. `false`: programs get `HTTP_PROXY` instead, and Services must name the port
    /// `pillion-in`.
    ///
    /// Default: `true`. Reload: live.
    pub redirect: bool,
    /// What the sidecar may do.
    ///
    /// Default: `restricted`. Reload: live.
    pub capabilities: Capabilities,
    /// User and group of the sidecar: one that no program has, since what this user sends is not redirected.
    ///
    /// Unit: number of a user. Default: `15606`. Reload: live.
    #[schemars(range(min = 1))]
    pub user: u32,
    /// Variables of every sidecar: where spans go, and any other setting. `$(NAME)` in a value stands for another
    /// variable, such as `POD_NAME`.
    ///
    /// Unit: text by variable. Default: none. Reload: live.
    pub env: BTreeMap<String, String>,
    /// What the sidecar asks for and may use.
    pub resources: Resources,
    /// Ports and ranges that are not redirected, as what arrives goes.
    ///
    /// Default: none. Reload: live.
    pub exclude_inbound_ports: Vec<String>,
    /// Ports and ranges that are not redirected, as what leaves goes.
    ///
    /// Default: none. Reload: live.
    pub exclude_outbound_ports: Vec<String>,
    /// Networks that are not redirected, as what leaves goes.
    ///
    /// Default: none. Reload: live.
    pub exclude_outbound_cidrs: Vec<String>,
}

/// What a sidecar may do beyond what every container may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capabilities {
    /// Nothing: all capabilities dropped, not root.
    #[default]
    Restricted,
    /// Kernel evidence for links: root with `BPF`, `PERFMON` and `SYS_PTRACE` alone.
    Bpf,
}

/// When nodes fetch an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// Each time a container starts.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`injector.{key}`: {reason}")]
pub struct ConfigError {
    /// The key below `injector`.
    pub key: &'static str,
    /// What is wrong.
    pub reason: String,
}

impl Config {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let checked =
            |key, result: Result<(), String>| result.map_err(|reason| ConfigError { key, reason });
        let image = |image: &str| annotations::image(image).map(drop);
        checked("image", image(&self.image))?;
        checked("redirect_image", image(&self.redirect_image()))?;
        checked("resources", self.resources.check())?;
        let ports = |items: &[String]| annotations::ports(&items.join(",")).map(drop);
        checked("exclude_inbound_ports", ports(&self.exclude_inbound_ports))?;
        checked(
            "exclude_outbound_ports",
            ports(&self.exclude_outbound_ports),
        )?;
        let networks = annotations::networks(&self.exclude_outbound_cidrs.join(","));
        checked("exclude_outbound_cidrs", networks.map(drop))?;
        let bad = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
        match self.env.keys().find(bad) {
            Some(name) => checked("env", Err(format!("{name:?} is no name of a variable"))),
            None => Ok(()),
        }
    }

    /// The image that redirects connections.
    pub fn redirect_image(&self) -> String {
        redirect_image(&self.image, self.redirect_image.as_deref())
    }
}

/// `chosen`, or what belongs to `image`: the same with another tag.
pub(super) fn redirect_image(image: &str, chosen: Option<&str>) -> String {
    if let Some(chosen) = chosen {
        return chosen.to_owned();
    }
    // A digest names one image alone.
    let image = image.split('@').next().unwrap_or(image);
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.contains(':') {
        true => format!("{image}-redirect"),
        false => format!("{image}:redirect"),
    }
}

impl Capabilities {
    /// The word in annotations and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::Bpf => "bpf",
        }
    }
}

impl PullPolicy {
    /// As Kubernetes writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: HostPort::new("0.0.0.0", 15643),
            tls: ServerConfig::default(),
            image: concat!("pillion:", env!("CARGO_PKG_VERSION")).to_owned(),
            redirect_image: None,
            image_pull_policy: None,
            native_sidecar: true,
            redirect: true,
            capabilities: Capabilities::Restricted,
            user: 15606,
            env: BTreeMap::new(),
            resources: Resources::default(),
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_that_redirects_is_named_after_the_other() {
        for (image, redirect) in [
            ("pillion:0.1.0", "pillion:0.1.0-redirect"),
            (
                "registry:5000/a/pillion",
                "registry:5000/a/pillion:redirect",
            ),
            ("a/pillion:1@sha256:00", "a/pillion:1-redirect"),
        ] {
            assert_eq!(redirect_image(image, None), redirect);
            assert_eq!(redirect_image(image, Some("x")), "x");
        }
    }

    #[test]
    fn settings_that_cannot_be_used_are_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let list = |text: &str| vec![text.to_owned()];
        for (config, message) in [
            (
                Config {
                    image: "a b".into(),
                    ..Config::default()
                },
                "`injector.image`: \"a b\" is no image",
            ),
            (
                Config {
                    exclude_outbound_ports: list("http"),
                    ..Config::default()
                },
                "`injector.exclude_outbound_ports`: \"http\" is no port",
            ),
            (
                Config {
                    exclude_outbound_cidrs: list("10.0.0.0/99"),
                    ..Config::default()
                },
                "`injector.exclude_outbound_cidrs`: \"10.0.0.0/99\" is no network",
            ),
            (
                Config {
                    env: [("A=".into(), "x".into())].into(),
                    ..Config::default()
                },
                "`injector.env`: \"A=\" is no name",
            ),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
