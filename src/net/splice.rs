//! Bytes from one connection to another without passing through this process: the kernel moves them by a pipe.
//!
//! Source: splice(2).

use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// Most that is moved at once; a pipe holds no more unless its size is changed.
const MOST: usize = 64 * 1024;

/// What carries the bytes of one direction.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty one; it takes two file descriptors.
    ///
    /// # Errors
    /// No descriptor or no memory is left; `Unsupported` off Linux.
    #[cfg(target_os = "linux")]
    pub fn new() -> io::Result<Self> {
        use rustix::pipe::PipeFlags;

        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self {
            reader,
            writer,
            held: 0,
        })
    }

    /// Off Linux there are none.
    ///
    /// # Errors
    /// `Unsupported`.
    #[cfg(not(target_os = "linux"))]
    pub fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Takes what has arrived on a connection, waiting for it; 0: its other side has ended. What was taken before must
    /// have been given on.
    ///
    /// # Errors
    /// The connection broke; or its kind cannot be spliced: see [`is_refusal`].
    pub async fn take(&mut self, from: &TcpStream) -> io::Result<usize> {
        loop {
            from.readable().await?;
            let taken = from.try_io(Interest::READABLE, || move_some(from, &self.writer, MOST));
            match taken {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => {
                    self.held = *taken.as_ref().unwrap_or(&0);
                    return taken;
                }
            }
        }
    }

    /// Gives some of what was taken to a connection, waiting until it has room; 0: nothing is left.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn give(&mut self, to: &TcpStream) -> io::Result<usize> {
        while self.held > 0 {
            to.writable().await?;
            let given = to.try_io(Interest::WRITABLE, || {
                move_some(&self.reader, to, self.held)
            });
            match given {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                given => {
                    let given = given?;
                    self.held = self.held.saturating_sub(given);
                    return Ok(given);
                }
            }
        }
        Ok(0)
    }
}

/// True where the kernel cannot splice this connection, and copying it may work.
pub fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}

#[cfg(target_os = "linux")]
fn move_some(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    use rustix::pipe::SpliceFlags;

    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(rustix::pipe::splice(from, None, to, None, most, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn move_some(_: impl AsFd, _: impl AsFd, _: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_pass_in_order_and_the_end_is_seen() {
        let (mut client, from) = pair().await;
        let (to, mut server) = pair().await;
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let sending = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let passing = async {
            let mut pipe = Pipe::new().unwrap();
            let mut sum = 0;
            while pipe.take(&from).await.unwrap() > 0 {
                loop {
                    match pipe.give(&to).await.unwrap() {
                        0 => break,
                        n => sum += n,
                    }
                }
            }
            drop(to);
            sum
        };
        let mut received = Vec::new();
        let (_, sum, read) = tokio::join!(sending, passing, server.read_to_end(&mut received));
        read.unwrap();
        assert_eq!(sum, expected.len());
        assert!(received == expected);
    }
}
