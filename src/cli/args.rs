//! The command line as types.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueHint;

use crate::cli::redirect::RedirectArgs;
use crate::config::Setting;
use crate::model::AddrError;
use crate::model::HostPort;
use crate::model::HumanDuration;

/// A tracing sidecar proxy: spans, propagation, sampling and linking for programs nobody touched.
#[derive(Debug, Parser)]
#[command(
    name = "pillion",
    version = crate::cli::version::SHORT,
    long_version = crate::cli::version::long(),
    after_help = AFTER_HELP,
    max_term_width = 100
)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Same as the command `validate`.
    #[arg(long, conflicts_with = "print_config")]
    pub(crate) check: bool,
    /// Same as the command `print-config`.
    #[arg(long)]
    pub(crate) print_config: bool,
}

const AFTER_HELP: &str = "\
Without a command the flags start the proxy, as `pillion run` does.

Settings come from defaults, the file, the environment and flags; later ones win. Every key of the file has a variable:
`shutdown.delay` is PILLION_SHUTDOWN__DELAY. The standard OTEL_* and JAEGER_* variables work too.

Exit status: 0 done, 1 failed while running, 2 wrong usage, 77 a privilege is missing, 78 invalid configuration.

Examples:
  pillion run --app 127.0.0.1:3000              trace what arrives at a program on port 3000
  pillion exec --app 127.0.0.1:3000 -- ./serve  start the program too, with its outgoing calls traced
  pillion demo                                  see three traced services without installing anything";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Starts the proxy (the default when flags are given without a command)
    Run(RunArgs),
    /// Starts a program with the proxy beside it and stops with it
    ///
    /// The program gets HTTP_PROXY, and HTTPS_PROXY unless it is set, so that most HTTP clients send through the
    /// proxy; https:// calls pass unread, as one span a connection. NO_PROXY gains the ports of pillion and the
    /// collectors. SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on, and the exit status is the
    /// program's: 128 and the signal's number when a signal ended it, 127 when it was not found, 126 when it cannot
    /// be executed. Without --app only outgoing requests are traced; without --service the service is called like the
    /// program.
    Exec(ExecArgs),
    /// Starts three small services, each behind a proxy, and a page with their traces
    Demo(DemoArgs),
    /// A service of the demo
    #[command(hide = true)]
    DemoService(DemoServiceArgs),
    /// A sidecar of the demo
    #[command(hide = true)]
    DemoSidecar(DemoSidecarArgs),
    /// Serves the admission webhook that puts the proxy into pods of Kubernetes
    ///
    /// The API server asks it, over HTTPS, about each pod to be created: at /mutate for pods that carry the annotation or
    /// label pillion.dev/inject: "true", at /mutate/namespace for all that do not carry "false". A pod that cannot be
    /// injected passes as it is, with a warning. /healthz, /readyz and /metrics answer on the same port. Changed
    /// certificates are taken over while it runs, a changed configuration file too.
    Injector(InjectorArgs),
    /// Waits until no request is in flight, then tells a running proxy to stop taking traffic
    ///
    /// For the preStop hook of a container: the program beside it may still be answering requests and making calls.
    Drain(DrainArgs),
    /// Leads the connections of this machine or container to the proxy, whatever program makes or takes them
    Redirect(RedirectArgs),
    /// Checks the configuration and reports every mistake with its line and column
    Validate(ValidateArgs),
    /// Prints the configuration in effect and where each value came from
    PrintConfig(RunArgs),
    /// Prints the JSON schema of the configuration file, for editors
    Schema {
        /// Print a commented configuration file with every key and its default instead
        #[arg(long)]
        yaml: bool,
    },
    /// Writes the start-up shims to a directory, for programs that `pillion exec` does not start
    ///
    /// Prints the variable that makes each runtime load its shim. The proxy needs `linking.shims: true`.
    Shims {
        /// The directory, made if need be
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        to: PathBuf,
    },
    /// Asks a running proxy whether it is ready; succeeds when it is
    Healthcheck(HealthcheckArgs),
    /// Prints completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Prints the manual page for man(1), or writes one for each command
    Man {
        /// Write pillion.1, pillion-run.1 and so on into this folder, which is made if need be
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Fail on warnings too
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
#[command(override_usage = "pillion exec [OPTIONS] -- PROGRAM [ARGS]...")]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Follow requests inside the program: Node.js, Python, Ruby and Java load a small file that carries a token from each request
    /// to the calls it causes (sets linking.shims)
    #[arg(long)]
    pub(crate) shims: bool,
    /// Tell which request a thread works on: the program loads a small C library (sets linking.preload). For programs
    /// that serve each request in a thread of its own with blocking reads
    #[arg(long)]
    pub(crate) preload: bool,
    /// Give the program a network of its own, in which all its TCP connections are redirected to the proxy
    ///
    /// For programs that ignore HTTP_PROXY. Needs root (SYS_ADMIN and NET_ADMIN), iproute2, and nft or iptables. The
    /// machine's network is not changed. Loopback ports that the program does not listen on are the machine's; names
    /// are resolved as on the machine; other datagrams go nowhere.
    #[arg(long)]
    pub(crate) isolate: bool,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM",
        value_hint = ValueHint::CommandWithArguments
    )]
    pub(crate) program: Vec<std::ffi::OsString>,
}

/// What `pillion demo` can be told.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Stop after this time, such as 30s (default: on Ctrl-C)
    #[arg(long, value_name = "DURATION")]
    pub duration: Option<HumanDuration>,
    /// Keep this many requests a second coming
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub load: u32,
    /// Port of the page with the traces [default: 15690, or a free one when that is taken]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
}

/// Where the page of the demo is unless told otherwise: where the page of a sidecar is.
pub(crate) const DEMO_PORT: u16 = 15690;

#[derive(Debug, Args)]
pub(crate) struct DemoServiceArgs {
    /// Which one: hello, formatter or publisher
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct DemoSidecarArgs {
    /// The service beside it
    pub(crate) service: String,
    /// Where that listens
    pub(crate) app: SocketAddr,
    /// Where spans go
    pub(crate) collector: SocketAddr,
}

/// The settings of the injector that have a flag.
#[derive(Debug, Args)]
pub(crate) struct InjectorArgs {
    /// Configuration file, `-` for standard input; its part `injector` counts [env: PILLION_CONFIG]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Listen here for the API server [default: 0.0.0.0:15643]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<HostPort>,
    /// PEM file of the certificate, for the name SERVICE.NAMESPACE.svc
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    cert_file: Option<String>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    key_file: Option<String>,
    /// Image of the sidecar [default: pillion in this version]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// How much is logged: error, warn, info, debug, trace, or a filter
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How it is logged
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json", "logfmt"])]
    log_format: Option<String>,
}

impl InjectorArgs {
    /// The values given, for the loader.
    pub(crate) fn given(&self) -> Vec<Setting> {
        [
            (
                "--listen",
                "injector.listen",
                self.listen.as_ref().map(HostPort::to_string),
            ),
            (
                "--cert-file",
                "injector.tls.cert_file",
                self.cert_file.clone(),
            ),
            ("--key-file", "injector.tls.key_file", self.key_file.clone()),
            ("--image", "injector.image", self.image.clone()),
            ("--log-level", "log.level", self.log_level.clone()),
            ("--log-format", "log.format", self.log_format.clone()),
        ]
        .into_iter()
        .filter_map(|(flag, path, value)| {
            Some(Setting {
                flag,
                path,
                value: value?,
            })
        })
        .collect()
    }
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Do not look before this time has passed: callers may not know yet that the pod is leaving
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub(crate) after: HumanDuration,
    /// Longest wait in all; then traffic stops although requests are in flight
    #[arg(long, value_name = "DURATION", default_value = "20s")]
    pub(crate) timeout: HumanDuration,
}

#[derive(Debug, Args)]
pub(crate) struct HealthcheckArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Longest wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(crate) timeout: HumanDuration,
    /// Ask again until the proxy is ready or this time has passed
    #[arg(long, value_name = "DURATION")]
    pub(crate) wait: Option<HumanDuration>,
}

/// The settings that have a flag. Each is a key of the file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct Settings {
    /// Configuration file, `-` for standard input [env: PILLION_CONFIG]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// The program: requests that arrive inbound go there
    #[arg(long, value_name = "HOST:PORT")]
    app: Option<HostPort>,
    /// Listen here for requests to the program [default: 0.0.0.0:15606]
    #[arg(long, value_name = "HOST:PORT")]
    inbound: Option<HostPort>,
    /// Listen here for requests of the program, as its HTTP proxy [default: 127.0.0.1:15601]
    #[arg(long, value_name = "HOST:PORT")]
    outbound: Option<HostPort>,
    /// Listen here for redirected connections to the program; see `pillion redirect`
    #[arg(long, value_name = "HOST:PORT")]
    inbound_redirect: Option<HostPort>,
    /// Listen here for redirected connections of the program; see `pillion redirect`
    #[arg(long, value_name = "HOST:PORT")]
    outbound_redirect: Option<HostPort>,
    /// Listen here for probes, metrics, control and the page with recent traces; an empty text turns them off
    /// [default: 127.0.0.1:15690]
    #[arg(long, value_name = "HOST:PORT", value_parser = admin_address)]
    admin: Option<String>,
    /// Name of the program in traces
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// How much is logged: error, warn, info, debug, trace, or a filter such as info,pillion::reporter=debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How it is logged
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json", "logfmt"])]
    log_format: Option<String>,
    /// `exec --shims`.
    #[arg(skip)]
    pub(crate) shims: bool,
    /// `exec --preload`.
    #[arg(skip)]
    pub(crate) preload: bool,
}

impl Settings {
    /// These, or where one is missing, that of `other`.
    pub(crate) fn or(self, other: Settings) -> Settings {
        Settings {
            config: self.config.or(other.config),
            app: self.app.or(other.app),
            inbound: self.inbound.or(other.inbound),
            outbound: self.outbound.or(other.outbound),
            inbound_redirect: self.inbound_redirect.or(other.inbound_redirect),
            outbound_redirect: self.outbound_redirect.or(other.outbound_redirect),
            admin: self.admin.or(other.admin),
            service: self.service.or(other.service),
            log_level: self.log_level.or(other.log_level),
            log_format: self.log_format.or(other.log_format),
            shims: self.shims || other.shims,
            preload: self.preload || other.preload,
        }
    }

    /// The values given, for the loader.
    pub(crate) fn given(&self) -> Vec<Setting> {
        let address = |addr: &Option<HostPort>| addr.as_ref().map(HostPort::to_string);
        let on = |given: bool| given.then(|| "true".to_owned());
        [
            ("--app", "app", address(&self.app)),
            ("--inbound", "inbound.listen", address(&self.inbound)),
            ("--outbound", "outbound.listen", address(&self.outbound)),
            (
                "--inbound-redirect",
                "inbound.redirect.listen",
                address(&self.inbound_redirect),
            ),
            (
                "--outbound-redirect",
                "outbound.redirect.listen",
                address(&self.outbound_redirect),
            ),
            ("--admin", "admin.listen", self.admin.clone()),
            ("--service", "service", self.service.clone()),
            ("--log-level", "log.level", self.log_level.clone()),
            ("--log-format", "log.format", self.log_format.clone()),
            ("--shims", "linking.shims", on(self.shims)),
            ("--preload", "linking.preload", on(self.preload)),
        ]
        .into_iter()
        .filter_map(|(flag, path, value)| {
            Some(Setting {
                flag,
                path,
                value: value?,
            })
        })
        .collect()
    }
}

/// The value of `--admin`: an address, or empty for none.
fn admin_address(text: &str) -> Result<String, AddrError> {
    match text {
        "" => Ok(String::new()),
        _ => Ok(text.parse::<HostPort>()?.to_string()),
    }
}
