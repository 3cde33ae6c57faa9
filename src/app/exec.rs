//! A program with the proxy beside it: started once the listeners are open, ended with its own exit status.
//!
//! The program gets the variables that HTTP clients read (`HTTP_PROXY` and its kin) and the signals that this process
//! gets. Its standard streams are ours. When it ends, open requests finish, reporters flush, and its status is passed
//! on as a shell would.

mod environment;
mod isolate;
mod reap;
mod signals;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Child;
use tokio::process::Command;
use tokio::runtime::Handle;
use tracing::info;
use tracing::warn;

use crate::admin::Build;
use crate::app::admin::Control;
use crate::app::run;
use crate::app::run::RunError;
use crate::app::run::Running;
use crate::app::shims::Folder;
use crate::config;
use crate::config::Config;
use crate::config::Loaded;
use crate::config::Setting;
use crate::config::Sources;
use crate::config::Watch;
use crate::config::watch;
use crate::net::netns::Netns;
use crate::telemetry::logs;
use crate::telemetry::logs::Chain;
use crate::telemetry::metrics::Metrics;

use isolate::IsolateError;
use signals::Signals;

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The proxy beside it.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The program's own network.
    #[error(transparent)]
    Isolate(#[from] IsolateError),
    /// The program did not start. [`ExecError::status`] says how a shell would report it.
    #[error("cannot start {program}")]
    Start {
        /// The program as given.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ExecError {
    /// The exit status that says the same: 127 when there is no such program, 126 when it cannot be executed, 77
    /// when a privilege is missing, else 1.
    pub fn status(&self) -> u8 {
        match self {
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Start { .. } => 126,
            Self::Isolate(error) if error.is_privilege() => 77,
            Self::Isolate(_) | Self::Run(_) => 1,
        }
    }
}

impl From<io::Error> for ExecError {
    fn from(error: io::Error) -> Self {
        Self::Run(error.into())
    }
}

/// Which network the program sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The machine's.
    Shared,
    /// One of its own, in which everything it sends is redirected to the proxy.
    Own,
}

/// How long our own last log lines may take.
const LOG_FLUSH: Duration = Duration::from_secs(1);

/// Runs `program` (its name, then its arguments) with a proxy beside it until it ends.
///
/// The service is named after the program's file unless the settings name it.
///
/// The answer is the program's exit status, 128 and the signal's number when a signal killed it. Without `app` in the
/// settings only the program's outgoing requests are served.
///
/// # Errors
/// The proxy or the program could not start.
pub fn exec(
    mut loaded: Loaded,
    mut sources: Sources,
    build: Build,
    program: &[OsString],
    network: Network,
) -> Result<u8, ExecError> {
    let netns = match network {
        Network::Own => {
            isolate::configure(&mut loaded, &mut sources);
            Some(isolate::network()?)
        }
        Network::Shared => None,
    };
    name_after_program(&mut loaded, &mut sources, program);
    let metrics = Metrics::new();
    let logs = logs::init(&loaded.config.log, Some(metrics.logs())).map_err(RunError::from)?;
    let logs = Arc::new(logs);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        // Before anything else: a signal that arrives while we start is for the program too.
        let mut signals = Signals::new()?;
        let environment = sources.env.clone();
        let (mut watch, trigger) = watch(sources, &loaded)?;
        let control = Control {
            trigger,
            logs: logs.clone(),
            quit: Arc::default(),
        };
        let running = loop {
            let (loaded_now, build) = (loaded.clone(), build.clone());
            let (metrics, control, netns) = (metrics.clone(), control.clone(), netns.clone());
            match Running::launch(loaded_now, metrics, control, build, netns).await {
                Err(error) if environment::give_way(&mut loaded.config, &error) => {}
                launched => break launched?,
            }
        };
        let mut addresses = running.addresses.clone();
        addresses.extend(running.admin_address().map(|address| ("admin", address)));
        let mut variables = environment::variables(&loaded.config, &addresses, &environment);
        let _inside = go_inside(&loaded.config, &running, &mut variables, &environment);
        let started = match netns {
            Some(netns) => start_inside(netns, &running, program, variables),
            None => start(program, variables),
        };
        let status = match started {
            Ok(child) => attend(child, &mut signals, &running, &control, &mut watch).await,
            Err(error) => Err(error),
        };
        tokio::select! {
            () = running.stop() => {}
            () = signals.end() => warn!("signal after the program ended: ending at once"),
        }
        status
    });
    logs.flush(LOG_FLUSH);
    result
}

/// A service without a name gets that of the program's file, for reloads too.
fn name_after_program(loaded: &mut Loaded, sources: &mut Sources, program: &[OsString]) {
    let name = program.first().map(Path::new).and_then(Path::file_name);
    let Some(name) = name.and_then(OsStr::to_str) else {
        return;
    };
    let from_stdin = sources
        .file
        .as_ref()
        .is_some_and(|file| file.as_os_str() == "-");
    if loaded.config.service.is_some() || from_stdin {
        return;
    }
    sources.flags.push(Setting {
        flag: "PROGRAM",
        path: "service",
        value: name.to_owned(),
    });
    // If the file changed into a bad one a moment ago, the first reading stands.
    if let Ok(named) = config::load(sources) {
        *loaded = named;
    }
}

/// Lays out what runs inside the program and points the program at it; without it only links are missing.
fn go_inside(
    config: &Config,
    running: &Running,
    variables: &mut Vec<(&'static str, String)>,
    environment: &BTreeMap<String, String>,
) -> Option<Folder> {
    if !config.linking.shims && !config.linking.preload {
        return None;
    }
    let folder = Folder::new()
        .inspect_err(|error| warn!(error = %Chain(error), "the program starts without shims"))
        .ok()?;
    if config.linking.shims {
        variables.extend(folder.variables(environment));
    }
    if let (Some(evidence), Some(app)) = (&running.shared.evidence, &config.app) {
        match folder.preload(evidence.path(), app.port, environment) {
            Ok(preload) => variables.extend(preload),
            Err(error) => {
                warn!(error = %Chain(&error), "the program starts without the preload library")
            }
        }
    } else if config.linking.preload {
        warn!("linking.preload needs the address of the program: give --app");
    }
    Some(folder)
}

/// The program in its own network, in which whatever it sends is redirected.
fn start_inside(
    netns: Netns,
    running: &Running,
    program: &[OsString],
    variables: Vec<(&'static str, String)>,
) -> Result<Child, ExecError> {
    let mut listeners = running.addresses.iter();
    let port = listeners
        .find(|(role, _)| *role == "outbound_redirect")
        .map_or(0, |(_, address)| address.port());
    isolate::redirect(&netns, port)?;
    let (program, runtime) = (program.to_vec(), Handle::current());
    netns.run(move || {
        let _entered = runtime.enter();
        start(&program, variables)
    })?
}

fn start(program: &[OsString], variables: Vec<(&'static str, String)>) -> Result<Child, ExecError> {
    let (name, args) = program.split_first().ok_or_else(|| ExecError::Start {
        program: String::new(),
        source: io::Error::from(io::ErrorKind::NotFound),
    })?;
    let child = Command::new(name)
        .args(args)
        .envs(variables)
        .spawn()
        .map_err(|source| ExecError::Start {
            program: name.to_string_lossy().into_owned(),
            source,
        })?;
    info!(program = %name.to_string_lossy(), pid = child.id(), "program started");
    Ok(child)
}

/// Passes signals on and reloads the configuration until the program ends.
async fn attend(
    mut child: Child,
    signals: &mut Signals,
    running: &Running,
    control: &Control,
    watch: &mut Watch,
) -> Result<u8, ExecError> {
    let orphans = reap::orphans(child.id());
    tokio::pin!(orphans);
    loop {
        let signal = tokio::select! {
            failed = &mut orphans => {
                let Err(error) = failed;
                return Err(error.into());
            }
            status = child.wait() => {
                let status = status?;
                info!(%status, "program ended");
                return Ok(status_of(status));
            }
            signal = signals.next() => signal,
            // As an orchestrator would ask the program itself.
            () = control.quit.notified() => Signal::TERM,
            event = watch.next() => {
                run::apply(running, control, event);
                continue;
            }
        };
        // No id: it has ended, and the next turn says how.
        if let Some(pid) = child.id() {
            signals::forward(pid, signal);
        }
    }
}

/// As a shell reports it.
fn status_of(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_a_shell() {
        for (raw, status, why) in [
            (0, 0, "success"),
            (3 << 8, 3, "exit 3"),
            (255 << 8, 255, "exit -1"),
            (15, 143, "SIGTERM"),
            (9, 137, "SIGKILL"),
            (11 | 0x80, 139, "SIGSEGV with a core dump"),
        ] {
            assert_eq!(status_of(ExitStatus::from_raw(raw)), status, "{why}");
        }
        for (kind, status) in [
            (io::ErrorKind::NotFound, 127),
            (io::ErrorKind::PermissionDenied, 126),
        ] {
            let error = ExecError::Start {
                program: "p".to_owned(),
                source: io::Error::from(kind),
            };
            assert_eq!(error.status(), status);
        }
    }
}
