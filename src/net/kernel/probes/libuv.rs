//! libuv inside Node.js: where events begin that no socket is read for, and work in other threads.

use crate::net::kernel::probes::attach::Place;
use crate::net::kernel::probes::target::Target;

/// What begins an event: until a socket is read, it belongs to nobody.
const EVENTS: [&str; 10] = [
    "uv__io_poll",
    "uv__stream_io",
    "uv__server_io",
    "uv__udp_io",
    "uv__poll_io",
    "uv__async_io",
    "uv__signal_event",
    "uv__inotify_read",
    "_ZN4node11Environment9RunTimersEP10uv_timer_s",
    "_ZN4node11Environment14CheckImmediateEP10uv_check_s",
];

/// What begins work in another thread, and what each kind of it ends with.
const WORK: [&str; 6] = [
    "uv__work_submit",
    "uv__getaddrinfo_done",
    "uv__getnameinfo_done",
    "uv__fs_done",
    "uv__queue_done",
    "uv__random_done",
];

/// Finds where to look.
///
/// # Errors
/// What is missing.
pub(super) fn inspect(target: &Target) -> Result<Vec<Place>, &'static str> {
    let library = target.library("libnode.so");
    let program = library.or_else(|_| target.program());
    let program = program.map_err(|_| "its file cannot be read")?;
    let events = program.elf.symbols(EVENTS);
    let events = events.map_err(|_| "its file has no symbols")?;
    let work = program.elf.symbols(WORK);
    let [submit, done @ ..] = work.map_err(|_| "its file has no symbols")?;
    let place = |name, symbol: Option<u64>| Place::new(name, &program, symbol?, false);
    let places = events
        .into_iter()
        .map(|event| place("on_event_begun", event));
    let places = places.chain([place("on_work_begun", submit)]);
    let places = places.chain(done.into_iter().map(|done| place("on_work_done", done)));
    let places: Option<Vec<Place>> = places.collect();
    places.ok_or("its symbols were stripped")
}
