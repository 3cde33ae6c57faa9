//! What the programs of the side-by-side benchmark share: arguments, the single-threaded runtime, open files.

use std::future::Future;
use std::str::FromStr;

/// The argument after `--name`, or the default.
///
/// # Panics
/// It cannot be parsed: the benchmark is called wrongly.
pub fn argument<T: FromStr>(name: &str, default: T) -> T {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    match (arguments.next(), arguments.next()) {
        (Some(_), Some(value)) => value
            .parse()
            .unwrap_or_else(|_| panic!("{name} {value} is not understood")),
        _ => default,
    }
}

/// Like [`argument`], for what has no default.
///
/// # Panics
/// It is missing or cannot be parsed.
pub fn required<T: FromStr>(name: &str) -> T {
    let value: String = argument(name, String::new());
    value
        .parse()
        .unwrap_or_else(|_| panic!("{name} is missing or not understood: {value:?}"))
}

/// True when `--name` is among the arguments.
pub fn flag(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

/// Runs on one thread.
///
/// # Panics
/// The runtime cannot be built.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// As many open files as the system allows: every connection is one.
pub fn raise_file_limit() {
    use rustix::process::Resource;
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // A lower limit shows as failed connections.
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}
