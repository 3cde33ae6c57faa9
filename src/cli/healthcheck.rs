//! `healthcheck` and `drain`: ask the admin port of a running proxy whether it is ready, and tell it to stop taking
//! traffic. For container images without a shell.

use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::net::ToSocketAddrs;
use std::time::Duration;
use std::time::Instant;

/// The most of an answer that is read.
const MAX_ANSWER: usize = 4096;
/// How often a proxy is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long nothing must be in flight: a caller may be about to send the next request.
const QUIET: Duration = Duration::from_millis(500);

/// Asks `GET /readyz` at `listen`, the address the admin port is configured with; of a name's addresses, the first
/// that takes the connection.
///
/// # Errors
/// Why the proxy does not count as ready, in words.
pub(crate) fn ready(listen: &str, timeout: Duration) -> Result<(), String> {
    call(listen, "GET", "/readyz", timeout).map(drop)
}

/// [`ready`], asked again until `wait` is over.
///
/// # Errors
/// The last reason.
pub(crate) fn ready_within(listen: &str, timeout: Duration, wait: Duration) -> Result<(), String> {
    let deadline = Instant::now() + wait;
    loop {
        match ready(listen, timeout) {
            Err(_) if Instant::now() + PAUSE < deadline => std::thread::sleep(PAUSE),
            answer => return answer,
        }
    }
}

/// Waits until no request has been in flight for a moment, at least for `after`, at most for `timeout`; then tells the
/// proxy to stop taking traffic.
///
/// # Errors
/// The proxy does not answer.
pub(crate) fn drain(listen: &str, after: Duration, timeout: Duration) -> Result<(), String> {
    let began = Instant::now();
    std::thread::sleep(after.min(timeout));
    let mut quiet = None;
    while began.elapsed() < timeout {
        let answer = call(listen, "GET", "/connections", timeout)?;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        let busy = answer["requests_in_flight"].as_u64() != Some(0);
        let since = *quiet.get_or_insert_with(Instant::now);
        match busy {
            true => quiet = None,
            false if since.elapsed() >= QUIET => break,
            false => {}
        }
        std::thread::sleep(PAUSE);
    }
    call(listen, "POST", "/drain", timeout.max(PAUSE)).map(drop)
}

/// Sends a request without a body to the admin port; the body of its answer, which must be 200.
fn call(listen: &str, method: &str, path: &str, timeout: Duration) -> Result<String, String> {
    if listen.is_empty() {
        return Err("the admin port is switched off (`admin.listen` is empty)".to_owned());
    }
    let deadline = Instant::now() + timeout;
    let addrs = listen
        .to_socket_addrs()
        .map_err(|error| format!("cannot resolve {listen}: {error}"))?;
    let mut failure = format!("{listen} has no address");
    for addr in addrs {
        let addr = reachable(addr);
        let left = deadline.saturating_duration_since(Instant::now());
        // A wait of nothing is an error of its own kind.
        match TcpStream::connect_timeout(&addr, left.max(Duration::from_millis(1))) {
            Ok(conn) => return ask(conn, addr, &format!("{method} {path}"), timeout, deadline),
            Err(error) => failure = format!("no answer from {addr}: {error}"),
        }
    }
    Err(failure)
}

/// Where to reach a listener: one on every address is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn ask(
    mut conn: TcpStream,
    addr: SocketAddr,
    question: &str,
    timeout: Duration,
    deadline: Instant,
) -> Result<String, String> {
    let fail = |error: std::io::Error| format!("no answer from {addr}: {error}");
    conn.set_write_timeout(Some(timeout)).map_err(fail)?;
    let request = format!(
        "{question} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    conn.write_all(request.as_bytes()).map_err(fail)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    while answer.len() < MAX_ANSWER {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("no answer from {addr} within {timeout:?}"));
        }
        conn.set_read_timeout(Some(left)).map_err(fail)?;
        match conn.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(error) if answer.is_empty() => return Err(fail(error)),
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let status = text.split_whitespace().nth(1).unwrap_or_default();
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    if text.starts_with("HTTP/1.") && status == "200" {
        return Ok(body.to_owned());
    }
    let body: String = body.chars().filter(|c| !c.is_control()).take(200).collect();
    Err(format!("{addr} answers {status} {body}").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that gives one fixed answer, or none.
    fn answering(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut conn, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = conn.read(&mut request).unwrap();
            assert!(request[..n].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            conn.write_all(answer).unwrap();
            if answer.is_empty() {
                // Holds the connection open until the client gives up.
                let mut rest = Vec::new();
                conn.read_to_end(&mut rest).unwrap();
            }
        });
        addr
    }

    #[test]
    fn only_200_counts_as_ready() {
        let timeout = Duration::from_secs(5);
        assert_eq!(
            ready(&answering(b"HTTP/1.1 200 OK\r\n\r\nready"), timeout),
            Ok(())
        );
        let error = ready(&answering(b"HTTP/1.1 503 No\r\n\r\ndraining\n"), timeout).unwrap_err();
        assert!(error.ends_with("answers 503 draining"), "{error}");
        let error = ready(&answering(b"SSH-2.0-x 200\r\n"), timeout).unwrap_err();
        assert!(error.contains("answers"), "{error}");
    }

    #[test]
    fn silence_and_absence_are_not_ready() {
        let error = ready(&answering(b""), Duration::from_millis(50)).unwrap_err();
        assert!(error.contains("no answer"), "{error}");
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(ready(&closed.to_string(), Duration::from_secs(5)).is_err());
        let error = ready("", Duration::from_secs(5)).unwrap_err();
        assert!(error.contains("switched off"), "{error}");
    }
}
