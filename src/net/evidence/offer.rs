//! A Unix socket at which programs get the memory of [`super::Evidence`]: where they are not our children, as in a pod.
//!
//! Whoever connects gets a greeting with the file (SCM_RIGHTS) and is forgotten: nothing is read, nothing is kept. The
//! file of the socket appears when it can be used, over one that an earlier process left, and goes when this is dropped.

use std::fs;
use std::fs::Permissions;
use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use tokio::net::UnixListener;
use tracing::debug;
use tracing::warn;

/// The name of the socket in a directory that programs load from.
pub const NAME: &str = "evidence.sock";
/// Said with the file. The number counts layouts of the memory.
const GREETING: &[u8] = b"pillion-evidence 2\n";
/// After a connection that could not be taken: too many files are open.
const PAUSE: Duration = Duration::from_millis(100);

/// An open socket.
#[derive(Debug)]
pub struct Offer {
    path: PathBuf,
    /// Device and inode of the socket: another process may have taken the path over.
    identity: (u64, u64),
    listener: UnixListener,
    memory: OwnedFd,
}

impl Offer {
    /// Opens the socket. Everybody who reaches its directory may connect: programs run as other users.
    ///
    /// Must run in a runtime.
    ///
    /// # Errors
    /// Something else than a socket is at the path, or it cannot be bound.
    pub fn open(path: &Path, memory: OwnedFd) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(held) if !held.file_type().is_socket() => {
                let message = "something else than a socket is there";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            _ => {}
        }
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        fs::remove_file(&fresh).ok();
        let listener = UnixListener::bind(&fresh)?;
        let ready = fs::set_permissions(&fresh, Permissions::from_mode(0o666))
            .and_then(|()| fs::rename(&fresh, path))
            .and_then(|()| fs::symlink_metadata(path));
        let found = ready.inspect_err(|_| {
            fs::remove_file(&fresh).ok();
        })?;
        Ok(Self {
            path: path.to_owned(),
            identity: (found.dev(), found.ino()),
            listener,
            memory,
        })
    }

    /// Gives the memory to whoever asks, for ever.
    pub async fn serve(self) {
        loop {
            match self.listener.accept().await {
                Ok((program, _)) => match self.give(&program) {
                    Ok(()) => debug!("a program has the memory for evidence"),
                    Err(error) => debug!(%error, "a program did not take the memory for evidence"),
                },
                Err(error) => {
                    warn!(%error, "a program cannot ask for the memory for evidence");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Fits into the buffer of a fresh connection, so it waits for nobody.
    fn give(&self, program: &impl AsFd) -> io::Result<()> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        let files = [self.memory.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&files));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(program, &[IoSlice::new(GREETING)], &mut control, flags)?;
        Ok(())
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        let is_ours = found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if is_ours {
            fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::Ordering;

    use rustix::net::RecvAncillaryBuffer;
    use rustix::net::RecvAncillaryMessage;
    use rustix::net::RecvFlags;

    use super::super::Evidence;
    use super::*;

    fn ask(path: &Path) -> (Vec<u8>, File) {
        let program = UnixStream::connect(path).unwrap();
        let mut text = [0; 64];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let mut parts = [io::IoSliceMut::new(&mut text)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let n = rustix::net::recvmsg(&program, &mut parts, &mut control, flags).unwrap();
        let messages = control.drain().map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => files.collect(),
            _ => Vec::new(),
        });
        let mut files: Vec<OwnedFd> = messages.flatten().collect();
        assert_eq!(files.len(), 1);
        (text[..n.bytes].to_vec(), files.remove(0).into())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn whoever_asks_gets_the_memory_and_nothing_more() {
        let (dir, evidence) = (tempfile::tempdir().unwrap(), Evidence::new().unwrap());
        let path = dir.path().join("evidence.sock");
        let offer = Offer::open(&path, evidence.handle().unwrap()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        let serving = tokio::spawn(offer.serve());
        for round in 1..=3_u64 {
            let (greeting, memory) = ask(&path);
            assert_eq!(greeting, GREETING);
            memory
                .write_all_at(&round.to_ne_bytes(), 8 * 40_000)
                .unwrap();
            assert_eq!(evidence.slot(40_000).load(Ordering::Acquire), round);
            assert!(memory.set_len(0).is_err(), "cannot be made smaller");
        }
        serving.abort();
        serving.await.unwrap_err();
        assert!(!path.exists(), "the socket goes with the offer");
    }

    #[tokio::test]
    async fn what_an_earlier_process_left_is_replaced_and_what_is_no_socket_stays() {
        let (dir, evidence) = (tempfile::tempdir().unwrap(), Evidence::new().unwrap());
        let path = dir.path().join("evidence.sock");
        let open = || Offer::open(&path, evidence.handle().unwrap());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let old = open().unwrap();
        let new = open().unwrap();
        drop(old);
        assert!(path.exists(), "it belongs to the new one");
        drop(new);
        assert!(!path.exists());
        fs::write(&path, "theirs").unwrap();
        assert_eq!(open().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        let nowhere = dir.path().join("x").join("evidence.sock");
        Offer::open(&nowhere, evidence.handle().unwrap()).unwrap_err();
        let long = dir.path().join("x".repeat(200));
        Offer::open(&long, evidence.handle().unwrap()).unwrap_err();
    }
}
