//! The floor: copies bytes between two sockets, edge-triggered epoll, no HTTP.
//!
//! `raw-copy --listen ADDR --upstream ADDR`

use std::collections::HashMap;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;

use mio::Events;
use mio::Interest;
use mio::Poll;
use mio::Token;
use mio::net::TcpListener;
use mio::net::TcpStream;

const LISTENER: Token = Token(usize::MAX);

/// Two sockets and what is on its way to each.
struct Pair {
    streams: [TcpStream; 2],
    pending: [Vec<u8>; 2],
    ended: [bool; 2],
}

fn main() -> io::Result<()> {
    pillion_compare::raise_file_limit();
    let upstream: SocketAddr = pillion_compare::required("--upstream");
    let mut listener = TcpListener::bind(pillion_compare::required("--listen"))?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut pairs: HashMap<usize, Pair> = HashMap::new();
    let mut next = 0;
    let mut buffer = vec![0; 64 * 1024];
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    if let Ok(pair) = open(&poll, stream, upstream, next) {
                        pairs.insert(next, pair);
                        next += 1;
                    }
                }
                continue;
            }
            let Token(token) = event.token();
            let (key, side) = (token / 2, token % 2);
            let Some(pair) = pairs.get_mut(&key) else {
                continue;
            };
            let result = pair.flush(side).and_then(|()| {
                match event.is_readable() || event.is_read_closed() {
                    true => pair.copy(side, &mut buffer),
                    false => Ok(()),
                }
            });
            if result.is_err() || pair.ended == [true, true] {
                pairs.remove(&key);
            }
        }
    }
}

fn open(poll: &Poll, down: TcpStream, upstream: SocketAddr, key: usize) -> io::Result<Pair> {
    let mut streams = [down, TcpStream::connect(upstream)?];
    for (side, stream) in streams.iter_mut().enumerate() {
        stream.set_nodelay(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(stream, Token(key * 2 + side), interest)?;
    }
    Ok(Pair {
        streams,
        pending: [Vec::new(), Vec::new()],
        ended: [false, false],
    })
}

impl Pair {
    /// Copies what `side` has for the other. A short read means that the socket is empty.
    fn copy(&mut self, side: usize, buffer: &mut [u8]) -> io::Result<()> {
        let other = 1 - side;
        while self.pending[other].is_empty() && !self.ended[side] {
            match self.streams[side].read(buffer) {
                Ok(0) => {
                    self.ended[side] = true;
                    self.streams[other].shutdown(std::net::Shutdown::Write)?;
                }
                Ok(count) => {
                    self.send(other, &buffer[..count])?;
                    if count < buffer.len() {
                        break;
                    }
                }
                Err(error) if is_not_ready(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn send(&mut self, side: usize, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.streams[side].write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_not_ready(&error) => {
                    self.pending[side].extend_from_slice(bytes);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what waits for `side`, then goes on reading from the other.
    fn flush(&mut self, side: usize) -> io::Result<()> {
        if self.pending[side].is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.pending[side]);
        self.send(side, &waiting)?;
        if self.pending[side].is_empty() {
            self.copy(1 - side, &mut vec![0; 64 * 1024])?;
        }
        Ok(())
    }
}

fn is_not_ready(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
    )
}
