//! Linux: `/proc/self/status`.

use crate::units::Bytes;

/// Largest resident set of this process so far. `None` where the system doesn't tell.
#[must_use]
pub fn peak_memory() -> Option<Bytes> {
    status("VmHWM:")
}

/// Resident set of this process now. `None` where the system doesn't tell.
#[must_use]
pub fn resident_memory() -> Option<Bytes> {
    status("VmRSS:")
}

fn status(key: &str) -> Option<Bytes> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?, key)
}

fn parse(status: &str, key: &str) -> Option<Bytes> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kib * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kib_lines() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 pages\n";
        assert_eq!(parse(status, "VmHWM:"), Some(Bytes(2 << 20)));
        assert_eq!(parse(status, "VmRSS:"), None);
        assert_eq!(parse(status, "VmSwap:"), None);
    }
}
