//! Any Linux: what this process holds (`/proc/self/status`), thermal zones and free memory.

use std::path::{Path, PathBuf};

use crate::board::{Board, PowerMode, sysfs};
use crate::units::{Bytes, Readings};

/// Processor of this machine and how many it has, for calibrations. "unknown" where the system doesn't tell.
#[must_use]
pub fn device() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()));
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{}, {count} CPUs", model.unwrap_or_else(|| "unknown".into()))
}

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
    sysfs::kib_line(&sysfs::text(Path::new("/proc/self/status"), sysfs::LONG)?, key)
}

/// A machine of which nothing is known but that it runs Linux: temperature and available memory, no power modes.
pub struct HostBoard {
    root: PathBuf,
}

impl HostBoard {
    /// `root` stands for `/`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl Board for HostBoard {
    fn id(&self) -> &str {
        "host"
    }

    fn read(&mut self) -> Readings {
        Readings {
            temperature: sysfs::hottest(&self.root.join("sys/class/thermal")),
            available: sysfs::available(&self.root),
            ..Readings::default()
        }
    }

    fn power_modes(&mut self) -> Vec<PowerMode> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Celsius;

    #[test]
    fn this_process_holds_memory() {
        let (peak, now) = (peak_memory().unwrap(), resident_memory().unwrap());
        assert!(now > Bytes(0) && now <= peak_memory().unwrap() && peak > Bytes(0));
    }

    #[test]
    fn zones_and_memory_where_they_are() {
        let root = tempfile::tempdir().unwrap();
        let mut board = HostBoard::new(root.path());
        assert_eq!(board.read(), Readings::default());
        for (path, text) in [
            ("sys/class/thermal/thermal_zone0/temp", "27800\n"),
            ("sys/class/thermal/thermal_zone1/temp", "61500\n"),
            ("sys/class/thermal/cooling_device0/temp", "99000\n"),
            ("proc/meminfo", "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let wanted = Readings { temperature: Some(Celsius(61.5)), available: Some(Bytes(8_192_000_000)), ..Readings::default() };
        assert_eq!(board.read(), wanted);
        assert!(board.power_modes().is_empty());
    }
}
