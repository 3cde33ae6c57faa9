//! What the pages tell people is what the tree holds: settings, metrics, attributes, commands, links.
//!
//! The table of settings in docs/configuration.md is written from the schema: with `PILLION_UPDATE_DOCS=1` the test
//! that compares it replaces it instead.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use pillion::config;
use pillion::config::Loaded;
use pillion::config::Sources;
use pillion::propagation::FORMATS;
use pillion::reporter;
use pillion::sampling;
use pillion::telemetry::metrics::FAMILIES;
use serde_json::Value;

const PAGES: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/configuration.md",
    "docs/exec.md",
    "docs/interop.md",
    "docs/kubernetes.md",
    "docs/linking.md",
    "docs/metrics.md",
    "docs/redirect.md",
    "docs/reverse-proxy.md",
    "docs/service.md",
    "docs/spans.md",
    "docs/spool.md",
];
/// What follows it in docs/configuration.md is written from the schema.
const MARK: &str = "<!-- written by PILLION_UPDATE_DOCS=1 cargo test --test it docs -->\n";

const REMEDY: &str = "the settings changed: run PILLION_UPDATE_DOCS=1 cargo test --test it docs";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_configuration_page_lists_every_key_with_its_default() {
    let page = read("docs/configuration.md");
    let (before, table) = page.split_once(MARK).expect("the mark is missing");
    let schema: Value = serde_json::from_str(&config::schema::text()).unwrap();
    let written = Keys::of(&schema);
    if std::env::var_os("PILLION_UPDATE_DOCS").is_some_and(|value| value == "1") {
        fs::write(
            path("docs/configuration.md"),
            format!("{before}{MARK}{written}"),
        )
        .unwrap();
        return;
    }
    for (line, expected) in table.lines().zip(written.lines()) {
        assert_eq!(line, expected, "{REMEDY}");
    }
    assert_eq!(table.lines().count(), written.lines().count(), "run {MARK}");
}

/// Walks the schema and writes one row for each key.
struct Keys<'a> {
    schema: &'a Value,
    out: String,
}

impl<'a> Keys<'a> {
    fn of(schema: &'a Value) -> String {
        let mut keys = Keys {
            schema,
            out: "\n| key | meaning | default | takes effect |\n|---|---|---|---|\n".to_owned(),
        };
        keys.properties(schema, "", "", 0);
        keys.out
    }

    /// `default` is the word of the nearest key above that had one.
    fn properties(&mut self, schema: &'a Value, prefix: &str, above: &str, depth: usize) {
        assert!(depth < 8, "{prefix} is nested without end");
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return;
        };
        for (key, child) in properties {
            self.key(&format!("{prefix}{key}"), child, above, depth);
        }
    }

    fn key(&mut self, path: &str, schema: &'a Value, above: &str, depth: usize) {
        let about = Description::of(schema.get("description"));
        let inner = self.inner(schema);
        let effect = about.reload.as_deref().unwrap_or(above);
        let leads_on = leads_on(inner);
        if !leads_on || about.default.is_some() {
            let default = match &about.default {
                Some(default) => default.clone(),
                None => default_of(schema),
            };
            let meaning = match about.meaning.is_empty() {
                true => Description::of(inner.get("description")).meaning,
                false => about.meaning.clone(),
            };
            assert!(!meaning.is_empty(), "{path} has no description");
            writeln!(
                self.out,
                "| `{path}` | {} | {} | {effect} |",
                cell(&meaning),
                cell(&default)
            )
            .unwrap();
        }
        self.inside(path, inner, effect, depth);
    }

    /// What stands below a key: its own keys, those of its elements, those of each choice.
    fn inside(&mut self, path: &str, inner: &'a Value, effect: &str, depth: usize) {
        self.properties(inner, &format!("{path}."), effect, depth + 1);
        for choice in alternatives(inner) {
            self.properties(choice, &format!("{path}."), effect, depth + 1);
        }
        if let Some(items) = inner.get("items") {
            let items = self.inner(items);
            self.inside(&format!("{path}[]"), items, effect, depth + 1);
        }
    }

    /// The schema behind a reference, and behind "this or null".
    fn inner(&self, schema: &'a Value) -> &'a Value {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let pointer = reference.trim_start_matches('#');
            return self.inner(
                self.schema
                    .pointer(pointer)
                    .expect("a reference leads somewhere"),
            );
        }
        let variants = schema.get("anyOf").and_then(Value::as_array);
        let some = variants.and_then(|variants| {
            variants
                .iter()
                .find(|variant| variant.get("type").and_then(Value::as_str) != Some("null"))
        });
        some.map_or(schema, |some| self.inner(some))
    }
}

/// True when there are keys below.
fn leads_on(schema: &Value) -> bool {
    schema.get("properties").is_some()
        || alternatives(schema).any(|choice| choice.get("properties").is_some())
}

fn default_of(schema: &Value) -> String {
    match schema.get("default") {
        Some(Value::Null) => "none".to_owned(),
        Some(value) => format!("`{value}`"),
        None => "must be set".to_owned(),
    }
}

fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    schema
        .get("oneOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// A field's documentation, taken apart.
#[derive(Default)]
struct Description {
    meaning: String,
    default: Option<String>,
    reload: Option<String>,
}

impl Description {
    fn of(text: Option<&Value>) -> Self {
        let text = text.and_then(Value::as_str).unwrap_or_default();
        let text = text.replace('\n', " ");
        let (meaning, facts) = match ["Unit: ", "Values: ", "Default: ", "Reload: "]
            .iter()
            .filter_map(|word| text.find(word))
            .min()
        {
            Some(at) => text.split_at(at),
            None => (text.as_str(), ""),
        };
        let fact = |word: &str| {
            let (_, rest) = facts.split_once(word)?;
            let end = [" Reload: ", " Default: "]
                .iter()
                .filter_map(|next| rest.find(next))
                .min()
                .unwrap_or(rest.len());
            Some(rest[..end].trim_end_matches(['.', ' ']).to_owned())
        };
        Self {
            meaning: meaning.trim().replace("  ", " "),
            default: fact("Default: "),
            reload: fact("Reload: "),
        }
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn the_metrics_page_lists_every_family_and_no_other() {
    let page = read("docs/metrics.md");
    let rows: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split('`').next())
        .collect();
    for family in FAMILIES {
        assert!(rows.contains(family.name), "{} is missing", family.name);
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{}`", family.name)))
            .unwrap();
        assert!(row.contains(family.help), "{row}\nhelp: {}", family.help);
        let kind = format!("{:?}", family.kind).to_lowercase();
        let kind = kind.split('(').next().unwrap();
        assert!(row.contains(&format!("| {kind} |")), "{row}\nkind: {kind}");
    }
    let known: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
    let unknown: Vec<_> = rows.difference(&known).collect();
    assert!(unknown.is_empty(), "not exported: {unknown:?}");
}

#[test]
fn the_spans_page_lists_every_attribute_that_is_set() {
    let page = read("docs/spans.md");
    let written = words_in_backticks(&page);
    let mut set = BTreeSet::new();
    for folder in ["src/tracer", "src/proxy"] {
        for file in rust_files(&path(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            set.extend(
                literals(code)
                    .filter(|text| is_attribute(text))
                    .map(str::to_owned),
            );
        }
    }
    assert!(
        set.contains("pillion.link.method"),
        "the search finds something"
    );
    let missing: Vec<_> = set
        .iter()
        .filter(|key| !written.contains(key.as_str()))
        .collect();
    assert!(missing.is_empty(), "not in docs/spans.md: {missing:?}");
    let stale: Vec<_> = written
        .iter()
        .filter(|word| is_attribute(word) && !set.contains(**word))
        .collect();
    assert!(stale.is_empty(), "nothing sets {stale:?}");
}

/// Own attributes, and those of the conventions.
fn is_attribute(text: &str) -> bool {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte));
    let groups = [
        "pillion.",
        "http.",
        "url.",
        "server.",
        "client.",
        "network.",
        "rpc.",
        "service.peer",
        "user_agent.",
        "error.",
        "sampler.",
    ];
    plain && !text.ends_with('.') && groups.iter().any(|group| text.starts_with(group))
}

/// The contents of string literals on their lines.
fn literals(code: &str) -> impl Iterator<Item = &str> {
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
}

fn words_in_backticks(page: &str) -> BTreeSet<&str> {
    page.split('`').skip(1).step_by(2).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_readme_names_every_member_of_every_family() {
    let readme = read("README.md");
    let row = |name: &str, end: &str| {
        let start = format!("| `{name}{end}");
        assert!(
            readme.lines().any(|line| line.starts_with(&start)),
            "README.md has no row for {name}"
        );
    };
    for (name, _) in reporter::KINDS {
        row(name, "`");
    }
    for format in FORMATS {
        row(format.name(), "`");
    }
    for kind in sampling::KINDS {
        row(kind.name, ": {");
    }
}

#[test]
fn the_interop_page_has_a_row_for_every_format_and_reporter_and_names_tests_that_exist() {
    let page = read("docs/interop.md");
    let names = FORMATS.iter().map(|format| format.name());
    let names = names.chain(reporter::KINDS.iter().map(|(name, _)| *name));
    for name in names {
        let start = format!("| `{name}` |");
        let row = page.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("docs/interop.md has no row for {name}"));
        assert!(row.contains("::"), "{name} names no test: {row}");
    }
    for test in words_in_backticks(&page)
        .iter()
        .filter(|word| word.contains("::"))
    {
        let mut path = test.split("::");
        let module = path.next().unwrap();
        let inner = path.next().unwrap();
        let candidates = [
            format!("tests/it/{module}.rs"),
            format!("tests/it/{module}/{inner}.rs"),
            format!("src/{module}/{inner}.rs"),
        ];
        let found = candidates.iter().any(|file| {
            let Ok(text) = fs::read_to_string(self::path(file)) else {
                return false;
            };
            file.ends_with(&format!("/{inner}.rs")) || text.contains(&format!("fn {inner}("))
        });
        assert!(found, "docs/interop.md names {test}, which is not there");
    }
}

/// System, version, extract, inject, report, receive, sample, tests.
#[test]
fn every_system_on_the_interop_page_has_a_version_and_tests_and_known_names() {
    let page = read("docs/interop.md");
    let (_, table) = page.split_once("\n## Systems\n").unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let kinds = reporter::KINDS.iter().map(|(name, _)| *name);
    let kinds: BTreeSet<&str> = kinds.collect();
    let formats: BTreeSet<&str> = FORMATS.iter().map(|format| format.name()).collect();
    let settings = read("docs/configuration.md");
    let keys = settings
        .lines()
        .filter_map(|line| line.strip_prefix("| `receivers."));
    let keys = keys.filter_map(|rest| rest.split('.').next());
    let keys: BTreeSet<String> = keys.map(|name| format!("receivers.{name}")).collect();
    let mut shown = BTreeSet::new();
    for row in &rows[1..] {
        let [
            system,
            version,
            extract,
            inject,
            report,
            receive,
            sample,
            tests,
        ] = row[..]
        else {
            panic!("not eight cells: {row:?}");
        };
        assert!(!version.is_empty(), "{system} has no version");
        assert!(tests.contains("::"), "{system} has no test");
        for (cell, known) in [(extract, &formats), (inject, &formats), (report, &kinds)] {
            for name in words_in_backticks(cell) {
                assert!(known.contains(name), "{system}: {name} is unknown");
                shown.insert(name);
            }
        }
        for name in words_in_backticks(sample).union(&words_in_backticks(receive)) {
            let is_sampler = sampling::KINDS.iter().any(|kind| kind.name == *name);
            assert!(is_sampler || keys.contains(*name), "{system}: {name}");
        }
    }
    // These two lead to no system of their own.
    let missing: Vec<_> = formats
        .union(&kinds)
        .filter(|name| !shown.contains(*name))
        .collect();
    assert_eq!(missing, [&"failover", &"log"], "no system has them");
}

#[test]
fn the_readme_names_every_path_of_the_admin_port() {
    let readme = read("README.md");
    let paths = read("src/admin/routes.rs");
    let paths: Vec<&str> = literals(&paths)
        .filter(|text| text.starts_with('/') && text.len() > 1 && !text.contains(' '))
        .collect();
    assert!(paths.contains(&"/readyz"), "the search finds something");
    for path in paths {
        assert!(
            path == "/stats/prometheus" || readme.contains(path),
            "README.md does not mention {path}"
        );
    }
}

#[test]
fn every_yaml_example_loads_without_a_warning() {
    let mut count = 0;
    for page in PAGES {
        for block in blocks(&read(page), "yaml") {
            let loaded = load(&block);
            assert_eq!(loaded.warnings, Vec::<String>::new(), "{page}");
            count += 1;
        }
    }
    assert!(count >= 2, "the pages have examples");
}

#[test]
fn the_samplers_in_the_readme_are_what_they_look_like() {
    let readme = read("README.md");
    let examples = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|example| example.contains(": {"));
    let mut count = 0;
    for example in examples {
        let loaded = load(&format!("sampling: {{ {example} }}\n"));
        let chosen = serde_json::to_value(&loaded.config.sampling).unwrap();
        let kind = example.split(':').next().unwrap();
        assert!(chosen.get(kind).is_some(), "{example} chose {chosen}");
        count += 1;
    }
    assert_eq!(count, sampling::KINDS.len());
}

fn load(text: &str) -> Loaded {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    let sources = Sources {
        file: Some(file.path().to_owned()),
        ..Sources::default()
    };
    config::load(&sources).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// The fenced blocks of one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}");
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.trim_start() == open {
            let block: Vec<&str> = lines
                .by_ref()
                .take_while(|line| line.trim_start() != "```")
                .collect();
            found.push(block.join("\n") + "\n");
        }
    }
    found
}

#[test]
fn commands_and_flags_on_the_pages_exist() {
    let mut count = 0;
    for page in PAGES {
        for line in blocks(&read(page), "sh").join("").lines() {
            let Some((_, command)) = line.split_once("pillion ") else {
                continue;
            };
            if line.starts_with("docker ") {
                continue;
            }
            let command = command.split('#').next().unwrap();
            let words: Vec<&str> = command
                .split_whitespace()
                .take_while(|word| !["--", "|"].contains(word))
                .collect();
            let (name, flags) = words.split_first().unwrap();
            let inner = flags.first().filter(|_| *name == "redirect");
            let help = assert_cmd::Command::cargo_bin("pillion")
                .unwrap()
                .arg(name)
                .args(inner)
                .arg("--help")
                .assert()
                .success();
            let help = String::from_utf8_lossy(&help.get_output().stdout).into_owned();
            for flag in flags.iter().filter(|word| word.starts_with('-')) {
                assert!(help.contains(flag), "{page}: `{line}`: no {flag}");
            }
            count += 1;
        }
    }
    assert!(count >= 5, "the pages have commands");
}

#[test]
fn links_lead_to_files_that_exist() {
    for page in PAGES {
        let text = read(page);
        let folder = path(page);
        let folder = folder.parent().unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if target.starts_with("http") || target.starts_with('#') {
                continue;
            }
            let file = target.split('#').next().unwrap();
            assert!(
                folder.join(file).exists(),
                "{page}: {target} does not exist"
            );
        }
    }
}

#[test]
fn the_test_command_stands_where_the_checks_look_for_it() {
    let commands = blocks(&read("README.md"), "sh");
    assert!(
        commands
            .iter()
            .any(|block| block.lines().any(|line| line.starts_with("cargo test"))),
        "`.ci/run` runs the line of README.md that begins with `cargo test`"
    );
}
