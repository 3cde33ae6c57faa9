//! Stories of requests one at a time, with the calls that come meanwhile: which ones are believed.

use std::sync::Arc;

use http::Method;

use super::*;
use crate::correlate::in_flight::Arrival;
use crate::correlate::in_flight::InFlight;
use crate::correlate::in_flight::InboundGuard;

/// A program with its clock. Each step is a word: `+A` a request of operation A comes, `/` its response begins, `-` it ends, `#` it ends and never went to the program, a number lets so
/// many milliseconds pass, `x!` a call of kind x is believed to be the request's, `x?` it is not, `x~` either, `x` comes
/// with nobody in flight.
struct World {
    table: Arc<InFlight>,
    now: Instant,
    request: Option<InboundGuard>,
}

impl World {
    fn new() -> Self {
        let table = InFlight::new(1);
        Self {
            table,
            now: Instant::now() + Duration::from_secs(1),
            request: None,
        }
    }

    fn tell(&mut self, story: &str) {
        for (at, step) in story.split_whitespace().enumerate() {
            self.step(step, &format!("step {at} ({step}) of {story:?}"));
        }
    }

    fn step(&mut self, step: &str, place: &str) {
        if let Ok(millis) = step.parse() {
            self.now += Duration::from_millis(millis);
        } else if let Some(operation) = step.strip_prefix('+') {
            let arrival = Arrival {
                operation: self.table.shapes.of(&Method::GET, "", operation),
                ..Arrival::default()
            };
            self.request = Some(self.table.enter(0, arrival, self.now));
        } else if step == "-" {
            let mut request = self.request.take().unwrap();
            request.inbound().passed_on_from(0, None);
            request.ended_at(self.now);
        } else if step == "#" {
            let mut request = self.request.take().unwrap();
            request.ended_at(self.now);
        } else if step == "/" {
            self.request.as_ref().unwrap().inbound().answered();
        } else if let Some(kind) = step.strip_suffix(['!', '?', '~']) {
            let (one, overlapped) = self.table.only().unwrap();
            assert!(!overlapped, "{place}");
            one.passed_on_from(0, None);
            let call = self.table.shapes.of(&Method::GET, "db", kind);
            let told = self
                .table
                .call_while_alone(&one, (call, kind), true, self.now);
            let believed = told == Told::Its && !self.table.calls_in_background(kind);
            assert!(
                step.ends_with('~') || believed == step.ends_with('!'),
                "{place}"
            );
        } else {
            self.table.call_without_request(step, self.now);
        }
    }
}

#[test]
fn what_clean_windows_showed_is_believed_and_nothing_else() {
    for (story, why) in [
        (
            "+A 70 # 1 +A 1 # 50 +A 5 x! - 1 +A 5 x! -",
            "requests that found no program leave it nothing to do and say nothing about it",
        ),
        (
            "+A 5 x! 5 y! 5 - 1 +A 5 x! 5 y! - 1 +A x! y! -",
            "back to back, from the first request on",
        ),
        (
            "+A 5 - 1 +A 1 x? - 1 +A 1 x? - 1 +A x? -",
            "calls after the response fall into the next request",
        ),
        (
            "+A 5 x! 5 - 1 +A 5 x! x? - 1 +A x? -",
            "one call too many, and none is believed any more",
        ),
        (
            "+A 5 x! 5 - 1 +A 5 - 1 +A x? -",
            "one call was missing: whose was it?",
        ),
        (
            "+A 5 / x? - 300 +A 5 x? - 1 +A x? -",
            "the answer was there when the first call came",
        ),
        (
            "+A 5 x! / 5 x? - 1 +A x? -",
            "the program works on after its answers",
        ),
        (
            "+A 5 x! - 1 +A 2 z? 2 x! -",
            "another kind of call says nothing about the usual one",
        ),
        (
            "+B 5 - 1 +A x? - 1 +A x? -",
            "B may still be at work, and A was never clean",
        ),
        (
            "+A 5 x! - 300 +B 5 y! - 1 +A x? - 1 +A x?",
            "B was not yet seen to rest",
        ),
        (
            "+A 5 x! - 300 +B 5 y! - 300 +A 5 x! - 1 +B y! - 1 +A x! -",
            "both rest after their responses",
        ),
        (
            "+A 5 x! - 300 +B 5 - 10 y 300 +A 5 x! - 1 +B - 1 +A x? -",
            "B was seen at work after its response",
        ),
        (
            "+A 5 x! - 300 cron 10 +A 5 x? - 300 +A 5 x! -",
            "work of the program's own is under way",
        ),
    ] {
        eprintln!("{why}");
        World::new().tell(story);
    }
}

#[test]
fn a_call_that_not_every_clean_window_has_counts_by_chance() {
    let mut world = World::new();
    world.tell("+A 10 x! - 300 +A 10 x! y? - 300");
    // Windows are a hundredth of the time: two sightings there and none elsewhere are no chance.
    world.tell("+A 10 x! y! - 300 +A 10 x! z? - 9000 +A 10 x! v! -");
    // Where they are a third of it, it takes more.
    world.tell("300 +B 9000 - 300 +B 9000 w? - 300 +B 9000 w? - 300 +B 9000 w? - 300");
}

#[test]
fn a_first_window_is_not_believed_of_a_program_that_often_calls_by_itself() {
    World::new().tell("100 cron 300 +A 5 x? 5 - 300 +A 5 x!");
    let mut world = World::new();
    world.tell("+A 1 x! - 300 cron 60000 cron 60000 +B 5 x! 200 y? -");
}

#[test]
fn a_call_before_the_program_has_the_request_is_not_the_requests() {
    let mut world = World::new();
    world.tell("+A");
    let (one, _) = world.table.only().unwrap();
    let call = world.table.shapes.of(&Method::GET, "db", "x");
    let told = || {
        let now = world.now;
        world.table.call_while_alone(&one, (call, "x"), true, now)
    };
    assert_eq!(told(), Told::Doubtful);
    assert_eq!(world.table.learned().background_destinations, 1);
    one.passed_on_from(0, None);
    assert_eq!(
        told(),
        Told::Its,
        "but its destination is called in the background"
    );
}

#[test]
fn one_call_more_than_usual_is_known_as_such() {
    let mut world = World::new();
    for _ in 0..AGREE {
        world.tell("300 +A 400 x! -");
    }
    world.tell("300 +A 400 x!");
    let (one, _) = world.table.only().unwrap();
    let call = world.table.shapes.of(&Method::GET, "db", "x");
    let later = world.now + Duration::from_secs(3_600);
    let told = world.table.call_while_alone(&one, (call, "x"), true, later);
    assert_eq!(told, Told::OneTooMany);
}

#[test]
fn a_belief_that_was_shaken_takes_long_to_come_back() {
    let mut world = World::new();
    world.tell("+A 200 x! x! - 300 +A 200 x! x! - 1 +A x! - 1 +A x? x? - 300");
    for _ in 1..AGREE {
        world.tell("+A 200 x~ x~ - 1 +A x? x? - 300");
    }
    world.tell("+A 200 x~ x~ - 1 +A x! x! x? - 1 +A x? -");
}

#[test]
fn paths_without_end_are_not_each_believed_at_first_sight() {
    let mut world = World::new();
    let name = |n: usize| {
        format!(
            "/{}",
            char::from(b'a' + n as u8 % 26)
                .to_string()
                .repeat(1 + n / 26)
        )
    };
    for n in 0..FIRST_BELIEVED {
        world.tell(&format!("+{} 400 x! - 300", name(n)));
    }
    world.tell(&format!("+{} 400 x? - 300", name(FIRST_BELIEVED)));
}

#[test]
fn what_is_counted_is_bounded() {
    let table = InFlight::new(1);
    let mut made = Made::new();
    for n in 0..100 {
        let kind = table.shapes.of(&Method::GET, &format!("h{n}"), "/");
        count(&mut made, kind);
        assert!(made.len() <= KINDS + 1);
    }
    let windows = Windows::default();
    let operation = table.shapes.of(&Method::GET, "", "/");
    let now = Instant::now();
    let window = (operation, Start::Clean, now);
    windows.learn(window, (&made, false), now + GRACE);
    let told = windows.tells(window, (made[0].0, 0), true, now + GRACE);
    assert_eq!(told, Told::Doubtful, "too many kinds to tell");
    for n in 0..2 * OPERATIONS {
        let operation = table.shapes.of(&Method::GET, &format!("h{n}"), "/");
        windows.learn((operation, Start::Clean, now), (&Made::new(), false), now);
    }
    assert_eq!(windows.known.lock().places.len(), OPERATIONS);
}
