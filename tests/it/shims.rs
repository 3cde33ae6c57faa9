//! Start-up shims: what they leave alone, and that the token they carry stays on the machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::http;
use crate::support::pillion;
use crate::support::proxy::Pillion;
use crate::support::skip::skip;
use crate::support::upstream::Upstream;

const FOREIGN: &str = "pillion-token: 0001000000020000000000000003";

fn token(head: &str) -> Option<&str> {
    let lines: Vec<&str> = head
        .lines()
        .filter_map(|line| line.strip_prefix("pillion-token: "))
        .collect();
    assert!(lines.len() <= 1, "{head}");
    lines.first().copied()
}

#[tokio::test]
async fn the_token_is_ours_on_the_way_in_and_taken_off_on_the_way_out() {
    let (program, service) = (Upstream::start().await, Upstream::start().await);
    let shims = json!({ "linking": { "shims": true } });
    let app = ([127, 0, 0, 1], program.port).into();
    let proxy = Pillion::inbound_to(app, shims);
    let (inbound, outbound) = (proxy.inbound().port(), proxy.outbound().port());
    http::get_with(inbound, "/", &[FOREIGN]).await.unwrap();
    let heads = program.heads();
    let ours = token(&heads[0]).expect("the program gets a token");
    assert_eq!(ours.len(), 28);
    assert!(!FOREIGN.ends_with(ours), "a caller cannot choose it");
    let url = format!("http://127.0.0.1:{}/", service.port);
    for (line, why) in [
        (FOREIGN.to_owned(), "a token"),
        ("pillion-token: x".to_owned(), "garbage"),
        (format!("{FOREIGN}\r\n{FOREIGN}"), "twice"),
    ] {
        http::get_with(outbound, &url, &[&line]).await.unwrap();
        let head = service.heads().pop().unwrap();
        assert_eq!(token(&head), None, "{why}: {head}");
    }
}

#[tokio::test]
async fn without_shims_a_header_of_that_name_is_anybodys() {
    let program = Upstream::start().await;
    let app = ([127, 0, 0, 1], program.port).into();
    let proxy = Pillion::inbound_to(app, json!({}));
    let inbound = proxy.inbound().port();
    http::get(inbound, "/").await.unwrap();
    http::get_with(inbound, "/", &[FOREIGN]).await.unwrap();
    let heads = program.heads();
    assert_eq!(token(&heads[0]), None);
    assert!(FOREIGN.ends_with(token(&heads[1]).unwrap()));
}

/// Lays the shims out; the variables it prints.
fn laid_out(dir: &Path) -> Vec<(String, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    pillion::scrub(&mut command);
    let output = command.args(["shims", "--to"]).arg(dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let pair = |line: &str| {
        let (name, value) = line.split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    };
    text.lines().map(pair).collect()
}

/// What a program prints with the shims in force.
fn printed(program: &str, args: &[&str], variables: &[(String, String)]) -> Option<String> {
    let mut command = Command::new(program);
    pillion::scrub(&mut command);
    command.args(args).envs(variables.iter().cloned());
    match command.output() {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            // A virtual machine says that it reads the variable.
            let errors = errors
                .lines()
                .filter(|line| !line.starts_with("Picked up JAVA_TOOL_OPTIONS: "))
                .collect::<String>();
            assert!(output.status.success() && errors.is_empty(), "{errors}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) => {
            skip(&format!("{program}: {error}"));
            None
        }
    }
}

#[test]
fn the_variables_that_are_printed_load_the_shims_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let variables = laid_out(dir.path());
    for (program, script) in [
        (
            "node",
            "console.log(require('http').request.toString().includes('stamp'))",
        ),
        (
            "python3",
            "import http.client; print('wrapper' in str(http.client.HTTPConnection.putrequest.__code__).lower())",
        ),
    ] {
        let flag = if program == "node" { "-e" } else { "-c" };
        if let Some(text) = printed(program, &[flag, script], &variables) {
            assert_eq!(text.trim().to_lowercase(), "true", "{program}");
        }
    }
}

#[test]
fn a_sitecustomize_of_the_program_runs_as_ever() {
    let (dir, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = theirs.path().join("sitecustomize.py");
    fs::write(&file, "here = 1\nprint('theirs', __name__)").unwrap();
    let mut variables = laid_out(dir.path());
    for (name, value) in &mut variables {
        if name == "PYTHONPATH" {
            *value = format!("{value}:{}", theirs.path().display());
        }
    }
    let script = "import sitecustomize; print(sitecustomize.here)";
    if let Some(text) = printed("python3", &["-c", script], &variables) {
        assert_eq!(text, "theirs sitecustomize\n1\n");
    }
}

/// A tool of old that the program starts inherits its variables.
#[test]
fn a_python_that_is_too_old_is_left_as_it_is() {
    let (dir, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(theirs.path().join("sitecustomize.py"), "print('theirs')").unwrap();
    let variables = laid_out(dir.path());
    let names = ["python2.7", "python3.6", "python3.7"];
    let found: Vec<String> = names
        .into_iter()
        .filter_map(crate::probes::python)
        .collect();
    if found.is_empty() {
        return skip("no python2.7, python3.6 or python3.7");
    }
    for python in &found {
        for (more, expected) in [
            ("", "ok\n"),
            (theirs.path().to_str().unwrap(), "theirs\nok\n"),
        ] {
            let mut variables = variables.clone();
            for (_, value) in variables
                .iter_mut()
                .filter(|(name, _)| name == "PYTHONPATH")
            {
                *value = format!("{value}:{more}");
            }
            let text = printed(python, &["-c", "print('ok')"], &variables);
            assert_eq!(text.as_deref(), Some(expected), "{python}");
        }
    }
}

#[test]
fn a_server_and_a_client_work_with_garbage_for_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let variables = laid_out(dir.path());
    let node = "
        const http = require('http');
        const server = http.createServer((request, response) => {
          if (request.url === '/in') {
            http.get({ port: server.address().port, path: '/out' }, (answer) => {
              answer.resume().on('end', () => response.end('done'));
            });
          } else response.end();
        }).listen(0, '127.0.0.1', () => {
          const options = { port: server.address().port, path: '/in', headers: { 'pillion-token': '\\u00e9\\t=' } };
          http.get(options, (answer) => {
            answer.on('data', (data) => console.log(String(data))).on('end', () => process.exit());
          });
        });";
    if let Some(text) = printed("node", &["-e", node], &variables) {
        assert_eq!(text, "done\n");
    }
    let python = "
import http.client, http.server, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/in':
            call('/out', {})
        self.send_response(200)
        self.send_header('content-length', '0')
        self.end_headers()
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
def call(path, headers):
    connection = http.client.HTTPConnection('127.0.0.1', server.server_port)
    connection.request('GET', path, headers=headers)
    return connection.getresponse().status
threading.Thread(target=server.serve_forever, daemon=True).start()
print(call('/in', {'pillion-token': '\\xe9\\t='}))";
    if let Some(text) = printed("python3", &["-c", python], &variables) {
        assert_eq!(text, "200\n");
    }
}

#[test]
fn a_job_of_an_executor_gets_the_token_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let variables = laid_out(dir.path());
    let python = "
import concurrent.futures, contextvars, decimal, http.client, http.server, threading
out, theirs = '/out', contextvars.ContextVar('theirs', default='none')
def prepare():
    decimal.getcontext().prec = 5
    theirs.set('of the pool')
pool = concurrent.futures.ThreadPoolExecutor(1, initializer=prepare)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        token = self.headers['pillion-token']
        if self.path == '/in':
            decimal.getcontext().prec = 2
            theirs.set('of the request')
            token, = {pool.submit(job, n, last=n + 1).result() for n in range(3)}
            try:
                pool.submit(fn=str)
            except TypeError:
                pass
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(token).encode())
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
def call(path, headers):
    connection = http.client.HTTPConnection('127.0.0.1', server.server_port)
    connection.request('GET', path, headers=headers)
    return connection.getresponse().read().decode()
def job(n, last):
    assert last == n + 1
    return f'{call(out, {})} {decimal.Decimal(1) / 3} {theirs.get()}'
threading.Thread(target=server.serve_forever, daemon=True).start()
print(call('/in', {'pillion-token': 'the-token'}))
print(pool.submit(job, 0, 1).result())";
    if let Some(text) = printed("python3", &["-c", python], &variables) {
        let expected = "the-token 0.33333 of the pool\nNone 0.33333 of the pool\n";
        assert_eq!(text, expected);
    }
}

#[test]
fn java_tasks_carry_the_token_of_whoever_handed_them_over() {
    let dir = tempfile::tempdir().unwrap();
    let variables = laid_out(dir.path());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/shims/Tasks.java");
    let source = source.to_str().unwrap();
    if let Some(text) = printed("java", &[source], &variables) {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() > 50, "{text}");
        for line in lines {
            let (wanted, found) = line.split_once(' ').unwrap();
            assert!(found.split(' ').all(|one| one.ends_with(wanted)), "{line}");
        }
    }
}
