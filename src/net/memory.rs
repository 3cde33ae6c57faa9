//! Giving memory back: the C library keeps what was freed, for a peak that may never come again.
//!
//! glibc returns freed memory only from the end of a heap, and behind thousands of connections that closed there is
//! always something still in use. Asked to, it returns every free page. Code is given back too: most of it runs once,
//! to start.

use std::ops::Range;
use std::time::Duration;

use rustix::mm::Advice;
use tracing::debug;

/// How often the number of connections is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// Fewer connections than this are not worth the walk through the heaps.
const WORTH: usize = 256;

/// Gives memory back once at the beginning, when everything has started, and whenever most of many connections are gone,
/// for as long as the future is polled. `count`: how many there are.
pub async fn run(count: impl Fn() -> usize) {
    let mut peak = Peak::default();
    forget_code();
    loop {
        tokio::time::sleep(INTERVAL).await;
        if peak.is_over(count()) {
            trim();
            forget_code();
        }
    }
}

/// The most there were since memory was given back.
#[derive(Debug, Default)]
struct Peak(usize);

impl Peak {
    /// True when at least `WORTH` and half of the peak are gone; a new peak begins then.
    fn is_over(&mut self, count: usize) -> bool {
        self.0 = self.0.max(count);
        let is_over = self.0 - count >= WORTH && count <= self.0 / 2;
        if is_over {
            self.0 = count;
        }
        is_over
    }
}

/// Gives back what was freed, once. Takes each heap's lock for as long as the walk through it lasts.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn trim() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: glibc's own, since 2.8 for all its heaps; it takes each heap's lock and touches free memory alone.
    unsafe { malloc_trim(0) };
}

/// Other C libraries give memory back by themselves or not at all.
#[cfg(not(target_env = "gnu"))]
pub fn trim() {}

/// Takes this program's code out of memory. What runs again comes back page by page, from the page cache as a rule.
#[allow(unsafe_code)]
pub fn forget_code() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let here = forget_code as fn() as usize;
    let Some(code) = maps.lines().find_map(|line| code(line, here)) else {
        return;
    };
    let start = std::ptr::with_exposed_provenance_mut(code.start);
    // SAFETY: the range is one mapping, private and never writable: its pages are the file's, and are read again from
    // there when they are touched.
    let done = unsafe { rustix::mm::madvise(start, code.len(), Advice::LinuxDontNeed) };
    if let Err(error) = done {
        debug!(%error, "code stays in memory");
    }
}

/// The mapping that a line of `/proc/self/maps` describes, if it is one of a file's code and `here` is in it.
fn code(line: &str, here: usize) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let range = address(start)?..address(end)?;
    (rights == "r-xp" && range.contains(&here)).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_forgotten_runs_again() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let here = forget_code as fn() as usize;
        assert_eq!(maps.lines().filter_map(|line| code(line, here)).count(), 1);
        for _ in 0..3 {
            forget_code();
        }
        for (line, why) in [
            ("", "nothing"),
            ("1000-2000", "no rights"),
            ("1000-2000 rwxp 0 0:0 0", "writable"),
            ("1000-2000 r--p 0 0:0 0 /a", "data"),
            ("2000-3000 r-xp 0 0:0 0 /a", "elsewhere"),
            ("zz-3000 r-xp 0 0:0 0 /a", "no address"),
        ] {
            assert_eq!(code(line, 0x1800), None, "{why}");
        }
        assert_eq!(
            code("1000-2000 r-xp 0 0:0 7 /a", 0x1800),
            Some(0x1000..0x2000)
        );
    }

    #[test]
    fn memory_is_given_back_once_after_each_peak() {
        let mut peak = Peak::default();
        for (count, expected, why) in [
            (0, false, "nothing"),
            (100, false, "few"),
            (0, false, "few are gone"),
            (10_000, false, "a peak"),
            (6_000, false, "most are here"),
            (5_000, true, "half are gone"),
            (4_900, false, "only a few since"),
            (0, true, "all are gone"),
            (0, false, "once"),
        ] {
            assert_eq!(peak.is_over(count), expected, "{why}");
        }
        trim();
    }
}
