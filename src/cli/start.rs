//! The commands that start something: the seam to `app`.

use std::ffi::OsString;
use std::path::Path;

use crate::app;
use crate::app::DemoError;
use crate::app::DemoOptions;
use crate::app::Network;
use crate::app::Sidecar;
use crate::cli::Exit;
use crate::cli::args::DEMO_PORT;
use crate::cli::args::DemoArgs;
use crate::cli::args::DemoServiceArgs;
use crate::cli::args::DemoSidecarArgs;
use crate::cli::version;
use crate::config::Loaded;
use crate::config::Sources;

/// `run`: the proxy until a signal ends it. `sources` is what a reload reads again.
pub(crate) fn run(loaded: Loaded, sources: Sources) -> Exit {
    match app::run(loaded, sources, version::build()) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            crate::cli::complain(&format!("error: {error}{}", Causes(&error)));
            Exit::Failure
        }
    }
}

/// `injector`: the webhook until a signal ends it.
pub(crate) fn injector(loaded: Loaded, sources: Sources) -> Exit {
    if let Err(error) = loaded.check_injector() {
        crate::cli::complain(&error.to_string());
        return Exit::InvalidConfig;
    }
    match app::injector(loaded, sources, version::build()) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            crate::cli::complain(&format!("error: {error}{}", Causes(&error)));
            Exit::Failure
        }
    }
}

/// The causes of an error, one line each.
pub(crate) struct Causes<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, "\n  caused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// `exec`: the proxy beside a program; the program's own status is the answer.
pub(crate) fn exec(
    loaded: Loaded,
    sources: Sources,
    program: &[OsString],
    network: Network,
) -> Exit {
    match app::exec(loaded, sources, version::build(), program, network) {
        Ok(status) => Exit::Program(status),
        Err(error) => {
            crate::cli::complain(&format!("error: {error}{}", Causes(&error)));
            Exit::Program(error.status())
        }
    }
}

/// `demo`: three services, their proxies and the page.
pub(crate) fn demo(args: &DemoArgs) -> Exit {
    let options = DemoOptions {
        duration: args.duration.map(|duration| duration.0),
        load: args.load,
        port: args.port.unwrap_or(DEMO_PORT),
        any_port: args.port.is_none(),
    };
    ended(app::demo(&options, version::build()))
}

/// One process of the demo.
pub(crate) fn demo_service(args: &DemoServiceArgs) -> Exit {
    ended(app::demo_service(&args.name))
}

/// One process of the demo.
pub(crate) fn demo_sidecar(args: DemoSidecarArgs) -> Exit {
    let sidecar = Sidecar {
        service: args.service,
        app: args.app,
        collector: args.collector,
    };
    ended(app::demo_sidecar(&sidecar))
}

/// `shims`: the files, and what makes each runtime load its own.
pub(crate) fn shims(to: &Path) -> Result<String, String> {
    let variables = app::write_shims(to).map_err(|error| format!("{error}{}", Causes(&error)))?;
    if !app::has_preload_library() {
        crate::cli::complain("without the preload library, which this build does not have");
    }
    let line = |(name, value)| format!("{name}={value}\n");
    Ok(variables.into_iter().map(line).collect())
}

fn ended(result: Result<(), DemoError>) -> Exit {
    match result {
        Ok(()) => Exit::Ok,
        Err(error) => {
            crate::cli::complain(&format!("error: {error}{}", Causes(&error)));
            Exit::Failure
        }
    }
}
