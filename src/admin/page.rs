//! The page's files, compiled in, and the plain list of links that stands for it when the view is off.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::LazyLock;

use http::HeaderMap;
use http::StatusCode;

use crate::admin::Hooks;
use crate::admin::respond;
use crate::admin::respond::Answer;
use crate::admin::routes::ROUTES;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

static FILES: &[File] = &[
    file("/", HTML, include_str!("ui/index.html")),
    file(
        "/ui/style.css",
        "text/css; charset=utf-8",
        include_str!("ui/style.css"),
    ),
    file("/ui/theme.js", SCRIPT, include_str!("ui/theme.js")),
    file("/ui/app.js", SCRIPT, include_str!("ui/app.js")),
    file("/ui/dom.js", SCRIPT, include_str!("ui/dom.js")),
    file("/ui/words.js", SCRIPT, include_str!("ui/words.js")),
    file("/ui/otlp.js", SCRIPT, include_str!("ui/otlp.js")),
    file("/ui/search.js", SCRIPT, include_str!("ui/search.js")),
    file("/ui/trace.js", SCRIPT, include_str!("ui/trace.js")),
    file("/ui/detail.js", SCRIPT, include_str!("ui/detail.js")),
    file("/ui/graph.js", SCRIPT, include_str!("ui/graph.js")),
    file("/ui/layout.js", SCRIPT, include_str!("ui/layout.js")),
    file("/ui/icon.svg", "image/svg+xml", include_str!("ui/icon.svg")),
];

/// One version for all files, so that a new binary never meets an old script.
static ETAG: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    for file in FILES {
        file.text.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
});

const fn file(path: &'static str, kind: &'static str, text: &'static str) -> File {
    File { path, kind, text }
}

/// A file of the page; `None` when no file has this path.
pub(super) fn find(path: &str, request: &HeaderMap) -> Option<Answer> {
    let file = FILES.iter().find(|file| file.path == path)?;
    let whole = || {
        let answer = respond::body(StatusCode::OK, file.kind, file.text);
        respond::tagged(answer, &ETAG)
    };
    Some(respond::unchanged(&ETAG, request).unwrap_or_else(whole))
}

/// What `/` shows without the view.
pub(super) fn links(hooks: &Hooks) -> Answer {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Pillion</title>\
         <h1>Pillion {}</h1><p>The view is off (admin.view.enabled).</p><ul>",
        escape(&hooks.build.version)
    );
    for route in ROUTES {
        html.push_str(&format!(
            "<li><a href=\"{0}\">{0}</a>: {1}</li>",
            route.path, route.about
        ));
    }
    html.push_str("</ul></html>\n");
    respond::body(StatusCode::OK, HTML, html)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
