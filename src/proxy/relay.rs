//! Bytes from one TCP connection to another, one direction.
//!
//! Copied at first, through one buffer that all connections of a worker share, so that an idle connection holds none;
//! what goes on for long is spliced, which costs two descriptors and spares the copying.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::net::splice;
use crate::net::splice::Pipe;
use crate::telemetry::metrics::ConnectionMetrics;

/// Bytes copied at a time.
const BUFFER: usize = 64 * 1024;
/// A direction that carried so much is spliced from then on.
const SPLICE_AFTER: u64 = 256 * 1024;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One of the two connections.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    /// The connection.
    pub(super) stream: &'a TcpStream,
    /// Counts its bytes.
    pub(super) metrics: &'a ConnectionMetrics,
}

/// One direction.
pub(super) struct Way<'a> {
    from: End<'a>,
    to: End<'a>,
    splice: bool,
    passed: AtomicU64,
    ended: OnceLock<Instant>,
}

/// Which side broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    From,
    To,
}

impl<'a> Way<'a> {
    /// Nothing passed yet.
    pub(super) fn new(from: End<'a>, to: End<'a>, splice: bool) -> Self {
        Self {
            from,
            to,
            splice,
            passed: AtomicU64::new(0),
            ended: OnceLock::new(),
        }
    }

    /// How many bytes were taken.
    pub(super) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// When the sending side ended, if it did.
    pub(super) fn ended(&self) -> Option<Instant> {
        self.ended.get().copied()
    }

    /// Passes `prefix`, which was read already, and then everything until the end, and ends the other side's direction.
    pub(super) async fn run(&self, prefix: Bytes) -> Result<(), Broken> {
        self.passed
            .fetch_add(prefix.len() as u64, Ordering::Relaxed);
        self.write(&prefix).await?;
        drop(prefix);
        let mut may_splice = self.splice;
        let mut pipe = None;
        loop {
            if may_splice && pipe.is_none() && self.passed() >= SPLICE_AFTER {
                pipe = Pipe::new().ok();
                may_splice = pipe.is_some();
            }
            let n = match &mut pipe {
                Some(open) => match self.splice(open).await? {
                    Some(n) => n,
                    None => {
                        (may_splice, pipe) = (false, None);
                        continue;
                    }
                },
                None => self.copy().await?,
            };
            if n == 0 {
                break;
            }
            // One that never has to wait lets others have their turn.
            tokio::task::consume_budget().await;
        }
        self.ended.get_or_init(Instant::now);
        match SockRef::from(self.to.stream).shutdown(Shutdown::Write) {
            // It is gone already: what it sent is still to be passed on.
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(Broken::To),
            _ => Ok(()),
        }
    }

    /// Copies what is there, waiting for it; 0 at the end.
    async fn copy(&self) -> Result<usize, Broken> {
        loop {
            self.from
                .stream
                .readable()
                .await
                .map_err(|_| Broken::From)?;
            let (n, rest) = match self.copy_some()? {
                Some(moved) => moved,
                None => continue,
            };
            self.write(&rest).await?;
            return Ok(n);
        }
    }

    /// Reads and writes what can be at once: how much was read, and what could not be written. `None`: nothing is there.
    fn copy_some(&self) -> Result<Option<(usize, Vec<u8>)>, Broken> {
        SHARED.with_borrow_mut(|buffer| {
            buffer.resize(BUFFER, 0);
            let n = match self.from.stream.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                read => read.map_err(|_| Broken::From)?,
            };
            self.took(n);
            let read = buffer.get(..n).unwrap_or_default();
            let written = match self.to.stream.try_write(read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                // Nothing to write at the end, whatever became of the other side.
                _ if n == 0 => 0,
                written => written.map_err(|_| Broken::To)?,
            };
            self.gave(written);
            Ok(Some((n, read.get(written..).unwrap_or_default().to_vec())))
        })
    }

    async fn write(&self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() {
            self.to.stream.writable().await.map_err(|_| Broken::To)?;
            match self.to.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    let written = written.map_err(|_| Broken::To)?;
                    self.gave(written);
                    bytes = bytes.get(written..).unwrap_or_default();
                }
            }
        }
        Ok(())
    }

    /// As [`Way::copy`]; `None`: it cannot be spliced.
    async fn splice(&self, pipe: &mut Pipe) -> Result<Option<usize>, Broken> {
        let taken = match pipe.take(self.from.stream).await {
            Err(error) if splice::is_refusal(&error) => return Ok(None),
            taken => taken.map_err(|_| Broken::From)?,
        };
        self.took(taken);
        loop {
            match pipe.give(self.to.stream).await.map_err(|_| Broken::To)? {
                0 => return Ok(Some(taken)),
                given => self.gave(given),
            }
        }
    }

    fn took(&self, n: usize) {
        self.passed.fetch_add(n as u64, Ordering::Relaxed);
        self.from.metrics.received.increment(n as u64);
    }

    fn gave(&self, n: usize) {
        self.to.metrics.sent.increment(n as u64);
    }
}
