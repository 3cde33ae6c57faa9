//! A minimal HTTP client that shares no code with what is tested.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer: status and body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; `Null` when it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// GET from a local port, as HTTP/1.0 so that the answer is neither chunked nor kept open.
pub(crate) async fn get(port: u16, path: &str) -> io::Result<Answer> {
    exchange(
        port,
        format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").as_bytes(),
    )
    .await
}

/// [`get`] with further header lines.
pub(crate) async fn get_with(port: u16, path: &str, headers: &[&str]) -> io::Result<Answer> {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    exchange(
        port,
        format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n{lines}\r\n").as_bytes(),
    )
    .await
}

/// POST to a local port.
pub(crate) async fn post(
    port: u16,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> io::Result<Answer> {
    let length = body.len();
    let mut request = format!(
        "POST {path} HTTP/1.0\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    exchange(port, &request).await
}

async fn exchange(port: u16, request: &[u8]) -> io::Result<Answer> {
    let exchange = async {
        let mut conn = TcpStream::connect(("127.0.0.1", port)).await?;
        conn.write_all(request).await?;
        let mut answer = Vec::new();
        conn.read_to_end(&mut answer).await?;
        parse(&answer).ok_or_else(|| io::Error::other("not an HTTP answer"))
    };
    tokio::time::timeout(TIMEOUT, exchange).await?
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    Some(Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        body: answer[end + 4..].to_vec(),
    })
}
