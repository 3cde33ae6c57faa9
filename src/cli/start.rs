//! The commands that start something: the seam to `app`.

use std::ffi::OsString;

use crate::cli::Exit;
use crate::cli::args::DemoArgs;
use crate::config::Loaded;
use crate::config::Sources;

/// `run`: the proxy until a signal ends it. `sources` is what a reload reads again.
pub(crate) fn run(_loaded: Loaded, _sources: Sources) -> Exit {
    crate::cli::complain("the data path is not wired up yet");
    Exit::Failure
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
