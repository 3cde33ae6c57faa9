"""The proxies that are compared: how each is configured for a scenario and started.

A scenario's `Wiring` says what the proxy is between. Every proxy gets one worker, no access log, and upstream
connections that are kept.
"""

import dataclasses
import json
import pathlib

from . import system


@dataclasses.dataclass
class Wiring:
    """What a proxy is between."""

    upstream: int
    sink: int
    work: pathlib.Path
    h2_upstream: bool = False
    tls: bool = False
    h2: bool = False
    grpc: bool = False
    # A second listener towards this port, for the program's own calls.
    backend: int | None = None
    # Ports the proxy listens on, chosen by the scenario so that `upstream --call` can know them.
    listen: int = 0
    egress: int = 0
    # Settings of Pillion that a scenario varies.
    routes: int = 0
    reporters: int = 1

    @property
    def cert(self):
        return self.work / "cert.pem"

    @property
    def key(self):
        return self.work / "key.pem"


@dataclasses.dataclass
class Proxy:
    """One row of the table."""

    name: str
    # Command from a wiring; writes the configuration.
    command: object
    # Share of requests whose spans must arrive; `None`: no tracing.
    traced: float | None = None
    # What it can do.
    http: bool = True
    tls: bool = True
    h2_upstream: bool = True
    linking: bool = False
    size_of: object = None


def write(wiring, name, text):
    path = wiring.work / name
    path.write_text(text)
    return path


def nginx(binary):
    def command(w):
        listen = f"127.0.0.1:{w.listen}"
        flags = (" ssl" if w.tls else "") + (" http2" if w.h2 else "")
        scheme, directive = ("grpc", "grpc_pass") if w.grpc else ("http", "proxy_pass")
        tls = f"ssl_certificate {w.cert}; ssl_certificate_key {w.key};" if w.tls else ""
        http1 = 'proxy_http_version 1.1; proxy_set_header Connection "";' if not w.grpc else ""
        text = f"""
daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 65536;
pid {w.work}/nginx.pid; error_log {w.work}/nginx-error.log crit;
events {{ worker_connections 30000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; client_max_body_size 0;
  client_body_temp_path {w.work}/nginx-body; proxy_temp_path {w.work}/nginx-proxy;
  fastcgi_temp_path {w.work}/nginx-f; uwsgi_temp_path {w.work}/nginx-u; scgi_temp_path {w.work}/nginx-s;
  upstream app {{ server 127.0.0.1:{w.upstream}; keepalive 16384; keepalive_requests 1000000000; }}
  server {{
    listen {listen}{flags} backlog=4096; {tls}
    location / {{
      {directive} {scheme}://app; {http1}
      {"proxy_request_buffering off; proxy_buffering on;" if not w.grpc else ""}
    }}
  }}
}}
"""
        return [binary, "-p", w.work, "-c", write(w, "nginx.conf", text)]

    return command


def haproxy(binary):
    def command(w):
        tls = ""
        if w.tls:
            pem = write(w, "haproxy.pem", w.cert.read_text() + w.key.read_text())
            tls = f" ssl crt {pem}"
        proto = " proto h2" if w.h2_upstream else ""
        text = f"""
global
  nbthread 1
  no strict-limits
  maxconn 12000
defaults
  mode http
  timeout connect 5s
  timeout client 3600s
  timeout server 3600s
  http-reuse always
frontend in
  bind 127.0.0.1:{w.listen}{tls}{" alpn h2,http/1.1" if w.tls else ""} backlog 4096
  default_backend app
backend app
  server app 127.0.0.1:{w.upstream}{proto}
"""
        return [binary, "-db", "-q", "-f", write(w, "haproxy.cfg", text)]

    return command


def raw_copy(directory):
    return lambda w: [
        directory / "raw-copy", "--listen", f"127.0.0.1:{w.listen}", "--upstream", f"127.0.0.1:{w.upstream}",
    ]


def minimal_hyper(directory):
    return lambda w: [
        directory / "minimal-hyper", "--listen", f"127.0.0.1:{w.listen}", "--upstream", f"127.0.0.1:{w.upstream}",
        *(["--upstream-http2"] if w.h2_upstream else []),
    ]


def envoy(binary, tracing):
    """`tracing`: `None`, `otlp`, `zipkin`."""

    def command(w):
        clusters = [cluster("app", w.upstream, w.h2_upstream)]
        listeners = [listener("in", w.listen, "app", tracing, "INGRESS", w)]
        if w.backend is not None:
            clusters.append(cluster("backend", w.backend, False))
            plain = dataclasses.replace(w, tls=False)
            listeners.append(listener("out", w.egress, "backend", tracing, "EGRESS", plain))
        if tracing:
            clusters.append(cluster("sink", w.sink, False))
        text = json.dumps({"static_resources": {"listeners": listeners, "clusters": clusters}})
        return [
            binary, "-c", write(w, "envoy.json", text), "--concurrency", "1", "--disable-hot-restart",
            "--log-level", "error", "--service-cluster", "bench", "--service-node", "bench",
        ]

    return command


def cluster(name, port, http2):
    result = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536, "max_retries": 0}
            ]
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
    }
    if http2:
        result["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return result


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def listener(name, port, to, tracing, direction, w):
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "name": name,
            "virtual_hosts": [
                {
                    "name": name,
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": to, "timeout": "0s"}}],
                }
            ],
        },
    }
    if tracing:
        manager["tracing"] = {"random_sampling": {"value": 100}, "provider": provider(tracing)}
    chain = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
    }
    if w.tls:
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificates": [
                        {"certificate_chain": {"filename": str(w.cert)}, "private_key": {"filename": str(w.key)}}
                    ],
                },
            },
        }
    return {
        "name": name,
        "address": address(port),
        "traffic_direction": "INBOUND" if direction == "INGRESS" else "OUTBOUND",
        "filter_chains": [chain],
    }


def provider(tracing):
    if tracing == "zipkin":
        return {
            "name": "envoy.tracers.zipkin",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
                "collector_cluster": "sink",
                "collector_endpoint": "/api/v2/spans",
                "collector_endpoint_version": "HTTP_JSON",
                "collector_hostname": "sink",
            },
        }
    return {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
            "http_service": {
                "http_uri": {"uri": "http://sink/v1/traces", "cluster": "sink", "timeout": "5s"},
            },
            "service_name": "bench",
        },
    }


def pillion(binary, tracing):
    """`tracing`: `None`, `all`, `0.1%`, `remote`, `all, no view`."""

    def command(w):
        sampling = {
            "all": {"constant": {"decision": True}},
            "0.1%": {"probabilistic": {"rate": 0.001}},
            "remote": {"remote": {"endpoint": f"http://127.0.0.1:{w.sink}/sampling"}},
        }
        config = {
            "service": "bench",
            "app": f"127.0.0.1:{w.upstream}",
            "workers": 1,
            "inbound": {
                "listen": f"127.0.0.1:{w.listen}",
                "app_protocol": "http2" if w.h2_upstream else "http1",
            },
            "outbound": {"enabled": False},
            "admin": {"listen": f"127.0.0.1:{system.free_port()}"},
            # As in a pod that grants no capabilities.
            "linking": {"kernel": "off"},
            "spans": {"enabled": tracing is not None, "routes": [f"/o{index}" for index in range(w.routes)]},
        }
        if w.tls:
            config["inbound"]["tls"] = {"cert_file": str(w.cert), "key_file": str(w.key)}
        if w.backend is not None:
            config["routes"] = [{"listen": f"127.0.0.1:{w.egress}", "to": f"127.0.0.1:{w.backend}"}]
        if tracing is not None:
            otlp = {"otlp": {"endpoint": f"http://127.0.0.1:{w.sink}"}}
            config["sampling"] = sampling[tracing.split(",")[0]]
            config["reporters"] = [otlp] * w.reporters
        if tracing is None or "no view" in tracing:
            config["view"] = {"enabled": False}
        return [binary, "run", "-c", write(w, "pillion.yaml", json.dumps(config))]

    return command


def known(programs):
    """All rows, in the order of the table. `programs` maps names to executables; absent ones are left out."""
    rows = []
    bench = programs["bench"]
    rows.append(Proxy("raw-copy", raw_copy(bench), http=False, tls=False, h2_upstream=False, size_of=bench / "raw-copy"))
    rows.append(Proxy("minimal-hyper", minimal_hyper(bench), tls=False, size_of=bench / "minimal-hyper"))
    if path := programs.get("nginx"):
        rows.append(Proxy("nginx", nginx(path), h2_upstream=False, size_of=path))
    if path := programs.get("haproxy"):
        rows.append(Proxy("haproxy", haproxy(path), size_of=path))
    if path := programs.get("envoy"):
        rows.append(Proxy("envoy", envoy(path, None), size_of=path))
        rows.append(Proxy("envoy otlp", envoy(path, "otlp"), traced=1.0, linking=True))
        rows.append(Proxy("envoy zipkin", envoy(path, "zipkin"), traced=1.0, linking=True))
    path = programs["pillion"]
    rows.append(Proxy("pillion off", pillion(path, None), size_of=path))
    rows.append(Proxy("pillion 100%", pillion(path, "all"), traced=1.0, linking=True))
    rows.append(Proxy("pillion 100% no view", pillion(path, "all, no view"), traced=1.0, linking=True))
    rows.append(Proxy("pillion 0.1%", pillion(path, "0.1%"), traced=0.001))
    rows.append(Proxy("pillion remote", pillion(path, "remote"), traced=1.0))
    return rows
