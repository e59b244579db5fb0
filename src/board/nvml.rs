//! NVIDIA's management library: the first card of a desktop. Never run on hardware.
//!
//! # Why
//! Behind the cargo feature `nvml`: the library is there only with NVIDIA's driver, and Jetsons before Thor answer most of it with
//! "not supported". Whatever isn't supported is absent.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};

use crate::board::{Board, BoardError, PowerMode, sysfs};
use crate::units::{Bytes, Celsius, Milliwatts, Readings};

/// Cards are counted from 0; only the first is read.
const CARD: u32 = 0;

/// A card by its own sensors; [`Readings::available`] is the card's memory, not the machine's.
pub struct NvmlBoard {
    library: Nvml,
    id: String,
}

impl NvmlBoard {
    /// Loads the library and looks for the first card.
    ///
    /// # Errors
    /// [`BoardError::Nvml`] when either isn't there.
    pub fn open() -> Result<Self, BoardError> {
        let library = Nvml::init().map_err(|error| BoardError::Nvml { wanted: "NVIDIA's management library", found: error.to_string() })?;
        let name = library.device_by_index(CARD).and_then(|card| card.name());
        let id = name.map_err(|error| BoardError::Nvml { wanted: "a card at index 0", found: error.to_string() })?;
        Ok(Self { library, id })
    }
}

impl Board for NvmlBoard {
    fn id(&self) -> &str {
        &self.id
    }

    fn read(&mut self) -> Readings {
        // A card that fell off the bus and came back has another handle.
        let Ok(card) = self.library.device_by_index(CARD) else { return Readings::default() };
        let temperature = card.temperature(TemperatureSensor::Gpu).ok().and_then(|told| u16::try_from(told).ok());
        let clocks = card.clock_info(Clock::Memory).ok().zip(card.max_clock_info(Clock::Memory).ok());
        Readings {
            temperature: temperature.map(|told| Celsius(f32::from(told))),
            power: card.power_usage().ok().map(Milliwatts),
            gpu_load: card.utilization_rates().ok().and_then(|told| sysfs::share(told.gpu.into(), 100)),
            memory_clock: clocks.and_then(|(now, highest)| sysfs::share(now.into(), highest.into())),
            device_memory: card.memory_info().ok().map(|told| Bytes(told.used)),
            available: card.memory_info().ok().map(|told| Bytes(told.free)),
            ..Readings::default()
        }
    }

    /// None: a card's limits are watts, not modes.
    fn power_modes(&mut self) -> Vec<PowerMode> {
        Vec::new()
    }
}
