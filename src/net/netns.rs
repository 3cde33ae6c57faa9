//! Network namespaces: a thread may leave the machine's network for an empty one of its own.
//!
//! What the thread starts afterwards (sockets, threads, programs) is inside; the rest of the process stays where it is.
//! The namespace ends with the last thread, program and socket in it.

use std::io;

use rustix::thread::UnshareFlags;

/// Moves the calling thread into a new network namespace, which has nothing but a loopback device that is down.
///
/// # Errors
/// `PermissionDenied` without the capability `SYS_ADMIN`.
#[allow(unsafe_code)]
pub fn enter_new() -> io::Result<()> {
    // SAFETY: the flag separates the view of the network alone; memory and file descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}
