//! Policy routing for TPROXY, as input for `ip -batch -`: packets with our marks go to the loopback device, whatever
//! their destination, by a routing table of our own.

use std::fmt::Write;

/// The routing table's number.
const TABLE: u32 = 15602;

/// Makes exactly these marks go to the loopback device; empty when they do already.
///
/// `saved` is what `ip rule show` and `ip route show table 15602` say now.
pub fn install(marks: &[u32], saved: &str) -> String {
    let mut out = String::new();
    let old = installed(saved);
    let routed = saved.lines().any(|line| line.starts_with("local default"));
    if !marks.is_empty() && !routed {
        writeln!(out, "route add local default dev lo table {TABLE}").unwrap_or_default();
    }
    for (mark, verb) in [(marks, "add", &old[..]), (&old[..], "del", marks)]
        .into_iter()
        .flat_map(|(these, verb, others)| {
            let differ = these.iter().filter(|mark| !others.contains(mark));
            differ.map(move |mark| (mark, verb))
        })
    {
        writeln!(out, "rule {verb} fwmark {mark:#x} lookup {TABLE}").unwrap_or_default();
    }
    if marks.is_empty() && routed {
        writeln!(out, "route del local default dev lo table {TABLE}").unwrap_or_default();
    }
    out
}

/// The marks that go to the loopback device now.
pub fn installed(saved: &str) -> Vec<u32> {
    let table = format!("lookup {TABLE}");
    let ours = saved
        .lines()
        .filter(|line| line.trim_end().ends_with(&table));
    let marks = ours.filter_map(|line| {
        let mark = line.split("fwmark 0x").nth(1)?.split_whitespace().next()?;
        u32::from_str_radix(mark, 16).ok()
    });
    marks.collect()
}

/// The lines of `saved` that are ours, for people.
pub fn show(saved: &str) -> String {
    let mut out = String::new();
    for mark in installed(saved) {
        writeln!(out, "fwmark {mark:#x} lookup {TABLE}").unwrap_or_default();
    }
    out
}
