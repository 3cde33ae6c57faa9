//! Which capabilities this process has, of those that linking can use.

use std::fs;

/// What each is for is told in `docs/linking.md`; the numbers are the kernel's (`linux/capability.h`).
const USED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_SYS_PTRACE", 19)];
/// Stands for the first two.
const SYS_ADMIN: u32 = 21;

/// The names of the capabilities that are lacking; all of them where that cannot be read.
pub fn lacking() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    lacking_of(&status)
}

fn lacking_of(status: &str) -> Vec<&'static str> {
    let held = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or(0);
    let has = |number: u32| held >> number & 1 == 1;
    let lacking = USED
        .iter()
        .filter(|(name, number)| !has(*number) && (*name == "CAP_SYS_PTRACE" || !has(SYS_ADMIN)));
    lacking.map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_named() {
        for (line, expected, why) in [
            ("CapEff:\t000001ffffffffff", &[][..], "root"),
            (
                "CapEff:\t0000000000000000",
                &["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"],
                "none",
            ),
            (
                "CapEff:\t000000c000000000",
                &["CAP_SYS_PTRACE"],
                "both for bpf(2)",
            ),
            (
                "CapEff:\t0000000000200000",
                &["CAP_SYS_PTRACE"],
                "SYS_ADMIN stands for both",
            ),
            (
                "CapEff:\tx",
                &["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"],
                "not to be read",
            ),
        ] {
            let status = format!("Name:\tpillion\n{line}\nSeccomp:\t0\n");
            assert_eq!(lacking_of(&status), expected, "{why}");
        }
    }
}
