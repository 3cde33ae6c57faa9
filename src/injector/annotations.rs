//! What a pod can say about its injection: the table of annotations, and their values read.

use std::str::FromStr;

use super::config::Capabilities;
use super::pod::Pod;
use super::quantity::Resources;
use crate::net::rules::Network;
use crate::net::rules::Ports;
use crate::telemetry::logs::Directives;

/// What all annotations and labels begin with.
pub const DOMAIN: &str = "pillion.dev/";
/// Asks for injection, as annotation or label of a pod or as label of a namespace.
pub(super) const INJECT: &str = "pillion.dev/inject";
/// Written: what became of it.
pub(super) const STATUS: &str = "pillion.dev/status";
/// The label that every injected pod gets, with the value `true`.
pub const INJECTED_LABEL: &str = "pillion.dev/injected";

/// One annotation, for the reference.
#[derive(Debug)]
pub struct Annotation {
    /// Its name behind the domain.
    pub name: &'static str,
    /// What it can be.
    pub values: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Takes its value.
    read: fn(&mut Wishes, &str) -> Result<(), String>,
}

/// Every annotation that is read.
pub static ANNOTATIONS: &[Annotation] = &[
    Annotation {
        name: "inject",
        values: "`true`, `false`",
        meaning: "Inject. A label of the same name says it too; the annotation wins over the label, both over the label of \
                  the namespace.",
        read: |wishes, text| boolean(text).map(|value| wishes.inject = Some(value)),
    },
    Annotation {
        name: "service-name",
        values: "text",
        meaning: "Name of the service in traces. Without it: the annotation `resource.opentelemetry.io/service.name`, the \
                  label `app.kubernetes.io/instance`, then `app.kubernetes.io/name`, the name of the Deployment or other \
                  owner, the name of the pod.",
        read: |wishes, text| name(text).map(|value| wishes.service = Some(value)),
    },
    Annotation {
        name: "container",
        values: "name of a container",
        meaning: "The container that is the program, for `k8s.container.name`. Without it the first.",
        read: |wishes, text| name(text).map(|value| wishes.container = Some(value)),
    },
    Annotation {
        name: "config",
        values: "name of a ConfigMap",
        meaning: "Its key `config.yaml` is the configuration file of the sidecar, read again when it changes.",
        read: |wishes, text| object_name(text).map(|value| wishes.config = Some(value)),
    },
    Annotation {
        name: "image",
        values: "image",
        meaning: "The image of the sidecar, and with `-redirect` behind its tag that of the init container.",
        read: |wishes, text| image(text).map(|value| wishes.image = Some(value)),
    },
    Annotation {
        name: "native-sidecar",
        values: "`true`, `false`",
        meaning: "An init container that stays, or a container like others.",
        read: |wishes, text| boolean(text).map(|value| wishes.native = Some(value)),
    },
    Annotation {
        name: "redirect",
        values: "`true`, `false`",
        meaning: "Redirect all connections of the pod, or give its programs `HTTP_PROXY`.",
        read: |wishes, text| boolean(text).map(|value| wishes.redirect = Some(value)),
    },
    Annotation {
        name: "include-inbound-ports",
        values: "ports and ranges: `80,8000-8100`",
        meaning: "Redirect what arrives at these ports alone.",
        read: |wishes, text| ports(text).map(|value| wishes.include_inbound_ports = value),
    },
    Annotation {
        name: "exclude-inbound-ports",
        values: "ports and ranges",
        meaning: "Do not redirect what arrives at these ports.",
        read: |wishes, text| ports(text).map(|value| wishes.exclude_inbound_ports = value),
    },
    Annotation {
        name: "include-outbound-ports",
        values: "ports and ranges",
        meaning: "Redirect what leaves for these ports alone.",
        read: |wishes, text| ports(text).map(|value| wishes.include_outbound_ports = value),
    },
    Annotation {
        name: "exclude-outbound-ports",
        values: "ports and ranges",
        meaning: "Do not redirect what leaves for these ports.",
        read: |wishes, text| ports(text).map(|value| wishes.exclude_outbound_ports = value),
    },
    Annotation {
        name: "exclude-outbound-cidrs",
        values: "networks: `10.0.0.0/8,fd00::/8`",
        meaning: "Do not redirect what leaves for these networks.",
        read: |wishes, text| networks(text).map(|value| wishes.exclude_outbound_cidrs = value),
    },
    Annotation {
        name: "shims",
        values: "`true`, `false`",
        meaning: "Mount the start-up shims and have Node.js, Python, Ruby and Java load them ([linking](linking.md)).",
        read: |wishes, text| boolean(text).map(|value| wishes.shims = value),
    },
    Annotation {
        name: "preload",
        values: "`true`, `false`",
        meaning: "Mount the preload library and have every program load it that is linked dynamically: it tells which request \
                  a thread works on ([linking](linking.md#threads)).",
        read: |wishes, text| boolean(text).map(|value| wishes.preload = value),
    },
    Annotation {
        name: "capabilities",
        values: "`restricted`, `bpf`",
        meaning: "What the sidecar may do: nothing, or kernel evidence (root with `BPF`, `PERFMON` and `SYS_PTRACE` alone).",
        read: |wishes, text| {
            let known = [Capabilities::Restricted, Capabilities::Bpf];
            let found = known.into_iter().find(|value| value.name() == text);
            let found = found.ok_or_else(|| format!("{text:?} is neither restricted nor bpf"))?;
            wishes.capabilities = Some(found);
            Ok(())
        },
    },
    Annotation {
        name: "log-level",
        values: "`error`, `warn`, `info`, `debug`, `trace`, or a filter",
        meaning: "How much the sidecar logs.",
        read: |wishes, text| {
            let checked = Directives::from_str(text);
            checked.map_err(|error| format!("{text:?}: {error}"))?;
            wishes.log_level = Some(text.to_owned());
            Ok(())
        },
    },
    Annotation {
        name: "resources",
        values: "JSON: `{\"limits\":{\"memory\":\"128Mi\"}}`",
        meaning: "What the sidecar asks for and may use, in place of what the injector is configured with.",
        read: |wishes, text| Resources::parse(text).map(|value| wishes.resources = Some(value)),
    },
];

/// The values of a pod's annotations. Lists are as the pod writes them, checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wishes {
    pub(super) inject: Option<bool>,
    pub(super) service: Option<String>,
    pub(super) container: Option<String>,
    pub(super) config: Option<String>,
    pub(super) image: Option<String>,
    pub(super) native: Option<bool>,
    pub(super) redirect: Option<bool>,
    pub(super) include_inbound_ports: Vec<String>,
    pub(super) exclude_inbound_ports: Vec<String>,
    pub(super) include_outbound_ports: Vec<String>,
    pub(super) exclude_outbound_ports: Vec<String>,
    pub(super) exclude_outbound_cidrs: Vec<String>,
    pub(super) shims: bool,
    pub(super) preload: bool,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) log_level: Option<String>,
    pub(super) resources: Option<Resources>,
}

impl Wishes {
    /// Reads the annotations of a pod, and its label that asks for injection. The second and third answers are mistakes
    /// and what is merely unknown, in words.
    pub(super) fn read(pod: &Pod<'_>) -> (Self, Vec<String>, Vec<String>) {
        let (mut wishes, mut mistakes, mut unknown) = (Self::default(), Vec::new(), Vec::new());
        if let Some(label) = pod.label(INJECT) {
            match boolean(label) {
                Ok(value) => wishes.inject = Some(value),
                Err(reason) => mistakes.push(format!("label {INJECT}: {reason}")),
            }
        }
        for (name, value) in pod.annotations() {
            let Some(short) = name.strip_prefix(DOMAIN) else {
                continue;
            };
            match ANNOTATIONS.iter().find(|known| known.name == short) {
                Some(known) => {
                    if let Err(reason) = (known.read)(&mut wishes, value.trim()) {
                        mistakes.push(format!("{name}: {reason}"));
                    }
                }
                None if name == STATUS => {}
                None => unknown.push(format!("{name} is no annotation that pillion knows")),
            }
        }
        (wishes, mistakes, unknown)
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "enabled" => Ok(true),
        "false" | "disabled" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn name(text: &str) -> Result<String, String> {
    match text.is_empty() || text.len() > 253 || text.contains(char::is_control) {
        true => Err(format!("{text:?} is no name")),
        false => Ok(text.to_owned()),
    }
}

/// The name of an object in Kubernetes (RFC 1123 subdomain).
fn object_name(text: &str) -> Result<String, String> {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        bytes.iter().all(allowed) && edge(bytes.first()) && edge(bytes.last())
    };
    match text.len() <= 253 && text.split('.').all(label) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is no name of a ConfigMap")),
    }
}

/// An image as a container names it; the registry knows the rest.
pub(super) fn image(text: &str) -> Result<String, String> {
    let odd = |c: char| !c.is_ascii_graphic();
    match text.is_empty() || text.contains(odd) {
        true => Err(format!("{text:?} is no image")),
        false => Ok(text.to_owned()),
    }
}

/// Ports and ranges between commas.
pub(super) fn ports(text: &str) -> Result<Vec<String>, String> {
    items::<Ports>(text)
}

/// Networks between commas.
pub(super) fn networks(text: &str) -> Result<Vec<String>, String> {
    items::<Network>(text)
}

fn items<T: FromStr<Err: ToString>>(text: &str) -> Result<Vec<String>, String> {
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    items
        .map(|item| match item.parse::<T>() {
            Ok(_) => Ok(item.to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .collect()
}

/// True when one of these ports and ranges is or holds `port`.
pub(super) fn holds(ports: &[String], port: u16) -> bool {
    ports.iter().any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<u16>().ok();
        number(first).is_some_and(|first| first <= port)
            && number(last).is_some_and(|last| port <= last)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(annotations: serde_json::Value) -> (Wishes, Vec<String>, Vec<String>) {
        let object = json!({ "metadata": { "annotations": annotations } });
        Wishes::read(&Pod::new(&object, None))
    }

    #[test]
    fn every_annotation_is_read() {
        let (wishes, mistakes, unknown) = read(json!({
            "pillion.dev/inject": "enabled",
            "pillion.dev/service-name": "Bestellungen",
            "pillion.dev/container": "app",
            "pillion.dev/config": "orders.pillion",
            "pillion.dev/image": "registry:5000/pillion@sha256:00",
            "pillion.dev/native-sidecar": "false",
            "pillion.dev/redirect": "false",
            "pillion.dev/include-inbound-ports": "80, 8000-8100",
            "pillion.dev/exclude-inbound-ports": "9090",
            "pillion.dev/include-outbound-ports": "1-65535",
            "pillion.dev/exclude-outbound-ports": "",
            "pillion.dev/exclude-outbound-cidrs": "10.0.0.0/8,fd00::/8",
            "pillion.dev/shims": "true",
            "pillion.dev/preload": "true",
            "pillion.dev/capabilities": "bpf",
            "pillion.dev/log-level": "info,pillion::proxy=debug",
            "pillion.dev/resources": "{\"limits\":{\"memory\":\"1Gi\"}}",
            "pillion.dev/status": "injected",
            "example.com/other": "x",
        }));
        assert_eq!((mistakes, unknown), (vec![], vec![]));
        let none = Wishes::default();
        assert_eq!(wishes.inject, Some(true));
        assert_eq!(wishes.include_inbound_ports, ["80", "8000-8100"]);
        assert_eq!(wishes.exclude_outbound_ports, none.exclude_outbound_ports);
        assert_eq!(wishes.capabilities, Some(Capabilities::Bpf));
        assert_eq!(wishes.native, Some(false));
    }

    #[test]
    fn mistakes_are_told_with_the_annotation() {
        for (name, value, message) in [
            ("inject", "yes", "\"yes\" is neither true nor false"),
            ("shims", "", "\"\" is neither true nor false"),
            ("preload", "1", "\"1\" is neither true nor false"),
            ("config", "Orders", "\"Orders\" is no name of a ConfigMap"),
            ("config", "a..b", "is no name of a ConfigMap"),
            ("service-name", "", "is no name"),
            ("image", "a b", "is no image"),
            ("include-inbound-ports", "http", "\"http\" is no port"),
            ("exclude-outbound-ports", "90-80", "is no port"),
            ("exclude-outbound-ports", "0", "is no port"),
            ("exclude-outbound-cidrs", "10.0.0.0/33", "is no network"),
            ("capabilities", "privileged", "neither restricted nor bpf"),
            ("log-level", "loud=?", "loud"),
            ("resources", "{", "not JSON"),
        ] {
            let name = format!("{DOMAIN}{name}");
            let (_, mistakes, _) = read(json!({ name.clone(): value }));
            assert_eq!(mistakes.len(), 1, "{name}: {value}");
            assert!(mistakes[0].starts_with(&name), "{mistakes:?}");
            assert!(mistakes[0].contains(message), "{mistakes:?}");
        }
        let (_, _, unknown) = read(json!({ "pillion.dev/injekt": "true" }));
        assert_eq!(
            unknown,
            ["pillion.dev/injekt is no annotation that pillion knows"]
        );
    }

    #[test]
    fn a_label_asks_too_and_the_annotation_wins() {
        let object = json!({ "metadata": {
            "labels": { "pillion.dev/inject": "true" },
        } });
        assert_eq!(Wishes::read(&Pod::new(&object, None)).0.inject, Some(true));
        let object = json!({ "metadata": {
            "labels": { "pillion.dev/inject": "true" },
            "annotations": { "pillion.dev/inject": "false" },
        } });
        assert_eq!(Wishes::read(&Pod::new(&object, None)).0.inject, Some(false));
    }

    #[test]
    fn ranges_hold_their_ends() {
        let ports = ["80".to_owned(), "8000-8100".to_owned()];
        for (port, held) in [
            (80, true),
            (81, false),
            (8000, true),
            (8100, true),
            (8101, false),
        ] {
            assert_eq!(holds(&ports, port), held, "{port}");
        }
    }
}
