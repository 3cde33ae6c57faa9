//! A program that does what none should: garbage in the memory it shares with Pillion, forks, another program in its
//! place. Pillion keeps serving and tells no lie about where it stands.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::pillion::LIMIT;
use crate::support::pillion::Pillion;
use crate::support::skip::skip;

/// Serves; writes noise over the shared memory all the time; forks on `/fork`, becomes a new program on `/exec`.
const PROGRAM: &str = r#"
import http.server, os, sys, threading, urllib.request
where = os.environ.get('_PILLION_EVIDENCE')
def noise():
    with open(where, 'r+b', buffering=0) as memory:
        while True:
            memory.seek(0)
            memory.write(os.urandom(8 * 65536))
threading.Thread(target=noise, daemon=True).start()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        if self.path == '/call':
            urllib.request.urlopen(os.environ['BACKEND'], timeout=20).read()
        if self.path == '/fork' and os.fork() == 0:
            os.execvp('sleep', ['sleep', '2'])
        self.send_response(200)
        self.send_header('content-length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
        self.wfile.flush()
        if self.path == '/exec':
            os.execv(sys.executable, [sys.executable] + sys.argv)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer.allow_reuse_port = True
http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
"#;

fn get(to: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What `/linking` answers.
pub(crate) fn linking(admin: SocketAddr) -> Value {
    let text = get(admin, "/linking").unwrap();
    // It may come in chunks.
    let (begin, end) = (text.find('{').unwrap(), text.rfind('}').unwrap());
    serde_json::from_str(&text[begin..=end]).unwrap()
}

#[test]
fn garbage_forks_and_another_program_harm_nothing() {
    let is_there = std::process::Command::new("python3")
        .arg("-c")
        .arg("")
        .status();
    if !is_there.is_ok_and(|status| status.success()) {
        return skip("no python3");
    }
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("hostile.py");
    std::fs::write(&script, PROGRAM).unwrap();
    let port = {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().port()
    };
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = backend.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in backend.incoming() {
            let Ok(mut stream) = stream else { return };
            if stream.read(&mut [0; 4096]).is_err() {
                continue;
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            stream.write_all(answer).ok();
        }
    });
    let app = format!("--app=127.0.0.1:{port}");
    let script = script.to_str().unwrap();
    let pillion = Pillion::start_with(
        &[
            "exec",
            "--preload",
            &app,
            "--inbound=127.0.0.1:0",
            "--outbound=127.0.0.1:0",
            "--admin=127.0.0.1:0",
            "--log-format=json",
            "--",
            "python3",
            script,
        ],
        &[
            ("PORT", &port.to_string()),
            ("BACKEND", &format!("http://{to}/")),
            ("PILLION_LINKING__PACING__SHARE", "0.5"),
        ],
    );
    let at = |role| SocketAddr::from(([127, 0, 0, 1], pillion.port(role)));
    let (inbound, admin) = (at("inbound"), at("admin"));
    let is_ok = |path: &str| get(inbound, path).is_ok_and(|text| text.starts_with("HTTP/1.1 200"));
    until("the program serves", || is_ok("/"));
    for _ in 0..40 {
        assert!(is_ok("/call"), "{}", pillion.stderr());
    }
    for _ in 0..5 {
        assert!(is_ok("/fork"));
    }
    assert!(is_ok("/exec"));
    until("the new program serves", || is_ok("/"));
    for _ in 0..20 {
        assert!(is_ok("/call"), "{}", pillion.stderr());
    }
    until("the program is seen", || {
        linking(admin)["program"]["class"] == "threads"
    });
    let state = linking(admin);
    assert_eq!(
        state["program"]["processes"][0]["runtime"], "python",
        "{state}"
    );
    assert!(
        state["lacking"].is_array() && state["pacing"].is_object(),
        "{state}"
    );
    let told = pillion.stderr();
    assert_eq!(told.matches("privileges for linking").count(), 1, "{told}");
}
