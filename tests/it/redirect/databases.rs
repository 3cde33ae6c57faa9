//! Real databases through the redirect: one whose server speaks first, one whose client does.

use std::process::Command;

use serde_json::json;

use crate::redirect::Bench;
use crate::redirect::bytes::greetings_cost_little;
use crate::redirect::wait_for;
use crate::support::netns::has;

#[test]
fn redis_answers_through_the_redirect() {
    if !has("redis-server") {
        return;
    }
    let Some(bench) = Bench::start(json!({ "passthrough": { "tcp_spans": true } }), &[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut server = Command::new("redis-server");
    server.args([
        "--port",
        "6379",
        "--bind",
        "*",
        "-::*",
        "--protected-mode",
        "no",
        "--save",
        "",
    ]);
    server.arg("--dir").arg(folder.path());
    server.stdout(std::process::Stdio::null());
    let _server = bench.net.world.spawn(server);
    wait_for("Redis", || {
        bench
            .net
            .world
            .sh("redis-cli ping")
            .ok()
            .filter(|a| a.contains("PONG"))
    });
    let value = "v".repeat(100_000);
    for host in ["10.77.0.2", "fd77::2"] {
        let ask = |args: &[&str]| {
            let all: Vec<&str> = ["redis-cli", "-h", host]
                .iter()
                .chain(args)
                .copied()
                .collect();
            bench.net.pod.as_program(&all).unwrap()
        };
        assert_eq!(ask(&["SET", host, &value]).trim(), "OK");
        assert_eq!(ask(&["GET", host]).trim(), value);
        assert!(ask(&["NONSENSE"]).contains("unknown command"));
    }
    let spans = bench.spans(6);
    assert!(spans.iter().all(|span| span.name == "TCP"));
    bench.counted(
        "pillion_detected_protocols_total",
        &["outbound", "opaque"],
        6.0,
    );
}

#[test]
fn mariadb_answers_through_the_redirect() {
    if !has("mariadbd") || !has("mariadb") || !has("mariadb-install-db") {
        return;
    }
    let Some(bench) = Bench::start(json!({}), &["--exclude-outbound-cidrs", "10.77.0.3"]) else {
        return;
    };
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
    server.arg(format!("--datadir={data}"));
    server.arg(format!("--socket={data}/socket"));
    server.stderr(std::process::Stdio::null());
    let _server = world.spawn(server);
    let grant = "CREATE USER app@'%' IDENTIFIED BY 'x'; GRANT ALL ON *.* TO app@'%'";
    wait_for("MariaDB", || {
        world
            .sh(&format!(
                "mariadb --no-defaults --socket={data}/socket -uroot -e \"{grant}\" 2>/dev/null"
            ))
            .ok()
    });
    for host in ["10.77.0.2", "fd77::2"] {
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
        let query = ["-e", "SELECT REPEAT('ab', 50000), 6*7"];
        let all: Vec<&str> = login.iter().chain(&query).copied().collect();
        let answer = bench.net.pod.as_program(&all).unwrap();
        assert_eq!(answer.trim(), format!("{}\t42", "ab".repeat(50_000)));
    }
    bench.counted(
        "pillion_detected_protocols_total",
        &["outbound", "server_first"],
        2.0,
    );
    // The server counts clients that leave after the greeting as broken, and refuses them after 100.
    greetings_cost_little(&bench, 40);
}
