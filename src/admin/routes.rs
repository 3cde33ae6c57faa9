//! The table of paths: which methods each has and who answers.

use bytes::Bytes;
use http::Method;
use http::Request;
use http::StatusCode;

use crate::admin::api;
use crate::admin::control;
use crate::admin::otlp;
use crate::admin::page;
use crate::admin::respond;
use crate::admin::respond::Answer;
use crate::admin::server::Shared;

/// One row: path, what it is for (shown on `/` without the view), what it does.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) about: &'static str,
    action: Action,
}

/// Reading and ordering are different methods; a path has one of them.
enum Action {
    Read(fn(&Shared) -> Answer),
    Order(Order),
}

#[derive(Clone, Copy)]
enum Order {
    Logging,
    Reload,
    Drain,
    Quit,
}

/// The fixed paths, in the order in which `/` lists them.
pub(super) static ROUTES: &[Route] = &[
    read("/livez", "the process runs", control::livez),
    read("/readyz", "traffic is welcome", control::readyz),
    read("/healthz", "state in short", control::healthz),
    read("/metrics", "Prometheus metrics", control::metrics),
    read("/stats/prometheus", "the same", control::metrics),
    read(
        "/config_dump",
        "effective configuration, redacted",
        control::config_dump,
    ),
    read("/version", "what this program is", control::version),
    read("/connections", "open connections", control::connections),
    read(
        "/sampling",
        "samplers and their strategies",
        control::sampling,
    ),
    read(
        "/linking",
        "which evidence links calls to requests",
        control::linking,
    ),
    order(
        "/logging",
        "POST ?level=…: change the log filter",
        Order::Logging,
    ),
    order(
        "/reload",
        "POST: load the configuration again",
        Order::Reload,
    ),
    order("/drain", "POST: stop taking traffic", Order::Drain),
    order("/quitquitquit", "POST: drain and exit", Order::Quit),
];

const fn read(path: &'static str, about: &'static str, handler: fn(&Shared) -> Answer) -> Route {
    let action = Action::Read(handler);
    Route {
        path,
        about,
        action,
    }
}

const fn order(path: &'static str, about: &'static str, order: Order) -> Route {
    let action = Action::Order(order);
    Route {
        path,
        about,
        action,
    }
}

/// Answers one request.
pub(super) async fn dispatch(request: Request<Bytes>, shared: &Shared) -> Answer {
    let path = request.uri().path();
    if let Some(route) = ROUTES.iter().find(|route| route.path == path) {
        return match route.action {
            Action::Read(handler) if reads(request.method()) => handler(shared),
            Action::Read(_) => respond::wrong_method("GET, HEAD"),
            Action::Order(order) if request.method() == Method::POST => {
                obey(order, &request, shared).await
            }
            Action::Order(_) => respond::wrong_method("POST"),
        };
    }
    if path == otlp::PATH
        && shared.otlp
        && let Some(store) = &shared.store
    {
        return match *request.method() {
            Method::POST => otlp::receive(request, store).await,
            _ => respond::wrong_method("POST"),
        };
    }
    let found = match &shared.store {
        Some(store) => match page::find(path, request.headers()) {
            Some(answer) => Some(answer),
            None => api::find(&request, store).await,
        },
        None => (path == "/").then(|| page::links(&shared.hooks)),
    };
    match found {
        Some(_) if !reads(request.method()) => respond::wrong_method("GET, HEAD"),
        Some(answer) => answer,
        None => respond::text(StatusCode::NOT_FOUND, "not found; / lists what is here"),
    }
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

async fn obey(order: Order, request: &Request<Bytes>, shared: &Shared) -> Answer {
    match order {
        Order::Logging => control::logging(request.uri().query().unwrap_or(""), shared),
        Order::Reload => control::reload(shared).await,
        Order::Drain => control::drain(shared),
        Order::Quit => control::quit(shared),
    }
}
