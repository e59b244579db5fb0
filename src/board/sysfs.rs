//! Small files of the kernel. What is missing, unreadable, too long or no number is absent.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::board::plausible;
use crate::units::{Bytes, Celsius, PerMille};

/// Longest file of sysfs that is read: a page, the most that sysfs gives.
pub(super) const SMALL: Bytes = Bytes(4 << 10);
/// Longest file of procfs, or written by people.
pub(super) const LONG: Bytes = Bytes(256 << 10);

/// The text of a file of at most `cap`. A longer one is absent, since a number that was cut is another number.
pub(super) fn text(path: &Path, cap: Bytes) -> Option<String> {
    read(path, cap).ok().flatten()
}

/// The text of a file, or none when it is longer than `cap` or no UTF-8.
pub(super) fn read(path: &Path, cap: Bytes) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = File::open(path)?.take(cap.0 + 1).read_to_end(&mut bytes)?;
    Ok((read as u64 <= cap.0).then(|| String::from_utf8(bytes).ok()).flatten())
}

/// A file that holds one number.
pub(super) fn number<T: FromStr>(path: &Path) -> Option<T> {
    text(path, SMALL)?.trim().parse().ok()
}

/// What `folder` holds whose name is `wanted`, by name; nothing where there is no such folder.
pub(super) fn entries(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(listing) = std::fs::read_dir(folder) else { return Vec::new() };
    let named = listing.flatten().filter(|entry| entry.file_name().to_str().is_some_and(&wanted));
    let mut paths: Vec<_> = named.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The hottest of `folder`'s thermal zones, which tell milli-degrees.
///
/// A zone that lies is left out here already, so that it doesn't hide the others; −256 °C is the kernel's word for a domain that is off,
/// whose file may also fail with EAGAIN or ENODATA.
pub(super) fn hottest(folder: &Path) -> Option<Celsius> {
    let zones = entries(folder, |name| name.starts_with("thermal_zone"));
    let told = zones.iter().filter_map(|zone| plausible::temperature(Celsius(number::<f32>(&zone.join("temp"))? / 1e3)));
    told.max_by(|a, b| a.0.total_cmp(&b.0))
}

/// `MemAvailable` of `/proc/meminfo`: what could be had without swapping. On a Jetson the GPU takes from it too.
pub(super) fn available(root: &Path) -> Option<Bytes> {
    kib_line(&text(&root.join("proc/meminfo"), LONG)?, "MemAvailable:")
}

/// The line of `text` that starts with `key` and ends in kB, as procfs calls KiB.
pub(super) fn kib_line(text: &str, key: &str) -> Option<Bytes> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024).map(Bytes)
}

/// `part` of `whole`; absent where there is no whole or the share is beyond all sense.
pub(super) fn share(part: u64, whole: u64) -> Option<PerMille> {
    let share = part.checked_mul(1_000)?.checked_div(whole)?;
    u16::try_from(share).ok().map(PerMille)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kib_lines() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 pages\nVmPeak: 18446744073709551615 kB\n";
        let cases = [("VmHWM:", Some(Bytes(2 << 20))), ("VmRSS:", None), ("VmSwap:", None), ("VmPeak:", None)];
        for (key, wanted) in cases {
            assert_eq!(kib_line(status, key), wanted, "{key}");
        }
    }

    #[test]
    fn shares() {
        let cases = [
            (1_600_000_000, 3_200_000_000, Some(PerMille(500))),
            (0, 1, Some(PerMille(0))),
            (2, 1, Some(PerMille(2_000))),
            (66, 1, None),
            (1, 0, None),
            (u64::MAX, u64::MAX, None),
        ];
        for (part, whole, wanted) in cases {
            assert_eq!(share(part, whole), wanted, "{part} of {whole}");
        }
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let cases: [(&[u8], Option<&str>); 4] = [(b"12345678", Some("12345678")), (b"123456789", None), (b"", Some("")), (b"\xff", None)];
        for (bytes, wanted) in cases {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(text(&path, Bytes(8)).as_deref(), wanted, "{bytes:?}");
        }
        assert_eq!(text(folder.path(), SMALL), None);
        assert_eq!(text(&folder.path().join("none"), SMALL), None);
    }
}
