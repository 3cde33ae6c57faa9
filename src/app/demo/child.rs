//! The demo's children as seen from the demo: started, ready, ended.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::BufReader;
use tokio::process::ChildStdin;
use tokio::process::Command;
use tokio::time::Instant;

use crate::app::demo::DemoError;
use crate::app::demo::service;
use crate::app::demo::sidecar;
use crate::app::demo::sidecar::Ports;
use crate::app::demo::sidecar::Sidecar;

/// How long a child may take to say that it is ready.
const START: Duration = Duration::from_secs(10);
/// The longest line a child says, in bytes.
const MAX_LINE: u64 = 200;

/// A process that ends when this does: at the latest when its standard input, a pipe from here, closes.
pub(super) struct Child {
    name: String,
    process: tokio::process::Child,
    stdin: Option<ChildStdin>,
}

/// Starts a sidecar and waits until it listens.
pub(super) async fn sidecar(sidecar: &Sidecar) -> Result<(Child, Ports), DemoError> {
    let name = format!("the sidecar of {}", sidecar.service);
    let mut command = own_command()?;
    command.arg(sidecar::COMMAND).args(sidecar.args());
    let (child, line) = start(name, command).await?;
    let ports = line.parse().map_err(|source| DemoError::Child {
        name: child.name.clone(),
        source,
    })?;
    Ok((child, ports))
}

/// Starts a service at `listen` that calls others through the proxy at `outbound`, and waits until it listens.
///
/// `others` are the services it may call.
pub(super) async fn service(
    name: &str,
    listen: SocketAddr,
    outbound: SocketAddr,
    others: &[(&'static str, SocketAddr)],
) -> Result<Child, DemoError> {
    let mut command = own_command()?;
    command.arg(service::COMMAND).arg(name);
    command.env("LISTEN", listen.to_string());
    command.env("HTTP_PROXY", format!("http://{outbound}"));
    for (other, address) in others {
        let url = format!("http://localhost:{}", address.port());
        command.env(service::url_variable(other), url);
    }
    let (child, _) = start(format!("the service {name}"), command).await?;
    Ok(child)
}

/// This program, with nothing in its environment that would configure a proxy or a client.
fn own_command() -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os() {
        if name
            .to_string_lossy()
            .to_ascii_lowercase()
            .ends_with("_proxy")
        {
            command.env_remove(name);
        }
    }
    Ok(command)
}

async fn start(name: String, mut command: Command) -> Result<(Child, String), DemoError> {
    let failed = |name: &str, source| DemoError::Child {
        name: name.to_owned(),
        source,
    };
    // A group of its own: Ctrl-C is for the demo, which ends its children in the right order.
    let mut process = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| failed(&name, source))?;
    let stdin = process.stdin.take();
    let Some(stdout) = process.stdout.take() else {
        return Err(failed(&name, io::Error::from(io::ErrorKind::BrokenPipe)));
    };
    let mut line = String::new();
    let mut reader = BufReader::new(stdout.take(MAX_LINE));
    let read = tokio::time::timeout(START, reader.read_line(&mut line)).await;
    let child = Child {
        name,
        process,
        stdin,
    };
    match read {
        Ok(Ok(n)) if n > 0 => Ok((child, line)),
        Ok(Ok(_)) => Err(failed(
            &child.name,
            io::Error::from(io::ErrorKind::UnexpectedEof),
        )),
        Ok(Err(source)) => Err(failed(&child.name, source)),
        Err(_) => Err(failed(
            &child.name,
            io::Error::from(io::ErrorKind::TimedOut),
        )),
    }
}

impl Child {
    /// Asks it to end and waits; at the deadline it is killed.
    pub(super) async fn end(mut self, deadline: Instant) {
        drop(self.stdin.take());
        let ended = tokio::time::timeout_at(deadline, self.process.wait()).await;
        if !matches!(ended, Ok(Ok(_))) {
            // Fails only when it is gone already.
            self.process.kill().await.unwrap_or_default();
        }
    }
}

/// Waits until one of them ends; which.
pub(super) async fn first_to_end(children: &mut [Child]) -> String {
    std::future::poll_fn(|cx| {
        for child in children.iter_mut() {
            let mut ended = std::pin::pin!(child.process.wait());
            if ended.as_mut().poll(cx).is_ready() {
                return std::task::Poll::Ready(child.name.clone());
            }
        }
        std::task::Poll::Pending
    })
    .await
}
