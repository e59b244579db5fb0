//! An NVIDIA Jetson by sysfs, procfs and `nvpmodel`. Tried on folders with the shape of four boards; never run on hardware.
//!
//! # Why
//! NVML on Orin answers most questions with "not supported", and what `jtop` shows comes from the same files. They differ from board to board
//! and from release to release: a file that isn't there, can't be read or holds no sense makes its own reading absent and no other.

mod modes;
mod power;
mod query;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::modes::Modes;
use self::query::ModeQuery;
use crate::board::{Board, BoardError, PowerMode, sysfs};
use crate::units::{PerMille, Readings};

/// Longest that `nvpmodel` may take to change the mode.
const CHANGE: Duration = Duration::from_secs(20);

/// A Jetson under a root folder, which is `/` outside tests.
pub struct JetsonBoard {
    root: PathBuf,
    id: String,
    mode: ModeQuery,
}

impl JetsonBoard {
    /// Asks `usr/sbin/nvpmodel` under `root` for the power mode and waits at most 2 s for it; whatever is missing is absent from the readings.
    #[must_use]
    pub fn open(root: &Path) -> Self {
        Self::with_nvpmodel(root, root.join("usr/sbin/nvpmodel"))
    }

    /// The same with another program that answers `-q` as `nvpmodel` does.
    #[must_use]
    pub fn with_nvpmodel(root: &Path, nvpmodel: PathBuf) -> Self {
        let mut mode = ModeQuery::new(nvpmodel);
        mode.wait();
        Self { root: root.to_owned(), id: model(root).unwrap_or_else(|| "jetson".into()), mode }
    }

    /// The mode that the board starts in after a reboot, by its `nvpmodel.conf`.
    #[must_use]
    pub fn default_mode(&self) -> Option<PowerMode> {
        let modes = self.modes();
        modes.all.into_iter().find(|mode| Some(mode.id) == modes.default)
    }

    fn modes(&self) -> Modes {
        sysfs::text(&self.root.join("etc/nvpmodel.conf"), sysfs::LONG).map_or_else(Modes::default, |conf| Modes::parse(&conf))
    }

    /// Looked for anew every time, since the node can come long after boot. It tells per mille.
    fn gpu_load(&self) -> Option<PerMille> {
        // By unit address on Orin and Xavier, by name on Thor.
        let gpu = |name: &str| name.ends_with(".gpu") || name.ends_with(".gv11b") || name == "gpu-gpc-0";
        let nodes = sysfs::entries(&self.root.join("sys/class/devfreq"), gpu);
        nodes.iter().find_map(|node| sysfs::number(&node.join("device/load"))).map(PerMille)
    }

    /// Of the external memory controller; the files want root.
    fn memory_clock(&self) -> Option<PerMille> {
        let clock = self.root.join("sys/kernel/debug/bpmp/debug/clk/emc");
        sysfs::share(sysfs::number(&clock.join("rate"))?, sysfs::number(&clock.join("max_rate"))?)
    }
}

impl Board for JetsonBoard {
    /// The device tree's name of the board, or "jetson".
    fn id(&self) -> &str {
        &self.id
    }

    /// Asks for the power mode every 30 s and takes the answer at a later read, so that no read waits for it.
    fn read(&mut self) -> Readings {
        self.mode.advance(Instant::now());
        Readings {
            temperature: sysfs::hottest(&self.root.join("sys/devices/virtual/thermal")),
            power: power::drawn(&self.root),
            power_mode: self.mode.name().map(str::to_owned),
            gpu_load: self.gpu_load(),
            memory_clock: self.memory_clock(),
            available: sysfs::available(&self.root),
            ..Readings::default()
        }
    }

    fn power_modes(&mut self) -> Vec<PowerMode> {
        self.modes().all
    }

    fn set_power_mode(&mut self, mode: &PowerMode) -> Result<(), BoardError> {
        let wrong = |found: String| BoardError::Mode { wanted: mode.name.clone(), found };
        self.mode.set(mode.id, CHANGE).map_err(|error| wrong(format!("nvpmodel: {error}")))?;
        match self.mode.name() {
            Some(name) if name == mode.name => Ok(()),
            found => {
                Err(wrong(format!("{} after nvpmodel -m {}; it wants root, and for some modes a reboot", found.unwrap_or("none"), mode.id)))
            }
        }
    }
}

/// What the device tree calls the board; it ends in a NUL.
fn model(root: &Path) -> Option<String> {
    let text = sysfs::text(&root.join("proc/device-tree/model"), sysfs::SMALL)?;
    let name = text.trim_end_matches('\0').trim();
    (!name.is_empty() && !name.contains(char::is_control)).then(|| name.to_owned())
}
