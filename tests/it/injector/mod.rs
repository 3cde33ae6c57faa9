//! The injector as an API server meets it: the real process, asked over HTTPS.

mod input;
mod life;
mod pods;
mod process;

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use pillion::net::client::Client;
use pillion::net::tls::ClientConfig;
use pillion::net::tls::ClientTls;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertifiedIssuer;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::KeyPair;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::support::json_patch;
use crate::support::pillion::Pillion;

const TIMEOUT: Duration = Duration::from_secs(20);
/// The name that the API server verifies.
const NAME: &str = "pillion-injector.pillion.svc";

/// A running injector with a certificate of its own CA.
pub(crate) struct Webhook {
    process: Pillion,
    port: u16,
    dir: TempDir,
    client: Client,
}

/// What came back for a review.
pub(crate) struct Reviewed {
    /// The `response`.
    response: Value,
    /// The operations of its patch; none when there is none.
    operations: Vec<Value>,
    /// The object after the patch.
    pub(crate) object: Value,
}

impl Webhook {
    /// With these settings below `injector`.
    pub(crate) fn start(settings: Value) -> Self {
        let dir = TempDir::new().unwrap();
        issue(dir.path());
        write_config(dir.path(), settings);
        Self::of(start(dir.path()), dir)
    }

    /// Of a process whose CA is in `ca.crt` there.
    pub(crate) fn of(process: Pillion, dir: TempDir) -> Self {
        let port = process.port("injector");
        Self {
            client: client(dir.path()),
            process,
            port,
            dir,
        }
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://127.0.0.1:{}{path}", self.port))
            .header("content-type", kind)
            .body(Full::new(Bytes::copy_from_slice(body)))
            .unwrap();
        let answer = self.client.send(request, TIMEOUT, 1 << 24).await.unwrap();
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        (answer.status().as_u16(), text)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.send("GET", path, "text/plain", b"").await
    }

    /// Sends a review, which must be answered.
    pub(crate) async fn review(&self, path: &str, review: &Value) -> Reviewed {
        let kind = "application/json";
        let (status, text) = self
            .send("POST", path, kind, review.to_string().as_bytes())
            .await;
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["kind"], "AdmissionReview");
        let response = answer["response"].clone();
        assert_eq!(response["uid"], review["request"]["uid"]);
        assert_eq!(response["allowed"], true);
        let operations = match response["patch"].as_str() {
            None => Vec::new(),
            Some(patch) => {
                assert_eq!(response["patchType"], "JSONPatch");
                serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap()
            }
        };
        let object = json_patch::apply(&review["request"]["object"], &operations).unwrap();
        Reviewed {
            response,
            operations,
            object,
        }
    }

    /// [`Webhook::review`] of a recorded question.
    async fn recorded(&self, name: &str) -> Reviewed {
        self.review("/mutate", &recorded(name)).await
    }
}

impl Reviewed {
    fn outcome(&self) -> &str {
        let outcome = &self.response["auditAnnotations"]["outcome"];
        outcome.as_str().unwrap_or_default()
    }

    fn warnings(&self) -> Vec<&str> {
        let warnings = self.response["warnings"].as_array().into_iter().flatten();
        warnings.filter_map(Value::as_str).collect()
    }

    /// A container of either list, by its name.
    pub(crate) fn container(&self, name: &str) -> &Value {
        let lists = ["initContainers", "containers"];
        let all = lists
            .iter()
            .filter_map(|list| self.object["spec"][*list].as_array());
        all.flatten()
            .find(|container| container["name"] == name)
            .unwrap_or_else(|| panic!("no container {name}: {:#}", self.object["spec"]))
    }

    fn names(&self, list: &str) -> Vec<&str> {
        let containers = self.object["spec"][list].as_array().into_iter().flatten();
        containers
            .filter_map(|container| container["name"].as_str())
            .collect()
    }
}

/// A variable's value; empty when it has none.
pub(crate) fn variable<'a>(container: &'a Value, name: &str) -> &'a str {
    let variables = container["env"].as_array().into_iter().flatten();
    let mut found = variables.filter(|variable| variable["name"] == name);
    found
        .next_back()
        .and_then(|found| found["value"].as_str())
        .unwrap_or_default()
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/admission")
        .join(name)
}

/// A question of `tests/data/admission`.
pub(crate) fn recorded(name: &str) -> Value {
    let text = std::fs::read_to_string(data(&format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Starts the injector on the files of [`issue`] and [`write_config`].
fn start(dir: &Path) -> Pillion {
    let file = dir.join("injector.yaml");
    Pillion::start(&[
        "injector",
        "--log-format",
        "json",
        "-c",
        file.to_str().unwrap(),
    ])
}

fn write_config(dir: &Path, settings: Value) {
    let mut injector = json!({
        "listen": "127.0.0.1:0",
        "tls": { "cert_file": dir.join("tls.crt"), "key_file": dir.join("tls.key") },
    });
    for (key, value) in settings.as_object().unwrap() {
        injector[key] = value.clone();
    }
    let text = json!({ "injector": injector }).to_string();
    std::fs::write(dir.join("injector.yaml"), text).unwrap();
}

/// Writes `tls.crt`, `tls.key` and the `ca.crt` that signed it.
fn issue(dir: &Path) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // A name that is not the leaf's: some take the leaf for self-signed otherwise.
    let name = "CA of an injector under test";
    params.distinguished_name.push(DnType::CommonName, name);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([NAME.to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &ca).unwrap();
    // As the kubelet does: whoever reads meanwhile finds a pair that does not fit, and keeps what it has.
    for (name, text) in [
        ("ca.crt", ca.pem()),
        ("tls.crt", certificate.pem()),
        ("tls.key", key.serialize_pem()),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

fn client(dir: &Path) -> Client {
    let config = ClientConfig {
        ca_file: Some(dir.join("ca.crt")),
        server_name: Some(NAME.to_owned()),
        ..ClientConfig::default()
    };
    Client::new(Some(&ClientTls::new(&config).unwrap()))
}
