//! What the board draws, by its INA3221 monitors: volts and amperes of up to three rails each.

use std::path::Path;

use crate::board::sysfs;
use crate::units::Milliwatts;

/// Rails through which all of the board's power comes, where a board has one: Orin and Xavier NX, Nano.
const INPUTS: [&str; 2] = ["VDD_IN", "POM_5V_IN"];
/// Channel labels that are no rails: unconnected, and the monitor's own sum.
const NO_RAILS: [&str; 2] = ["NC", "sum of shunt voltages"];
/// A monitor has three rails, from 1; the driver numbers shunts and sums up to 7, from 0 before JetPack 5.
const CHANNELS: std::ops::RangeInclusive<u8> = 0..=7;

struct Rail {
    name: String,
    /// Absent where the monitor can't be read.
    drawn: Option<Milliwatts>,
}

/// The input rail's power where the board has one, else the sum of all rails.
///
/// A rail that can't be read makes the sum absent, and an input rail that can't be read isn't stood for by the others: a part of the power
/// passes for the whole nowhere.
pub(super) fn drawn(root: &Path) -> Option<Milliwatts> {
    let rails = rails(root);
    match rails.iter().find(|rail| INPUTS.contains(&rail.name.as_str())) {
        Some(input) => input.drawn,
        None if rails.is_empty() => None,
        None => rails.iter().map(|rail| rail.drawn).sum(),
    }
}

fn rails(root: &Path) -> Vec<Rail> {
    let mut rails = Vec::new();
    for device in sysfs::entries(&root.join("sys/bus/i2c/devices"), |_| true) {
        if sysfs::text(&device.join("name"), sysfs::SMALL).is_none_or(|name| !name.contains("ina3221")) {
            continue;
        }
        for monitor in sysfs::entries(&device.join("hwmon"), |name| name.starts_with("hwmon")) {
            rails.extend(
                CHANNELS.filter_map(|k| rail(&monitor, [format!("in{k}_label"), format!("in{k}_input"), format!("curr{k}_input")])),
            );
        }
        // JetPack 4.
        for monitor in sysfs::entries(&device, |name| name.starts_with("iio:device")) {
            rails.extend(CHANNELS.filter_map(|k| {
                rail(&monitor, [format!("rail_name_{k}"), format!("in_voltage{k}_input"), format!("in_current{k}_input")])
            }));
        }
    }
    rails
}

/// The rail that is told of by files of a label, mV and mA; none where there is no label or it names no rail.
fn rail(monitor: &Path, [label, volts, amperes]: [String; 3]) -> Option<Rail> {
    let name = sysfs::text(&monitor.join(label), sysfs::SMALL)?.trim().to_owned();
    if name.is_empty() || NO_RAILS.iter().any(|none| none.eq_ignore_ascii_case(&name)) {
        return None;
    }
    // The noise of an idle rail can be below zero.
    let told = |file: String| sysfs::number::<i64>(&monitor.join(file)).and_then(|told| u64::try_from(told.max(0)).ok());
    let microwatts = told(volts).zip(told(amperes)).and_then(|(volts, amperes)| volts.checked_mul(amperes));
    let drawn = microwatts.and_then(|microwatts| u32::try_from(microwatts / 1_000).ok()).map(Milliwatts);
    Some(Rail { name, drawn })
}
