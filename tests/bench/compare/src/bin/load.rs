//! HTTP/1 load over loopback, counted exactly. Prints one JSON object.
//!
//! `load closed --addr ADDR --conns N --requests M [--close] [--warm K]`: each connection sends its next request when it
//! has the answer to the last one. With `--warm`, K requests on each connection come first; then it prints `ready` and
//! waits for a line.
//! `load open --addr ADDR --conns N --requests M --rate R`: requests start when they are due, whatever became of earlier
//! ones; latency counts from that moment, waiting for a free connection included. `second_p99_us` is the p99 of the middle
//! one of its seconds: the first, in which connections are opened, and those in which the machine was halted say nothing.
//! `load idle --addr ADDR --conns N`: one request on each connection, then `ready`; closes them all when its input ends.
//!
//! What is sent: `--path /small`, `--paths N` (`/o0` to `/oN-1` in turn), `--body SIZE`, `--chunk SIZE` (the body in
//! chunks of this size).

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use rustix::time::Itimerspec;
use rustix::time::TimerfdClockId;
use rustix::time::TimerfdFlags;
use rustix::time::TimerfdTimerFlags;
use rustix::time::Timespec;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What all connections share.
struct Load {
    addr: SocketAddr,
    requests: Vec<Vec<u8>>,
    close: bool,
    left: Cell<u64>,
    latencies: RefCell<Vec<u64>>,
    errors: Cell<u64>,
    bytes: Cell<u64>,
    first_error: RefCell<Option<String>>,
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

fn main() {
    pillion_compare::run(async {
        let requests: u64 = pillion_compare::argument("--requests", 1000);
        let close = pillion_compare::flag("--close");
        let load = Rc::new(Load {
            addr: pillion_compare::required("--addr"),
            requests: messages(close),
            close,
            left: Cell::new(requests),
            latencies: RefCell::default(),
            errors: Cell::new(0),
            bytes: Cell::new(0),
            first_error: RefCell::default(),
        });
        let conns: usize = pillion_compare::argument("--conns", 64);
        let mode = std::env::args().nth(1).unwrap_or_default();
        let mut start = Instant::now();
        match mode.as_str() {
            "closed" => {
                let clients = warm_up(&load, conns).await;
                start = Instant::now();
                closed(&load, clients).await;
            }
            "open" => open(&load, conns, requests).await,
            "idle" => return idle(&load, conns).await,
            _ => panic!("closed, open or idle?"),
        }
        load.report(start.elapsed());
    });
}

fn messages(close: bool) -> Vec<Vec<u8>> {
    let path = pillion_compare::argument("--path", "/small".to_owned());
    match pillion_compare::argument("--paths", 0) {
        0 => vec![request(&path, close)],
        count => (0..count)
            .map(|index| request(&format!("/o{index}"), close))
            .collect(),
    }
}

fn request(path: &str, close: bool) -> Vec<u8> {
    let body: usize = pillion_compare::argument("--body", 0);
    let chunk: usize = pillion_compare::argument("--chunk", 0);
    let method = if body > 0 { "POST" } else { "GET" };
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nhost: bench.test\r\nuser-agent: load/1\r\naccept: */*\r\n"
    )
    .into_bytes();
    if close {
        bytes.extend(b"connection: close\r\n");
    }
    if body > 0 && chunk > 0 {
        bytes.extend(b"transfer-encoding: chunked\r\n\r\n");
        for _ in 0..body.div_ceil(chunk) {
            bytes.extend(format!("{chunk:x}\r\n").as_bytes());
            bytes.resize(bytes.len() + chunk, b'0');
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
    } else if body > 0 {
        bytes.extend(format!("content-length: {body}\r\n\r\n").as_bytes());
        bytes.resize(bytes.len() + body, b'0');
    } else {
        bytes.extend(b"\r\n");
    }
    bytes
}

/// Opens all connections and uses each a few times, when that is wanted.
async fn warm_up(load: &Rc<Load>, conns: usize) -> Vec<Option<Client>> {
    let rounds = pillion_compare::argument("--warm", 0);
    // All at a time: a proxy then opens as many upstream connections as it will need.
    let tasks: Vec<_> = (0..conns)
        .map(|_| {
            let load = load.clone();
            tokio::task::spawn_local(async move {
                let mut client = None;
                for _ in 0..rounds {
                    client = load.exchange(client, Instant::now()).await;
                }
                client
            })
        })
        .collect();
    let mut clients = Vec::with_capacity(conns);
    for task in tasks {
        clients.push(task.await.expect("a connection's task"));
    }
    if rounds > 0 {
        println!("ready");
        let mut line = [0];
        // The end of the input starts the load as well.
        let _ = tokio::io::stdin().read(&mut line).await;
        load.latencies.borrow_mut().clear();
        load.bytes.set(0);
    }
    clients
}

async fn closed(load: &Rc<Load>, clients: Vec<Option<Client>>) {
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let load = load.clone();
            tokio::task::spawn_local(async move {
                while load.take() {
                    client = load.exchange(client, Instant::now()).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a connection's task");
    }
}

async fn open(load: &Rc<Load>, conns: usize, requests: u64) {
    let rate: f64 = pillion_compare::argument("--rate", 2000.0);
    let due: Rc<RefCell<VecDeque<Instant>>> = Rc::default();
    let (wake, over) = (Rc::new(Notify::new()), Rc::new(Cell::new(false)));
    let tasks: Vec<_> = (0..conns)
        .map(|_| {
            let (load, due, wake, over) = (load.clone(), due.clone(), wake.clone(), over.clone());
            tokio::task::spawn_local(async move {
                // Connecting is no part of any request's latency.
                let mut client = load.connect().await.ok();
                loop {
                    let next = due.borrow_mut().pop_front();
                    match next {
                        Some(since) => client = load.exchange(client, since).await,
                        None if over.get() => return,
                        None => wake.notified().await,
                    }
                }
            })
        })
        .collect();
    #[allow(
        deprecated,
        reason = "the timer is owned here and outlives its registration"
    )]
    let timer = AsyncFd::new(
        rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)
            .expect("a timer"),
    )
    .expect("a timer");
    let start = Instant::now() + Duration::from_millis(200);
    for index in 0..requests {
        let at = start + Duration::from_secs_f64(index as f64 / rate);
        sleep_until(&timer, at).await;
        due.borrow_mut().push_back(at);
        wake.notify_one();
    }
    over.set(true);
    for task in tasks {
        wake.notify_waiters();
        while !task.is_finished() {
            wake.notify_waiters();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// To the microsecond: the runtime's own timers are good for a millisecond.
async fn sleep_until(timer: &AsyncFd<rustix::fd::OwnedFd>, at: Instant) {
    let wait = at.saturating_duration_since(Instant::now());
    if wait.is_zero() {
        return;
    }
    let setting = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        },
    };
    rustix::time::timerfd_settime(timer.get_ref(), TimerfdTimerFlags::empty(), &setting)
        .expect("the timer is set");
    loop {
        let mut ready = timer.readable().await.expect("the timer fires");
        let mut expirations = [0; 8];
        match rustix::io::read(timer.get_ref(), &mut expirations) {
            Ok(_) => return,
            Err(_) => ready.clear_ready(),
        }
    }
}

async fn idle(load: &Rc<Load>, conns: usize) {
    let mut clients = Vec::with_capacity(conns);
    for _ in 0..conns {
        match load.exchange(None, Instant::now()).await {
            Some(client) => clients.push(client.stream),
            None => break,
        }
    }
    if let Some(error) = load.first_error.take() {
        println!("failed after {}: {error}", clients.len());
        return;
    }
    println!("ready");
    let mut rest = Vec::new();
    tokio::io::stdin()
        .read_to_end(&mut rest)
        .await
        .expect("the input ends");
    drop(clients);
    println!("closed");
}

impl Load {
    fn take(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    async fn connect(&self) -> io::Result<Client> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream,
            buffer: Vec::with_capacity(16 * 1024),
        })
    }

    /// One request; gives the connection back when it can serve another.
    async fn exchange(&self, client: Option<Client>, since: Instant) -> Option<Client> {
        match tokio::time::timeout(PATIENCE, self.try_exchange(client)).await {
            Ok(Ok(client)) => {
                let nanos = since.elapsed().as_nanos();
                self.latencies.borrow_mut().push(nanos as u64);
                client
            }
            Ok(Err(error)) => self.fail(error.to_string()),
            Err(_) => self.fail("no answer in time".to_owned()),
        }
    }

    fn fail(&self, error: String) -> Option<Client> {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert(error);
        None
    }

    async fn try_exchange(&self, client: Option<Client>) -> io::Result<Option<Client>> {
        let mut client = match client {
            Some(client) => client,
            None => self.connect().await?,
        };
        let Client { stream, buffer } = &mut client;
        let at = self.left.get() as usize % self.requests.len();
        let request = &self.requests[at];
        if request.len() < 32 * 1024 {
            stream.write_all(request).await?;
            let bytes = read_response(stream, buffer).await?;
            self.bytes.set(self.bytes.get() + bytes);
        } else {
            // An echo comes back before everything is sent.
            let (mut read, mut write) = stream.split();
            let (sent, received) =
                tokio::join!(write.write_all(request), read_response(&mut read, buffer));
            sent?;
            let bytes = received?;
            self.bytes.set(self.bytes.get() + bytes);
        }
        Ok((!self.close).then_some(client))
    }

    fn report(&self, took: Duration) {
        let mut latencies = self.latencies.borrow_mut();
        // Answers are in the order in which they came.
        let a_second = latencies.len() as f64 / took.as_secs_f64();
        let seconds = latencies.chunks_mut((a_second as usize).max(1));
        let mut seconds: Vec<u64> = seconds.map(|second| at_share(second, 0.99)).collect();
        let n_requests = latencies.len();
        let mut quantile = |share: f64| at_share(&mut latencies, share) as f64 / 1000.0;
        println!(
            r#"{{"requests":{},"errors":{},"first_error":{:?},"bytes":{},"seconds":{:.4},"p50_us":{:.1},"p99_us":{:.1},"p999_us":{:.1},"second_p99_us":{:.1}}}"#,
            n_requests,
            self.errors.get(),
            self.first_error.borrow().as_deref().unwrap_or(""),
            self.bytes.get(),
            took.as_secs_f64(),
            quantile(0.5),
            quantile(0.99),
            quantile(0.999),
            at_share(&mut seconds, 0.5) as f64 / 1000.0
        );
    }
}

/// The value that this share of them does not exceed; sorts them.
fn at_share(values: &mut [u64], share: f64) -> u64 {
    values.sort_unstable();
    let at = (values.len() as f64 * share) as usize;
    let at = at.min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(0)
}

/// Reads one response with a length, with chunks, or up to the end. Returns the bytes read; a status other than 200 is
/// an error.
async fn read_response(
    stream: &mut (impl AsyncReadExt + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<u64> {
    buffer.clear();
    let head = loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    if buffer.get(9..12) != Some(b"200") {
        let line = String::from_utf8_lossy(&buffer[..head.min(80)]).into_owned();
        return Err(io::Error::other(line));
    }
    let text = buffer[..head].to_ascii_lowercase();
    let value = |name: &[u8]| {
        let at = text.windows(name.len()).position(|window| window == name)? + name.len();
        let line = text[at..].split(|byte| *byte == b'\r').next()?;
        Some(std::str::from_utf8(line).ok()?.trim().to_owned())
    };
    let mut total = (buffer.len() - head) as u64;
    if let Some(length) = value(b"\r\ncontent-length:") {
        let length: u64 = length.parse().map_err(io::Error::other)?;
        while total < length {
            buffer.clear();
            let count = stream.read_buf(buffer).await? as u64;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            total += count;
        }
        return Ok(total);
    }
    let chunked = value(b"\r\ntransfer-encoding:").is_some();
    // The last bytes of what is read so far: bodies here contain no line ends.
    let mut last = buffer[head..].to_vec();
    while !(chunked && last.ends_with(b"0\r\n\r\n")) {
        let keep = last.len().saturating_sub(5);
        last.drain(..keep);
        buffer.clear();
        let count = stream.read_buf(buffer).await?;
        if count == 0 {
            if chunked {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            break;
        }
        total += count as u64;
        last.extend_from_slice(&buffer[buffer.len().saturating_sub(5)..]);
    }
    Ok(total)
}
