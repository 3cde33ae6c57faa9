//! Injected pods brought to life: their containers are started, probed and ended by real processes in the order and with
//! the users, capabilities, arguments and variables that Kubernetes would use, in a network namespace of their own.
//!
//! Sources of the order: Kubernetes, "Sidecar Containers", "Container Lifecycle Hooks", "Pod Lifecycle" (termination).

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitStatus;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::injector::Reviewed;
use crate::injector::Webhook;
use crate::injector::recorded;
use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::netns::Namespace;
use crate::support::netns::Net;
use crate::support::netns::POD;
use crate::support::netns::WORLD;
use crate::support::netns::has;
use crate::support::netns::program;
use crate::support::otlp;
use crate::support::otlp::Span;
use crate::support::pillion::Pillion;

const DEADLINE: Duration = Duration::from_secs(30);
const PYTHON: &str = "/usr/bin/python3";
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// Calls a service for each request, slowly for `/slow`. On SIGTERM it finishes what is open and makes one last call. With
/// the argument `job` it makes three calls, says so where it was told to, and ends.
const PROGRAM: &str = "
import http.server, urllib.request, socket, signal, sys, threading, time
def call(path):
    return urllib.request.urlopen('http://10.77.0.2:8000' + path, timeout=10).read()
if sys.argv[1] == 'job':
    for n in range(3): call('/row')
    if len(sys.argv) > 2: urllib.request.urlopen(urllib.request.Request(sys.argv[2], method='POST'), timeout=10).read()
    sys.exit(0)
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = False
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        if self.path.startswith('/healthz'): body = b'well'
        else:
            if self.path == '/slow': time.sleep(1.5)
            body = call('/item')
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = Server(('::', 3000), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
time.sleep(0.5)
call('/bye')
";

/// What the program calls.
const SERVICE: &str = "
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'up')
http.server.ThreadingHTTPServer(('10.77.0.2', 8000), Handler).serve_forever()
";

/// A pod, the node it is on, and the collector that its sidecar sends to.
struct Node {
    // Dropped in this order.
    net: Net,
    pod: Reviewed,
    collector: Collector,
    _service: crate::support::netns::Running,
    _runtime: Runtime,
    image: TempDir,
}

impl Node {
    /// Injects a pod like the recorded one, whose program is ours. `None` after saying why it cannot be.
    fn new(name: &str, annotations: Value) -> Option<Self> {
        for tool in ["ip", "nft", "curl", "setpriv"] {
            if !has(tool) {
                return None;
            }
        }
        let net = Net::new()?;
        let runtime = net.pod.run(|| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1).enable_all().build().unwrap()
        });
        let starting = Collector::start(Speaks::Http1, vec![], Reply::Accept);
        let collector = runtime.block_on(runtime.spawn(starting)).unwrap();
        let service = net.world.spawn(program(&[PYTHON, "-c", SERVICE]));
        let mut review = recorded(name);
        let object = &mut review["request"]["object"];
        for (name, value) in annotations.as_object().unwrap() {
            object["metadata"]["annotations"][name] = value.clone();
        }
        let container = &mut object["spec"]["containers"][0];
        container["ports"] = json!([{ "name": "http", "containerPort": 3000 }]);
        container["readinessProbe"] = json!({ "tcpSocket": { "port": "http" } });
        container["livenessProbe"] = json!({ "httpGet": { "path": "/healthz", "port": "http" } });
        let webhook = Webhook::start(json!({ "env": {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url(),
            "OTEL_TRACES_SAMPLER": "always_on",
        } }));
        let reviewing = webhook.review("/mutate", &review);
        let pod = tokio::runtime::Runtime::new().unwrap().block_on(reviewing);
        let image = TempDir::new().unwrap();
        // Containers have users of their own, who must be able to read it.
        let all = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&image, all(0o755)).unwrap();
        let file = image.path().join("pillion");
        std::fs::copy(env!("CARGO_BIN_EXE_pillion"), &file).unwrap();
        std::fs::set_permissions(&file, all(0o755)).unwrap();
        let node = Self {
            net,
            pod,
            collector,
            _service: service,
            _runtime: runtime,
            image,
        };
        let up = format!("http://{}:8000/", WORLD[0]);
        node.until("the service", || {
            node.curl(&node.net.world, &up, "curl").is_ok()
        });
        Some(node)
    }

    /// The command of a container of ours, as its runtime would start it.
    fn command(&self, container: &Value, args: &[&str]) -> Command {
        let security = &container["securityContext"];
        let number = |key: &str| security[key].as_u64().unwrap();
        let added = security["capabilities"]["add"]
            .as_array()
            .into_iter()
            .flatten();
        let added = added.map(|name| format!(",+{}", name.as_str().unwrap().to_lowercase()));
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(security["allowPrivilegeEscalation"], false);
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--bounding-set=-all{}", added.collect::<String>()))
            .arg(format!("--reuid={}", number("runAsUser")))
            .arg(format!("--regid={}", number("runAsGroup")))
            .args(["--clear-groups", "--inh-caps=-all", "--no-new-privs"])
            .arg(self.program())
            .args(args)
            .env_clear()
            .envs(variables(container))
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("KUBERNETES_SERVICE_HOST", "10.96.0.1")
            .current_dir("/");
        command
    }

    fn program(&self) -> PathBuf {
        self.image.path().join("pillion")
    }

    fn started(&self, container: &Value) -> Pillion {
        let command = self.command(container, &strings(&container["args"]));
        self.net.pod.run(move || Pillion::spawn(command))
    }

    /// An init container, to its end.
    fn run(&self, name: &str) {
        let container = self.pod.container(name);
        let status = self.started(container).wait();
        assert!(status.success(), "{name}: {status}");
    }

    /// A hook of the sidecar, to its end.
    fn hook(&self, name: &str) -> impl FnOnce() -> ExitStatus + Send + 'static {
        let container = self.pod.container("pillion");
        let line = strings(&container["lifecycle"][name]["exec"]["command"]);
        assert_eq!(line[0], "/pillion");
        let command = self.command(container, &line[1..]);
        let mut hook = self.net.pod.run(move || Pillion::spawn(command));
        move || {
            let status = hook.wait();
            assert!(status.success(), "{status}: {}", hook.stderr());
            status
        }
    }

    fn start_program(&self, args: &[&str]) -> Pillion {
        let command = program(&[&[PYTHON, "-c", PROGRAM], args].concat());
        self.net.pod.run(move || Pillion::spawn(command))
    }

    fn curl(&self, from: &Namespace, url: &str, agent: &str) -> Result<String, String> {
        from.as_program(&[
            "curl",
            "-sSf",
            "--max-time",
            "15",
            "--noproxy",
            "*",
            "-A",
            agent,
            url,
        ])
    }

    /// What the kubelet finds: a probe of a container, asked from outside the pod.
    fn probe(&self, container: &Value, probe: &str) -> Result<String, String> {
        let get = &container[probe]["httpGet"];
        let port = match &get["port"] {
            Value::String(name) => container["ports"]
                .as_array()
                .and_then(|ports| ports.iter().find(|port| port["name"] == name.as_str()))
                .map(|port| port["containerPort"].clone())
                .unwrap(),
            number => number.clone(),
        };
        let url = format!("http://{}:{port}{}", POD[0], get["path"].as_str().unwrap());
        self.curl(&self.net.world, &url, "kube-probe/1.33")
    }

    fn request(&self, path: &str) -> Result<String, String> {
        let url = format!("http://{}:3000{path}", POD[0]);
        self.curl(&self.net.world, &url, "caller")
    }

    /// Waits until so many requests are in flight, as the sidecar counts them.
    fn in_flight(&self, count: u64) {
        let url = "http://127.0.0.1:15690/connections";
        self.until("requests in flight", || {
            let text = self.curl(&self.net.pod, url, "curl").unwrap();
            let state: Value = serde_json::from_str(&text).unwrap();
            state["inbound_requests_in_flight"].as_u64() == Some(count)
        });
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < DEADLINE, "{what} does not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn spans(&self, kind: i32) -> Vec<Span> {
        let mut spans = otlp::spans(&self.collector);
        spans.retain(|span| span.kind == kind);
        spans
    }

    /// Calls the program: ten requests one after another, then three slow ones that are in flight when this returns.
    fn traffic(&self) -> [crate::support::netns::Running; 3] {
        for _ in 0..10 {
            assert_eq!(self.request("/").unwrap(), "up");
        }
        let url = format!("http://{}:3000/slow", POD[0]);
        let slow = || {
            let args = [
                "curl",
                "-sSf",
                "-o",
                "/dev/null",
                "--max-time",
                "15",
                "--noproxy",
                "*",
                &url,
            ];
            self.net.world.spawn(program(&args))
        };
        let running = [slow(), slow(), slow()];
        self.in_flight(3);
        running
    }

    /// Every exchange of [`Node::traffic`] and the program's last call is a span, and no probe is.
    fn nothing_is_lost(&self, sidecar: &Pillion) {
        let log = sidecar.stderr();
        let (served, called) = (self.spans(SERVER), self.spans(CLIENT));
        assert_eq!(served.len(), 13, "{served:#?}\n{log}");
        assert_eq!(called.len(), 14, "{called:#?}\n{log}");
        let paths: Vec<&str> = served
            .iter()
            .map(|span| span.attribute("url.path"))
            .collect();
        assert!(!paths.contains(&"/healthz"), "{paths:?}");
        let is_bye = |span: &&Span| span.attribute("url.full").ends_with("/bye");
        assert_eq!(called.iter().filter(is_bye).count(), 1, "{called:#?}");
        assert!(
            served
                .iter()
                .chain(&called)
                .all(|span| span.service == "web"),
            "{served:#?}"
        );
        assert!(!log.contains("spans lost"), "{log}");
    }
}

/// The variables of a container, those of the downward API filled, references resolved.
fn variables(container: &Value) -> Vec<(String, String)> {
    let mut known: Vec<(String, String)> = Vec::new();
    for entry in container["env"].as_array().into_iter().flatten() {
        let name = entry["name"].as_str().unwrap().to_owned();
        let field = entry["valueFrom"]["fieldRef"]["fieldPath"].as_str();
        let mut value = match (entry["value"].as_str(), field) {
            (Some(value), _) => value.to_owned(),
            (None, Some("metadata.name")) => "web-6d9c7f9b5c-x7v2k".to_owned(),
            (None, Some("metadata.namespace")) => "shop".to_owned(),
            (None, Some("metadata.uid")) => "1f7c1a8e-5e5f-4a6c-9d5e-3a1b6f6f0c11".to_owned(),
            (None, Some("spec.nodeName")) => "worker-2".to_owned(),
            (None, other) => panic!("{name}: {other:?}"),
        };
        for (other, text) in &known {
            value = value.replace(&format!("$({other})"), text);
        }
        known.push((name, value));
    }
    known
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_str().unwrap())
        .collect()
}

fn wait_all(running: [crate::support::netns::Running; 3]) {
    for mut running in running {
        assert!(running.wait().success(), "a request in flight was answered");
    }
}

#[test]
fn a_native_sidecar_outlives_its_program_and_loses_no_span() {
    let Some(node) = Node::new("deployment-1.29", json!({})) else {
        return;
    };
    assert_eq!(
        node.pod.names("initContainers"),
        ["pillion-redirect", "pillion"]
    );
    node.run("pillion-redirect");
    let mut sidecar = node.started(node.pod.container("pillion"));
    let ours = node.pod.container("pillion");
    node.until("the startup probe", || {
        node.probe(ours, "startupProbe").is_ok()
    });

    // The program is not there yet, and its TCP probe says so although the sidecar takes its connections.
    let web = node.pod.container("web");
    let refused = node.probe(web, "readinessProbe").unwrap_err();
    assert!(refused.contains("503"), "{refused}");
    let mut program = node.start_program(&["serve"]);
    node.until("the readiness probe", || {
        node.probe(web, "readinessProbe").is_ok()
    });
    assert_eq!(node.probe(web, "livenessProbe").unwrap(), "well");

    let slow = node.traffic();
    program.signal(Signal::TERM);
    assert!(program.wait().success(), "{}", program.stderr());
    wait_all(slow);
    sidecar.stop();
    node.nothing_is_lost(&sidecar);
    let resource = node.collector.received();
    let text = String::from_utf8_lossy(&resource[0].message()).into_owned();
    for attribute in [
        "k8s.pod.uid",
        "worker-2",
        "web-6d9c7f9b5c-x7v2k",
        "k8s.deployment.name",
    ] {
        assert!(text.contains(attribute), "no {attribute}");
    }
}

#[test]
fn a_plain_sidecar_starts_first_and_waits_for_its_program() {
    let annotations = json!({ "pillion.dev/native-sidecar": "false" });
    let Some(node) = Node::new("deployment-1.29", annotations) else {
        return;
    };
    assert_eq!(node.pod.names("containers"), ["pillion", "web"]);
    node.run("pillion-redirect");
    let mut sidecar = node.started(node.pod.container("pillion"));
    // The kubelet starts the next container when this hook is through.
    node.hook("postStart")();
    let mut program = node.start_program(&["serve"]);
    let web = node.pod.container("web");
    node.until("the readiness probe", || {
        node.probe(web, "readinessProbe").is_ok()
    });
    node.probe(web, "livenessProbe").unwrap();

    let slow = node.traffic();
    // All containers are told to end at once; the hook holds the signal back from the sidecar.
    let held = node.hook("preStop");
    program.signal(Signal::TERM);
    assert!(program.wait().success(), "{}", program.stderr());
    wait_all(slow);
    held();
    sidecar.stop();
    node.nothing_is_lost(&sidecar);
}

#[test]
fn jobs_complete_in_either_form() {
    for (form, native) in [("native", "true"), ("plain", "false")] {
        let annotations = json!({ "pillion.dev/native-sidecar": native });
        let Some(node) = Node::new("job-1.29", annotations) else {
            return;
        };
        node.run("pillion-redirect");
        let mut sidecar = node.started(node.pod.container("pillion"));
        let ours = node.pod.container("pillion");
        node.until("the sidecar", || node.probe(ours, "readinessProbe").is_ok());
        let quit = "http://127.0.0.1:15690/quitquitquit";
        let args = if native == "true" {
            &["job"][..]
        } else {
            &["job", quit]
        };
        let mut program = node.start_program(args);
        assert!(program.wait().success(), "{form}: {}", program.stderr());
        if native == "true" {
            // The kubelet does, once every container that counts has ended.
            sidecar.signal(Signal::TERM);
        }
        let status = sidecar.wait();
        assert!(status.success(), "{form}: {status}: {}", sidecar.stderr());
        let spans = node.spans(CLIENT);
        assert_eq!(spans.len(), 3, "{form}: {spans:#?}");
        assert!(
            spans.iter().all(|span| span.service == "import"),
            "{spans:#?}"
        );
    }
}
