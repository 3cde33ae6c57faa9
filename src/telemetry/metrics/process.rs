//! The `process_*` families that every Prometheus client exports, read at each scrape.
//!
//! Counters here are fractions of a second, which the recorder's integer counters cannot hold, so they are written as
//! text. Off Linux only the processor time is known.

use std::fmt::Write;
use std::sync::OnceLock;

/// One family with its single value.
struct Sample {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: f64,
}

/// The families in text form, one block each.
pub(super) fn blocks() -> Vec<(String, String)> {
    samples()
        .into_iter()
        .map(|s| {
            let mut text = String::new();
            // Writing to a String cannot fail.
            writeln!(
                text,
                "# HELP {0} {1}\n# TYPE {0} {2}\n{0} {3}",
                s.name, s.help, s.kind, s.value
            )
            .unwrap_or_default();
            (s.name.to_owned(), text)
        })
        .collect()
}

fn samples() -> Vec<Sample> {
    let mut samples = vec![Sample {
        name: "process_cpu_seconds_total",
        kind: "counter",
        help: "User and system processor time spent.",
        value: cpu_seconds(),
    }];
    let mut gauge = |name, help, value: Option<f64>| {
        samples.extend(value.map(|value| Sample {
            name,
            kind: "gauge",
            help,
            value,
        }));
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    gauge(
        "process_resident_memory_bytes",
        "Resident memory.",
        field(&status, "VmRSS:").map(|kib| kib * 1024.0),
    );
    gauge(
        "process_virtual_memory_bytes",
        "Virtual memory.",
        field(&status, "VmSize:").map(|kib| kib * 1024.0),
    );
    gauge(
        "process_threads",
        "Threads of the process.",
        field(&status, "Threads:"),
    );
    gauge(
        "process_open_fds",
        "Open file descriptors.",
        std::fs::read_dir("/proc/self/fd")
            .ok()
            // The directory being read is one of them.
            .map(|entries| entries.count().saturating_sub(1) as f64),
    );
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    gauge(
        "process_max_fds",
        "Most file descriptors that may be open.",
        field(&limits, "Max open files"),
    );
    gauge(
        "process_start_time_seconds",
        "Unix time at which the process started.",
        start_time(),
    );
    samples
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The first number after `key` at the start of a line.
fn field(text: &str, key: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Boot time plus the process's start after boot. Read once: it cannot change.
fn start_time() -> Option<f64> {
    static START: OnceLock<Option<f64>> = OnceLock::new();
    *START.get_or_init(|| {
        let boot = field(&std::fs::read_to_string("/proc/stat").ok()?, "btime")?;
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The command name may contain spaces and parentheses; the fields after its last ')' are numbers.
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
        Some(boot + ticks / rustix::param::clock_ticks_per_second() as f64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_by_their_line() {
        let status = "Name:\tVmRSS: 9\nVmRSS:\t    5128 kB\nThreads:\t4\n";
        assert_eq!(field(status, "VmRSS:"), Some(5128.0));
        assert_eq!(field(status, "Threads:"), Some(4.0));
        assert_eq!(field(status, "Missing:"), None);
        assert_eq!(field("Threads:\tmany\n", "Threads:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_living_process_has_every_value_in_a_plausible_range() {
        let value = |name: &str| {
            samples()
                .into_iter()
                .find(|s| s.name == name)
                .map(|s| s.value)
                .unwrap_or_else(|| panic!("{name} is missing"))
        };
        assert!(value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        // After 2020, which a start time that forgets the boot time would miss.
        assert!(value("process_start_time_seconds") > 1_577_836_800.0);
    }
}
