//! Real databases through REDIRECT and TPROXY: some whose server speaks first, some whose client does.

use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use serde_json::json;

use crate::redirect::Bench;
use crate::redirect::Mode;
use crate::redirect::bytes::greetings_cost_little;
use crate::redirect::wait_for;
use crate::support::netns::PROGRAM_UID;
use crate::support::netns::Running;
use crate::support::netns::has;
use crate::support::netns::program;
use crate::support::skip::skip;

const DETECTED: &str = "pillion_detected_protocols_total";
const HOSTS: [&str; 2] = ["10.77.0.2", "fd77::2"];

/// A server and its data.
type Server = (Running, tempfile::TempDir);

/// Runs a client in the pod.
fn ask(bench: &Bench, start: &[&str], rest: &[&str]) -> String {
    let all: Vec<&str> = start.iter().chain(rest).copied().collect();
    bench.net.pod.as_program(&all).unwrap()
}

fn redis(bench: &Bench) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Command::new("redis-server");
    server.args(["--port", "6379", "--bind", "*", "-::*"]);
    server.args(["--protected-mode", "no", "--save", ""]);
    server.arg("--dir").arg(folder.path()).stdout(Stdio::null());
    let server = bench.net.world.spawn(server);
    wait_for("Redis", || {
        let answer = bench.net.world.sh("redis-cli ping").ok();
        answer.filter(|answer| answer.contains("PONG"))
    });
    (server, folder)
}

#[test]
fn redis_answers_through_the_redirect() {
    if !has("redis-server") {
        return;
    }
    let settings = json!({ "passthrough": { "tcp_spans": true } });
    Bench::both(settings, &[], redis, |bench| {
        let value = "v".repeat(1_000_000);
        for host in HOSTS {
            let redis = ["redis-cli", "-h", host];
            assert_eq!(
                ask(bench, &redis, &["SETRANGE", host, "999999", "v"]).trim(),
                "1000000"
            );
            assert_eq!(
                ask(bench, &redis, &["SET", host, &value[..100_000]]).trim(),
                "OK"
            );
            assert_eq!(ask(bench, &redis, &["GET", host]).trim(), &value[..100_000]);
            assert!(ask(bench, &redis, &["NONSENSE"]).contains("unknown command"));
            ask(bench, &redis, &["DEL", host]);
        }
        let spans = bench.spans(10);
        assert!(spans.iter().all(|span| span.name == "TCP"));
        bench.counted(DETECTED, &["outbound", "opaque"], 10.0);
    });
}

fn mariadb(bench: &Bench) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().display();
    let world = &bench.net.world;
    world
        .sh(&format!(
            "mariadb-install-db --no-defaults --user=root --datadir={data} --auth-root-authentication-method=normal \
             --skip-test-db >/dev/null 2>&1"
        ))
        .unwrap();
    let mut server = Command::new("mariadbd");
    server.args([
        "--no-defaults",
        "--user=root",
        "--bind-address=*",
        "--port=3306",
    ]);
    server.args(["--innodb-buffer-pool-size=8M", "--skip-name-resolve"]);
    // It counts clients that leave after the greeting as broken, and refuses them after so many.
    server.arg("--max-connect-errors=100000");
    server.arg(format!("--datadir={data}"));
    server.arg(format!("--socket={data}/socket"));
    server.stderr(Stdio::null());
    let server = world.spawn(server);
    let grant = "CREATE USER app@'%' IDENTIFIED BY 'x'; GRANT ALL ON *.* TO app@'%'";
    let line =
        format!("mariadb --no-defaults --socket={data}/socket -uroot -e \"{grant}\" 2>/dev/null");
    wait_for("MariaDB", || world.sh(&line).ok());
    (server, folder)
}

#[test]
fn mariadb_answers_through_the_redirect_and_greets_as_fast() {
    if !["mariadbd", "mariadb", "mariadb-install-db"]
        .into_iter()
        .all(has)
    {
        return;
    }
    let direct = ["--exclude-outbound-cidrs", "10.77.0.3"];
    Bench::both(json!({}), &direct, mariadb, |bench| {
        for host in HOSTS {
            let login = [
                "mariadb",
                "--no-defaults",
                "--skip-ssl",
                "-h",
                host,
                "-uapp",
                "-px",
                "-N",
                "-B",
            ];
            let answer = ask(bench, &login, &["-e", "SELECT REPEAT('ab', 50000), 6*7"]);
            assert_eq!(answer.trim(), format!("{}\t42", "ab".repeat(50_000)));
        }
        bench.counted(DETECTED, &["outbound", "server_first"], 2.0);
        if let Mode::Redirect(_) = bench.mode {
            greetings_cost_little("MariaDB", bench, 200);
        }
    });
}

/// Where Debian puts the server's programs.
fn postgres_folder() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    folders
        .filter(|folder| folder.join("initdb").is_file())
        .max()
}

fn postgres(bench: &Bench, bin: &std::path::Path) -> Server {
    let folder = tempfile::tempdir().unwrap();
    chown(folder.path(), Some(PROGRAM_UID), None).unwrap();
    let data = folder.path().join("data");
    let (data, initdb) = (data.to_str().unwrap(), bin.join("initdb"));
    let world = &bench.net.world;
    let make = [
        initdb.to_str().unwrap(),
        "-D",
        data,
        "-A",
        "trust",
        "-U",
        "app",
        "--no-sync",
    ];
    world.as_program(&make).unwrap();
    let access = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";
    std::fs::write(format!("{data}/pg_hba.conf"), access).unwrap();
    let bin = bin.join("postgres");
    let mut server = program(&[bin.to_str().unwrap(), "-D", data, "-h", "*", "-k", data]);
    server.stderr(Stdio::null());
    let server = world.spawn(server);
    let ready = "psql -h 127.0.0.1 -U app -d postgres -c 'SELECT 1'";
    wait_for("PostgreSQL", || world.sh(ready).ok());
    (server, folder)
}

#[test]
fn postgres_answers_through_the_redirect() {
    let Some(bin) = postgres_folder() else {
        return skip("PostgreSQL is not installed");
    };
    if !has("psql") {
        return;
    }
    Bench::both(
        json!({}),
        &[],
        |bench| postgres(bench, &bin),
        |bench| {
            for host in HOSTS {
                let psql = [
                    "psql", "-h", host, "-U", "app", "-d", "postgres", "-At", "-c",
                ];
                let answer = ask(bench, &psql, &["SELECT repeat('ab', 250000), 6*7"]);
                assert_eq!(answer.trim(), format!("{}|42", "ab".repeat(250_000)));
            }
            bench.counted(DETECTED, &["outbound", "opaque"], 2.0);
        },
    );
}
