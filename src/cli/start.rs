//! The commands that start something: the seam to `app`.

use std::ffi::OsString;

use crate::app;
use crate::cli::Exit;
use crate::cli::args::DemoArgs;
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

/// The causes of an error, one line each.
struct Causes<'a>(&'a dyn std::error::Error);

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
pub(crate) fn exec(_loaded: Loaded, _sources: Sources, _program: Vec<OsString>) -> Exit {
    crate::cli::complain("the data path is not wired up yet");
    Exit::Failure
}

/// `demo`: three services, their proxies and the page.
pub(crate) fn demo(_args: DemoArgs) -> Exit {
    crate::cli::complain("the demo is not wired up yet");
    Exit::Failure
}
