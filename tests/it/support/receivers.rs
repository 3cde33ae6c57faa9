//! Settings that open every receiver on a free port.

use serde_json::Value;
use serde_json::json;

/// The section `receivers`, everything on.
pub(crate) fn everywhere() -> Value {
    let free = "127.0.0.1:0";
    json!({
        "jaeger": {
            "enabled": true,
            "compact": free,
            "binary": free,
            "zipkin_compact": free,
            "sampling": free,
            "sampling_grpc": free,
            "grpc": free,
            "http": free,
        },
        "otlp": { "enabled": true, "grpc": free, "http": free },
        "zipkin": { "enabled": true, "listen": free },
        "skywalking": { "enabled": true, "grpc": free, "http": free },
    })
}
