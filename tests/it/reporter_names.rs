//! A collector's name that comes to mean another address: the next connection goes there.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;

use crate::support::collector::Collector;
use crate::support::collector::Down;
use crate::support::collector::Reply;
use crate::support::echo::Echo;
use crate::support::http;
use crate::support::pillion::Pillion;
use crate::support::skip::skip;

const LIMIT: Duration = Duration::from_secs(30);

async fn until_arrived(collector: &Collector, spans: usize) {
    let deadline = Instant::now() + LIMIT;
    while collector.otlp_batches().concat().len() < spans {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_looked_up_for_each_connection() {
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let point_to = |address: &str| {
        let text = format!("127.0.0.1 localhost\n{address} collector.test\n");
        fs::write(hosts.path(), text).unwrap();
    };
    let first = Down::new();
    let port = first.addr.port();
    let second = Down::at(SocketAddr::from(([127, 0, 0, 2], port)));
    // The second batch meets a connection that breaks; what is sent then goes over a new one.
    let first = first.up(vec![Reply::Accept, Reply::Reset]);
    let second = second.up(vec![]);
    let app = Echo::start().await;
    let settings = json!({
        "app": format!("127.0.0.1:{}", app.port),
        "inbound": { "listen": "127.0.0.1:0" },
        "outbound": { "enabled": false },
        "admin": { "listen": "" },
        "sampling": { "constant": { "decision": true } },
        "reporters": [{ "otlp": {
            "endpoint": format!("http://collector.test:{port}"),
            "queue": { "flush_interval": "20ms" },
            "retry": { "initial": "20ms" },
        } }],
    });
    point_to("127.0.0.1");
    let mount = format!("mount --bind '{}' /etc/hosts", hosts.path().display());
    let Some(mut sidecar) = Pillion::run_after(&mount, &settings.to_string()) else {
        return skip("names of its own need the right to mount");
    };
    let inbound = sidecar.port("inbound");
    http::get(inbound, "/x").await.unwrap();
    until_arrived(&first, 1).await;
    point_to("127.0.0.2");
    http::get(inbound, "/x").await.unwrap();
    until_arrived(&second, 1).await;
    assert_eq!(
        first.received().len(),
        2,
        "the one that was taken, and the one that broke"
    );
    sidecar.stop();
}
