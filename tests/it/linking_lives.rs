//! Programs that start again, fork, run another program in their place, and such as only look like what a probe knows:
//! Pillion keeps serving, evidence of one never gives a call of another its parent, the new one has its probe soon, and
//! nothing stays of the old one.

pub(crate) mod beside;
mod left;

use std::process::Command;

use rustix::process::Signal;

use self::beside::Beside;
use self::beside::Program;
use self::left::Left;
use crate::linking::bench::apps;
use crate::support::skip::skip;

/// Lives of a small program. A leak of one thing in each life shows.
const LIVES: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_starts_again_has_its_probe_and_no_others_evidence() {
    let Some(beside) = Beside::start().await else {
        return;
    };
    for (name, probe) in [
        ("asyncio-streams", Some("python")),
        ("asyncio-streams", Some("python")),
        ("node-http", Some("libuv")),
        ("node-http", Some("libuv")),
        ("python-threads", None),
        ("go", Some("go")),
        ("tokio", Some("tokio")),
        ("asyncio-streams", Some("python")),
    ] {
        let command = match apps::named(name).unwrap().command(beside.port) {
            Ok(command) => command,
            Err(reason) => {
                skip(&reason);
                continue;
            }
        };
        let program = Program::start(&beside, &command, &[]);
        beside.serves().await;
        if let Some(probe) = probe {
            let pid = program.pid();
            let is_it = |probes: &[beside::Seen]| matches!(probes, [one] if one.pid == pid && one.runtime == probe && one.is_looking());
            beside.until_probes(name, is_it);
        }
        // What is in flight when it is killed is lost.
        let ends = async {
            beside.until_calls(100).await;
            program.kill();
        };
        let (score, ()) = tokio::join!(beside.row("seq2", 400), ends);
        assert_eq!(score.wrong_merges(), 0, "{name}: {:?}", score.methods);
        assert!(score.right > 50, "{name}: {score:?}");
        beside.until_probes(name, <[beside::Seen]>::is_empty);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_program_in_the_same_process_is_looked_at_anew() {
    let Some(beside) = Beside::start().await else {
        return;
    };
    let (streams, node) = (apps::named("asyncio-streams"), apps::named("node-http"));
    let Ok(node) = node.unwrap().command(0) else {
        return skip("no node");
    };
    let streams = streams.unwrap().command(0).unwrap();
    // At each signal the next of its arguments.
    let turns = r#"
import os, runpy, signal, sys
def turn(*_):
    if len(sys.argv) > 3:
        os.execv(sys.executable, [sys.executable, "-c", os.environ["TURNS"], sys.argv[1]] + sys.argv[3:])
    os.execvp("node", ["node", sys.argv[1]])
signal.signal(signal.SIGUSR1, turn)
sys.path.insert(0, os.path.dirname(sys.argv[2]))
runpy.run_path(sys.argv[2])
"#;
    let command = [
        streams[0].clone(),
        "-c".into(),
        turns.into(),
        node[1].clone(),
        streams[1].clone(),
        streams[1].clone(),
        streams[1].clone(),
    ];
    let program = Program::start(&beside, &command, &[("TURNS", turns)]);
    let pid = program.pid();
    for (turn, runtime) in ["python", "python", "python", "libuv"].iter().enumerate() {
        beside.serves().await;
        beside.until_probes("the next program", |probes| {
            matches!(probes, [one] if one.pid == pid && one.runtime == *runtime && one.is_looking())
                && beside.times_told("linking looks into the program") == turn + 1
        });
        let becomes = async {
            beside.until_calls(60).await;
            program.signal(Signal::USR1);
        };
        let (score, ()) = tokio::join!(beside.row("seq2", 200), becomes);
        assert_eq!(score.wrong_merges(), 0, "{turn}: {:?}", score.methods);
        assert!(score.right > 30, "{turn}: {score:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_are_forked_again_have_probes_of_their_own() {
    let Some(beside) = Beside::start().await else {
        return;
    };
    let command = match apps::named("gunicorn-aiohttp")
        .unwrap()
        .command(beside.port)
    {
        Ok(command) => command,
        Err(reason) => return skip(&reason),
    };
    let _program = Program::start(&beside, &command, &[]);
    beside.serves().await;
    let mut killed: Vec<i32> = Vec::new();
    for round in 0..5 {
        // Which of them is given the connections is up to the kernel.
        let worker = loop {
            let score = beside.row("seq2", 80).await;
            assert_eq!(score.wrong_merges(), 0, "{round}: {:?}", score.methods);
            let probes = beside.probes();
            assert!(!probes.iter().any(|one| killed.contains(&one.pid)));
            if let Some(active) = probes.iter().find(|one| one.is_active) {
                break active.pid;
            }
            beside.in_time("a worker has its probe");
        };
        let dies = async {
            beside.until_calls(100).await;
            beside::kill(worker);
        };
        let (score, ()) = tokio::join!(beside.row("seq2", 300), dies);
        assert_eq!(score.wrong_merges(), 0, "{round}: {:?}", score.methods);
        assert!(score.right > 50, "{round}: {score:?}");
        killed.push(worker);
        beside.until_probes("the dead one is gone", |probes| {
            !probes.iter().any(|one| one.pid == worker)
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_many_lives() {
    let Some(beside) = Beside::start().await else {
        return;
    };
    let command = match apps::named("go").unwrap().command(beside.port) {
        Ok(command) => command,
        Err(reason) => return skip(&reason),
    };
    let mut before = None;
    for life in 0..LIVES {
        let program = Program::start(&beside, &command, &[]);
        beside.until_probes(
            "it has its probe",
            |probes| matches!(probes, [one] if one.pid == program.pid() && one.is_active),
        );
        beside.serves().await;
        beside.sends("par2", 8).await;
        program.kill();
        beside.until_probes("nothing is left of it", <[beside::Seen]>::is_empty);
        let left = Left::of(beside.pillion.pid());
        let before = before.get_or_insert(left.descriptors);
        assert_eq!(left.descriptors, *before, "life {life}: {left:?}");
        for name in ["runtimes", "processes", "strands", "idle"] {
            assert_eq!(
                left.entries.get(name),
                Some(&0),
                "{name}, life {life}: {left:?}"
            );
        }
    }
}

/// Has the names that a probe looks for in Python, and behind them what leads nowhere, or round in circles.
const NO_PYTHON: &str = r#"
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
void *_PyRuntime[4096];
long PyContext_Type[64];
void *PyContext_CopyCurrent(void) { return 0; }
void *PyContext_Copy(void *other) { return other; }
void *PyContext_New(void) { return 0; }
int PyContext_Enter(void *other) { return 0; }
int main(int count, char **arguments) {
  if (count > 1) for (int i = 0; i < 4096; i++) _PyRuntime[i] = &_PyRuntime[i * 7 % 4096];
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT"))), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(listener, (void *)&at, sizeof at) || listen(listener, 64)) return 1;
  for (;;) {
    int one = accept(listener, 0, 0);
    for (char text[4096]; poll(&(struct pollfd){one, POLLIN, 0}, 1, -1) > 0 && recv(one, text, sizeof text, MSG_DONTWAIT) > 0;)
      if (send(one, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 38, MSG_NOSIGNAL) < 0) break;
    close(one);
  }
}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_with_the_reason() {
    let Some(beside) = Beside::start().await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let python = directory.path().join("python3.11");
    let source = directory.path().join("python.c");
    std::fs::write(&source, NO_PYTHON).unwrap();
    let built = Command::new("cc")
        .args(["-w", "-rdynamic", "-o"])
        .args([&python, &source])
        .status();
    if !built.is_ok_and(|status| status.success()) {
        return skip("no cc");
    }
    let stripped = directory.path().join("stripped");
    let mut commands = vec![
        (
            vec![python.clone().into()],
            "its threads do not look like those of a Python that is known",
        ),
        (
            vec![python.into(), "in circles".into()],
            "its threads do not look like those of a Python that is known",
        ),
    ];
    let tokio = apps::named("tokio").unwrap().command(0);
    if let Ok(tokio) = tokio {
        let strip = Command::new("strip")
            .arg("-o")
            .arg(&stripped)
            .arg(&tokio[0])
            .status();
        assert!(strip.unwrap().success());
        commands.push((vec![stripped.into()], "its symbols were stripped"));
    }
    for (command, reason) in commands {
        let program = Program::start(&beside, &command, &[]);
        beside.serves().await;
        beside.until_probes(reason, |probes| {
            matches!(probes, [one] if one.pid == program.pid() && !one.is_active
                && one.refused.as_deref() == Some(reason))
        });
        beside.serves().await;
        program.kill();
        beside.until_probes("it is gone", <[beside::Seen]>::is_empty);
    }
}
