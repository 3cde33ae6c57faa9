//! How long does it take to find a call's cause? `cargo run --release --example linking-lookup`.
//!
//! Each line is a kind of evidence among so many requests in flight. Lookups are timed a few at once, and what reading the
//! clock takes is taken off, because it takes as long as a lookup; the quantiles are of those small batches.

#![allow(clippy::print_stdout, reason = "its output is its result")]
#![allow(missing_docs, reason = "a benchmark has no callers")]

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
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
use pillion::net::kernel::Moment;

/// Lookups between two looks at the clock.
const BATCH: u32 = 4;
/// Batches of a line.
const BATCHES: usize = 200_000;
/// The call's connection. From port 0 the first place of its evidence is the fold of the remote address.
const LOCAL: u16 = 0;
const REMOTE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80);

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
