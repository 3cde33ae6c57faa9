//! TLS over loopback: trust, client certificates, reload, protocols.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use pillion::net::client::Client;
use pillion::net::client::ClientError;
use pillion::net::tls::Alpn;
use pillion::net::tls::ClientConfig;
use pillion::net::tls::ClientTls;
use pillion::net::tls::MinVersion;
use pillion::net::tls::Reload;
use pillion::net::tls::ServerConfig;
use pillion::net::tls::ServerTls;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertifiedIssuer;
use rcgen::IsCa;
use rcgen::KeyPair;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A CA with its file.
struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Ca {
    fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = dir.join(format!("{name}.pem"));
        std::fs::write(&file, issuer.pem()).unwrap();
        Self { issuer, file }
    }

    /// A certificate for these names, and its key, both PEM.
    fn issue(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn issue_to(&self, config: &ServerConfig, names: &[&str]) {
        let (cert, key) = self.issue(names);
        std::fs::write(&config.cert_file, cert).unwrap();
        std::fs::write(&config.key_file, key).unwrap();
    }

    fn trusted(&self) -> ClientConfig {
        ClientConfig {
            ca_file: Some(self.file.clone()),
            ..ClientConfig::default()
        }
    }
}

fn server_config(dir: &TempDir) -> ServerConfig {
    ServerConfig {
        cert_file: dir.path().join("server.pem"),
        key_file: dir.path().join("server.key"),
        ..ServerConfig::default()
    }
}

/// Answers every request with the protocol it came in.
async fn serve(tls: ServerTls) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve_one(tls.clone(), tcp));
        }
    });
    addr
}

async fn serve_one(tls: ServerTls, tcp: TcpStream) {
    let Ok(stream) = tls.acceptor().accept(tcp).await else {
        return;
    };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
        let version = format!("{:?}", request.version());
        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(version))))
    });
    // A client that was refused is the client's to report.
    if is_http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await
            .unwrap_or_default();
    } else {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await
            .unwrap_or_default();
    }
}

async fn get(client: &Client, addr: SocketAddr) -> Result<String, ClientError> {
    let request = Request::get(format!("https://localhost:{}/", addr.port()))
        .body(Full::default())
        .unwrap();
    let response = client.send(request, TIMEOUT, 1_000).await?;
    Ok(String::from_utf8(response.into_body().to_vec()).unwrap())
}

/// A new connection each time: the settings are those of the moment.
async fn get_anew(config: &ClientConfig, addr: SocketAddr) -> Result<String, ClientError> {
    get(&Client::new(Some(&ClientTls::new(config).unwrap())), addr).await
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text += ": ";
        text += &error.to_string();
        next = error.source();
    }
    text
}

#[tokio::test]
async fn both_http_versions_are_negotiated() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    let config = server_config(&dir);
    ca.issue_to(&config, &["localhost"]);
    let tls = ClientTls::new(&ca.trusted()).unwrap();
    for (accepted, client, expected) in [
        (Alpn::Http, Client::new(Some(&tls)), "HTTP/2.0"),
        (Alpn::Http1, Client::new(Some(&tls)), "HTTP/1.1"),
        (Alpn::None, Client::new(Some(&tls)), "HTTP/1.1"),
        (Alpn::Http, Client::h2_only(Some(&tls)), "HTTP/2.0"),
    ] {
        let addr = serve(ServerTls::new(&config, accepted).unwrap()).await;
        assert_eq!(get(&client, addr).await.unwrap(), expected, "{accepted:?}");
    }
    let addr = serve(ServerTls::new(&config, Alpn::None).unwrap()).await;
    let error = get(&Client::h2_only(Some(&tls)), addr).await.unwrap_err();
    assert!(
        chain(&error).contains("did not agree to HTTP/2"),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn refused_servers_are_explained() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    let stranger = Ca::new(dir.path(), "stranger");
    let config = server_config(&dir);
    ca.issue_to(&config, &["elsewhere.example"]);
    let addr = serve(ServerTls::new(&config, Alpn::Http).unwrap()).await;
    let elsewhere = Some("elsewhere.example".to_owned());

    for (client, part) in [
        (stranger.trusted(), "signed by an unknown CA (set ca_file)"),
        (ca.trusted(), "is for another name (set server_name)"),
        (ClientConfig::default(), "signed by an unknown CA"),
    ] {
        let error = get_anew(&client, addr).await.unwrap_err();
        assert!(matches!(error, ClientError::Connect(_)), "{error:?}");
        assert!(chain(&error).contains(part), "{part}: {}", chain(&error));
    }
    for (client, why) in [
        (
            ClientConfig {
                server_name: elsewhere,
                ..ca.trusted()
            },
            "the configured name is the one that counts",
        ),
        (
            ClientConfig {
                include_system_roots: true,
                insecure_skip_verify: true,
                ..stranger.trusted()
            },
            "nothing is verified",
        ),
    ] {
        let result = get_anew(&client, addr).await;
        assert!(result.is_ok(), "{why}: {result:?}");
    }

    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = plain.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut tcp, _)) = plain.accept().await {
            tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
        }
    });
    let error = get_anew(&ca.trusted(), addr).await.unwrap_err();
    assert!(
        chain(&error).contains("does not speak TLS"),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn clients_without_a_certificate_of_the_configured_ca_are_refused() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    let clients = Ca::new(dir.path(), "clients");
    let config = ServerConfig {
        client_ca_file: Some(clients.file.clone()),
        ..server_config(&dir)
    };
    ca.issue_to(&config, &["localhost"]);
    let server = ServerTls::new(&config, Alpn::Http).unwrap();
    let addr = serve(server.clone()).await;
    let client = |name: &str, issuer: &Ca| {
        let (cert_file, key_file) = (
            dir.path().join(name),
            dir.path().join(format!("{name}.key")),
        );
        let (cert, key) = issuer.issue(&[name]);
        std::fs::write(&cert_file, cert).unwrap();
        std::fs::write(&key_file, key).unwrap();
        ClientConfig {
            cert_file: Some(cert_file),
            key_file: Some(key_file),
            ..ca.trusted()
        }
    };
    let known = client("known", &clients);
    get_anew(&known, addr).await.unwrap();
    for (config, why) in [
        (client("stranger", &ca), "another CA"),
        (ca.trusted(), "no certificate"),
    ] {
        assert!(get_anew(&config, addr).await.is_err(), "{why}");
    }

    // A CA that changes on disk counts from the reload on, also for who has a session to resume.
    let resuming = ClientTls::new(&known).unwrap();
    get(&Client::new(Some(&resuming)), addr).await.unwrap();
    std::fs::copy(&ca.file, &clients.file).unwrap();
    assert_eq!(server.reload().unwrap(), Reload::Changed);
    assert!(get(&Client::new(Some(&resuming)), addr).await.is_err());
    get_anew(&client("now-known", &ca), addr).await.unwrap();
}

#[tokio::test]
async fn sessions_are_resumed() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    for min_version in [MinVersion::Tls12, MinVersion::Tls13] {
        let config = ServerConfig {
            min_version,
            ..server_config(&dir)
        };
        ca.issue_to(&config, &["localhost"]);
        let server = ServerTls::new(&config, Alpn::None).unwrap();
        let client = ClientTls::new(&ca.trusted()).unwrap();
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let (one, other) = tokio::io::duplex(64 << 10);
            let acceptor = server.acceptor();
            let accept = async {
                use tokio::io::AsyncWriteExt;
                let mut stream = acceptor.accept(other).await.unwrap();
                stream.write_all(b"x").await.unwrap();
                stream
            };
            let connect = async {
                use tokio::io::AsyncReadExt;
                let mut stream = client.connect("localhost", one, Alpn::None).await.unwrap();
                // The tickets come with the first bytes.
                stream.read_exact(&mut [0]).await.unwrap();
                stream
            };
            let (stream, _) = tokio::join!(connect, accept);
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(
            kinds,
            [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed],
            "{min_version:?}"
        );
    }
}

#[tokio::test]
async fn reload_takes_over_everything_or_nothing() {
    let dir = TempDir::new().unwrap();
    let old = Ca::new(dir.path(), "old");
    let new = Ca::new(dir.path(), "new");
    let config = server_config(&dir);
    old.issue_to(&config, &["localhost"]);
    let server = ServerTls::new(&config, Alpn::Http).unwrap();
    let addr = serve(server.clone()).await;
    assert_eq!(server.reload().unwrap(), Reload::Unchanged);

    let (cert, key) = new.issue(&["localhost"]);
    let (_, other_key) = new.issue(&["localhost"]);
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let broken = cert.replace("MII", "!!!");
    let (cut, _) = cert.split_at(cert.len() / 2);
    for (bad_cert, bad_key, part) in [
        (
            cert.as_str(),
            other_key.as_str(),
            "does not belong to the certificate",
        ),
        (cert.as_str(), "", "server.key holds no private key"),
        (
            cert.as_str(),
            encrypted.as_str(),
            "an encrypted one is not read",
        ),
        ("", key.as_str(), "server.pem holds no certificate"),
        (
            key.as_str(),
            key.as_str(),
            "server.pem holds no certificate",
        ),
        (broken.as_str(), key.as_str(), "server.pem is not PEM"),
        (cut, key.as_str(), "server.pem is not PEM"),
    ] {
        std::fs::write(&config.cert_file, bad_cert).unwrap();
        std::fs::write(&config.key_file, bad_key).unwrap();
        let error = server.reload().unwrap_err();
        assert!(chain(&error).contains(part), "{part}: {}", chain(&error));
        get_anew(&old.trusted(), addr).await.unwrap();
    }
    std::fs::remove_file(&config.key_file).unwrap();
    let error = chain(&server.reload().unwrap_err());
    assert!(
        error.contains("cannot read") && error.contains("server.key"),
        "{error}"
    );
    get_anew(&old.trusted(), addr).await.unwrap();

    std::fs::write(&config.cert_file, cert).unwrap();
    std::fs::write(&config.key_file, key).unwrap();
    assert_eq!(server.reload().unwrap(), Reload::Changed);
    get_anew(&new.trusted(), addr).await.unwrap();
    assert!(get_anew(&old.trusted(), addr).await.is_err());
}

#[tokio::test]
async fn a_client_reloads_the_ca_it_trusts() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    let stranger = Ca::new(dir.path(), "stranger");
    let config = server_config(&dir);
    ca.issue_to(&config, &["localhost"]);
    let addr = serve(ServerTls::new(&config, Alpn::Http).unwrap()).await;
    let tls = ClientTls::new(&stranger.trusted()).unwrap();
    let client = Client::new(Some(&tls));
    assert!(get(&client, addr).await.is_err());

    std::fs::write(&stranger.file, "not PEM at all").unwrap();
    assert!(tls.reload().is_err());
    std::fs::copy(&ca.file, &stranger.file).unwrap();
    assert_eq!(tls.reload().unwrap(), Reload::Changed);
    get(&client, addr).await.unwrap();
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let config = ClientConfig {
        cert_file: Some("client.pem".into()),
        ..ClientConfig::default()
    };
    let error = ClientTls::new(&config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cert_file and key_file must be set together"
    );
    let config = ClientConfig {
        server_name: Some("not a name".into()),
        ..ClientConfig::default()
    };
    let error = ClientTls::new(&config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"not a name\" is not a host name or an IP address"
    );
    let error = ServerTls::new(&ServerConfig::default(), Alpn::Http).unwrap_err();
    assert_eq!(error.to_string(), "cert_file must be set");
}
