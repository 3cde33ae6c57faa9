//! `pillion demo`: three small services, each behind a sidecar, and the page that shows their traces.
//!
//! Six processes beside this one: the services know nothing of tracing, the sidecars are proxies as `run` starts them,
//! and this process keeps the page, to which the sidecars report. Nothing outside loopback is touched. Each child
//! watches its standard input, a pipe from here: when this process ends, however it ends, so do they.

mod child;
mod load;
mod service;
mod sidecar;

use std::io;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::admin::Build;
use crate::admin::Hooks;
use crate::admin::Readiness;
use crate::admin::State;
use crate::admin::Store;
use crate::telemetry::metrics::Metrics;

use child::Child;

pub use service::demo_service;
pub use sidecar::Sidecar;
pub use sidecar::demo_sidecar;

/// What can be chosen.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Ends by itself after this time.
    pub duration: Option<Duration>,
    /// Requests a second that keep coming.
    pub load: u32,
    /// Port of the page; 0 takes a free one.
    pub port: u16,
    /// Whether a free port will do when `port` is taken.
    pub any_port: bool,
}

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The page's port is taken.
    #[error("cannot listen on {at}")]
    Page {
        /// The address.
        at: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A process could not be started, or ended before it was ready.
    #[error("{name} did not start")]
    Child {
        /// Which one.
        name: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// A process that should go on has ended.
    #[error("{0} has ended")]
    Ended(String),
    /// The first request failed.
    #[error("the first request failed")]
    FirstRequest(#[source] io::Error),
    /// No runtime, pipe or signal handler.
    #[error("the system refused a runtime, a pipe or a signal handler")]
    System(#[from] io::Error),
}

/// The services in the order in which they start: who is called, before who calls.
const SERVICES: [&str; 3] = ["publisher", "formatter", "hello"];
/// Spans of one whole trace: three servers, two clients.
const WHOLE: usize = 5;
/// How long the first trace may take to appear before the URL is printed anyway.
const FIRST_TRACE: Duration = Duration::from_secs(5);
/// How long children may take to end by themselves.
const CHILD_GRACE: Duration = Duration::from_secs(4);

/// Runs the demo until Ctrl-C, SIGTERM or the chosen duration ends it. No child outlives it.
///
/// # Errors
/// See [`DemoError`].
pub fn demo(options: &DemoOptions, build: Build) -> Result<(), DemoError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // First of all, so that no signal can end us while children start.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut stage = Stage::default();
        let played = async {
            stage.set(options, build).await?;
            stage.play(options).await
        };
        let outcome = tokio::select! {
            outcome = played => outcome,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            _ = hangup.recv() => Ok(()),
        };
        stage.strike().await;
        outcome
    })
}

/// Everything that runs.
#[derive(Default)]
struct Stage {
    children: Vec<Child>,
    page: Option<Page>,
    /// Where requests to `hello` go.
    front: Option<SocketAddr>,
}

/// The page and what keeps it running.
struct Page {
    address: SocketAddr,
    store: Arc<Store>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Stage {
    /// Starts everything and sends the first request.
    async fn set(&mut self, options: &DemoOptions, build: Build) -> Result<(), DemoError> {
        let page = self.page.insert(Page::open(options, build)?);
        let collector = page.address;
        let mut fronts: Vec<(&'static str, SocketAddr)> = Vec::new();
        for name in SERVICES {
            // The sidecar must know its service's port and the service its sidecar's: the port is held until both run.
            let place = service::Place::reserve()?;
            let sidecar = Sidecar {
                service: name.to_owned(),
                app: place.address,
                collector,
            };
            let (child, ports) = child::sidecar(&sidecar).await?;
            self.children.push(child);
            let child = child::service(name, place.address, ports.outbound, &fronts).await?;
            self.children.push(child);
            fronts.push((name, ports.inbound));
        }
        let (_, front) = fronts.pop().ok_or(DemoError::Ended("hello".to_owned()))?;
        self.front = Some(front);
        load::request(front, "World")
            .await
            .map_err(DemoError::FirstRequest)?;
        Ok(())
    }

    /// Says what is to be seen, and keeps going until the time is over or a child ends.
    async fn play(&mut self, options: &DemoOptions) -> Result<(), DemoError> {
        let (Some(page), Some(front)) = (&self.page, self.front) else {
            return Ok(());
        };
        if tokio::time::timeout(FIRST_TRACE, page.whole_trace())
            .await
            .is_err()
        {
            say("The first trace is not complete yet.");
        }
        say(&introduction(page.address, front, options));
        let over = async {
            match options.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => Ok(()),
            () = load::keep(front, options.load) => Ok(()),
            name = child::first_to_end(&mut self.children) => Err(DemoError::Ended(name.to_owned())),
        }
    }

    /// Ends everything: callers before those who are called, the page last, so that the last spans arrive.
    async fn strike(self) {
        let deadline = tokio::time::Instant::now() + CHILD_GRACE;
        for child in self.children.into_iter().rev() {
            child.end(deadline).await;
        }
        if let Some(page) = self.page {
            page.cancel.cancel();
            if page.task.await.is_err() {
                say("the page did not end well");
            }
        }
    }
}

impl Page {
    fn open(options: &DemoOptions, build: Build) -> Result<Self, DemoError> {
        let socket = listen(options)?;
        let address = socket.local_addr()?;
        let view = admin::view::Config::default();
        let store = Arc::new(view.store());
        let cancel = CancellationToken::new();
        let readiness = Readiness::default();
        readiness.set(State::Ready);
        let metrics = Metrics::new();
        let hooks = Hooks {
            build,
            readiness: Arc::new(readiness),
            render_metrics: Arc::new(move || metrics.render()),
            ..Hooks::default()
        };
        let (of_task, shown) = (cancel.clone(), Some(store.clone()));
        let task = tokio::spawn(async move {
            let config = admin::Config::default();
            admin::serve(socket, &config, &view, hooks, shown, of_task).await;
        });
        Ok(Self {
            address,
            store,
            cancel,
            task,
        })
    }

    /// Waits until a trace is complete.
    async fn whole_trace(&self) {
        while self.store.find(1, |spans| spans.len() >= WHOLE).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Opens the page's port.
fn listen(options: &DemoOptions) -> Result<tokio::net::TcpListener, DemoError> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let wanted = at(options.port);
    let bound = match std::net::TcpListener::bind(wanted) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && options.any_port => {
            std::net::TcpListener::bind(at(0))
        }
        bound => bound,
    };
    let socket = bound
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .and_then(tokio::net::TcpListener::from_std);
    socket.map_err(|source| DemoError::Page { at: wanted, source })
}

fn introduction(page: SocketAddr, front: SocketAddr, options: &DemoOptions) -> String {
    let end = match options.duration {
        Some(duration) => format!("by itself in {duration:?}, or with Ctrl-C"),
        None => "with Ctrl-C".to_owned(),
    };
    let load = match options.load {
        0 => String::new(),
        1 => "\n  Load     1 request a second".to_owned(),
        n => format!("\n  Load     {n} requests a second"),
    };
    format!(
        "Three services run, each behind a Pillion of its own: hello calls formatter, then publisher.\n\
         None of them knows anything of tracing.\n\n\
         \x20 Traces   http://{page}/\n\
         \x20 Make one curl 'http://{front}/?name=Ada'{load}\n\
         \x20 Stops    {end}\n"
    )
}

/// Writes to standard output; a closed one is nobody to tell.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .unwrap_or_default();
}
