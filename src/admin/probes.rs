//! The port for probes: whether this process lives and takes traffic, its metrics, and whether the program listens.
//!
//! Nothing here changes or tells anything about requests, so it may listen on the address of a pod, where the kubelet
//! and Prometheus reach it.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::Request;
use http::StatusCode;
use tokio::net::TcpStream;

use crate::admin::control;
use crate::admin::respond;
use crate::admin::respond::Answer;
use crate::admin::server::Shared;

/// `/tcp/PORT`.
const TCP: &str = "/tcp/";
/// The kubelet gives up sooner unless its probe says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers one request that came in on the address `local`.
pub(super) async fn dispatch(
    request: &Request<Bytes>,
    shared: &Shared,
    local: Option<IpAddr>,
) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond::wrong_method("GET, HEAD");
    }
    let path = request.uri().path();
    match path {
        "/livez" => control::livez(shared),
        "/readyz" => control::readyz(shared),
        "/healthz" => control::healthz(shared),
        "/metrics" => control::metrics(shared),
        _ => match (path.strip_prefix(TCP), local) {
            (Some(port), Some(local)) => connect(port, local, shared).await,
            _ => respond::text(
                StatusCode::NOT_FOUND,
                "not found; here are /livez, /readyz, /healthz, /metrics and /tcp/PORT",
            ),
        },
    }
}

/// Connects to the program as a TCP probe of the kubelet would, had its connection not been redirected here.
async fn connect(port: &str, local: IpAddr, shared: &Shared) -> Answer {
    let Some(port) = port
        .parse()
        .ok()
        .filter(|port| shared.tcp_probes.contains(port))
    else {
        let reason = format!("port {port} is not among admin.tcp_probes");
        return respond::text(StatusCode::NOT_FOUND, reason);
    };
    let connected = TcpStream::connect(SocketAddr::new(local, port));
    let reason = match tokio::time::timeout(CONNECT_TIMEOUT, connected).await {
        Ok(Ok(_)) => return respond::text(StatusCode::OK, "open"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {CONNECT_TIMEOUT:?}"),
    };
    respond::text(StatusCode::SERVICE_UNAVAILABLE, reason)
}
