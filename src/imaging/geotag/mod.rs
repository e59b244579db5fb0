//! Where a frame was taken, from what its file says of itself.
//!
//! # Why
//! A box in pixels is of no use to a pilot, one in coordinates is; and a wrong one is worse than none. So every figure is the file's own, and where one is
//! missing the place on the ground is absent, with the reason.

pub(super) mod exif;
pub(super) mod geotiff;
pub(super) mod xmp;

use serde::Serialize;

use crate::geometry::{Camera, Ground, LatLon};

/// What a file says of its place. Degrees and metres.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Geotag {
    /// Latitude and longitude of the camera.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<[f64; 2]>,
    /// Above sea level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub altitude_m: Option<f64>,
    /// Above the take-off point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_altitude_m: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flight_yaw: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gimbal_yaw: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gimbal_pitch: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gimbal_roll: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub focal_35mm: Option<f64>,
    /// Why pixels have no place on the ground.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_ground: Option<String>,
    #[serde(skip)]
    pub ground: Option<Ground>,
}

/// The diagonal of a 35 mm frame, in millimetres.
const DIAGONAL_35MM: f64 = 43.266_6;

impl Geotag {
    /// The pinhole of a stored frame of `width` × `height`, from the figures that are there.
    pub(super) fn with_camera(mut self, width: f64, height: f64) -> Self {
        match self.camera(width, height) {
            Ok(camera) => self.ground = Some(Ground::Camera(camera)),
            Err(lacking) => self.no_ground = Some(format!("the file has no {lacking}")),
        }
        self
    }

    fn camera(&self, width: f64, height: f64) -> Result<Camera, &'static str> {
        let [lat, lon] = self.position.ok_or("position")?;
        let height_m = self.relative_altitude_m.filter(|height| *height > 1.0).ok_or("height above the ground")?;
        let focal = self.focal_35mm.filter(|focal| *focal > 1.0).ok_or("focal length as of 35 mm film")?;
        Ok(Camera {
            position: LatLon { lat, lon },
            height_m,
            focal_px: focal * width.hypot(height) / DIAGONAL_35MM,
            centre: (width / 2.0, height / 2.0),
            yaw: self.gimbal_yaw.ok_or("gimbal yaw")?,
            pitch: self.gimbal_pitch.ok_or("gimbal pitch")?,
            roll: self.gimbal_roll.ok_or("gimbal roll")?,
        })
    }
}
