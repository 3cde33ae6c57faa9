//! How long does it take to find a call's cause, and how much longer do Pillion's own system calls take while the kernel's
//! evidence is gathered? `cargo run --release --example linking-lookup`.
//!
//! Each line is a kind of evidence among so many requests in flight. Lookups are timed a few at once, and what reading the
//! clock takes is taken off, because it takes as long as a lookup; the quantiles are of those small batches. System calls
//! are timed with and without the programs of `bpf/` in turns, because one run costs more than the next.

#![allow(clippy::print_stdout, reason = "its output is its result")]
#![allow(missing_docs, reason = "a benchmark has no callers")]

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use std::time::Instant;

use http::HeaderMap;
use http::HeaderValue;
use http::Uri;

use pillion::correlate;
use pillion::correlate::Arrival;
use pillion::correlate::Call;
use pillion::correlate::Carried;
use pillion::correlate::InFlight;
use pillion::model::SamplingState;
use pillion::model::SpanContext;
use pillion::model::SpanId;
use pillion::model::TraceId;
use pillion::net::evidence::Evidence;
use pillion::net::kernel::Kernel;
use pillion::net::kernel::Moment;
use pillion::net::kernel::Scope;
use pillion::net::kernel::network_namespace;

/// Lookups between two looks at the clock.
const BATCH: u32 = 4;
/// Batches of a line.
const BATCHES: usize = 200_000;
/// The call's connection. From port 0 the first place of its evidence is the fold of the remote address.
const LOCAL: u16 = 0;
const REMOTE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80);
/// System calls are timed so often with and without the kernel's programs, each time so many messages and connections.
const TURNS: usize = 15;
const MESSAGES: u32 = 40_000;
const CONNECTIONS: u32 = 500;

fn main() -> io::Result<()> {
    let evidence = Evidence::new()?;
    let theirs = File::options().write(true).open(evidence.path())?;
    let clock = quantile(&mut timed(|| ()), 0.5);
    println!("clock {clock:?}, taken off; {BATCHES} batches of {BATCH} lookups");
    for crowd in [1, 32, 128] {
        let table = InFlight::new(2);
        let guards: Vec<_> = (1..=crowd)
            .map(|number| {
                let arrival = Arrival {
                    context: context(number),
                    request_id: HeaderValue::try_from(format!("request-{number}")).ok(),
                    ..Arrival::default()
                };
                let guard = table.enter(0, arrival, Instant::now());
                let port = 50_000 + number as u16;
                guard.inbound().passed_on_from(port, Some(Moment::now()));
                guard
            })
            .collect();
        let now = u64::from(Moment::now().bits());
        for fold in 0..=u64::from(u16::MAX) {
            let word = 50_001 << 48 | fold << 32 | now << 2 | 1;
            theirs.write_all_at(&u64::to_ne_bytes(word), 8 * fold)?;
        }
        let config = correlate::Config {
            preload: true,
            ..correlate::Config::default()
        };
        let (uri, now) = (
            Uri::from_static("http://users.example/v1/users/42"),
            Instant::now(),
        );
        let (mut headers, forwarded) = (HeaderMap::new(), context(1));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        let find = |extracted: Option<&SpanContext>, served: bool| {
            let sent = served.then(|| evidence.of(LOCAL, REMOTE)).flatten();
            let call = Call {
                verb: &http::Method::GET,
                uri: &uri,
                headers: &headers,
                extracted,
                destination: "users.example",
                carried: Carried::Nothing,
                served: sent.and_then(|sent| Some((sent.inbound?, sent.at))),
                witnesses: &[],
                is_watched: true,
                paced: None,
                now,
            };
            black_box(correlate::find(&config, &table, &call));
        };
        line("forwarded", crowd, clock, || {
            find(forwarded.as_ref(), false)
        });
        line("thread", crowd, clock, || find(None, true));
        line("nothing", crowd, clock, || find(None, false));
        drop(guards);
    }
    match kernel() {
        Ok(()) => {}
        Err(reason) => println!("SKIP: the kernel's evidence: {reason}"),
    }
    Ok(())
}

/// What the kernel's programs add to system calls of Pillion's own.
fn kernel() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let scope = Scope {
        network: network_namespace()?,
        port: Some(address.port()),
        has_one_port: true,
        follows_events: false,
    };
    let connect = || -> io::Result<(TcpStream, TcpStream)> {
        let near = TcpStream::connect(address)?;
        let (far, _) = listener.accept()?;
        near.set_nodelay(true)?;
        Ok((near, far))
    };
    let mut times: [[Vec<Duration>; 2]; 2] = Default::default();
    for _ in 0..TURNS {
        for is_loaded in [false, true] {
            let kernel = is_loaded.then(|| Kernel::load(scope)).transpose()?;
            let (mut near, mut far) = connect()?;
            let mut byte = [0];
            let start = Instant::now();
            for _ in 0..MESSAGES {
                near.write_all(&byte)?;
                far.read_exact(&mut byte)?;
            }
            let message = start.elapsed() / MESSAGES;
            let start = Instant::now();
            for _ in 0..CONNECTIONS {
                drop(connect()?);
            }
            let connection = start.elapsed() / CONNECTIONS;
            for (all, one) in times.iter_mut().zip([message, connection]) {
                all[usize::from(is_loaded)].push(one);
            }
            drop(kernel);
        }
    }
    let names = [
        "a message sent and received",
        "a connection opened, accepted and closed",
    ];
    for (name, times) in names.iter().zip(times) {
        let [without, with] = times.map(|mut all| quantile(&mut all, 0.5));
        let added = with.as_nanos() as i128 - without.as_nanos() as i128;
        println!("{name}: p50 {without:?}, with the kernel's programs {added:+} ns");
    }
    Ok(())
}

fn context(number: u64) -> Option<SpanContext> {
    let trace_id = TraceId::from_halves(7, number)?;
    Some(SpanContext::new(
        trace_id,
        SpanId::from_u64(number)?,
        SamplingState::Accept,
    ))
}

fn line(name: &str, crowd: u64, clock: Duration, mut work: impl FnMut()) {
    let mut all = timed(|| (0..BATCH).for_each(|_| work()));
    let [half, p99] =
        [0.5, 0.99].map(|share| quantile(&mut all, share).saturating_sub(clock) / BATCH);
    println!("{name}, {crowd} in flight: p50 {half:?}, p99 {p99:?}");
}

fn timed(mut work: impl FnMut()) -> Vec<Duration> {
    (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect()
}

fn quantile(all: &mut [Duration], share: f64) -> Duration {
    all.sort_unstable();
    let at = (all.len() as f64 * share) as usize;
    all.get(at).copied().unwrap_or_default()
}
