//! The programs in the running kernel; where it lets nobody load any, a test prints that it skips.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;

use super::*;

fn load() -> Option<Kernel> {
    let scope = Scope {
        network: network_namespace().unwrap(),
        port: None,
        has_one_port: false,
        follows_events: true,
    };
    match Kernel::load(scope) {
        Ok(kernel) => Some(kernel),
        Err(
            error @ (KernelError::Privilege | KernelError::NoTracepoint(_) | KernelError::NoTypes),
        ) => {
            let required =
                std::env::var_os("PILLION_TEST_REQUIRE").is_some_and(|value| value == "1");
            assert!(!required, "cannot run, and PILLION_TEST_REQUIRE=1: {error}");
            writeln!(io::stderr(), "SKIP: {error}").unwrap();
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn several_can_look_at_once_and_none_looks_at_its_own_process() {
    let (Some(first), Some(second)) = (load(), load()) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut near = TcpStream::connect(address).unwrap();
    near.write_all(b"hello").unwrap();
    let (mut far, _) = listener.accept().unwrap();
    far.read_exact(&mut [0; 5]).unwrap();
    let local = near.local_addr().unwrap().port();
    assert_eq!(first.slots.of(local, address), None);
    drop(first);
    assert_eq!(second.slots.of(local, address), None);
}

#[test]
fn a_missing_privilege_is_told_from_other_reasons() {
    let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    assert!(matches!(because("load", &denied), KernelError::Privilege));
    let other = because("load", &io::Error::from(io::ErrorKind::InvalidInput));
    assert!(other.to_string().starts_with("cannot load: "), "{other}");
}
