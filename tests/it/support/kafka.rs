//! A real Kafka broker beside the test, and a real Jaeger v2 that reads a topic of it.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::support::http;
use crate::support::jaeger;
use crate::support::server::Server;
use crate::support::server::attempts;
use crate::support::server::free_port;
use crate::support::skip::skip;

/// A broker that is its own controller; topics with three partitions are made when they are asked for.
pub(crate) struct Kafka {
    server: Server,
    pub(crate) port: u16,
    /// For who shows `user` and `secret`.
    pub(crate) sasl: u16,
    /// Behind TLS, with the certificate in `ca`.
    pub(crate) tls: u16,
}

impl Kafka {
    /// `None`: not installed, and the skip is printed.
    pub(crate) async fn start() -> Option<Self> {
        let jars = jaeger::tools()?.join("kafka");
        if !jars.join("pom.xml").is_file() {
            skip("no Kafka: run tests/interop/install.sh kafka");
            return None;
        }
        Some(attempts(async || Self::attempt(&jars).await).await)
    }

    /// The certificate of the port with TLS.
    pub(crate) fn ca(&self) -> PathBuf {
        self.server.dir().join("ca.pem")
    }

    async fn attempt(jars: &Path) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let (port, controller) = (free_port(), free_port());
        let (sasl, tls) = (free_port(), free_port());
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let pair = format!("{}{}", signing_key.serialize_pem(), cert.pem());
        std::fs::write(dir.path().join("pair.pem"), pair).unwrap();
        std::fs::write(dir.path().join("ca.pem"), cert.pem()).unwrap();
        let settings = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\ncontroller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},\
             SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls}\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL\n\
             sasl.enabled.mechanisms=PLAIN\nlistener.name.sasl.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required user_user=\"secret\";\n\
             ssl.keystore.type=PEM\nssl.keystore.location=pair.pem\n\
             log.dirs={}\nnum.partitions=3\noffsets.topic.num.partitions=1\n\
             offsets.topic.replication.factor=1\ngroup.initial.rebalance.delay.ms=0\n",
            dir.path().join("data").display()
        );
        std::fs::write(dir.path().join("server.properties"), settings).unwrap();
        let java = || {
            let mut command = Command::new("java");
            command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"]);
            command.arg(jars.join("*")).current_dir(dir.path());
            command
        };
        let mut format = java();
        format.args([
            "kafka.tools.StorageTool",
            "format",
            "--config",
            "server.properties",
        ]);
        format.args(["--cluster-id", "cGlsbGlvbi10ZXN0LTAwMQ"]);
        let formatted = tokio::task::spawn_blocking(move || format.output()).await;
        let formatted = formatted.unwrap().unwrap();
        assert!(formatted.status.success(), "{formatted:?}");
        let mut run = java();
        run.args(["kafka.Kafka", "server.properties"]);
        let mut server = Server::start(run, dir);
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            server.still_starting().await?;
        }
        Ok(Self {
            server,
            port,
            sasl,
            tls,
        })
    }
}

/// A Jaeger whose only receiver reads a topic.
pub(crate) struct Ingester {
    server: Server,
    query: u16,
}

impl Ingester {
    pub(crate) async fn start(kafka: &Kafka, topic: &str, encoding: &str) -> Option<Self> {
        let Some(binary) = jaeger::find() else {
            skip("no Jaeger v2: run tests/interop/install.sh or set PILLION_TEST_JAEGER");
            return None;
        };
        let start = async || Self::attempt(&binary, kafka.port, topic, encoding).await;
        Some(attempts(start).await)
    }

    async fn attempt(
        binary: &PathBuf,
        kafka: u16,
        topic: &str,
        encoding: &str,
    ) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let at = |port: u16| json!({ "endpoint": format!("127.0.0.1:{port}") });
        let query = free_port();
        let config = json!({
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query"],
                "pipelines": { "traces": { "receivers": ["kafka"], "exporters": ["jaeger_storage_exporter"] } },
                "telemetry": { "metrics": { "level": "none" } },
            },
            "extensions": {
                "jaeger_query": { "storage": { "traces": "store" }, "http": at(query), "grpc": at(free_port()) },
                "jaeger_storage": { "backends": { "store": { "memory": { "max_traces": 1_000 } } } },
            },
            "receivers": { "kafka": {
                "brokers": [format!("127.0.0.1:{kafka}")],
                "initial_offset": "earliest",
                "group_id": topic,
                "traces": { "topic": topic, "encoding": encoding },
            } },
            "exporters": { "jaeger_storage_exporter": { "trace_storage": "store" } },
        });
        // JSON is YAML.
        std::fs::write(dir.path().join("config.yaml"), config.to_string()).unwrap();
        let mut command = Command::new(binary);
        command
            .args(["--config", "config.yaml"])
            .env("OTEL_TRACES_SAMPLER", "always_off");
        let mut server = Server::start(command, dir);
        server.wait_for(query, "/api/services", false).await?;
        Ok(Self { server, query })
    }

    /// Waits for a trace with at least so many spans.
    pub(crate) async fn trace(&self, id: &str, n_spans: usize) -> Value {
        let path = format!("/api/traces/{id}");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = http::get(self.query, &path).await.unwrap().json();
            if jaeger::spans(&answer["data"][0]).len() >= n_spans {
                return answer["data"][0].clone();
            }
            let log = || self.server.log();
            assert!(Instant::now() < deadline, "{path}: {answer}\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
