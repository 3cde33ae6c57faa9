//! Whether a pod is injected, and with what: its annotations over the settings of all pods.

use serde_json::Value;

use super::Unless;
use super::annotations::Wishes;
use super::config::Capabilities;
use super::config::Config;
use super::config::redirect_image;
use super::identity;
use super::identity::Identity;
use super::pod::Container;
use super::pod::Pod;
use super::probes;
use super::quantity::Resources;
use super::sidecar;

/// Set on pods that the kubelet runs by itself; the API server only mirrors them.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Sidecars that redirect connections themselves.
const MESHES: &[&str] = &[
    "istio-proxy",
    "linkerd-proxy",
    "kuma-sidecar",
    "consul-dataplane",
];

/// What becomes of a pod.
pub(super) enum Decision {
    /// It is injected.
    Inject(Box<Plan>),
    /// It has a sidecar.
    Already,
    /// Nobody asked. With warnings for annotations that nobody knows.
    NotAsked(Vec<String>),
    /// It was asked for and cannot be done.
    Cannot(String),
    /// It was asked for in words that make no sense.
    Invalid(String, Vec<String>),
}

/// With what a pod is injected.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) identity: Identity,
    pub(super) image: String,
    pub(super) redirect_image: String,
    pub(super) native: bool,
    /// `None`: programs get `HTTP_PROXY`.
    pub(super) redirect: Option<Redirect>,
    /// Where the program listens, without redirection.
    pub(super) app_port: Option<u16>,
    pub(super) capabilities: Capabilities,
    pub(super) resources: Resources,
    /// The ConfigMap with the configuration file.
    pub(super) config: Option<String>,
    pub(super) shims: bool,
    pub(super) preload: bool,
    pub(super) log_level: Option<String>,
    /// Callers that get no span besides those that never do.
    pub(super) ignored_agents: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Plan {
    /// True when programs load something from the directory of shims.
    pub(super) fn loads(&self) -> bool {
        self.shims || self.preload
    }
}

/// What is redirected: lists of ports, ranges and networks.
#[derive(Debug, Clone, Default)]
pub(super) struct Redirect {
    pub(super) inbound_ports: Vec<String>,
    pub(super) exclude_inbound_ports: Vec<String>,
    pub(super) outbound_ports: Vec<String>,
    pub(super) exclude_outbound_ports: Vec<String>,
    pub(super) exclude_outbound_cidrs: Vec<String>,
}

/// Decides about one pod.
pub(super) fn decide(pod: &Pod<'_>, config: &Config, unless: Unless) -> Decision {
    let mut all = pod.init_containers().chain(pod.containers());
    if all.any(|container| container.name() == sidecar::NAME) {
        return Decision::Already;
    }
    if pod.annotation(MIRROR).is_some() {
        return Decision::NotAsked(Vec::new());
    }
    let (wishes, mistakes, unknown) = Wishes::read(pod);
    if wishes.inject == Some(false) {
        return Decision::NotAsked(Vec::new());
    }
    if !mistakes.is_empty() {
        return Decision::Invalid(mistakes.join("; "), unknown);
    }
    if !wishes.inject.unwrap_or(unless == Unless::Refused) {
        return Decision::NotAsked(unknown);
    }
    if let Some(reason) = obstacle(pod) {
        return Decision::Cannot(reason);
    }
    match plan(pod, config, wishes) {
        Ok(mut plan) => {
            plan.warnings.extend(unknown);
            Decision::Inject(Box::new(plan))
        }
        Err(mistake) => Decision::Invalid(mistake, unknown),
    }
}

/// Why a pod cannot have a sidecar, in words.
fn obstacle(pod: &Pod<'_>) -> Option<String> {
    if pod.containers().next().is_none() {
        return Some("the pod has no containers".to_owned());
    }
    if pod.at("/spec/hostNetwork") == &Value::Bool(true) {
        return Some("the pod uses the network of its node (hostNetwork)".to_owned());
    }
    if is_windows(pod) {
        return Some("the pod is for nodes with Windows".to_owned());
    }
    let mut all = pod.init_containers().chain(pod.containers());
    if let Some(mesh) = all.find(|container| MESHES.contains(&container.name())) {
        let name = mesh.name();
        return Some(format!(
            "{name} redirects the connections of the pod already"
        ));
    }
    for container in pod.lasting_containers() {
        let taken = |port: &u16| sidecar::PORTS.contains(port);
        if let Some(port) = container.tcp_ports().find(taken) {
            let name = container.name();
            return Some(format!(
                "container {name} uses port {port}, which is pillion's"
            ));
        }
    }
    None
}

fn is_windows(pod: &Pod<'_>) -> bool {
    let selector = pod.at("/spec/nodeSelector");
    let keys = ["kubernetes.io/os", "beta.kubernetes.io/os"];
    let selected = keys.iter().any(|key| selector[*key] == "windows");
    selected || pod.text("/spec/os/name") == Some("windows") || needs_windows(pod, &keys)
}

/// True when every term of the node affinity names Windows: terms are alternatives.
fn needs_windows(pod: &Pod<'_>, keys: &[&str]) -> bool {
    let terms = pod.at(
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
    );
    let names_it = |term: &Value| {
        let expressions = term["matchExpressions"].as_array().into_iter().flatten();
        expressions.into_iter().any(|expression| {
            let key = expression["key"].as_str().unwrap_or_default();
            let values = expression["values"].as_array();
            let only = values.is_some_and(|values| values.len() == 1 && values[0] == "windows");
            keys.contains(&key) && expression["operator"] == "In" && only
        })
    };
    let terms = terms.as_array();
    terms.is_some_and(|terms| !terms.is_empty() && terms.iter().all(names_it))
}

fn plan(pod: &Pod<'_>, config: &Config, wishes: Wishes) -> Result<Plan, String> {
    let program = program(pod, wishes.container.as_deref())?;
    let redirected = wishes.redirect.unwrap_or(config.redirect);
    let app_port = program.tcp_ports().next().filter(|_| !redirected);
    let native = wishes.native.unwrap_or(config.native_sidecar);
    let mut warnings = Vec::new();
    if !redirected && app_port.is_none() {
        let name = program.name();
        warnings.push(format!(
            "container {name} names no port: what it serves is not traced"
        ));
    }
    if !native && ends_by_itself(pod) {
        warnings.push(
            "the pod ends when its program has told the sidecar: POST http://127.0.0.1:15690/quitquitquit"
                .to_owned(),
        );
    }
    if redirected {
        warnings.extend(same_user(pod, config.user));
    }
    let redirect = redirected.then(|| redirect(&wishes, config));
    let (image, redirect_image) = match &wishes.image {
        Some(image) => (image.clone(), redirect_image(image, None)),
        None => (config.image.clone(), config.redirect_image()),
    };
    Ok(Plan {
        identity: identity::of(pod, wishes.service.as_deref(), program.name()),
        image,
        redirect_image,
        native,
        app_port,
        capabilities: wishes.capabilities.unwrap_or(config.capabilities),
        resources: wishes.resources.unwrap_or_else(|| config.resources.clone()),
        config: wishes.config,
        shims: wishes.shims,
        preload: wishes.preload,
        log_level: wishes.log_level,
        ignored_agents: probes::agents(pod),
        redirect,
        warnings,
    })
}

fn redirect(wishes: &Wishes, config: &Config) -> Redirect {
    let both = |all: &[String], own: &[String]| {
        let mut items = all.to_vec();
        items.extend(own.iter().filter(|item| !all.contains(item)).cloned());
        items
    };
    Redirect {
        inbound_ports: wishes.include_inbound_ports.clone(),
        exclude_inbound_ports: both(&config.exclude_inbound_ports, &wishes.exclude_inbound_ports),
        outbound_ports: wishes.include_outbound_ports.clone(),
        exclude_outbound_ports: both(
            &config.exclude_outbound_ports,
            &wishes.exclude_outbound_ports,
        ),
        exclude_outbound_cidrs: both(
            &config.exclude_outbound_cidrs,
            &wishes.exclude_outbound_cidrs,
        ),
    }
}

/// The container that is the program: the one that is named, or the first.
fn program<'a>(pod: &Pod<'a>, named: Option<&str>) -> Result<Container<'a>, String> {
    let mut containers = pod.containers();
    match named {
        None => containers.next().ok_or("the pod has no containers".into()),
        Some(name) => containers
            .find(|container| container.name() == name)
            .ok_or_else(|| format!("pillion.dev/container: the pod has no container {name:?}")),
    }
}

/// True for pods that are over when their program is.
fn ends_by_itself(pod: &Pod<'_>) -> bool {
    let is_job = pod.owner().is_some_and(|owner| owner.kind == "Job");
    let policy = pod.text("/spec/restartPolicy");
    is_job || policy.is_some_and(|policy| policy != "Always")
}

/// A warning for each container whose connections are taken for the sidecar's own: the rules pass over its user and its
/// group.
fn same_user(pod: &Pod<'_>, id: u32) -> Vec<String> {
    let same = |container: &Container<'_>, key: &str| {
        let own = container.at(&format!("/securityContext/{key}"));
        let own = own.as_u64();
        own.or_else(|| pod.at(&format!("/spec/securityContext/{key}")).as_u64()) == Some(id.into())
    };
    let warning = |container: Container<'_>| {
        let what = match (
            same(&container, "runAsUser"),
            same(&container, "runAsGroup"),
        ) {
            (true, _) => "user",
            (false, true) => "group",
            (false, false) => return None,
        };
        let name = container.name();
        Some(format!(
            "container {name} runs as {what} {id}, as pillion does: its calls are not traced"
        ))
    };
    pod.lasting_containers().filter_map(warning).collect()
}
