//! Runs every parser of foreign bytes over its corpus and over seeded mutations of it, without a fuzzer.
//!
//! `PILLION_FUZZ_RUNS` and `PILLION_FUZZ_SEED` lengthen or vary a run; a failure prints target, seed and input.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

#[path = "../fuzz/targets.rs"]
mod targets;

use targets::TARGETS;
use targets::Target;

/// Mutations of each target's corpus in an ordinary run.
const RUNS: u64 = 3000;
const SEED: u64 = 0x7069_6c6c_696f_6e00;
/// No input of a corpus's size may take a parser this long, however busy the machine.
const MAX_TIME: Duration = Duration::from_secs(5);
/// Mutations do not grow beyond this.
const MAX_LEN: usize = 64 * 1024;

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert!(names.is_sorted(), "rows are sorted: {names:?}");
    let folders: BTreeSet<_> = fs::read_dir(corpus_root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(folders, expected, "one folder a target, each name once");
    assert_eq!(names.len(), expected.len(), "names are unique");
}

#[test]
fn the_fuzzing_package_names_every_crate_its_targets_use() {
    // It is a package of its own that nothing here builds.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let (own, fuzzing) = (read("Cargo.toml"), read("tests/fuzz/Cargo.toml"));
    let targets = read("tests/fuzz/targets.rs");
    let is_named = |manifest: &str, name: &str| {
        let line = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| key == name);
        manifest.lines().any(line)
    };
    let paths = targets.split(|c: char| !(c.is_alphanumeric() || "_:".contains(c)));
    let is_module = |name: &str| targets.contains(&format!("::{name};"));
    let mut n_used = 0;
    for first in paths.filter_map(|path| path.split_once("::").map(|(first, _)| first)) {
        let name = first.replace('_', "-");
        let name = [first, &name].into_iter().find(|name| is_named(&own, name));
        if let Some(name) = name.filter(|_| !is_module(first)) {
            n_used += 1;
            assert!(is_named(&fuzzing, name), "{name} in tests/fuzz/Cargo.toml");
        }
    }
    assert!(n_used > 0, "the targets use crates");
}

#[test]
fn no_target_panics_on_its_corpus() {
    for target in TARGETS {
        let mut n_accepted = 0;
        for (path, input) in corpus(target) {
            n_accepted += u32::from(run(target, &path.display().to_string(), &input));
        }
        assert!(
            n_accepted > 0,
            "mutations of {} need an accepted input",
            target.name
        );
        for input in [&b""[..], b"\0", b"\xff", &[b'0'; 4096], &[0xff; 4096]] {
            run(target, "fixed input", input);
        }
    }
}

#[test]
fn no_target_panics_on_mutations_of_its_corpus() {
    let seed = env_number("PILLION_FUZZ_SEED").unwrap_or(SEED);
    let n_runs = env_number("PILLION_FUZZ_RUNS").unwrap_or(RUNS);
    for target in TARGETS {
        let inputs: Vec<_> = corpus(target).into_iter().map(|(_, input)| input).collect();
        for n in 0..n_runs {
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(n));
            let input = mutated(&inputs, &mut random);
            run(
                target,
                &format!("seed {} (PILLION_FUZZ_RUNS=1)", seed.wrapping_add(n)),
                &input,
            );
        }
    }
}

#[test]
fn mutations_repeat_with_their_seed() {
    let inputs = [b"traceparent: 00-1".to_vec(), b"b3: 0".to_vec()];
    let make = |seed| mutated(&inputs, &mut fastrand::Rng::with_seed(seed));
    assert_eq!(make(7), make(7));
    assert!((0..20).any(|seed| make(seed) != make(seed + 1)));
}

/// Says on a panic what the target was fed.
struct Report<'a> {
    target: &'static str,
    origin: &'a str,
    input: &'a [u8],
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let Self {
                target,
                origin,
                input,
            } = self;
            eprintln!(
                "target {target}, {origin}, input b\"{}\"",
                input.escape_ascii()
            );
        }
    }
}

/// True when the target accepted the input.
fn run(target: &Target, origin: &str, input: &[u8]) -> bool {
    let _report = Report {
        target: target.name,
        origin,
        input,
    };
    let start = Instant::now();
    let is_accepted = (target.run)(input);
    assert!(start.elapsed() < MAX_TIME, "took {:?}", start.elapsed());
    is_accepted
}

fn mutated(inputs: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = inputs[random.usize(..inputs.len())].clone();
    for _ in 0..random.usize(1..=6) {
        mutate(&mut bytes, inputs, random);
    }
    bytes.truncate(MAX_LEN);
    bytes
}

/// Bytes that mean something in one grammar or another.
const TELLING: &[u8] = b"\0\x01\x7f\x80\xff :;,=-%+@&\"'\\/{}[]\r\n\t0129afAFgz";
/// Integers where lengths and counts overflow.
const LENGTHS: &[u64] = &[
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];

/// One random change: a bit, a byte, a range removed, repeated or overwritten, a piece of another input.
fn mutate(bytes: &mut Vec<u8>, inputs: &[Vec<u8>], random: &mut fastrand::Rng) {
    let at = random.usize(..=bytes.len());
    let len = random.usize(..=16).min(bytes.len() - at);
    match random.u8(..9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
        1 if at < bytes.len() => bytes[at] = random.u8(..),
        2 if at < bytes.len() => bytes[at] = TELLING[random.usize(..TELLING.len())],
        3 => bytes.insert(at, TELLING[random.usize(..TELLING.len())]),
        4 => drop(bytes.drain(at..at + len)),
        5 => bytes.truncate(at),
        6 => {
            let piece = bytes[at..at + len].repeat(random.usize(1..=40));
            bytes.splice(at..at, piece);
        }
        7 => {
            let number = LENGTHS[random.usize(..LENGTHS.len())];
            let width = [1, 2, 4, 8][random.usize(..4)];
            let (big, little) = (number.to_be_bytes(), number.to_le_bytes());
            let number = if random.bool() {
                &big[8 - width..]
            } else {
                &little[..width]
            };
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, number.iter().copied());
        }
        _ => {
            let other = &inputs[random.usize(..inputs.len())];
            let from = random.usize(..=other.len());
            bytes.splice(at..at + len, other[from..].iter().copied());
        }
    }
}

/// The files of a target's corpus, sorted by name.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(corpus_root().join(target.name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus of {} is empty", target.name);
    files
}

fn corpus_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
