//! Readings and power modes of the machine, whichever board it is.
//!
//! # Why
//! The planner needs to know how hot the board is and which power mode it is in; where those stand differs from board to board and is
//! often missing. A [`Board`] reads and may take its time; a [`Watch`] reads it on a thread of its own, sifts what can't be believed and
//! always has an answer, with its age. What a board doesn't tell is absent, never zero and never an error.

mod clock;
mod host;
mod jetson;
#[cfg(feature = "nvml")]
mod nvml;
mod plausible;
mod scripted;
mod sysfs;
mod watch;

use std::path::{Path, PathBuf};

pub use clock::clock_is_kept;
pub use host::{HostBoard, device, peak_memory, resident_memory};
pub use jetson::JetsonBoard;
#[cfg(feature = "nvml")]
pub use nvml::NvmlBoard;
pub use plausible::{Trust, plausible};
pub use scripted::{ScriptedBoard, Segment, Trace};
pub use watch::Watch;

use crate::units::{Bytes, Readings};

/// A machine that tells of itself.
pub trait Board: Send {
    /// The board's own name for itself where it has one, for receipts.
    fn id(&self) -> &str;
    /// As the sensors say, unsifted, with an age of zero. May block for as long as a driver does: see [`Watch`].
    fn read(&mut self) -> Readings;
    /// All that the board knows, in the board's order. Empty where it has none.
    fn power_modes(&mut self) -> Vec<PowerMode>;
    /// Puts the board into one of its modes and waits until it is, some seconds at most.
    ///
    /// # Errors
    /// A board without modes; one whose tool refuses, as it does without root and for a mode that wants a reboot.
    fn set_power_mode(&mut self, mode: &PowerMode) -> Result<(), BoardError> {
        Err(BoardError::Mode { wanted: mode.name.clone(), found: "a board that can't be put into one".into() })
    }
}

/// The mode of `board` that has that name.
///
/// # Errors
/// [`BoardError::Mode`] with the names that there are.
pub fn power_mode(board: &mut dyn Board, name: &str) -> Result<PowerMode, BoardError> {
    let modes = board.power_modes();
    let names: Vec<&str> = modes.iter().map(|mode| mode.name.as_str()).collect();
    let found = if names.is_empty() { "a board without any".to_owned() } else { names.join(", ") };
    let wanted = || BoardError::Mode { wanted: name.to_owned(), found };
    modes.iter().find(|mode| mode.name == name).cloned().ok_or_else(wanted)
}

/// What the board's own tool calls one of its limits of power and clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerMode {
    pub id: u32,
    pub name: String,
}

/// Which board to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoardKind {
    /// `jetson` where the device tree names a Tegra, `nvml` where the build has it and there is a card, else `host`.
    #[default]
    Auto,
    /// Any Linux: thermal zones and memory.
    Host,
    /// sysfs and `nvpmodel`.
    Jetson,
    /// NVIDIA's management library: desktop cards. Wants the cargo feature `nvml`.
    Nvml,
    /// A seeded trace.
    Scripted,
}

/// Why a board can't be read.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    #[error("board {kind}: wanted a build with the cargo feature {feature:?}, found one without it")]
    Feature { kind: &'static str, feature: &'static str },
    #[error("board nvml: wanted {wanted}, found {found}")]
    Nvml { wanted: &'static str, found: String },
    #[error("{path}: wanted a trace, found {found}")]
    TraceFile { path: PathBuf, found: std::io::Error },
    #[error("{path}: wanted a trace in UTF-8 of at most {allowed}, found one that is not")]
    TraceText { path: PathBuf, allowed: Bytes },
    #[error("trace: {source}")]
    TraceSyntax { source: Box<toml::de::Error> },
    #[error("trace: {key} = {found}: wanted {wanted}")]
    Trace { key: String, found: String, wanted: &'static str },
    #[error("power mode: wanted {wanted}, found {found}")]
    Mode { wanted: String, found: String },
    #[error("board: wanted a period above 0 between readings, found none")]
    Period,
    #[error("board: wanted a thread that reads it, found {found}")]
    Thread { found: std::io::Error },
}

/// Opens the board that `kind` names.
///
/// `root` is the folder that stands for `/` (which it is, outside tests) for [`BoardKind::Auto`], [`BoardKind::Host`] and
/// [`BoardKind::Jetson`]; the trace's file for [`BoardKind::Scripted`], which starts to play; [`BoardKind::Nvml`] doesn't look at it.
/// A Jetson whose `nvpmodel` hangs takes 2 s to open.
///
/// # Errors
/// A build without the wanted feature, a management library that can't be loaded, a trace that can't be read.
pub fn open(kind: BoardKind, root: &Path) -> Result<Box<dyn Board>, BoardError> {
    match kind {
        BoardKind::Auto if names_tegra(root) => Ok(Box::new(JetsonBoard::open(root))),
        BoardKind::Auto => Ok(card().unwrap_or_else(|| Box::new(HostBoard::new(root)))),
        BoardKind::Host => Ok(Box::new(HostBoard::new(root))),
        BoardKind::Jetson => Ok(Box::new(JetsonBoard::open(root))),
        #[cfg(feature = "nvml")]
        BoardKind::Nvml => Ok(Box::new(NvmlBoard::open()?)),
        #[cfg(not(feature = "nvml"))]
        BoardKind::Nvml => Err(BoardError::Feature { kind: "nvml", feature: "nvml" }),
        BoardKind::Scripted => Ok(Box::new(ScriptedBoard::play(Trace::read(root)?))),
    }
}

/// A card, where the build can ask for one and there is one.
fn card() -> Option<Box<dyn Board>> {
    #[cfg(feature = "nvml")]
    return NvmlBoard::open().ok().map(|card| Box::new(card) as Box<dyn Board>);
    #[cfg(not(feature = "nvml"))]
    None
}

/// The device tree's list of what the board is compatible with, NUL between, holds `nvidia,tegra234` or the like.
fn names_tegra(root: &Path) -> bool {
    sysfs::text(&root.join("proc/device-tree/compatible"), sysfs::SMALL).is_some_and(|names| names.contains("tegra"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_reads_a_jetson_where_the_device_tree_names_a_tegra() {
        let cases = [
            (Some("nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234\0"), "jetson"),
            (Some("nvidia,p3971-0089+p3834-0008\0nvidia,p3834\0nvidia,tegra264\0"), "jetson"),
            (Some("raspberrypi,5-model-b\0brcm,bcm2712\0"), "host"),
            (Some(""), "host"),
            (None, "host"),
        ];
        for (compatible, wanted) in cases {
            let root = tempfile::tempdir().unwrap();
            if let Some(text) = compatible {
                std::fs::create_dir_all(root.path().join("proc/device-tree")).unwrap();
                std::fs::write(root.path().join("proc/device-tree/compatible"), text).unwrap();
            }
            assert_eq!(open(BoardKind::Auto, root.path()).unwrap().id(), wanted, "{compatible:?}");
        }
    }

    #[test]
    fn kinds_have_kebab_case_names() {
        #[derive(serde::Deserialize)]
        struct File {
            board: BoardKind,
        }
        let kinds = [
            ("auto", BoardKind::Auto),
            ("host", BoardKind::Host),
            ("jetson", BoardKind::Jetson),
            ("nvml", BoardKind::Nvml),
            ("scripted", BoardKind::Scripted),
        ];
        for (name, wanted) in kinds {
            assert_eq!(toml::from_str::<File>(&format!("board = {name:?}")).unwrap().board, wanted);
        }
        assert!(toml::from_str::<File>("board = \"Host\"").is_err());
    }

    #[cfg(not(feature = "nvml"))]
    #[test]
    fn a_build_without_nvml_says_which_feature_is_wanted() {
        let error = open(BoardKind::Nvml, Path::new("/")).err().unwrap();
        assert_eq!(error.to_string(), "board nvml: wanted a build with the cargo feature \"nvml\", found one without it");
    }

    #[test]
    fn a_trace_is_opened_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trace.toml");
        let opened = |text: &str| {
            std::fs::write(&file, text).unwrap();
            open(BoardKind::Scripted, &file)
        };
        let good = "seed = 1\n[[segment]]\nuntil-s = 1.0\ntemperature-c = 50.0\nslowdown = 1.0\n";
        let mut board = opened(good).unwrap();
        assert_eq!(board.id(), "scripted");
        assert!(board.read().temperature.is_some());
        assert!(matches!(opened("seed = "), Err(BoardError::TraceSyntax { .. })));
        assert!(matches!(opened(&"#".repeat(300 << 10)), Err(BoardError::TraceText { .. })));
        assert!(matches!(open(BoardKind::Scripted, &folder.path().join("none")), Err(BoardError::TraceFile { .. })));
    }
}
