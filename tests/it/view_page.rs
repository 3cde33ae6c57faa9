//! The page in a real browser: headless Chromium renders what the store holds, without an error in its console.
//!
//! The browser is `PILLION_TEST_CHROMIUM`, else a Chromium or Chrome in the `PATH`; without one the tests skip.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::admin::Admin;
use crate::admin::seed;
use crate::support::pillion::Pillion;
use crate::support::skip::skip;

const LIMIT: Duration = Duration::from_secs(90);
const CHECKOUT: &str = "abcd0000000000000000000000000001";

/// A document after its scripts ran, as the browser writes it down.
struct Document(String);

impl Document {
    fn count(&self, part: &str) -> usize {
        self.0.matches(part).count()
    }

    #[track_caller]
    fn has(&self, part: &str) {
        assert!(self.0.contains(part), "no {part:?} in {}", self.0);
    }

    fn title(&self) -> &str {
        let after = self.0.split_once("<title>").map_or("", |(_, after)| after);
        after.split_once("</title>").map_or("", |(title, _)| title)
    }
}

/// Opens an address of the page; `None` after saying that there is no browser.
async fn open(admin: &Admin, hash: &str) -> Option<Document> {
    open_at(&admin.addr.to_string(), hash).await
}

/// [`open`] on any page's `HOST:PORT`.
async fn open_at(page: &str, hash: &str) -> Option<Document> {
    let Some(browser) = browser() else {
        skip("no Chromium in the PATH");
        return None;
    };
    let profile = tempfile::tempdir().unwrap();
    let command = tokio::process::Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            "--virtual-time-budget=3000",
            "--window-size=1400,1000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{page}/{hash}"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, command).await;
    let output = output.expect("a rendered page in time").unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<_> = log
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    Some(Document(String::from_utf8(output.stdout).unwrap()))
}

fn browser() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PILLION_TEST_CHROMIUM") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    let names = [
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    ];
    std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|file| file.is_file())
}

async fn seeded() -> Admin {
    let admin = Admin::start().await;
    admin.seed(&seed::request(&seed::traffic())).await;
    admin
}

#[tokio::test]
async fn the_list_shows_traces_with_services_and_errors() {
    let admin = seeded().await;
    let Some(page) = open(&admin, "#/search?limit=100").await else {
        return;
    };
    assert_eq!(page.count("data-trace="), 62);
    assert_eq!(
        page.count("class=\"dot"),
        62,
        "every trace has its dot in the chart"
    );
    page.has("62 traces");
    page.has("<option value=\"publisher\">publisher</option>");
    page.has(&format!("href=\"#/trace/{CHECKOUT}\""));

    let failed = open(&admin, "#/search?service=gateway&error=true")
        .await
        .unwrap();
    assert_eq!(failed.count("data-trace="), 1);
    failed.has("3 errors");
    let nothing = open(&admin, "#/search?tags=absent%3D1").await.unwrap();
    nothing.has("No trace matches");
}

#[tokio::test]
async fn the_waterfall_shows_every_span_and_tells_how_it_was_linked() {
    let admin = seeded().await;
    let hash = format!("#/trace/{CHECKOUT}?span=00000000c0de0010");
    let Some(page) = open(&admin, &hash).await else {
        return;
    };
    let spans = admin.get(&format!("/api/traces/{CHECKOUT}")).await.json();
    let n_spans = spans["data"][0]["spans"].as_array().unwrap().len();
    assert_eq!(page.count("data-key="), n_spans);
    assert_eq!(page.count("class=\"bar "), n_spans, "each with a bar");
    assert_eq!(
        page.count("class=\"detail\""),
        1,
        "the span of the address is open"
    );
    assert_eq!(page.title(), "gateway POST /checkout · Pillion");
    page.has("Link: very likely");
    page.has("⤷ ");
    page.has("Error type: timeout.");
    page.has(&format!("view/download/jaeger/{CHECKOUT}.json"));
}

#[tokio::test]
async fn a_doubtful_call_names_its_candidates() {
    let admin = seeded().await;
    let Some(page) = open(&admin, "#/trace/99?span=000000000000beef").await else {
        return;
    };
    page.has("Link: not linked");
    page.has("2 inbound requests came into question.");
    page.has("may be the request that caused this call");
    page.has("Recorded within the limit of 2 traces a second.");
    page.has("Pillion itself answered");
    let gone = open(&admin, "#/trace/77").await.unwrap();
    gone.has("This trace is not here");
}

#[tokio::test]
async fn the_service_graph_has_boxes_and_arrows() {
    let admin = seeded().await;
    let Some(page) = open(&admin, "#/graph").await else {
        return;
    };
    let graph = admin.get("/view/graph").await.json();
    let n_nodes = graph["nodes"].as_array().unwrap().len();
    let n_edges = graph["edges"].as_array().unwrap().len();
    assert_eq!(page.count("data-node="), n_nodes);
    assert_eq!(page.count("marker-end="), n_edges);
    assert!(!page.0.contains("NaN"), "every place was computed");
    page.has("orders-db:5432");
}

#[tokio::test]
async fn a_newcomer_is_told_what_to_do() {
    let admin = Admin::start().await;
    let Some(page) = open(&admin, "").await else {
        return;
    };
    page.has("No traces yet");
    page.has("pillion run --app 127.0.0.1:3000");
    page.has(&format!("http://{}", admin.addr));
    let graph = open(&admin, "#/graph").await.unwrap();
    graph.has("No services yet");
}

#[tokio::test]
async fn names_from_the_wire_stay_text() {
    let attack =
        "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>";
    let admin = Admin::start().await;
    let place = seed::Place {
        trace: 0x5,
        id: 0x7,
        parent: 0,
        start: seed::START,
        duration: 1_000,
    };
    let tags = json!({ attack: attack, "error.type": attack, "pillion.link.method": attack, "sampler.type": attack, "url.path": attack });
    let event = json!([{ "timeUnixNano": seed::START.to_string(), "name": attack }]);
    let span = seed::span(attack, attack, 3, &place, tags)
        .with("events", event)
        .with("traceState", json!("a=<b>"));
    admin.seed(&seed::request(&[span])).await;
    for hash in ["#/search", "#/trace/5?span=0000000000000007", "#/graph"] {
        let Some(page) = open(&admin, hash).await else {
            return;
        };
        page.has("&lt;img src=x");
        assert_ne!(page.title(), "pwned", "{hash}");
        assert_eq!(page.count("<img src=\"x\""), 0, "{hash}");
        assert_eq!(page.count("<script"), 2, "{hash}: only the page's own");
    }
}

/// Not a test: serves made-up traffic for somebody who wants to look at the page.
#[tokio::test]
#[ignore = "serves until it is ended"]
async fn look() {
    let admin = seeded().await;
    println!("http://{}/", admin.addr);
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn the_demo_shows_one_trace_across_its_three_services() {
    let demo = Pillion::start(&["demo", "--port=0"]);
    let line = demo.stdout_line("Traces");
    let page = line.rsplit("http://").next().unwrap().trim_end_matches('/');
    let Some(list) = open_at(page, "").await else {
        return;
    };
    list.has("1 trace");
    assert_eq!(list.count("data-trace="), 1);
    list.has("5 spans");
    for service in ["hello", "formatter", "publisher"] {
        list.has(&format!("<option value=\"{service}\">{service}</option>"));
    }
    let (_, after) = list.0.split_once("href=\"#/trace/").unwrap();
    let trace = &after[..32];
    let waterfall = open_at(page, &format!("#/trace/{trace}")).await.unwrap();
    assert_eq!(waterfall.count("data-key="), 5);
    assert_eq!(waterfall.title(), "hello GET / · Pillion");
    waterfall.has("GET /format");
    waterfall.has("GET /publish");
}
