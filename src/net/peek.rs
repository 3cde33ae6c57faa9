//! Looks at a socket without taking anything from it.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::RecvFlags;

/// True when reading would not wait: bytes, the end of the stream or an error are there now, whether or not the runtime
/// has been told yet.
pub fn has_input(socket: impl AsFd) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let seen = rustix::net::recv(socket, &mut [0; 1], flags);
    !matches!(seen, Err(Errno::AGAIN | Errno::INTR))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::io::Write;
    use std::net::TcpListener;
    use std::net::TcpStream;
    use std::time::Duration;
    use std::time::Instant;

    use super::*;

    /// A connection as the runtime has it, and its other end.
    async fn pair() -> (tokio::net::TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let ours = ours.await.unwrap();
        (ours, listener.accept().unwrap().0)
    }

    #[tokio::test]
    async fn what_the_runtime_was_not_told_yet_is_seen() {
        for ends in [true, false] {
            let (ours, mut theirs) = pair().await;
            assert!(!has_input(&ours), "nothing is there");
            match ends {
                true => drop(theirs),
                false => theirs.write_all(b"x").unwrap(),
            }
            let deadline = Instant::now() + Duration::from_secs(10);
            while !has_input(&ours) && Instant::now() < deadline {
                std::thread::yield_now();
            }
            // Nobody awaited since, so the runtime did not look.
            let told = ours.try_read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(told, Err(io::ErrorKind::WouldBlock));
            assert!(has_input(&ours), "ends: {ends}");
            assert!(has_input(&ours), "it is still there");
        }
    }
}
