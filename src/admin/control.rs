//! Probes, metrics, state and orders: what every sidecar has, view or not.

use http::HeaderValue;
use http::StatusCode;
use http::header;
use serde_json::json;

use crate::admin::State;
use crate::admin::api::params::Params;
use crate::admin::respond;
use crate::admin::respond::Answer;
use crate::admin::server::Shared;

/// Longest log filter that is looked at, in bytes.
const MAX_FILTER: usize = 1_024;

/// Always 200: that this is answered is the news. Draining is alive.
pub(super) fn livez(_: &Shared) -> Answer {
    respond::text(StatusCode::OK, "ok")
}

/// 200 when traffic is welcome, else 503 with the stage.
pub(super) fn readyz(shared: &Shared) -> Answer {
    let state = shared.hooks.readiness.state();
    let status = match state {
        State::Ready => StatusCode::OK,
        State::Starting | State::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    respond::text(status, state.name())
}

/// Always 200, as JSON: the state in short, for people and dashboards.
pub(super) fn healthz(shared: &Shared) -> Answer {
    respond::json(&json!({
        "status": "ok",
        "state": shared.hooks.readiness.state().name(),
        "version": shared.hooks.build.version,
        "view": shared.store.as_ref().map(|store| store.stats()),
    }))
}

/// Prometheus text format 0.0.4.
pub(super) fn metrics(shared: &Shared) -> Answer {
    respond::body(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        (shared.hooks.render_metrics)(),
    )
}

pub(super) fn config_dump(shared: &Shared) -> Answer {
    respond::text(StatusCode::OK, (shared.hooks.config_dump)())
}

pub(super) fn version(shared: &Shared) -> Answer {
    respond::json(&shared.hooks.build)
}

pub(super) fn connections(shared: &Shared) -> Answer {
    respond::json(&(shared.hooks.connections)())
}

pub(super) fn sampling(shared: &Shared) -> Answer {
    respond::json(&(shared.hooks.sampling)())
}

pub(super) fn linking(shared: &Shared) -> Answer {
    respond::json(&(shared.hooks.linking)())
}

/// `?level=FILTER` in `RUST_LOG` syntax.
pub(super) fn logging(query: &str, shared: &Shared) -> Answer {
    let params = Params::parse(query);
    let level = match params.one("level") {
        Some(level) if level.len() <= MAX_FILTER => level,
        _ => {
            return respond::text(
                StatusCode::BAD_REQUEST,
                "say ?level=debug, or a filter such as ?level=info,pillion::proxy=debug",
            );
        }
    };
    match (shared.hooks.set_log_level)(level) {
        Ok(()) => respond::text(StatusCode::OK, format!("log filter is now {level}")),
        Err(reason) => respond::text(StatusCode::BAD_REQUEST, reason),
    }
}

/// 200 with what changed, or 400 with why the running configuration stays.
pub(super) async fn reload(shared: &Shared) -> Answer {
    match (shared.hooks.reload)().await {
        Ok(changes) => respond::text(StatusCode::OK, changes),
        Err(reason) => respond::text(StatusCode::BAD_REQUEST, reason),
    }
}

/// Readiness fails before this is answered.
pub(super) fn drain(shared: &Shared) -> Answer {
    shared.hooks.readiness.set(State::Draining);
    (shared.hooks.drain)();
    respond::text(StatusCode::OK, "draining")
}

pub(super) fn quit(shared: &Shared) -> Answer {
    shared.hooks.readiness.set(State::Draining);
    (shared.hooks.quit)();
    let mut answer = respond::text(StatusCode::OK, "quitting");
    answer
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}
