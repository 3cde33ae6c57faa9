//! Jaeger's query API and the page's own: shapes, search, refusals.

use serde_json::Value;
use serde_json::json;

use crate::admin::Admin;
use crate::admin::seed;

const CHECKOUT: &str = "abcd0000000000000000000000000001";

async fn seeded() -> Admin {
    let admin = Admin::start().await;
    admin.seed(&seed::request(&seed::traffic())).await;
    admin
}

fn texts(value: &Value) -> Vec<&str> {
    let list = value.as_array().unwrap();
    list.iter().map(|item| item.as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_first_api_answers_in_jaegers_shapes() {
    let admin = seeded().await;
    let services = admin.get("/api/services").await.json();
    assert!(texts(&services["data"]).contains(&"formatter"));
    assert_eq!(
        services["total"],
        services["data"].as_array().unwrap().len()
    );
    assert_eq!(services["errors"], Value::Null);

    let names = admin.get("/api/services/formatter/operations").await.json();
    assert_eq!(names["data"], json!(["GET /format"]));
    let operations = admin
        .get("/api/operations?service=hello&spanKind=server")
        .await
        .json();
    let expected = json!([{ "name": "GET /hello/{name}", "spanKind": "server" }]);
    assert_eq!(operations["data"], expected);

    let found = admin
        .get("/api/traces?service=publisher&limit=3")
        .await
        .json();
    assert_eq!(found["data"].as_array().unwrap().len(), 3);
    let trace = &found["data"][0];
    assert_eq!(trace["spans"].as_array().unwrap().len(), 5);
    let id = trace["traceID"].as_str().unwrap();
    assert_eq!(id.len(), 16, "a zero high half is left out");
    let process = trace["spans"][0]["processID"].as_str().unwrap();
    assert_eq!(trace["processes"][process]["serviceName"], "hello");

    let one = admin.get(&format!("/api/traces/{id}")).await.json();
    assert_eq!(one["data"][0], *trace);
    let padded = admin
        .get(&format!("/api/traces/0000000000000000{id}"))
        .await
        .json();
    assert_eq!(padded, one, "padding does not matter");

    let several = admin
        .get(&format!(
            "/api/traces?traceID={id}&traceID={CHECKOUT}&traceID=77"
        ))
        .await
        .json();
    assert_eq!(several["data"].as_array().unwrap().len(), 2);
    assert_eq!(several["errors"][0]["traceID"], "77");
}

#[tokio::test]
async fn dependencies_are_calls_between_services_that_sent_spans() {
    let admin = seeded().await;
    let all = admin
        .get("/api/dependencies?endTs=1795170000000&lookback=86400000")
        .await
        .json();
    let link = json!({ "parent": "hello", "child": "formatter", "callCount": 60 });
    assert!(all["data"].as_array().unwrap().contains(&link), "{all}");
    assert!(
        !all.to_string().contains("orders-db"),
        "a database sent no spans"
    );
    let before = admin
        .get("/api/dependencies?endTs=1000&lookback=1000")
        .await
        .json();
    assert_eq!(before["data"], json!([]), "nothing happened in 1970");
    let of = admin
        .get("/api/dependencies?service=formatter")
        .await
        .json();
    assert_eq!(of["data"], json!([link]));

    let times = "startTime=2026-11-20T00:00:00Z&endTime=2026-11-21T00:00:00Z";
    let current = admin
        .get(&format!("/api/v3/dependencies?{times}"))
        .await
        .json();
    assert!(
        current["dependencies"].as_array().unwrap().contains(&link),
        "{current}"
    );

    let graph = admin.get("/view/graph").await.json();
    let node = |name: &str| {
        let nodes = graph["nodes"].as_array().unwrap();
        nodes
            .iter()
            .find(|node| node["name"] == name)
            .cloned()
            .unwrap()
    };
    assert_eq!(node("orders-db:5432")["outside"], true);
    assert_eq!(node("formatter")["calls"], 60);
}

#[tokio::test]
async fn the_current_api_answers_in_otlp() {
    let admin = seeded().await;
    let times = "query.startTimeMin=2026-11-20T00:00:00Z&query.startTimeMax=2026-11-21T00:00:00Z";
    let old = "query.start_time_min=2026-11-20T00:00:00Z&query.start_time_max=2026-11-21T00:00:00Z";
    let services = admin.get("/api/v3/services").await.json();
    assert!(texts(&services["services"]).contains(&"gateway"));
    let operations = admin
        .get("/api/v3/operations?service=formatter")
        .await
        .json();
    let expected = json!({ "operations": [{ "name": "GET /format", "spanKind": "server" }] });
    assert_eq!(operations, expected);

    let found = admin
        .get(&format!(
            "/api/v3/trace-summaries?query.serviceName=gateway&{times}"
        ))
        .await
        .json();
    let summary = &found["summaries"][0];
    assert_eq!(summary["traceId"], CHECKOUT);
    assert_eq!(summary["rootServiceName"], "gateway");
    assert_eq!(summary["rootOperationName"], "POST /checkout");
    assert_eq!(summary["errorSpanCount"], 3);
    assert_eq!(summary["orphanSpanCount"], 0);
    assert_eq!(
        summary["minStartTimeUnixNano"],
        (seed::START + 90_000_000_000).to_string()
    );
    let counted: u64 = summary["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["spanCount"].as_u64().unwrap())
        .sum();
    assert_eq!(summary["spanCount"], counted);

    let older = admin
        .get(&format!(
            "/api/v3/trace-summaries?query.service_name=gateway&query.num_traces=5&{old}"
        ))
        .await
        .json();
    assert_eq!(older, found, "the older spelling means the same");

    let one = admin
        .get(&format!("/api/v3/traces/{CHECKOUT}"))
        .await
        .json();
    let spans: usize = one["result"]["resourceSpans"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["scopeSpans"].as_array().unwrap())
        .map(|scope| scope["spans"].as_array().unwrap().len())
        .sum();
    assert_eq!(summary["spanCount"], spans);

    let tags = "query.attributes=%7B%22http.response.status_code%22%3A%22502%22%7D";
    let failed = admin
        .get(&format!(
            "/api/v3/traces?query.serviceName=hello&{tags}&{times}"
        ))
        .await;
    assert_eq!(failed.status, 200);
    assert!(!failed.text().contains(CHECKOUT));
}

#[tokio::test]
async fn unknown_traces_are_404_and_bad_questions_400() {
    let admin = seeded().await;
    let times = "query.startTimeMin=2026-11-20T00:00:00Z&query.startTimeMax=2026-11-21T00:00:00Z";
    for (path, status, why) in [
        ("/api/traces/77".to_owned(), 404, "unknown"),
        ("/api/traces/xyz".to_owned(), 400, "no hexadecimal"),
        ("/api/traces/0".to_owned(), 400, "zero"),
        (format!("/api/traces/{}", "a".repeat(33)), 400, "33 digits"),
        ("/api/traces".to_owned(), 400, "no service"),
        (
            "/api/traces?service=a&limit=0".to_owned(),
            400,
            "limit zero",
        ),
        (
            "/api/traces?service=a&limit=many".to_owned(),
            400,
            "limit is no number",
        ),
        (
            "/api/traces?service=a&start=2&end=1".to_owned(),
            400,
            "ends before it starts",
        ),
        (
            "/api/traces?service=a&minDuration=5".to_owned(),
            400,
            "no unit",
        ),
        (
            "/api/traces?service=a&minDuration=2s&maxDuration=1s".to_owned(),
            400,
            "min over max",
        ),
        (
            "/api/traces?service=a&tags=%7B".to_owned(),
            400,
            "broken JSON",
        ),
        (
            "/api/traces?service=a&tag=novalue".to_owned(),
            400,
            "tag without value",
        ),
        (
            "/api/traces?service=nobody".to_owned(),
            200,
            "finding nothing is no error",
        ),
        ("/api/operations".to_owned(), 400, "no service"),
        ("/api/dependencies?endTs=x".to_owned(), 400, "no number"),
        ("/api/v3/traces/77".to_owned(), 404, "unknown"),
        ("/api/v3/traces/xyz".to_owned(), 400, "no hexadecimal"),
        (
            "/api/v3/traces/77?startTime=noon".to_owned(),
            400,
            "no time",
        ),
        (
            "/api/v3/traces?query.serviceName=a".to_owned(),
            400,
            "no time range",
        ),
        (
            format!("/api/v3/traces?query.serviceName=nobody&{times}"),
            404,
            "nothing found",
        ),
        (
            format!("/api/v3/trace-summaries?query.serviceName=nobody&{times}"),
            200,
            "an empty list",
        ),
        (
            format!("/api/v3/traces?query.durationMin=x&{times}"),
            400,
            "no duration",
        ),
        ("/api/v3/dependencies".to_owned(), 400, "no time range"),
        (
            "/view/summaries?minDuration=x".to_owned(),
            400,
            "no duration",
        ),
        ("/view/download/jaeger/77.json".to_owned(), 404, "unknown"),
        ("/view/download/zip/77.json".to_owned(), 404, "no such form"),
    ] {
        let answer = admin.get(&path).await;
        assert_eq!(answer.status, status, "{path}: {why}: {}", answer.text());
        if status >= 400 && path.starts_with("/api/v3/") {
            assert_eq!(answer.json()["error"]["httpCode"], status, "{path}");
        } else if status >= 400 && path.starts_with("/api/") {
            assert_eq!(answer.json()["errors"][0]["code"], status, "{path}");
            assert_eq!(answer.json()["data"], Value::Null, "{path}");
        }
    }
}

#[tokio::test]
async fn the_page_searches_without_a_service() {
    let admin = seeded().await;
    let count = async |query: &str| {
        let answer = admin
            .get(&format!("/view/summaries?limit=500&{query}"))
            .await;
        answer.json()["traces"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 62);
    assert_eq!(count("minDuration=500ms").await, 1);
    assert_eq!(
        count("maxDuration=5ms").await,
        1,
        "whole traces, not their short spans"
    );
    assert_eq!(
        count("service=formatter&operation=GET+/format&maxDuration=1us").await,
        0
    );
    assert_eq!(count("service=shipping").await, 1);
    assert_eq!(count("has=pillion.time.connect_us").await, 60);
    assert_eq!(
        count("tags=%7B%22pillion.link.confidence%22%3A%22none%22%7D").await,
        1
    );
    let failed = count("error=true").await;
    assert!((3..62).contains(&failed), "{failed}");

    let newest = admin.get("/view/summaries?limit=1").await.json();
    assert_eq!(newest["traces"][0]["services"][0]["name"], "hello");
    assert_eq!(newest["held"]["traces"], 62);
}

#[tokio::test]
async fn lists_are_not_sent_again_while_nothing_happens() {
    let admin = seeded().await;
    let first = admin.get("/view/summaries").await;
    let known = [("if-none-match", first.header("etag"))];
    let again = admin.send("GET", "/view/summaries", &known, b"").await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    admin
        .seed(&seed::request(&seed::unlinked(
            0x9a,
            seed::START,
            [(1, 1), (1, 2)],
        )))
        .await;
    let changed = admin.send("GET", "/view/summaries", &known, b"").await;
    assert_eq!(changed.status, 200);
}

#[tokio::test]
async fn a_trace_can_be_taken_away_in_two_forms() {
    let admin = seeded().await;
    let jaeger = admin
        .get(&format!("/view/download/jaeger/{CHECKOUT}.json"))
        .await;
    let name = format!("attachment; filename=\"trace-{CHECKOUT}-jaeger.json\"");
    assert_eq!(jaeger.header("content-disposition"), name);
    assert_eq!(jaeger.json()["data"][0]["traceID"], CHECKOUT);
    let otlp = admin
        .get(&format!("/view/download/otlp/{CHECKOUT}.json"))
        .await;
    assert!(otlp.header("content-disposition").contains("otlp"));

    let other = Admin::start().await;
    other.seed(&otlp.json()).await;
    let path = format!("/api/v3/traces/{CHECKOUT}");
    assert_eq!(other.get(&path).await.json(), admin.get(&path).await.json());
}
