//! The linking benchmark in short: a few programs, every layer, and no parent asserted as certain that is wrong.

#[allow(dead_code, reason = "the short form runs a part of the benchmark")]
#[path = "../bench/linking/mod.rs"]
pub(crate) mod bench;

use bench::apps;
use bench::apps::App;
use bench::backend;
use bench::collector::Collector;
use bench::collector::Span;
use bench::process::Around;
use bench::process::Reuse;
use bench::process::Running;
use bench::profiles::Profile;
use bench::report;
use bench::row;
use bench::row::Plan;
use bench::row::Row;
use bench::score;
use bench::truth::Ids;
use bench::truth::Pattern;
use bench::truth::Truth;

use crate::support::skip::skip;

const PATTERNS: &[&str] = &["one", "par2", "sleep", "executor", "background", "late"];

/// A program of the benchmark behind a profile.
pub(crate) struct Behind {
    running: Running,
    collector: Collector,
    names: (&'static str, &'static str, Reuse),
}

impl Behind {
    /// `None`, with the reason printed: it cannot run here.
    pub(crate) async fn start(app: &App, profile: &str, reuse: Reuse) -> Option<Self> {
        if let Err(reason) = app.command(0) {
            skip(&reason);
            return None;
        }
        let profile = Profile::named(profile).unwrap();
        let collector = Collector::start().await;
        let around = Around {
            backend: backend::start().await,
            collector: collector.address,
        };
        match Running::start(app, profile, reuse, around).await {
            Ok(running) => Some(Self {
                running,
                collector,
                names: (app.name, profile.name, reuse),
            }),
            Err(reason) if reason.contains("linking.kernel is required") => {
                skip(&reason);
                None
            }
            Err(reason) => panic!("{}: {reason}", app.name),
        }
    }

    /// So many requests at once and in all; none of them fails.
    pub(crate) async fn row(
        &self,
        pattern: &str,
        (concurrency, n_requests): (usize, usize),
        ids: Ids,
    ) -> Row {
        let plan = Plan {
            pattern: Pattern::named(pattern).unwrap(),
            concurrency,
            n_requests,
            ids,
            run: 0,
        };
        let row = row::run(self.names, &self.running, &self.collector, plan).await;
        assert_eq!(row.failures, 0, "{}", report::line(&row));
        row
    }
}

/// A program behind a profile, with patterns whose calls must all be found.
async fn check(app: &str, profile: &str, ids: Ids, found: &[&str]) {
    check_app(apps::named(app).unwrap(), profile, ids, (PATTERNS, found)).await;
}

/// The same of any program, with patterns that it knows, and those whose calls must be found.
async fn check_app(app: App, profile: &str, ids: Ids, (patterns, found): (&[&str], &[&str])) {
    let Some(program) = Behind::start(&app, profile, Reuse::Pooled).await else {
        return;
    };
    for name in patterns {
        let row = program.row(name, (8, 60), ids).await;
        let (score, line) = (&row.score, report::line(&row));
        assert_eq!(score.missing, 0, "a call without a span: {line}");
        assert_eq!(score.wrong_merges(), 0, "{line} {:?}", score.methods);
        // What is never called cannot be wrong.
        let (late, jobs) = (*name == "late", *name == "background");
        assert_eq!(score.late, if late { score.requests } else { 0 }, "{line}");
        assert!(!jobs || score.background > 0, "no job has called: {line}");
        if found.contains(name) {
            assert_eq!(score.right, score.calls, "{line} {:?}", score.methods);
        }
    }
}

/// The same of one that mixes requests up: what it does is seen while it answers the first ones, then nothing is wrong.
async fn check_mixed_up(app: &str, profile: &str) {
    let app = apps::named(app).unwrap();
    let Some(program) = Behind::start(&app, profile, Reuse::Pooled).await else {
        return;
    };
    for (round, (pattern, concurrency)) in [("seq2", 8), ("seq2", 32), ("par2", 8), ("par2", 32)]
        .into_iter()
        .enumerate()
    {
        let row = program.row(pattern, (concurrency, 150), Ids::Blinded).await;
        let (score, line) = (&row.score, report::line(&row));
        assert!(
            round == 0 || score.wrong_merges() == 0,
            "{line} {:?}",
            score.methods
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_one_request_started_calls_for_others() {
    for app in ["go-workers", "tokio-workers"] {
        check_mixed_up(app, "bpf").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_connection_carries_for_several_requests_belongs_to_none() {
    check_mixed_up("go-h2", "bpf").await;
    for profile in ["bpf", "preload"] {
        check_mixed_up("node-store", profile).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_leaves_a_request_to_others_calls_for_others() {
    for profile in ["bpf", "preload"] {
        check_mixed_up("java-async", profile).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_evidence_nothing_is_asserted() {
    check("python-threads", "floor", Ids::Blinded, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identifiers_that_the_program_passes_on_lead_to_the_request() {
    let all = ["one", "par2", "sleep", "background"];
    check("node-http", "values", Ids::Kept, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digests_of_identifiers_say_nothing() {
    check("node-http", "values", Ids::Blinded, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_follows_requests_through_node() {
    let all = ["one", "par2", "sleep", "background"];
    check("node-fetch", "shims", Ids::Blinded, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_follows_requests_through_python_threads() {
    // par2 starts threads of its own, which inherit nothing.
    let found = ["one", "sleep", "executor", "background"];
    check("python-threads", "shims", Ids::Blinded, &found).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_follows_requests_through_tasks() {
    let all = ["one", "par2", "sleep", "background"];
    check("aiohttp", "shims", Ids::Blinded, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_follows_requests_through_the_pools_of_java() {
    let all = ["one", "par2", "sleep", "executor", "background"];
    check("java-client", "shims", Ids::Blinded, &all).await;
    check("java-virtual", "shims", Ids::Blinded, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_follows_requests_through_the_threads_of_ruby() {
    // par2 and executor call from threads of the program's own.
    let found = ["one", "sleep", "background"];
    check("ruby-puma", "shims", Ids::Blinded, &found).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_wrong_is_asserted_of_runtimes_that_nobody_looks_into() {
    // PHP's server has no jobs of its own.
    let php = (&["one", "par2", "sleep", "executor", "late"][..], &[][..]);
    for profile in ["preload", "bpf"] {
        check("ruby-puma", profile, Ids::Blinded, &[]).await;
        check_app(apps::named("php").unwrap(), profile, Ids::Blinded, php).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_virtual_thread_is_taken_for_no_thread() {
    check("java-virtual", "preload", Ids::Blinded, &[]).await;
    check("java-virtual", "bpf", Ids::Blinded, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_thread_that_sends_a_call_was_serving_the_request() {
    // par2 and executor send from other threads.
    let found = ["one", "sleep", "background"];
    check("python-threads", "preload", Ids::Blinded, &found).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_serves_many_at_once_says_nothing() {
    check("aiohttp-uvloop", "preload", Ids::Blinded, &[]).await;
    check("gunicorn-gevent", "preload", Ids::Blinded, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_nodes_loop_are_known_without_a_privilege() {
    // A timer that is due while an event is handled leaves its calls unknown, so not all of them are found.
    check("node-http", "preload", Ids::Blinded, &[]).await;
    check("node-fetch", "preload", Ids::Blinded, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_sees_the_thread_that_sends() {
    // par2 and executor send from other threads.
    check("python-threads", "bpf", Ids::Blinded, &["one", "sleep"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_asserts_nothing_wrong_of_event_loops() {
    check("node-http", "bpf", Ids::Blinded, &[]).await;
}

/// Eight requests at once have all eight connections: the call of a job, seldom as it is, waits until a response frees one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seldom_job_that_waits_for_a_connection_gets_no_parent() {
    let app = apps::named("node-sockets").unwrap();
    for (profile, reuse) in [
        ("preload", Reuse::Pooled),
        ("preload", Reuse::Fresh),
        ("bpf", Reuse::Pooled),
    ] {
        let Some(program) = Behind::start(&app, profile, reuse).await else {
            return;
        };
        let row = program.row("background", (8, 800), Ids::Blinded).await;
        let (score, line) = (&row.score, report::line(&row));
        assert_eq!(score.missing, 0, "{line}");
        assert_eq!(score.wrong_merges(), 0, "{line} {:?}", score.methods);
        assert!(score.background > 3, "no job has called: {line}");
        assert!(score.right > score.calls / 5, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_asserts_nothing_wrong_of_green_threads() {
    check("gunicorn-gevent", "bpf", Ids::Blinded, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_reads_the_next_request_before_it_answers_works_on_neither() {
    let app = apps::interpreted("/usr/bin/python3", "one_thread.py");
    for profile in ["preload", "bpf"] {
        let patterns = &["one", "seq2", "sleep", "late"];
        check_app(app, profile, Ids::Blinded, (patterns, &[])).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_of_a_request_after_its_answer_is_no_new_request() {
    let app = apps::interpreted("/usr/bin/python3", "early.py");
    for profile in ["preload", "bpf"] {
        let patterns = &["one", "seq2", "late", "one"];
        check_app(app, profile, Ids::Blinded, (patterns, &["one", "seq2"])).await;
    }
}

/// A program behind the gate: what is paced is found, and hardly ever wrongly.
async fn check_paced(app: &str) {
    let app = apps::named(app).unwrap();
    let Some(program) = Behind::start(&app, "paced", Reuse::Pooled).await else {
        return;
    };
    for name in ["seq2", "par2", "background"] {
        let row = program.row(name, (8, 1_500), Ids::Blinded).await;
        let (score, line) = (&row.score, report::line(&row));
        assert_eq!(score.missing, 0, "a call without a span: {line}");
        // A job's calls are of a kind that comes without a delivery too; while there are such, pacing may rest.
        assert_eq!(score.false_parents, 0, "{line} {:?}", score.methods);
        assert!(
            score.paced_right > 0 || name == "background",
            "nothing found: {line} {:?}",
            score.methods
        );
        let wrong = score.wrong_merges();
        assert!(
            wrong * 50 <= score.paced_calls,
            "{line} {:?}",
            score.methods
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pacing_finds_causes_in_node() {
    check_paced("node-http").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pacing_finds_causes_among_tasks() {
    check_paced("aiohttp").await;
}

#[test]
fn the_judge_counts_each_kind_of_parent_as_what_it_is() {
    let one = Pattern::named("one").unwrap();
    let truth = Truth::new(one, Ids::Kept, 4);
    let id = |request: usize| truth.targets[request].split(['/', '?']).nth(2).unwrap();
    let span = |is_server, id: u8, parent: &[u8], path: String, confidence: &str| Span {
        is_server,
        is_paced: is_server && id == 1,
        id: vec![id],
        parent: parent.to_vec(),
        path,
        method: "m".to_owned(),
        confidence: confidence.to_owned(),
        p: None,
    };
    let call = |request| format!("/call/{}/0", id(request));
    let mut spans: Vec<Span> = (0..4)
        .map(|n| span(true, n, &[], truth.targets[usize::from(n)].clone(), ""))
        .collect();
    spans.push(span(false, 10, &[0], call(0), "high"));
    spans.push(span(false, 11, &[2], call(1), "high"));
    spans.push(span(false, 12, &[], call(2), "none"));
    spans.push(span(false, 13, &[3], "/background/7".to_owned(), "low"));
    let score = score::judge(one, &truth, &spans);
    let counts = (score.calls, score.right, score.wrong, score.unknown);
    assert_eq!(counts, (4, 1, 1, 1));
    assert_eq!((score.missing, score.background), (1, 1));
    let paced = (score.paced, score.paced_calls, score.paced_right);
    assert_eq!(
        paced,
        (1, 1, 0),
        "the call of the second request went wrong"
    );
    assert_eq!((score.false_parents, score.false_parents_sure), (1, 0));
    assert_eq!(score.whole, 1, "one is right, one has none, two are spoilt");
    assert_eq!(score.precision(), Some(1.0 / 3.0));
    let late = score::judge(Pattern::named("late").unwrap(), &truth, &spans);
    assert_eq!((late.late, late.late_wrong, late.calls), (3, 1, 0));
}
