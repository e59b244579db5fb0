//! Where the vehicle was when a frame was taken: from the autopilot's own messages, joined by time, with the error of that time said.
//!
//! # Why
//! A camera without GPS writes frames without a place. The autopilot says where it is several times a second; the nearest such moment is a place for the
//! frame, as good as the two clocks agree. How far apart the moments were is in the tag: nobody has to trust it blindly.

use std::time::Duration;

use serde_json::{Value, json};

use crate::link::clock::At;
use crate::link::dialect::{ATTITUDE_DATA, CAMERA_FEEDBACK_DATA, CAMERA_IMAGE_CAPTURED_DATA, GLOBAL_POSITION_INT_DATA};

/// Moments that are remembered: half a minute at 4 Hz.
const MOMENTS: usize = 128;
const SHOTS: usize = 64;
/// Nothing further off is joined.
const FAR: Duration = Duration::from_secs(2);
/// A camera's message may be heard so much after the file that it is about.
const ON_ITS_WAY: Duration = Duration::from_millis(250);

/// A moment of the vehicle, by when it was heard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    at: At,
    /// Degrees, metres above mean sea level and above home; `None`: this moment tells the angles.
    place: Option<(f64, f64, f64, f64)>,
    /// Radians: roll, pitch, yaw.
    angles: Option<(f32, f32, f32)>,
}

impl Pose {
    #[must_use]
    pub fn place(packet: &GLOBAL_POSITION_INT_DATA, at: At) -> Self {
        let place =
            degrees(packet.lat, packet.lon).map(|(lat, lon)| (lat, lon, f64::from(packet.alt) / 1e3, f64::from(packet.relative_alt) / 1e3));
        Self { at, place, angles: None }
    }
    #[must_use]
    pub fn angles(packet: &ATTITUDE_DATA, at: At) -> Self {
        let angles = (packet.roll, packet.pitch, packet.yaw);
        let finite = [angles.0, angles.1, angles.2].iter().all(|angle| angle.is_finite());
        Self { at, place: None, angles: finite.then_some(angles) }
    }
}

/// A moment in which a camera says that it took a picture, and where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shot {
    at: At,
    place: Option<(f64, f64, f64, f64)>,
}

impl Shot {
    #[must_use]
    pub fn feedback(packet: &CAMERA_FEEDBACK_DATA, at: At) -> Self {
        let heights = (f64::from(packet.alt_msl), f64::from(packet.alt_rel));
        let place = degrees(packet.lat, packet.lng).filter(|_| heights.0.is_finite() && heights.1.is_finite());
        Self { at, place: place.map(|(lat, lon)| (lat, lon, heights.0, heights.1)) }
    }
    #[must_use]
    pub fn captured(packet: &CAMERA_IMAGE_CAPTURED_DATA, at: At) -> Self {
        let place = degrees(packet.lat, packet.lon).filter(|_| packet.capture_result == 1);
        Self { at, place: place.map(|(lat, lon)| (lat, lon, f64::from(packet.alt) / 1e3, f64::from(packet.relative_alt) / 1e3)) }
    }
}

/// From 10⁻⁷ degrees; `None` for what is no place, and for 0, 0, which is what an autopilot without a fix says.
fn degrees(lat: i32, lon: i32) -> Option<(f64, f64)> {
    let (lat, lon) = (f64::from(lat) / 1e7, f64::from(lon) / 1e7);
    (lat.abs() <= 90.0 && lon.abs() <= 180.0 && (lat, lon) != (0.0, 0.0)).then_some((lat, lon))
}

/// The last moments that were heard.
#[derive(Default)]
pub struct Track {
    moments: heapless::Deque<Pose, MOMENTS>,
    shots: heapless::Deque<Shot, SHOTS>,
}

impl Track {
    pub fn hear(&mut self, pose: Pose) {
        if self.moments.is_full() {
            self.moments.pop_front();
        }
        let _ = self.moments.push_back(pose);
    }

    pub fn shot(&mut self, shot: Shot) {
        if self.shots.is_full() {
            self.shots.pop_front();
        }
        let _ = self.shots.push_back(shot);
    }

    /// A tag for a frame whose file was written at `at`, which is known to within `within`. `None`: nothing is near.
    ///
    /// A camera's message that came before the file is about the moment of the shutter, which no pose is, and goes first; of a later one and a pose, the nearer.
    #[must_use]
    pub fn tag(&self, at: At, within: Duration) -> Option<Value> {
        let off = |other: At| at.since(other).max(other.since(at));
        let shot = self.shots.iter().filter_map(|shot| Some(("camera", shot.at, shot.place?))).min_by_key(|(_, other, _)| off(*other));
        let place =
            self.moments.iter().filter_map(|pose| Some(("autopilot", pose.at, pose.place?))).min_by_key(|(_, other, _)| off(*other));
        let near = |(_, other, _): &(&str, At, _)| off(*other) <= FAR;
        let (source, heard, (lat, lon, alt, relative)) = match (shot.filter(near), place.filter(near)) {
            (Some(shot), Some(place)) if shot.1 > at.after(ON_ITS_WAY) && off(place.1) < off(shot.1) => place,
            (Some(shot), _) => shot,
            (None, place) => place?,
        };
        let mut tag = json!({
            "source": source,
            "position": [lat, lon],
            "altitude_m": alt,
            "relative_altitude_m": relative,
            "time_error_ms": (off(heard) + within).as_millis() as u64,
        });
        let angles = self.moments.iter().filter_map(|pose| Some((pose.at, pose.angles?))).min_by_key(|(other, _)| off(*other));
        if let Some((_, (roll, pitch, yaw))) = angles.filter(|(other, _)| off(*other) <= FAR) {
            let degrees = |angle: f32| f64::from(angle).to_degrees();
            tag["flight_roll"] = json!(degrees(roll));
            tag["flight_pitch"] = json!(degrees(pitch));
            tag["flight_yaw"] = json!(degrees(yaw).rem_euclid(360.0));
        }
        Some(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> At {
        At(Duration::from_millis(ms))
    }

    #[test]
    fn the_nearest_moment_is_joined_and_its_distance_said() {
        let mut track = Track::default();
        for ms in (0..100_000).step_by(250) {
            let packet = GLOBAL_POSITION_INT_DATA {
                lat: 473_000_000 + ms as i32,
                lon: 85_000_000,
                alt: 500_000,
                relative_alt: 80_000,
                ..GLOBAL_POSITION_INT_DATA::DEFAULT
            };
            track.hear(Pose::place(&packet, at(ms)));
        }
        track.hear(Pose::angles(&ATTITUDE_DATA { yaw: -0.5, ..ATTITUDE_DATA::DEFAULT }, at(99_900)));
        let tag = track.tag(at(99_840), Duration::ZERO).unwrap();
        assert_eq!((tag["time_error_ms"].as_u64(), tag["source"].as_str()), (Some(90), Some("autopilot")));
        assert!((tag["flight_yaw"].as_f64().unwrap() - 331.352).abs() < 0.01);
        // A file that was seen 1.7 s after it was written: that much less is known of its moment.
        assert_eq!(track.tag(at(99_840), Duration::from_millis(1_700)).unwrap()["time_error_ms"], 1_790);
        assert!(track.tag(at(10_000), Duration::ZERO).is_none() && track.tag(at(110_000), Duration::ZERO).is_none());
        track.shot(Shot::feedback(&CAMERA_FEEDBACK_DATA { lat: 1, lng: 1, ..CAMERA_FEEDBACK_DATA::DEFAULT }, at(99_000)));
        assert_eq!(track.tag(at(99_840), Duration::ZERO).unwrap()["source"], "camera");
        // Long before the next picture, the pose at hand is nearer than the camera's word of it.
        assert_eq!(track.tag(at(98_000), Duration::ZERO).unwrap()["source"], "autopilot");
        let nowhere = GLOBAL_POSITION_INT_DATA { lat: i32::MAX, ..GLOBAL_POSITION_INT_DATA::DEFAULT };
        assert!(Pose::place(&nowhere, at(0)).place.is_none() && Pose::place(&GLOBAL_POSITION_INT_DATA::DEFAULT, at(0)).place.is_none());
    }
}
