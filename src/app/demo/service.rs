//! The three services of the demo, the hello-world of distributed tracing. Not a line in here knows of traces.
//!
//! `hello` asks `formatter` for a greeting and gives it to `publisher`. They are configured as services are: by
//! `LISTEN`, `HTTP_PROXY` and the URLs of those they call in the environment.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::percent_decode_str;
use percent_encoding::utf8_percent_encode;
use socket2::Domain;
use socket2::Socket;
use socket2::Type;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::app::demo::DemoError;

/// The hidden command that runs one.
pub(super) const COMMAND: &str = "demo-service";
/// The paths of all services, for the names of spans.
pub(super) const ROUTES: [&str; 3] = ["/", "/format", "/publish"];

/// The longest answer that is read, in bytes.
const MAX_BODY: usize = 64 << 10;
/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long formatting and publishing take, so that there is something to see.
const FORMATTING: Duration = Duration::from_millis(4);
const PUBLISHING: Duration = Duration::from_millis(7);

/// What a service answers: a status and a text.
type Answer = (StatusCode, String);

/// A port that is taken but not listened on, until a service comes that may share it.
pub(super) struct Place {
    /// Loopback and the port.
    pub(super) address: SocketAddr,
    _held: Socket,
}

impl Place {
    pub(super) fn reserve() -> io::Result<Self> {
        let held = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = held.local_addr()?.as_socket();
        Ok(Self {
            address: address.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?,
            _held: held,
        })
    }
}

/// Binds so that others who do the same can bind too.
fn bind(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

/// The variable that holds the URL of a service.
pub(super) fn url_variable(service: &str) -> String {
    format!("{}_URL", service.to_ascii_uppercase())
}

/// Runs one of the services until its standard input closes.
///
/// # Errors
/// Its environment is incomplete or its port is taken.
pub fn demo_service(name: &str) -> Result<(), DemoError> {
    let failed = |source| DemoError::Child {
        name: format!("the service {name}"),
        source,
    };
    let listen = variable("LISTEN").map_err(failed)?;
    let socket = bind(listen).map_err(failed)?;
    socket.listen(128).map_err(failed)?;
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(socket.into())?;
        writeln!(io::stdout(), "{listen}")?;
        tokio::select! {
            () = serve(listener, name) => {}
            () = input_closed() => {}
        }
        Ok(())
    })
}

/// Waits until nobody holds the other end of standard input.
pub(super) async fn input_closed() {
    let (closed, wait) = oneshot::channel::<()>();
    let reader = std::thread::Builder::new().spawn(move || {
        // Data or an error: whatever ends the reading ends us.
        io::copy(&mut io::stdin().lock().take(u64::MAX), &mut io::sink()).unwrap_or_default();
        drop(closed);
    });
    if reader.is_ok() {
        wait.await.unwrap_or_default();
    }
}

fn variable<T: std::str::FromStr>(name: &str) -> io::Result<T> {
    let value = std::env::var(name).unwrap_or_default();
    value
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}={value:?}")))
}

async fn serve(listener: TcpListener, name: &str) {
    let which = match name {
        "hello" => Which::Hello,
        "formatter" => Which::Formatter,
        _ => Which::Publisher,
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| async move {
                let (status, text) = answer(which, &request).await;
                let mut response = Response::new(Full::new(Bytes::from(text + "\n")));
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            });
            // A connection that breaks is the caller's affair.
            hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
                .unwrap_or_default();
        });
    }
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Hello,
    Formatter,
    Publisher,
}

async fn answer(which: Which, request: &Request<Incoming>) -> Answer {
    let query = request.uri().query().unwrap_or_default();
    match (which, request.uri().path()) {
        (Which::Hello, "/") => {
            let name = parameter(query, "name").unwrap_or("World".into());
            hello(&name).await.unwrap_or_else(|failure| failure)
        }
        (Which::Formatter, "/format") => {
            tokio::time::sleep(FORMATTING).await;
            match parameter(query, "helloTo") {
                Some(name) if !name.is_empty() => (StatusCode::OK, format!("Hello, {name}!")),
                _ => (StatusCode::BAD_REQUEST, "nobody to greet".to_owned()),
            }
        }
        (Which::Publisher, "/publish") => {
            tokio::time::sleep(PUBLISHING).await;
            (StatusCode::OK, "published".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, "not found".to_owned()),
    }
}

async fn hello(name: &str) -> Result<Answer, Answer> {
    let greeting = call("formatter", "/format", "helloTo", name).await?;
    call("publisher", "/publish", "helloStr", &greeting).await?;
    Ok((StatusCode::OK, greeting))
}

/// Calls another service through the proxy; its failure becomes ours.
async fn call(service: &str, path: &str, parameter: &str, value: &str) -> Result<String, Answer> {
    let failed = |error: io::Error| (StatusCode::BAD_GATEWAY, format!("{service}: {error}"));
    let base: String = variable(&url_variable(service)).map_err(failed)?;
    let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
    let url: Uri = format!("{base}{path}?{parameter}={value}")
        .parse()
        .map_err(|error| failed(io::Error::other(error)))?;
    let proxy: Uri = variable("HTTP_PROXY").map_err(failed)?;
    let via = proxy.authority().map_or("", |authority| authority.as_str());
    let (status, text) = get(via, url).await.map_err(failed)?;
    match status.is_success() {
        true => Ok(text),
        false => Err((
            StatusCode::BAD_GATEWAY,
            format!("{service} says {status}: {text}"),
        )),
    }
}

/// One GET over a connection of its own to `via`; the text without its last line break.
pub(super) async fn get(via: &str, url: Uri) -> io::Result<Answer> {
    let exchange = async {
        let stream = TcpStream::connect(via).await?;
        let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // How it ends is told by the exchange.
        tokio::spawn(async move { conn.await.unwrap_or_default() });
        let host = url.authority().map_or(via, |authority| authority.as_str());
        let request = Request::get(url.clone())
            .header(header::HOST, host)
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let response = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY);
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let text = String::from_utf8_lossy(&body).trim_end().to_owned();
        Ok((status, text))
    };
    tokio::time::timeout(TIMEOUT, exchange).await?
}

/// The value of a query parameter, decoded.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| match value.contains('+') {
            true => Cow::Owned(
                percent_decode_str(&value.replace('+', " "))
                    .decode_utf8_lossy()
                    .into_owned(),
            ),
            false => percent_decode_str(value).decode_utf8_lossy(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        for (query, value, why) in [
            ("name=Ada", Some("Ada"), "plain"),
            ("a=b&name=Ada+L", Some("Ada L"), "plus is a space"),
            ("name=%C3%84da%26", Some("Äda&"), "escapes"),
            ("name=", Some(""), "empty"),
            ("names=x", None, "another name"),
            ("", None, "none"),
        ] {
            assert_eq!(parameter(query, "name").as_deref(), value, "{why}");
        }
    }

    #[test]
    fn a_reserved_place_can_be_taken_by_one_who_shares_and_by_no_other() {
        let place = Place::reserve().unwrap();
        assert!(std::net::TcpListener::bind(place.address).is_err());
        let socket = bind(place.address).unwrap();
        socket.listen(1).unwrap();
        std::net::TcpStream::connect(place.address).unwrap();
    }
}
