//! Giving memory back: the C library keeps what was freed, for a peak that may never come again.
//!
//! glibc returns freed memory only from the end of a heap, and behind thousands of connections that closed there is
//! always something still in use. Asked to, it returns every free page.

use std::time::Duration;

/// How often the number of connections is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// Fewer connections than this are not worth the walk through the heaps.
const WORTH: usize = 256;

/// Gives memory back whenever most of many connections are gone, for as long as the future is polled. `count`: how many
/// there are.
pub async fn run(count: impl Fn() -> usize) {
    let mut peak = Peak::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        if peak.is_over(count()) {
            trim();
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

#[cfg(test)]
mod tests {
    use super::*;

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
