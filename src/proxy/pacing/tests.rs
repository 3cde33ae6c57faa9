//! The gate with a program that always rests.

use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::process::Child;
use std::process::Command;
use std::thread::JoinHandle;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;

use super::*;
use crate::correlate::Arrival;
use crate::correlate::InFlight;
use crate::correlate::InboundGuard;
use crate::model::HumanDuration;
use crate::net::process::look;
use crate::net::rest::Rest;

struct Scene {
    pacer: Arc<Pacer>,
    thread: Option<JoinHandle<()>>,
    program: Child,
    in_flight: Arc<InFlight>,
}

impl Scene {
    fn set() -> Self {
        Self::with(&Pacing::default())
    }

    fn with(pacing: &Pacing) -> Self {
        let pacer = Pacer::new(pacing);
        let program = Command::new("sleep").arg("60").spawn().unwrap();
        let found = look(i32::try_from(program.id()).unwrap()).unwrap();
        pacer.look_at(vec![found]);
        pacer.verdicts.lock().learned();
        let running = pacer.clone();
        let thread = std::thread::spawn(move || running.run(Rest::new().unwrap()));
        Self {
            pacer,
            thread: Some(thread),
            program,
            in_flight: InFlight::new(1),
        }
    }

    fn paced(&self) -> InboundGuard {
        let arrival = Arrival::default();
        let guard = self.in_flight.enter(0, arrival, Instant::now());
        guard.inbound().pace(true);
        guard
    }

    fn passage(&self, port: u16) -> Passage {
        let end = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        self.pacer.passage(Side::Ours, (end(1), end(port)))
    }

    /// A connection of the program from this port, on which it calls while so many requests are in flight.
    fn calls(&self, port: u16, in_flight: usize) -> (Passage, Busy) {
        let end = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let passage = self.pacer.passage(Side::Theirs, (end(port), end(1)));
        let busy = self.pacer.calls("db", Some(port), in_flight);
        (passage, busy)
    }

    /// Delivers on a connection of ours to the program, as other requests are.
    fn gives(&self, ours: &Passage, guard: &InboundGuard) {
        let (_, pillion) = ours.link.ends;
        guard.inbound().pace(false);
        let side = Side::Ours;
        self.pacer
            .deliver(side, pillion.port(), Some(guard.inbound()));
        assert!(is_let_through(ours));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.pacer.end();
        self.thread.take().unwrap().join().unwrap();
        self.program.kill().unwrap();
        self.program.wait().unwrap();
    }
}

async fn pass(passage: &Passage) -> Pass<'_> {
    let pass = poll_fn(|cx| passage.poll_pass(cx));
    let within = Duration::from_secs(10);
    tokio::time::timeout(within, pass).await.unwrap()
}

fn is_let_through(passage: &Passage) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    passage.poll_pass(&mut cx).is_ready()
}

#[tokio::test]
async fn a_call_in_a_window_is_its_deliverys_and_others_wait() {
    let scene = Scene::set();
    let (ours, other) = (scene.passage(2), scene.passage(3));
    assert!(is_let_through(&other), "the gate stands open");
    assert!(scene.pacer.verdict().await.is_none(), "no window");
    let request = scene.paced();
    scene.pacer.deliver(Side::Ours, 2, Some(request.inbound()));
    let delivering = pass(&ours).await;
    assert!(!is_let_through(&other));
    let (verdict, ()) = tokio::join!(scene.pacer.verdict(), async { drop(delivering) });
    let (cause, _) = verdict.unwrap().verdict.unwrap();
    assert!(Arc::ptr_eq(&cause, request.inbound()));
    drop(pass(&other).await);
}

#[tokio::test]
async fn a_window_in_which_somebody_was_answered_says_nothing() {
    let scene = Scene::set();
    let ours = scene.passage(2);
    let request = scene.paced();
    scene.pacer.deliver(Side::Ours, 2, Some(request.inbound()));
    let delivering = pass(&ours).await;
    let (verdict, ()) = tokio::join!(scene.pacer.verdict(), async {
        scene.pacer.answered(2);
        drop(delivering);
    });
    assert!(verdict.unwrap().verdict.is_none());
    let bypass = scene.pacer.bypass();
    let delivering = pass(&ours).await;
    let (verdict, ()) = tokio::join!(scene.pacer.verdict(), async { drop(delivering) });
    let told = verdict.unwrap().verdict;
    assert!(told.is_none(), "bytes reach the program unseen");
    drop(bypass);
}

/// Four threads for the calls of more requests: a response may free one for a call of any of them.
#[tokio::test]
async fn a_response_says_nothing_while_calls_queue_for_threads() {
    for (n_requests, expected, why) in [
        (4, true, "each request has its call"),
        (6, false, "two wait for a thread"),
    ] {
        let scene = Scene::set();
        let requests: Vec<_> = (0..n_requests)
            .map(|n| (scene.passage(100 + n), scene.paced()))
            .collect();
        for (ours, guard) in &requests {
            scene.gives(ours, guard);
        }
        let mut calls: Vec<_> = (0..4).map(|n| scene.calls(2 + n, 4)).collect();
        // Enough were seen for a limit to be seen, and each of them got its response.
        for _ in 0..64 {
            let (theirs, busy) = calls.remove(0);
            drop(busy);
            drop(pass(&theirs).await);
            let port = theirs.link.ends.0.port();
            drop(theirs);
            calls.push(scene.calls(port, 4));
        }
        assert!(!scene.pacer.load.lock().is_limited(), "{why}");
        let owner = scene.paced();
        let (theirs, busy) = calls.remove(0);
        let port = theirs.link.ends.0.port();
        let owned = Some(owner.inbound());
        scene.pacer.deliver(Side::Theirs, port, owned);
        drop(busy);
        let delivering = pass(&theirs).await;
        let (verdict, ()) = tokio::join!(scene.pacer.verdict(), async { drop(delivering) });
        assert_eq!(verdict.unwrap().verdict.is_some(), expected, "{why}");
    }
}

#[tokio::test]
async fn a_program_that_comes_to_rest_a_little_late_is_waited_for() {
    let window = Duration::from_millis(100);
    let scene = Scene::with(&Pacing {
        window: HumanDuration(window),
        ..Pacing::default()
    });
    let ours = scene.passage(2);
    let request = scene.paced();
    scene.pacer.deliver(Side::Ours, 2, Some(request.inbound()));
    let delivering = pass(&ours).await;
    let program = Pid::from_child(&scene.program);
    // One that is stopped does not sleep.
    kill_process(program, Signal::STOP).unwrap();
    let (verdict, ()) = tokio::join!(scene.pacer.verdict(), async {
        drop(delivering);
        tokio::time::sleep(window * 3 / 2).await;
        kill_process(program, Signal::CONT).unwrap();
    });
    let (cause, _) = verdict.unwrap().verdict.unwrap();
    assert!(Arc::ptr_eq(&cause, request.inbound()));
}

#[tokio::test]
async fn what_belongs_to_nobody_or_to_one_that_has_ended_passes() {
    let scene = Scene::set();
    let ours = scene.passage(2);
    let request = scene.paced();
    scene.pacer.deliver(Side::Ours, 2, Some(request.inbound()));
    drop(request);
    assert!(is_let_through(&ours), "nothing is caused by it any more");
    let request = scene.paced();
    request.inbound().pace(false);
    scene.pacer.deliver(Side::Ours, 2, Some(request.inbound()));
    assert!(is_let_through(&ours), "not paced");
    let before = scene.pacer.standing().windows;
    scene.pacer.end();
    let request = scene.paced();
    scene.pacer.deliver(Side::Ours, 2, Some(request.inbound()));
    drop(pass(&ours).await);
    assert_eq!(scene.pacer.standing().windows, before);
}
