//! The memory that a program shares with Pillion under `pillion exec --preload`: one port to several addresses, every
//! place used by others before, and a program that writes into it what it likes. Pillion keeps serving and names no wrong
//! request.

use std::fs;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use crate::support::apps;
use crate::support::collector::Collector;
use crate::support::collector::Reply;
use crate::support::collector::Speaks;
use crate::support::http;
use crate::support::otlp;
use crate::support::otlp::Span;
use crate::support::pillion::LIMIT;
use crate::support::pillion::Pillion;
use crate::support::upstream::Upstream;

/// Addresses at which the program finds Pillion, all with one port.
const ADDRESSES: u8 = 8;

/// Serves each connection in a thread and calls by the rules of its paths:
/// `/call/N` to one of the addresses; `/twin/N` together with the next one, from one port to two addresses, while Pillion
/// stands still; `/fill` writes into every place what a connection of somebody else would; `/many/N` keeps so many
/// connections and goes on calling over them by itself; `/noise/KIND` goes on writing noise until `/noise/none`; `/resize`
/// tries to change the memory's size, to lock it and to remove it.
const PROGRAM: &str = r#"
import ctypes, fcntl, http.server, itertools, os, random, resource, signal, socket, struct, threading, time
OUT, PILLION, WHERE = int(os.environ['OUT']), os.getppid(), os.environ['_PILLION_EVIDENCE']
SIZE = 8 * 65536
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

def opened(n, port=0):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.bind(('127.0.0.1', port))
    connection.connect((f'127.0.0.{1 + n % 8}', OUT))
    return connection

def send(connection, path):
    connection.sendall(f'GET {path} HTTP/1.1\r\nhost: x\r\n\r\n'.encode())

def hear(connection):
    text = b''
    while not text.endswith(b'ok'):
        more = connection.recv(4096)
        if not more:
            raise OSError('closed')
        text += more

both, first_sent, ports = threading.Barrier(2), threading.Event(), [0]

def pillion_stands_still():
    os.kill(PILLION, signal.SIGSTOP)
    tasks = f'/proc/{PILLION}/task'
    while any(open(f'{tasks}/{task}/stat').read().rsplit(')')[-1].split()[0] != 'T' for task in os.listdir(tasks)):
        time.sleep(0.001)

def call_as_twin(n, path):
    if n % 2 == 0:
        first_sent.clear()
        connection = opened(0)
        ports[0] = connection.getsockname()[1]
        both.wait()
        both.wait()
        pillion_stands_still()
        send(connection, path)
        first_sent.set()
    else:
        both.wait()
        connection = opened(1, ports[0])
        both.wait()
        first_sent.wait()
        send(connection, path)
        os.kill(PILLION, signal.SIGCONT)
    hear(connection)
    connection.close()

def write(text, at=0):
    with open(WHERE, 'r+b', buffering=0) as memory:
        memory.seek(at)
        memory.write(text)

def now():
    return (time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> 10) & 0x3fffffff

def fill():
    words = (random.getrandbits(32) << 32 | now() << 2 | random.getrandbits(1) << 1 | 1 for _ in range(65536))
    write(struct.pack('=65536Q', *words))

def keep(many):
    connections = [opened(n, 0) for n in range(many // 2)]
    # The same ports again, to another address: most of them, as some are still held by what was closed just now.
    for n in range(many // 2):
        try:
            connections.append(opened(n + 1, connections[n].getsockname()[1]))
        except OSError:
            pass
    assert len(connections) > 0.9 * many
    def go_on():
        for round in itertools.count():
            for connection in connections:
                send(connection, f'/job/{round}')
                hear(connection)
    threading.Thread(target=go_on, daemon=True).start()

kind = ['none']

def shifted():
    with open(WHERE, 'rb', buffering=0) as memory:
        text = memory.read(SIZE)
    by = random.randrange(1, 8)
    return text[by:] + text[:by]

NOISE = {
    'random': lambda: os.urandom(SIZE),
    'ones': lambda: b'\xff' * SIZE,
    'zeros': lambda: bytes(SIZE),
    # Every word its own second half, a time and flags that nobody wrote.
    'halves': lambda: struct.pack('=Q', random.getrandbits(64) & ~0xffffffff | now() << 2 | 1) * 65536,
    'shifted': shifted,
}

def noise():
    while True:
        make = NOISE.get(kind[0])
        write(make()) if make else time.sleep(0.005)

def refused(act):
    try:
        act()
    except OSError:
        return
    raise RuntimeError('it could be done')

def resize():
    with open(WHERE, 'r+b', buffering=0) as memory:
        for size in (0, 1, 4096, SIZE - 1, SIZE + 1, 1 << 40):
            refused(lambda: os.truncate(memory.fileno(), size))
        refused(lambda: fcntl.fcntl(memory, 1033, 8))
        # Takes the pages away, which is what writing zeros is.
        ctypes.CDLL(None).fallocate(memory.fileno(), 3, ctypes.c_long(0), ctypes.c_long(SIZE))
    refused(lambda: os.unlink(WHERE))
    refused(lambda: os.rename('/proc/self/exe', WHERE))

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    wbufsize = -1
    def do_GET(self):
        _, what, value = self.path.split('/')
        if what == 'call':
            connection = opened(int(value))
            send(connection, self.path)
            hear(connection)
            connection.close()
        elif what == 'noise':
            kind[0] = value
        elif what == 'many':
            keep(int(value))
        else:
            {'twin': lambda: call_as_twin(int(value), self.path), 'fill': fill, 'resize': resize}[what]()
        self.send_response(200)
        self.send_header('content-length', '0')
        self.end_headers()
    def log_message(self, *args):
        pass

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

threading.Thread(target=noise, daemon=True).start()
Server(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
"#;

/// The program under Pillion, and what both talk to.
struct Scene {
    pillion: Pillion,
    inbound: u16,
    collector: Collector,
    _upstream: Upstream,
    _dir: TempDir,
}

impl Scene {
    /// `None`: skipped.
    async fn new() -> Option<Self> {
        if !apps::commands(&["/usr/bin/python3"]) || !apps::has_preload_library() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let upstream = Upstream::start().await;
        let collector = Collector::start(Speaks::Http1, Vec::new(), Reply::Accept).await;
        let (app, out) = (apps::free_port(), apps::free_port());
        let route = |n: u8| {
            let listen = format!("127.0.0.{n}:{out}");
            json!({ "listen": listen, "to": format!("127.0.0.1:{}", upstream.port) })
        };
        let config = json!({
            "service": "shop",
            "app": format!("127.0.0.1:{app}"),
            "inbound": { "listen": "127.0.0.1:0" },
            "outbound": { "listen": "127.0.0.1:0" },
            "routes": (1..=ADDRESSES).map(route).collect::<Vec<_>>(),
            // The thread alone may speak.
            "linking": { "kernel": "off", "exclusive": false, "values": false, "forwarded": false },
            "reporters": [{ "otlp": {
                "endpoint": format!("http://{}", collector.addr),
                "queue": { "capacity": 100_000, "flush_interval": "50ms" },
            } }],
            "sampling": { "constant": { "decision": true } },
        });
        let file = dir.path().join("config.yaml");
        fs::write(&file, config.to_string()).unwrap();
        let file = file.to_str().unwrap();
        let exec = ["exec", "--log-format=json", "--preload", "-c", file, "--"];
        let (port, out) = (app.to_string(), out.to_string());
        let pillion = Pillion::start_with(
            &[&exec[..], &["/usr/bin/python3", "-c", PROGRAM]].concat(),
            &[("PORT", &port), ("OUT", &out)],
        );
        let inbound = pillion.port("inbound");
        apps::listening(app).await;
        Some(Self {
            pillion,
            inbound,
            collector,
            _upstream: upstream,
            _dir: dir,
        })
    }

    async fn tell(&self, path: &str) {
        let answer = http::get(self.inbound, path).await;
        let status = answer.map(|answer| answer.status);
        assert_eq!(status.ok(), Some(200), "{path}: {}", self.pillion.stderr());
    }

    /// Requests `/call/N` by eight at once.
    async fn call(&self, numbers: std::ops::Range<usize>) {
        let mut lanes = tokio::task::JoinSet::new();
        for lane in 0..8 {
            let (port, numbers) = (self.inbound, numbers.clone());
            lanes.spawn(async move {
                for n in numbers.skip(lane).step_by(8) {
                    let answer = http::get(port, &format!("/call/{n}")).await.unwrap();
                    assert_eq!(answer.status, 200, "{n}");
                }
            });
        }
        lanes.join_all().await;
    }

    /// How many of these requests are the parents of their calls; none may be that of another's.
    async fn linked(&self, what: &str, numbers: std::ops::Range<usize>) -> usize {
        let paths: Vec<String> = numbers.map(|n| format!("/{what}/{n}")).collect();
        let deadline = Instant::now() + LIMIT;
        loop {
            let spans = otlp::spans(&self.collector);
            let find = |kind: i32, key: &str, path: &String| {
                let mut spans = spans.iter();
                let is_it = |span: &&Span| span.kind == kind && span.attribute(key).ends_with(path);
                spans.find(is_it).cloned()
            };
            let pairs = paths
                .iter()
                .map(|path| find(2, "url.path", path).zip(find(3, "url.full", path)));
            let Some(pairs) = pairs.collect::<Option<Vec<_>>>() else {
                assert!(Instant::now() < deadline, "{what}: {} spans", spans.len());
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let is_right = |(request, call): &&(Span, Span)| {
                assert!(
                    call.parent_id.is_empty() || call.parent_id == request.span_id,
                    "{call:?} of {request:?}"
                );
                !call.parent_id.is_empty()
            };
            return pairs.iter().filter(is_right).count();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_from_one_port_to_two_addresses_are_told_apart() {
    const PAIRS: usize = 12;
    let Some(scene) = Scene::new().await else {
        return;
    };
    for n in 0..PAIRS {
        let twins = [2 * n, 2 * n + 1].map(|n| format!("/twin/{n}"));
        tokio::join!(scene.tell(&twins[0]), scene.tell(&twins[1]));
    }
    assert_eq!(scene.linked("twin", 0..2 * PAIRS).await, 2 * PAIRS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_that_others_have_used_before_are_no_hindrance() {
    const MANY: usize = 3_000;
    let Some(scene) = Scene::new().await else {
        return;
    };
    scene.tell("/fill/").await;
    scene.call(0..64).await;
    assert_eq!(scene.linked("call", 0..64).await, 64, "all places are used");
    scene.tell(&format!("/many/{MANY}")).await;
    scene.call(64..256).await;
    assert_eq!(scene.linked("call", 64..256).await, 192, "ports are used");
    let spans = otlp::spans(&scene.collector);
    let jobs = spans
        .iter()
        .filter(|span| span.attribute("url.full").contains("/job/"));
    let jobs: Vec<&Span> = jobs.collect();
    assert!(!jobs.is_empty(), "it went on meanwhile");
    for job in jobs {
        assert_eq!(job.parent_id, "", "{job:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_written_there_and_however_it_is_resized_no_wrong_request_is_named() {
    const EACH: usize = 48;
    let Some(mut scene) = Scene::new().await else {
        return;
    };
    let kinds = ["random", "ones", "zeros", "halves", "shifted"];
    for (at, kind) in kinds.into_iter().enumerate() {
        let numbers = at * EACH..(at + 1) * EACH;
        scene.tell(&format!("/noise/{kind}")).await;
        scene.call(numbers.clone()).await;
        scene.tell("/resize/").await;
        scene.linked("call", numbers).await;
    }
    scene.tell("/noise/none").await;
    let after = kinds.len() * EACH..(kinds.len() + 1) * EACH;
    // The last noise may come after the order to stop.
    scene.call(after.clone()).await;
    assert!(scene.linked("call", after).await > EACH / 2, "it goes on");
    scene.pillion.signal(rustix::process::Signal::TERM);
    scene.pillion.wait();
    assert!(!scene.pillion.stderr().contains("panic"));
}
