//! Raw connections, byte for byte: a client that sends anything, and an upstream that records everything it reads.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// No single wait of a test takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// One end of a TCP connection. What was read and not yet taken waits in it.
pub(crate) struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    ended: bool,
    log: Option<Log>,
}

#[derive(Clone, Default)]
struct Log {
    bytes: Arc<Mutex<Vec<u8>>>,
    grown: Arc<Notify>,
}

/// Nothing came within [`DEADLINE`], or the connection ended first; what had come until then.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

impl Peer {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream, None)
    }

    fn new(stream: TcpStream, log: Option<Log>) -> Self {
        Self {
            stream,
            unread: Vec::new(),
            ended: false,
            log,
        }
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Sends; a peer that is gone already is for the reading side to notice.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = tokio::time::timeout(DEADLINE, self.stream.write_all(bytes)).await;
        matches!(sent, Ok(Ok(())))
    }

    /// Sends in pieces that arrive one by one.
    pub(crate) async fn send_in_pieces(&mut self, bytes: &[u8], size: usize) -> bool {
        for piece in bytes.chunks(size) {
            if !self.send(piece).await {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        true
    }

    /// No more will be sent; reading goes on.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap_or_default();
    }

    /// Ends with a TCP reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    async fn read_more(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let mut buffer = vec![0; 64 * 1024];
        // A reset ends what can be read.
        let count = self.stream.read(&mut buffer).await.unwrap_or_default();
        self.ended = count == 0;
        self.unread.extend_from_slice(&buffer[..count]);
        if let Some(log) = &self.log {
            log.bytes
                .lock()
                .unwrap()
                .extend_from_slice(&buffer[..count]);
            log.grown.notify_waiters();
        }
        !self.ended
    }

    /// Reads until `length` knows where the wanted part of the unread bytes ends, and takes it.
    pub(crate) async fn take_by(
        &mut self,
        length: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Vec<u8>, Missing> {
        let reading = async {
            loop {
                if let Some(length) = length(&self.unread) {
                    return Some(length);
                }
                if !self.read_more().await {
                    return None;
                }
            }
        };
        match tokio::time::timeout(DEADLINE, reading).await {
            Ok(Some(length)) => Ok(self.unread.drain(..length).collect()),
            Ok(None) => Err(Missing(format!("ended after {}", show(&self.unread)))),
            Err(_) => Err(Missing(format!("silent after {}", show(&self.unread)))),
        }
    }

    /// Everything up to and with `pattern`.
    pub(crate) async fn until(&mut self, pattern: &[u8]) -> Result<Vec<u8>, Missing> {
        self.take_by(|bytes| find(bytes, pattern).map(|at| at + pattern.len()))
            .await
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Missing> {
        self.take_by(|bytes| (bytes.len() >= count).then_some(count))
            .await
    }

    /// One request or response head.
    pub(crate) async fn head(&mut self) -> Result<Vec<u8>, Missing> {
        self.until(b"\r\n\r\n").await
    }

    /// One whole request: head and body.
    pub(crate) async fn request(&mut self) -> Result<Vec<u8>, Missing> {
        self.take_by(|bytes| message_length(bytes, 0)).await
    }

    /// One whole response that says how long it is.
    pub(crate) async fn response(&mut self) -> Result<Vec<u8>, Missing> {
        self.take_by(|bytes| message_length(bytes, 0)).await
    }

    /// Everything that comes until the other side closes.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>, Missing> {
        let reading = async { while self.read_more().await {} };
        match tokio::time::timeout(DEADLINE, reading).await {
            Ok(()) => Ok(std::mem::take(&mut self.unread)),
            Err(_) => Err(Missing(format!("still open after {}", show(&self.unread)))),
        }
    }

    /// What comes within a moment; for showing that nothing comes.
    pub(crate) async fn within(&mut self, moment: Duration) -> Vec<u8> {
        let reading = async { while self.read_more().await {} };
        tokio::time::timeout(moment, reading)
            .await
            .unwrap_or_default();
        std::mem::take(&mut self.unread)
    }
}

type Script = Arc<dyn Fn(usize, Peer) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// An upstream that keeps every byte of every connection. It ends with its test's runtime.
#[derive(Clone)]
pub(crate) struct Recorder {
    pub(crate) addr: SocketAddr,
    state: Arc<Mutex<State>>,
    accepted: Arc<Notify>,
}

struct State {
    script: Script,
    /// Of the present script.
    n_accepted: usize,
    connections: Vec<Log>,
}

impl Recorder {
    /// Each connection is served by `script`, which gets its number, from 0.
    pub(crate) async fn start<F, S>(script: S) -> Self
    where
        S: Fn(usize, Peer) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            script: erase(script),
            n_accepted: 0,
            connections: Vec::new(),
        }));
        let recorder = Self {
            addr,
            state,
            accepted: Arc::default(),
        };
        let accepting = recorder.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let log = Log::default();
                let served = {
                    let mut state = accepting.state.lock().unwrap();
                    state.connections.push(log.clone());
                    let number = state.n_accepted;
                    state.n_accepted += 1;
                    (state.script)(number, Peer::new(stream, Some(log)))
                };
                accepting.accepted.notify_waiters();
                tokio::spawn(served);
            }
        });
        recorder
    }

    /// Answers every request with 200, its connection kept open.
    pub(crate) async fn friendly() -> Self {
        Self::start(|_, peer| friendly(peer)).await
    }

    /// Forgets what was recorded and serves new connections with another script. Open ones are still recorded.
    pub(crate) fn restart<F, S>(&self, script: S)
    where
        S: Fn(usize, Peer) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut state = self.state.lock().unwrap();
        state.script = erase(script);
        state.n_accepted = 0;
        state
            .connections
            .retain(|log| Arc::strong_count(&log.bytes) > 1);
        for log in &state.connections {
            log.bytes.lock().unwrap().clear();
        }
    }

    /// Every byte so far, by connection; those that said nothing are left out.
    pub(crate) fn seen(&self) -> Vec<Vec<u8>> {
        let state = self.state.lock().unwrap();
        let bytes = state.connections.iter();
        bytes
            .map(|log| log.bytes.lock().unwrap().clone())
            .filter(|bytes| !bytes.is_empty())
            .collect()
    }

    /// All connections' bytes, one after the other.
    pub(crate) fn all(&self) -> Vec<u8> {
        self.seen().concat()
    }
}

fn erase<F, S>(script: S) -> Script
where
    S: Fn(usize, Peer) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |number, peer| Box::pin(script(number, peer)))
}

/// Reads requests and answers 200 `ok` to each, for as long as there are any.
pub(crate) async fn friendly(mut peer: Peer) {
    loop {
        // A friendly upstream waits as long as it takes.
        match peer.request().await {
            Ok(_) => {}
            Err(_) if peer.ended => return,
            Err(_) => continue,
        }
        if !peer
            .send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
        {
            return;
        }
    }
}

/// The length of the message at the front: by `Transfer-Encoding`, by `Content-Length`, else the head and `otherwise`
/// bytes. `None`: not all there.
pub(crate) fn message_length(bytes: &[u8], otherwise: usize) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
    };
    if field("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        return chunked_length(&bytes[head..]).map(|length| head + length);
    }
    let length = field("content-length").map_or(otherwise, |value| value.parse().unwrap());
    (bytes.len() >= head + length).then_some(head + length)
}

fn chunked_length(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = at + find(body.get(at..)?, b"\r\n")?;
        let size = chunk_size(&body[at..line])?;
        at = line + 2;
        if size == 0 {
            loop {
                let end = at + find(body.get(at..)?, b"\r\n")? + 2;
                if end == at + 2 {
                    return Some(end);
                }
                at = end;
            }
        }
        at += size + 2;
        if body.len() < at {
            return None;
        }
    }
}

/// The content of a chunked body and its trailer lines; `None` when it is not whole.
pub(crate) fn dechunk(body: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let whole = chunked_length(body)?;
    let (mut body, mut content) = (body.get(..whole)?, Vec::new());
    loop {
        let line = find(body, b"\r\n")?;
        let size = chunk_size(&body[..line])?;
        body = &body[line + 2..];
        if size == 0 {
            return Some((content, body[..body.len() - 2].to_vec()));
        }
        content.extend_from_slice(&body[..size]);
        body = &body[size + 2..];
    }
}

fn chunk_size(line: &[u8]) -> Option<usize> {
    let line = String::from_utf8_lossy(line);
    let size = line.split(';').next().unwrap_or_default().trim();
    usize::from_str_radix(size, 16).ok()
}

pub(crate) fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

/// Bytes for a failure's text.
pub(crate) fn show(bytes: &[u8]) -> String {
    if bytes.len() > 3000 {
        let (first, last) = (&bytes[..1500], &bytes[bytes.len() - 500..]);
        return format!(
            "{} bytes \"{} [...] {}\"",
            bytes.len(),
            first.escape_ascii(),
            last.escape_ascii()
        );
    }
    format!("\"{}\"", bytes.escape_ascii())
}
