//! Commands and flags: from arguments to an exit status.
//!
//! Owns what people type and what they read on the terminal. Settings go to `config`; what starts something goes to
//! `app` through `start`.

use std::ffi::OsString;
use std::io;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::Parser;

use crate::app::Network;
use crate::config;
use crate::config::Loaded;
use crate::config::Sources;

mod args;
mod healthcheck;
mod redirect;
mod start;
mod version;

pub use args::DemoArgs;

use args::Command;
use args::CommandLine;
use args::InjectorArgs;
use args::Settings;
use redirect::Action;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or drained cleanly.
    Ok,
    /// Something failed while running.
    Failure,
    /// Flags or commands that make no sense.
    Usage,
    /// The system does not let this process do what was asked.
    MissingCapability,
    /// The configuration has mistakes.
    InvalidConfig,
    /// What a program started by `exec` ended with.
    Program(u8),
}

impl Exit {
    /// The exit status.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::MissingCapability => 77,
            Self::InvalidConfig => 78,
            Self::Program(code) => code,
        }
    }
}

/// Runs the command that `args` (with the program's name first) ask for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let exit = match CommandLine::try_parse_from(&args) {
        // The environment alone may configure a proxy, as in a container started without arguments.
        Ok(_) if args.len() < 2 && !Sources::from_process(None, Vec::new()).has_settings() => {
            complain(&CommandLine::command().render_help().to_string());
            Exit::Usage
        }
        Ok(line) => dispatch(line),
        Err(error) => {
            let shown = error.print().is_ok();
            match error.use_stderr() || !shown {
                true => Exit::Usage,
                false => Exit::Ok,
            }
        }
    };
    ExitCode::from(exit.code())
}

fn dispatch(line: CommandLine) -> Exit {
    let outer = line.settings;
    match line.command {
        None if line.check => validate(outer, false),
        None if line.print_config => print_config(outer),
        None => with_materials(outer, start::run),
        Some(Command::Run(args)) => {
            let settings = args.settings.or(outer);
            match (line.check, line.print_config) {
                (true, _) => validate(settings, false),
                (_, true) => print_config(settings),
                _ => with_materials(settings, start::run),
            }
        }
        Some(Command::Exec(args)) => {
            let mut settings = args.settings.or(outer);
            settings.shims = args.shims;
            settings.preload = args.preload;
            with_materials(settings, |loaded, sources| {
                let network = match args.isolate {
                    true => Network::Own,
                    false => Network::Shared,
                };
                start::exec(loaded, sources, &args.program, network)
            })
        }
        Some(Command::Demo(args)) => start::demo(&args),
        Some(Command::DemoService(args)) => start::demo_service(&args),
        Some(Command::DemoSidecar(args)) => start::demo_sidecar(args),
        Some(Command::Redirect(args)) => match args.action {
            Action::Install(args) => {
                let settings = args.settings.clone().or(outer);
                with_config(settings, |loaded, _| {
                    redirect::install(*args, &loaded.config)
                })
            }
            Action::Remove(args) => redirect::remove(&args),
            Action::Show(args) => redirect::show(&args),
        },
        Some(Command::Validate(args)) => validate(args.settings.or(outer), args.strict),
        Some(Command::PrintConfig(args)) => print_config(args.settings.or(outer)),
        Some(Command::Schema { yaml: true }) => print(&config::reference()),
        Some(Command::Schema { yaml: false }) => print(&config::schema::text()),
        Some(Command::Shims { to }) => match start::shims(&to) {
            Ok(lines) => print(&lines),
            Err(error) => {
                complain(&format!("error: {error}"));
                Exit::Failure
            }
        },
        Some(Command::Healthcheck(args)) => {
            let timeout = args.timeout.0;
            let wait = args.wait.map(|wait| wait.0).unwrap_or_default();
            with_config(args.settings.or(outer), |loaded, _| {
                let admin = &loaded.config.admin.listen;
                done("not ready", healthcheck::ready_within(admin, timeout, wait))
            })
        }
        Some(Command::Drain(args)) => {
            let (after, timeout) = (args.after.0, args.timeout.0);
            with_config(args.settings.or(outer), |loaded, _| {
                let admin = &loaded.config.admin.listen;
                done("not drained", healthcheck::drain(admin, after, timeout))
            })
        }
        Some(Command::Injector(args)) => injector(args, outer),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "pillion", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Some(Command::Man { to }) => match man(to.as_deref()) {
            Ok(page) => print(&page),
            Err(error) => {
                complain(&format!("error: the pages cannot be written: {error}"));
                Exit::Failure
            }
        },
    }
}

fn done(what: &str, result: Result<(), String>) -> Exit {
    match result {
        Ok(()) => Exit::Ok,
        Err(reason) => {
            complain(&format!("{what}: {reason}"));
            Exit::Failure
        }
    }
}

fn injector(args: InjectorArgs, outer: Settings) -> Exit {
    let mut given = outer.given();
    given.extend(args.given());
    let sources = Sources::from_process(args.config.or(outer.config), given);
    with_sources(sources, start::injector)
}

/// The manual page; empty when all pages went into a folder.
fn man(to: Option<&Path>) -> io::Result<String> {
    let command = CommandLine::command();
    if let Some(folder) = to {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(command, folder)?;
        return Ok(String::new());
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn validate(settings: Settings, strict: bool) -> Exit {
    let subject = settings.config.clone();
    with_materials(settings, |loaded, _| {
        let file = loaded.file.or(subject);
        let name = file.map_or("configuration".to_owned(), |f| f.display().to_string());
        match loaded.warnings.len() {
            0 => print(&format!("{name}: valid\n")),
            n if strict => {
                complain(&format!("{name}: {n} warnings, which --strict refuses"));
                Exit::InvalidConfig
            }
            1 => print(&format!("{name}: valid, 1 warning\n")),
            n => print(&format!("{name}: valid, {n} warnings\n")),
        }
    })
}

fn print_config(settings: Settings) -> Exit {
    with_config(settings, |loaded, _| print(&loaded.print()))
}

/// Loads the configuration, shows its warnings and goes on, or shows its mistakes and stops.
fn with_config(settings: Settings, next: impl FnOnce(Loaded, Sources) -> Exit) -> Exit {
    let sources = Sources::from_process(settings.config.clone(), settings.given());
    with_sources(sources, next)
}

fn with_sources(sources: Sources, next: impl FnOnce(Loaded, Sources) -> Exit) -> Exit {
    match config::load(&sources) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain(warning.trim_end());
            }
            next(loaded, sources)
        }
        Err(errors) => {
            complain(&errors.to_string());
            Exit::InvalidConfig
        }
    }
}

/// [`with_config`], for commands that need the files which the settings name.
fn with_materials(settings: Settings, next: impl FnOnce(Loaded, Sources) -> Exit) -> Exit {
    with_config(settings, |loaded, sources| match loaded.check_materials() {
        Ok(()) => next(loaded, sources),
        Err(errors) => {
            complain(&errors.to_string());
            Exit::InvalidConfig
        }
    })
}

/// Writes to standard output. A reader that went away (`| head`) is no failure.
fn print(text: &str) -> Exit {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Exit::Failure,
        _ => Exit::Ok,
    }
}

/// Writes a line to standard error. When that is closed there is nobody left to tell.
fn complain(text: &str) {
    let mut err = std::io::stderr().lock();
    writeln!(err, "{text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
