//! The files under `config/` are what the program reads today.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use pillion::config;
use pillion::config::Config;
use pillion::config::Sources;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(directory()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

fn sources(file: &Path) -> Sources {
    Sources {
        file: Some(file.to_owned()),
        env: BTreeMap::new(),
        flags: Vec::new(),
    }
}

/// The key that a line sets, with the column it starts in; `None` for comments, list elements and user-chosen keys.
fn key(line: &str) -> Option<(usize, &str)> {
    let column = line.len() - line.trim_start_matches([' ', '-']).len();
    let rest = line.get(column..)?;
    let (key, _) = rest.split_once(':')?;
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    plain.then_some((column, key))
}

#[test]
fn every_file_loads_without_a_warning() {
    let names: Vec<String> = files()
        .iter()
        .map(|f| f.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    for expected in ["full.yaml", "reverse-proxy.yaml", "sidecar.yaml"] {
        assert!(
            names.iter().any(|name| name == expected),
            "{expected} is missing"
        );
    }
    for file in files() {
        let loaded = config::load(&sources(&file)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{}", file.display());
    }
}

#[test]
fn every_key_is_refused_when_misspelt() {
    let dir = tempfile::tempdir().unwrap();
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let mut tried = 0;
        for (index, line) in lines.iter().enumerate() {
            let Some((column, key)) = key(line) else {
                continue;
            };
            let mut changed: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
            changed[index] = line.replacen(key, &format!("{key}q"), 1);
            let copy = dir.path().join("misspelt.yaml");
            fs::write(&copy, changed.join("\n")).unwrap();
            let errors = config::load(&sources(&copy)).unwrap_err();
            let place = format!("misspelt.yaml:{}:{}: ", index + 1, column + 1);
            assert!(
                errors.lines().iter().any(|l| l.contains(&place)),
                "{}: {line:?} misspelt is not reported at {place}: {errors}",
                file.display()
            );
            tried += 1;
        }
        assert!(tried > 10, "{}: {tried} keys tried", file.display());
    }
}

#[test]
fn the_full_file_holds_every_key_with_its_default() {
    let file = directory().join("full.yaml");
    let loaded = config::load(&sources(&file)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.config, Config::default());
    assert_current("full.yaml", &config::reference(), "schema --yaml");
}

#[test]
fn the_schema_file_is_current() {
    assert_current("schema.json", &config::schema::text(), "schema");
}

fn assert_current(name: &str, text: &str, command: &str) {
    let committed = fs::read_to_string(directory().join(name)).unwrap();
    let changed = committed
        .lines()
        .zip(text.lines())
        .position(|(old, new)| old != new);
    assert!(
        committed == text,
        "config/{name} is stale from line {}: run `cargo run -- {command} > config/{name}`",
        changed.map_or(0, |index| index + 1)
    );
}
