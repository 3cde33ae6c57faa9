//! Network namespaces: a thread may leave the machine's network for an empty one of its own.
//!
//! What the thread starts afterwards (sockets, threads, programs) is inside; the rest of the process stays where it is.
//! A socket belongs to the namespace it was made in, whoever uses it. The namespace ends with the last thread, program
//! and socket in it.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;

use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Marks the packets of sockets from [`Netns::connect`], so that rules can tell them from the program's.
pub const MARK: u32 = 0x0070_696c;

/// Moves the calling thread into a new network namespace, which has nothing but a loopback device that is down.
///
/// # Errors
/// `PermissionDenied` without the capability `SYS_ADMIN`; `Unsupported` off Linux.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn enter_new() -> io::Result<()> {
    use rustix::thread::UnshareFlags;

    // SAFETY: the flag separates the view of the network alone; memory and file descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Moves the calling thread into a new network namespace.
///
/// # Errors
/// `Unsupported`.
#[cfg(not(target_os = "linux"))]
pub fn enter_new() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

type Job = Box<dyn FnOnce() + Send>;

/// A namespace with a thread that works in it. Cloning shares both; the thread ends with the last clone.
#[derive(Debug, Clone)]
pub struct Netns {
    jobs: mpsc::Sender<Job>,
}

impl Netns {
    /// A new one.
    ///
    /// # Errors
    /// See [`enter_new`]; or no thread can be started.
    pub fn new() -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (started, starting) = mpsc::channel();
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                let entered = enter_new();
                let is_inside = entered.is_ok();
                if started.send(entered).is_err() || !is_inside {
                    return;
                }
                for job in inbox {
                    job();
                }
            })?;
        starting.recv().map_err(io::Error::other)??;
        Ok(Self { jobs })
    }

    /// Runs something inside and waits for it. For starting things: it blocks.
    ///
    /// # Errors
    /// The thread is gone.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || done.send(job()).unwrap_or_default());
        self.jobs.send(job).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())
    }

    /// Connects inside. The socket's packets carry [`MARK`].
    ///
    /// # Errors
    /// No socket, or no connection.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let (done, result) = oneshot::channel();
        // Whoever waited may be gone: then nobody needs the socket.
        let job = Box::new(move || drop(done.send(socket(to))));
        self.jobs.send(job).map_err(|_| gone())?;
        let socket = result.await.map_err(|_| gone())??;
        TcpSocket::from_std_stream(socket.into()).connect(to).await
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread in the network namespace is gone")
}

fn socket(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    socket.set_mark(MARK)?;
    Ok(socket)
}
