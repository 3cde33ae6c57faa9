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
        scene.pacer.answered();
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
