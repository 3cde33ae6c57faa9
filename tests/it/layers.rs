//! Holds the house in order: which module may name which, how files open, how long they may grow, where `unsafe` lives.
//!
//! Reads the sources as text with comments and literals blanked out, so it needs no compiler and says the file and the
//! line. The order is the one `src/lib.rs` and ARCHITECTURE.md tell; a new top-level module needs a row here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Top to bottom. A module names modules of lower rows; modules of one row do not know each other.
const ROWS: &[&[&str]] = &[
    &["cli"],
    &["app"],
    &["config"],
    &["admin", "injector"],
    &["proxy", "receiver"],
    &["tracer", "detect", "correlate"],
    &["reporter"],
    &["sampling", "propagation", "protocol"],
    &["codec"],
    &["net", "telemetry"],
    &["model"],
];

/// The most lines a file under `src` may have; files mostly settle between 80 and 300.
const MAX_LINES: usize = 600;

#[test]
fn every_module_names_only_modules_of_lower_rows() {
    let mut faults = Vec::new();
    for file in rust_files("src") {
        let Some(owner) = top_module(&file) else {
            continue;
        };
        if row(&owner).is_none() {
            faults.push(format!(
                "{file}: module `{owner}` has no row in {}",
                file!()
            ));
            continue;
        }
        faults.extend(upward_references(&file, &submodules(&file), &read(&file)));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_opens_with_a_paragraph_about_itself() {
    let faults: Vec<_> = ["src", "tests"]
        .into_iter()
        .flat_map(rust_files)
        .filter(|file| !read(file).starts_with("//! "))
        .collect();
    assert!(faults.is_empty(), "no `//! ...` first line: {faults:?}");
}

#[test]
fn no_source_file_outgrows_its_subject() {
    let faults: Vec<_> = rust_files("src")
        .into_iter()
        .map(|file| (read(&file).lines().count(), file))
        .filter(|(n_lines, _)| *n_lines > MAX_LINES)
        .collect();
    assert!(faults.is_empty(), "over {MAX_LINES} lines: {faults:?}");
}

#[test]
fn unsafe_code_is_allowed_in_net_alone() {
    let faults: Vec<_> = rust_files("src")
        .into_iter()
        .filter(|file| !file.starts_with("src/net/") && blank(&read(file)).contains("unsafe_code"))
        .collect();
    assert!(faults.is_empty(), "`unsafe_code` is switched in {faults:?}");
}

#[test]
fn the_layer_check_sees_every_way_to_name_a_module() {
    let upward: &[(&str, &str, &str)] = &[
        (
            "src/model/a.rs",
            "use crate::app::App;",
            "plain use of a higher row",
        ),
        (
            "src/codec/a.rs",
            "fn f() { crate::proxy::run() }",
            "path in an expression",
        ),
        (
            "src/net/a.rs",
            "use crate::telemetry::Metrics;",
            "sibling of the same row",
        ),
        (
            "src/net/a.rs",
            "use crate::{model::Span, app::App};",
            "inside a group",
        ),
        (
            "src/net/a.rs",
            "use crate::{\n    model::{Span, Text},\n    config,\n};",
            "group over lines",
        ),
        (
            "src/reporter/a.rs",
            "use super::super::tracer::Clock;",
            "climbing with super",
        ),
        (
            "src/reporter/mod.rs",
            "use super::tracer::Clock;",
            "super from a mod.rs",
        ),
        (
            "src/admin/a.rs",
            "use crate :: config :: Config;",
            "with spaces",
        ),
    ];
    for (file, text, why) in upward {
        let faults = upward_references(file, &BTreeSet::new(), text);
        assert!(!faults.is_empty(), "{why}: {text}");
    }
    let downward: &[(&str, &str, &str)] = &[
        ("src/app.rs", "use crate::config::Config;", "lower row"),
        ("src/cli/mod.rs", "use crate::config::Config;", "lower row"),
        (
            "src/reporter/a.rs",
            "use crate::reporter::Sink;",
            "own module",
        ),
        (
            "src/reporter/mod.rs",
            "mod t { use super::detect; }",
            "own submodule of that name",
        ),
        (
            "src/model/a.rs",
            "/// See [`crate::app::App`].\nfn f() {}",
            "a comment names it",
        ),
        (
            "src/model/a.rs",
            "/* crate::app::x */ fn f() {}",
            "a block comment names it",
        ),
        (
            "src/model/a.rs",
            "const A: &str = \"crate::app::x\";",
            "a text names it",
        ),
        (
            "src/model/a.rs",
            "const A: char = '\"'; const B: &str = r#\"crate::app::x\"#;",
            "raw text",
        ),
        (
            "src/net/a.rs",
            "macro_rules! m { () => { $crate::model::Span } }",
            "macro path downward",
        ),
    ];
    for (file, text, why) in downward {
        let submodules = BTreeSet::from(["detect".to_owned()]);
        let faults = upward_references(file, &submodules, text);
        assert!(faults.is_empty(), "{why}: {faults:?}");
    }
}

/// The references in `text` that break the order, each as `file:line: reason`.
fn upward_references(file: &str, submodules: &BTreeSet<String>, text: &str) -> Vec<String> {
    let text = blank(text);
    let owner = top_module(file).unwrap_or_default();
    let mut faults = Vec::new();
    for (at, named) in references(file, submodules, &text) {
        let (Some(from), Some(to)) = (row(&owner), row(&named)) else {
            continue;
        };
        if named != owner && to <= from {
            let line = text[..at].matches('\n').count() + 1;
            faults.push(format!(
                "{file}:{line}: `{owner}` names `{named}`, which stands above or beside it"
            ));
        }
    }
    faults
}

/// Every top-level module that the text names, with its place.
fn references(file: &str, submodules: &BTreeSet<String>, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate") {
        let is_word = !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if let Some(rest) = after_path_separator(&text[at + 5..]).filter(|_| is_word) {
            found.extend(first_segments(rest).into_iter().map(|name| (at, name)));
        }
    }
    let mut covered = 0;
    for (at, _) in text.match_indices("super") {
        if at < covered {
            continue;
        }
        let mut n_supers = 0;
        let mut rest = &text[at..];
        while let Some(next) = rest.strip_prefix("super").and_then(after_path_separator) {
            n_supers += 1;
            rest = next;
        }
        covered = text.len() - rest.len();
        if n_supers >= depth(file) {
            let names = first_segments(rest).into_iter();
            let foreign = names.filter(|name| !submodules.contains(name));
            found.extend(foreign.map(|name| (at, name)));
        }
    }
    found
}

fn after_path_separator(text: &str) -> Option<&str> {
    text.trim_start().strip_prefix("::").map(str::trim_start)
}

/// `model::Span` names `model`; `{model::{Span, Text}, config}` names `model` and `config`.
fn first_segments(text: &str) -> Vec<String> {
    let Some(group) = text.strip_prefix('{') else {
        return vec![identifier(text)];
    };
    let mut names = Vec::new();
    let mut depth = 0;
    let mut starts_item = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts_item = true,
            c if starts_item && !c.is_whitespace() => {
                names.push(identifier(&group[at..]));
                starts_item = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|modules| modules.contains(&module))
}

/// `src/reporter/queue.rs` and `src/reporter.rs` belong to `reporter`; `src/lib.rs` and `src/main.rs` to nobody.
fn top_module(file: &str) -> Option<String> {
    let inside = file.strip_prefix("src/")?;
    let name = inside.split('/').next()?.trim_end_matches(".rs");
    (!matches!(inside, "lib.rs" | "main.rs")).then(|| name.to_owned())
}

/// How many `super::` lead from the file's module to the crate root.
fn depth(file: &str) -> usize {
    file.matches('/').count() - usize::from(file.ends_with("/mod.rs"))
}

/// The modules that lie beside a family's `mod.rs`: what `super::name` may mean in its inner modules.
fn submodules(file: &str) -> BTreeSet<String> {
    let Some(folder) = file.strip_suffix("/mod.rs") else {
        return BTreeSet::new();
    };
    fs::read_dir(root().join(folder))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .trim_end_matches(".rs")
                .to_owned()
        })
        .collect()
}

/// The text with comments, string and character literals replaced by spaces; places and line breaks stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => find(bytes, at, b"\n"),
            b'/' if bytes[at..].starts_with(b"/*") => find(bytes, at + 2, b"*/"),
            b'r' if !follows_word(bytes, at) && raw_hashes(&bytes[at + 1..]).is_some() => {
                let n_hashes = raw_hashes(&bytes[at + 1..]).unwrap_or_default();
                let close = format!("\"{}", "#".repeat(n_hashes));
                find(bytes, at + n_hashes + 2, close.as_bytes())
            }
            b'"' => quoted_end(bytes, at),
            b'\'' if is_char_literal(&bytes[at..]) => quoted_end(bytes, at),
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).unwrap()
}

/// Just past the next `what`, or the end of the text.
fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    bytes[from..]
        .windows(what.len())
        .position(|window| window == what)
        .map_or(bytes.len(), |at| from + at + what.len())
}

fn quoted_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while at < bytes.len() && bytes[at] != bytes[from] {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The number of `#` when the bytes after an `r` open a raw string.
fn raw_hashes(bytes: &[u8]) -> Option<usize> {
    let n_hashes = bytes.iter().take_while(|byte| **byte == b'#').count();
    (bytes.get(n_hashes) == Some(&b'"')).then_some(n_hashes)
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| bytes[before]);
    before.is_some_and(|byte| byte.is_ascii_alphanumeric() && byte != b'b' || byte == b'_')
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_char_literal(bytes: &[u8]) -> bool {
    match bytes.get(1) {
        Some(b'\\') => true,
        Some(byte) if byte.is_ascii() => bytes.get(2) == Some(&b'\''),
        Some(_) => true,
        None => false,
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// Every `.rs` file below `folder`, relative to the package, sorted. Build output of the fuzz crate is no source.
fn rust_files(folder: &str) -> Vec<String> {
    let mut folders = vec![PathBuf::from(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                if entry.file_name() != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "no sources below {folder}");
    files
}
