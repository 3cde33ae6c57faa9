//! What the kernel tells about TCP sockets to whoever asks, without any privilege: who listens, and what was not read yet.
//!
//! One network namespace: that of the thread that made the [`Diag`]. Numbers are native, addresses and ports in network
//! order. Source: sock_diag(7), `linux/inet_diag.h`.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::AddressFamily;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::netlink;
use rustix::net::sockopt::Timeout;

const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const TCP: u8 = 6;
const LISTENING: u8 = 10;
/// Of a message, of a request's head, of a socket in an answer.
const HEAD: usize = 16;
const ASKED: usize = 72;
const TOLD: usize = 88;
/// Longest wait for an answer, which is there as soon as the question was sent.
const PATIENCE: Duration = Duration::from_millis(200);
/// Most answers that are read to one question.
const MAX_ANSWERS: usize = 256;

/// A socket to ask on.
#[derive(Debug)]
pub struct Diag {
    socket: OwnedFd,
}

/// A socket as the kernel tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    is_listening: bool,
    local_port: u16,
    unread: u32,
    inode: u32,
}

impl Diag {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// The system refuses; it needs no privilege.
    pub fn new() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// The inodes of the sockets that listen on this port, of either family, ascending.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn listeners(&self, port: u16) -> io::Result<Vec<u32>> {
        let mut inodes = Vec::new();
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            self.ask(&question(family, DUMP, 1 << LISTENING, None), &mut |told| {
                if told.local_port == port {
                    inodes.push(told.inode);
                }
            })?;
        }
        inodes.sort_unstable();
        inodes.dedup();
        Ok(inodes)
    }

    /// How many bytes the owner of the socket with these ends has not read. `None`: there is no such socket.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn unread(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
        let family = match local.ip().to_canonical() {
            IpAddr::V4(_) => AddressFamily::INET,
            IpAddr::V6(_) => AddressFamily::INET6,
        };
        let mut unread = None;
        let question = question(family, 0, u32::MAX, Some((local, remote)));
        // Where there is no such socket, the one that listens there answers.
        self.ask(&question, &mut |told| {
            unread = (!told.is_listening).then_some(told.unread);
        })?;
        Ok(unread)
    }

    fn ask(&self, question: &[u8; ASKED], told: &mut impl FnMut(Told)) -> io::Result<()> {
        rustix::net::send(&self.socket, question, SendFlags::empty())?;
        let is_dump = question[6..8] != REQUEST.to_ne_bytes();
        let mut answer = [0; 32 * 1024];
        for _ in 0..MAX_ANSWERS {
            let (len, _) = rustix::net::recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
            if read(answer.get(..len).unwrap_or_default(), told) || !is_dump {
                return Ok(());
            }
        }
        Err(io::ErrorKind::OutOfMemory.into())
    }
}

fn question(
    family: AddressFamily,
    flags: u16,
    states: u32,
    ends: Option<(SocketAddr, SocketAddr)>,
) -> [u8; ASKED] {
    let mut question = [0; ASKED];
    let mut put = |at: usize, bytes: &[u8]| question[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(ASKED as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &(REQUEST | flags).to_ne_bytes());
    put(HEAD, &[family.as_raw() as u8, TCP]);
    put(HEAD + 4, &states.to_ne_bytes());
    let id = HEAD + 8;
    if let Some((local, remote)) = ends {
        put(id, &local.port().to_be_bytes());
        put(id + 2, &remote.port().to_be_bytes());
        for (at, end) in [(id + 4, local), (id + 20, remote)] {
            match end.ip().to_canonical() {
                IpAddr::V4(ip) => put(at, &ip.octets()),
                IpAddr::V6(ip) => put(at, &ip.octets()),
            }
        }
    }
    // Any socket with these ends, whatever its cookie.
    put(id + 40, &[0xff; 8]);
    question
}

/// Reads the messages of one answer. True: that was the last one.
fn read(mut answer: &[u8], told: &mut impl FnMut(Told)) -> bool {
    let number = |bytes: &[u8], at: usize| {
        let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
        four.map_or(0, u32::from_ne_bytes)
    };
    while answer.len() >= HEAD {
        let len = number(answer, 0) as usize;
        let kind = number(answer, 4) as u16;
        let Some(message) = answer.get(..len).filter(|message| message.len() >= HEAD) else {
            return true;
        };
        match kind {
            ERROR | DONE => return true,
            BY_FAMILY if message.len() >= TOLD => told(Told {
                is_listening: message[HEAD + 1] == LISTENING,
                local_port: u16::from_be_bytes([message[HEAD + 4], message[HEAD + 5]]),
                unread: number(message, 72),
                inode: number(message, 84),
            }),
            _ => {}
        }
        answer = answer.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::io::Write;
    use std::net::TcpListener;
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_kernel_tells_who_listens_and_what_was_not_read() {
        let diag = Diag::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(diag.listeners(address.port()).unwrap().len(), 1);
        let mut client = TcpStream::connect(address).unwrap();
        let (mut served, peer) = listener.accept().unwrap();
        let unread = || diag.unread(address, peer).unwrap();
        assert_eq!(unread(), Some(0));
        client.write_all(b"seven..").unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while unread() != Some(7) {
            assert!(Instant::now() < deadline);
        }
        served.read_exact(&mut [0; 7]).unwrap();
        assert_eq!(unread(), Some(0));
        let nobody = SocketAddr::new(peer.ip(), 1);
        assert_eq!(diag.unread(address, nobody).unwrap(), None);
        drop(listener);
        assert!(diag.listeners(address.port()).unwrap().is_empty());
    }

    #[test]
    fn answers_that_make_no_sense_end_the_reading() {
        let mut told = |_| panic!("nothing was told");
        for (bytes, why) in [
            (&[][..], "empty"),
            (&[0; 15][..], "shorter than a head"),
            (&[0; 64][..], "a length of nothing"),
            (&[0xff; 64][..], "a length beyond the end"),
        ] {
            read(bytes, &mut told);
            eprintln!("{why}");
        }
    }
}
