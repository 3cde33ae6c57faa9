//! What lies under `deploy/kubernetes`: that Kubernetes takes it, that its parts agree with each other and with the
//! program, and that the page about it says what is true.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use pillion::config;
use pillion::injector::ANNOTATIONS;
use pillion::injector::DOMAIN;
use serde_json::Value;
use serde_json::json;

use crate::injector::Webhook;
use crate::support::jaeger::tools;
use crate::support::kubernetes;
use crate::support::netns::has;
use crate::support::pillion::Pillion;
use crate::support::skip::skip;

const CHART: &str = "deploy/kubernetes/chart";
const PAGE: &str = "docs/kubernetes.md";
const BEGIN: &str =
    "<!-- annotations: written by PILLION_UPDATE_DOCS=1 cargo test --test it kubernetes -->\n";
const END: &str = "<!-- end -->";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The objects of a YAML text.
fn objects(text: &str) -> Vec<Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    objects
        .into_iter()
        .filter(|object| !object.is_null())
        .collect()
}

/// True for kinds that Kubernetes itself has.
fn is_built_in(object: &Value) -> bool {
    let foreign = ["cert-manager.io/v1", "monitoring.coreos.com/v1"];
    !foreign.contains(&object["apiVersion"].as_str().unwrap())
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    found.next().unwrap_or_else(|| panic!("no {kind}"))
}

fn helm() -> Option<PathBuf> {
    let helm = tools()
        .map(|tools| tools.join("bin/helm"))
        .filter(|file| file.exists());
    if helm.is_none() {
        skip("helm is not installed (tests/interop/install.sh kubernetes)");
    }
    helm
}

/// The chart rendered with these values: its objects, or what helm complains about. `None` without helm.
fn chart(values: &[&str]) -> Option<Result<Vec<Value>, String>> {
    let mut command = Command::new(helm()?);
    command.args([
        "template",
        "pillion-injector",
        "--namespace=pillion",
        "--kube-version=1.33.0",
    ]);
    command.arg(path(CHART));
    for value in values {
        command.args(["--set-json", value]);
    }
    let output = command.output().unwrap();
    Some(match output.status.success() {
        true => Ok(objects(&String::from_utf8(output.stdout).unwrap())),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    })
}

fn kustomize(folder: &str) -> Option<Vec<Value>> {
    let tool = tools()
        .map(|tools| tools.join("bin/kustomize"))
        .filter(|file| file.exists());
    let mut command = match tool {
        Some(kustomize) => {
            let mut command = Command::new(kustomize);
            command.arg("build");
            command
        }
        None if has("kubectl") => {
            let mut command = Command::new("kubectl");
            command.arg("kustomize");
            command
        }
        None => return None,
    };
    let output = command.arg(path(folder)).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(objects(&String::from_utf8(output.stdout).unwrap()))
}

fn validate(objects: &[Value]) {
    let built_in: Vec<Value> = objects.iter().filter(|o| is_built_in(o)).cloned().collect();
    // Those with a `spec` first: the check of the checker misspells one.
    let (mut with, without): (Vec<_>, Vec<_>) = built_in
        .into_iter()
        .partition(|object| object["kind"] == "Deployment" || object["kind"] == "Job");
    with.extend(without);
    kubernetes::validate(&with, &kubernetes::VERSIONS);
}

#[test]
fn the_chart_is_what_kubernetes_takes_with_any_values() {
    for values in [
        &[][..],
        &[
            "certificate={\"mode\":\"cert-manager\"}",
            "podMonitor={\"enabled\":true}",
        ],
        &[
            "certificate={\"mode\":\"secret\",\"secretName\":\"own\",\"caBundle\":\"Zm9v\"}",
            "replicas=1",
            "imagePullSecrets=[{\"name\":\"registry\"}]",
            "nodeSelector={\"kubernetes.io/os\":\"linux\"}",
            "tolerations=[{\"operator\":\"Exists\"}]",
            "podAnnotations={\"a\":\"b\"}",
            "webhook={\"failurePolicy\":\"Fail\",\"excludeNamespaces\":[\"kube-system\",\"x\"]}",
            "injector={\"native_sidecar\":false,\"capabilities\":\"bpf\",\"exclude_outbound_ports\":[9200]}",
        ],
    ] {
        let Some(rendered) = chart(values) else {
            return;
        };
        let rendered = rendered.unwrap();
        validate(&rendered);
        assert!(
            !rendered
                .iter()
                .any(|object| object["kind"] == "ClusterRole"),
            "it needs no right"
        );
        let config = of_kind(&rendered, "ConfigMap")["data"]["config.yaml"]
            .as_str()
            .unwrap();
        loads(config);
    }
}

/// The settings of the injector must be ones.
fn loads(text: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    let sources = config::Sources {
        file: Some(file.path().to_owned()),
        ..config::Sources::default()
    };
    let loaded = config::load(&sources).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (value, message) in [
        ("replica=3", "Additional property replica is not allowed"),
        ("replicas=0", "Must be greater than or equal to 1"),
        (
            "injector={\"imag\":\"x\"}",
            "Additional property imag is not allowed",
        ),
        (
            "injector={\"capabilities\":\"all\"}",
            "injector.capabilities",
        ),
        ("certificate={\"mode\":\"secret\"}", "certificate.caBundle"),
        ("certificate={\"mode\":\"none\"}", "certificate.mode"),
        (
            "webhook={\"failurePolicy\":\"Maybe\"}",
            "webhook.failurePolicy",
        ),
    ] {
        let Some(rendered) = chart(&[value]) else {
            return;
        };
        let said = rendered.expect_err(value);
        assert!(said.contains(message), "{value}: {said}");
    }
}

#[test]
fn the_charts_values_are_the_settings_of_the_injector() {
    let schema: Value =
        serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).unwrap();
    let ours: Value = serde_json::from_str(&config::schema::text()).unwrap();
    let reference = ours["properties"]["injector"]["$ref"]
        .as_str()
        .or_else(|| ours["properties"]["injector"]["allOf"][0]["$ref"].as_str())
        .unwrap();
    let known = ours.pointer(reference.strip_prefix('#').unwrap()).unwrap();
    let names = |schema: &Value| -> Vec<String> {
        let mut names: Vec<String> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        // Those that the chart sets itself.
        names.retain(|name| !["image", "listen", "tls"].contains(&name.as_str()));
        names.sort();
        names
    };
    assert_eq!(names(&schema["properties"]["injector"]), names(known));
    let values = objects(&read(&format!("{CHART}/values.yaml"))).remove(0);
    for key in values.as_object().unwrap().keys() {
        assert!(
            schema["properties"].get(key).is_some(),
            "{key} is not in the schema"
        );
    }
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(values["image"], format!("pillion:{version}"));
    let about = objects(&read(&format!("{CHART}/Chart.yaml"))).remove(0);
    assert_eq!(
        (&about["version"], &about["appVersion"]),
        (&json!(version), &json!(version))
    );
}

#[test]
fn kustomize_and_helm_make_the_same_injector() {
    let values = [
        "certificate={\"mode\":\"cert-manager\"}",
        "podMonitor={\"enabled\":true}",
    ];
    let Some(helm) = chart(&values) else { return };
    let (Some(mut ours), Some(monitors)) = (
        kustomize("deploy/kubernetes/injector/cert-manager"),
        kustomize("deploy/kubernetes/injector/monitoring"),
    ) else {
        return;
    };
    validate(&ours);
    validate(&kustomize("deploy/kubernetes/injector/base").unwrap());
    ours.extend(monitors);
    ours.retain(|object| object["kind"] != "Namespace");
    let plain = |objects: Vec<Value>| {
        let mut plain: Vec<Value> = objects.into_iter().map(bare).collect();
        plain.sort_by_key(|object| format!("{}{}", object["kind"], object["metadata"]["name"]));
        plain
    };
    let (helm, ours) = (plain(helm.unwrap()), plain(ours));
    for (helm, ours) in helm.iter().zip(&ours) {
        assert_eq!(helm, ours, "{} {}", ours["kind"], ours["metadata"]["name"]);
    }
    assert_eq!(helm.len(), ours.len());
}

/// An object without what only one of the two tools writes.
fn bare(mut object: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for key in ["instance", "part-of", "version", "managed-by"] {
                    members.remove(&format!("app.kubernetes.io/{key}"));
                }
                members.remove("helm.sh/chart");
                members.remove("imagePullPolicy");
                members.remove("defaultMode");
                members.retain(|key, value| {
                    walk(value);
                    !(key == "labels" && value == &json!({}))
                });
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            // The name of a generated ConfigMap ends with a hash.
            Value::String(text) if text.starts_with("pillion-injector-") && text.len() == 27 => {
                *text = "pillion-injector".to_owned();
            }
            Value::String(text)
                if text.starts_with("# The settings") || text.contains("injector:") =>
            {
                *value = objects(text).remove(0);
            }
            _ => {}
        }
    }
    walk(&mut object);
    // Selectors and the labels of pods are compared below; those of the objects themselves are for people.
    object["metadata"].as_object_mut().unwrap().remove("labels");
    object
}

#[tokio::test]
async fn what_the_chart_installs_answers_with_the_certificate_it_made() {
    let Some(rendered) = chart(&[]) else { return };
    let rendered = rendered.unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let decoded = |text: &Value| {
        use base64::Engine;
        let engine = base64::engine::general_purpose::STANDARD;
        engine.decode(text.as_str().unwrap()).unwrap()
    };
    let secret = of_kind(&rendered, "Secret");
    for name in ["tls.crt", "tls.key"] {
        fs::write(dir.path().join(name), decoded(&secret["data"][name])).unwrap();
    }
    let webhook = of_kind(&rendered, "MutatingWebhookConfiguration");
    let hooks = webhook["webhooks"].as_array().unwrap();
    fs::write(
        dir.path().join("ca.crt"),
        decoded(&hooks[0]["clientConfig"]["caBundle"]),
    )
    .unwrap();
    let text = of_kind(&rendered, "ConfigMap")["data"]["config.yaml"]
        .as_str()
        .unwrap();
    let text = text.replace("/etc/pillion-tls", dir.path().to_str().unwrap());
    let file = dir.path().join("config.yaml");
    fs::write(&file, text).unwrap();
    let args =
        &of_kind(&rendered, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
    assert_eq!(
        args,
        &json!(["injector", "--config=/etc/pillion/config.yaml"])
    );
    let config = format!("--config={}", file.display());
    let process = Pillion::start(&["injector", &config, "--listen=127.0.0.1:0"]);
    let webhook = Webhook::of(process, dir);
    for hook in hooks {
        let target = hook["clientConfig"]["service"]["path"].as_str().unwrap();
        let review = crate::injector::recorded("deployment-1.29");
        let found = webhook.review(target, &review).await;
        let endpoint =
            crate::injector::variable(found.container("pillion"), "OTEL_EXPORTER_OTLP_ENDPOINT");
        assert_eq!(
            endpoint, "http://jaeger-collector.observability:4318",
            "{target}"
        );
    }
}

#[tokio::test]
async fn examples_hold_what_the_injector_makes_and_kubernetes_takes_them() {
    let webhook = Webhook::start(json!({ "env": {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://jaeger-collector.observability:4318",
    } }));
    let mut all = objects(&read("deploy/kubernetes/sidecar.yaml"));
    for (file, native) in [
        ("native", "true"),
        ("plain", "false"),
        ("job", "true"),
        ("plain-job", "false"),
    ] {
        let file = format!("deploy/kubernetes/examples/{file}.yaml");
        let written = objects(&read(&file));
        let program = written
            .iter()
            .find(|object| object["spec"]["template"].is_object());
        let template = &program.unwrap()["spec"]["template"];
        let mut review = crate::injector::recorded("deployment-1.29");
        review["request"]["object"] = without_sidecar(template, native);
        let mut made = webhook.review("/mutate", &review).await.object;
        for name in ["inject", "native-sidecar", "status"] {
            let annotations = made["metadata"]["annotations"].as_object_mut().unwrap();
            annotations.remove(&format!("{DOMAIN}{name}"));
        }
        assert_eq!(made["spec"], template["spec"], "{file}");
        assert_eq!(made["metadata"], template["metadata"], "{file}");
        all.extend(written);
    }
    validate(&all);
}

/// A pod of the template before it was injected.
fn without_sidecar(template: &Value, native: &str) -> Value {
    let mut pod = template.clone();
    pod["metadata"]["annotations"] = json!({
        "pillion.dev/inject": "true",
        "pillion.dev/native-sidecar": native,
    });
    let labels = pod["metadata"]["labels"].as_object_mut().unwrap();
    labels.remove("pillion.dev/injected");
    let spec = pod["spec"].as_object_mut().unwrap();
    for list in ["initContainers", "containers", "volumes"] {
        let items = spec[list].as_array_mut().unwrap();
        items.retain(|item| !item["name"].as_str().unwrap().starts_with("pillion"));
        if items.is_empty() {
            spec.remove(list);
        }
    }
    pod
}

#[test]
fn the_image_that_redirects_holds_nft_and_is_not_the_one_that_is_shipped() {
    let text = read("Dockerfile");
    let mut stages = text.split("\nFROM ").skip(1);
    let stage = stages.find(|stage| stage.lines().next().unwrap().ends_with(" AS redirect"));
    let stage = stage.expect("a stage `redirect`");
    assert!(
        stage.contains("nftables") && stage.contains("USER 65532:65532"),
        "{stage}"
    );
    assert!(stage.contains(r#"ENTRYPOINT ["/pillion"]"#), "{stage}");
    assert!(
        stages.next().is_some(),
        "what comes last is what `docker build` makes"
    );
}

#[test]
fn every_manifest_is_looked_at() {
    let mut found = Vec::new();
    let mut folders = vec![path("deploy/kubernetes")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    let root = path("deploy/kubernetes");
    for file in found {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap();
        let known = ["chart/", "injector/", "examples/", "sidecar.yaml"];
        assert!(
            known.iter().any(|known| name.starts_with(known)),
            "{name} is in no test"
        );
        if name.starts_with("examples/") {
            let listed = ["native", "plain", "job", "plain-job"];
            let listed = listed
                .iter()
                .any(|it| name == format!("examples/{it}.yaml"));
            assert!(listed, "{name} is in no test");
        }
    }
}

#[test]
fn the_page_lists_every_annotation() {
    let page = read(PAGE);
    let (before, rest) = page.split_once(BEGIN).expect("the mark is missing");
    let (table, after) = rest.split_once(END).expect("the end is missing");
    let mut written = "\n| annotation | value | meaning |\n|---|---|---|\n".to_owned();
    for known in ANNOTATIONS {
        let (values, meaning) = (known.values, known.meaning);
        writeln!(
            written,
            "| `{DOMAIN}{}` | {values} | {meaning} |",
            known.name
        )
        .unwrap();
    }
    written.push('\n');
    if std::env::var_os("PILLION_UPDATE_DOCS").is_some_and(|value| value == "1") {
        let text = format!("{before}{BEGIN}{written}{END}{after}");
        return fs::write(path(PAGE), text).unwrap();
    }
    let remedy = "run PILLION_UPDATE_DOCS=1 cargo test --test it kubernetes";
    assert_eq!(table, written, "the annotations changed: {remedy}");
}

#[test]
fn the_page_quotes_what_the_injector_says() {
    let page = read(PAGE);
    let sources = ["src/injector/decide.rs", "src/injector/mod.rs"]
        .map(read)
        .concat();
    for reason in [
        "the pod uses the network of its node (hostNetwork)",
        "the pod is for nodes with Windows",
        " redirects the connections of the pod already",
        ", which is pillion's",
    ] {
        assert!(page.contains(reason), "{PAGE}: {reason}");
        assert!(
            sources.contains(reason),
            "the injector does not say {reason}"
        );
    }
}
