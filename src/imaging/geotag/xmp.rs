//! The XMP packet of a DJI camera's JPEG.

use std::fs::File;
use std::io::{BufReader, Read};

use crate::imaging::geotag::Geotag;

const HEADER: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const DJI: &str = "http://www.dji.com/drone-dji/1.0/";

/// Fills in what the packet says. A file without one, or with one that can't be read, adds nothing.
pub fn read(file: &mut BufReader<File>, geotag: &mut Geotag) {
    let Some(packet) = packet(file) else { return };
    let Some(document) = std::str::from_utf8(&packet).ok().and_then(|text| roxmltree::Document::parse(text).ok()) else { return };
    // As an attribute of the description, or as an element in it.
    let figure = |name: &str| {
        let attribute = document.descendants().find_map(|node| node.attribute((DJI, name)));
        let element = || document.descendants().find(|node| node.has_tag_name((DJI, name))).and_then(|node| node.text());
        attribute.or_else(element).and_then(|text| text.trim().parse::<f64>().ok()).filter(|figure| figure.is_finite())
    };
    geotag.altitude_m = figure("AbsoluteAltitude").or(geotag.altitude_m);
    geotag.relative_altitude_m = figure("RelativeAltitude");
    geotag.flight_yaw = figure("FlightYawDegree");
    geotag.gimbal_yaw = figure("GimbalYawDegree");
    geotag.gimbal_pitch = figure("GimbalPitchDegree");
    geotag.gimbal_roll = figure("GimbalRollDegree");
}

/// The first APP1 segment with that header, before the first scan; a segment has at most 64 KiB.
fn packet(file: &mut BufReader<File>) -> Option<Vec<u8>> {
    let mut word = [0; 2];
    file.read_exact(&mut word).ok()?;
    loop {
        let mut head = [0; 4];
        file.read_exact(&mut head).ok()?;
        let [0xff, marker, high, low] = head else { return None };
        let len = usize::from(u16::from_be_bytes([high, low])).checked_sub(2)?;
        match marker {
            0xda | 0xd9 => return None,
            0xe1 => {
                let mut segment = vec![0; len];
                file.read_exact(&mut segment).ok()?;
                if let Some(packet) = segment.strip_prefix(HEADER) {
                    return Some(packet.to_vec());
                }
            }
            _ => file.seek_relative(i64::try_from(len).ok()?).ok()?,
        }
    }
}
