//! From pixels of a frame to latitude and longitude: a georeferenced raster, or a camera over flat ground.
//!
//! Units: degrees (north and east positive), metres, pixels of the frame as stored, counted from its upper left corner.
//!
//! # Why
//! Where the datum is WGS-84 already no survey library is needed: geographic coordinates, UTM and Web Mercator are closed formulas or a series.

/// Semi-major axis and flattening of the WGS-84 ellipsoid.
const A: f64 = 6_378_137.0;
const F: f64 = 1.0 / 298.257_223_563;

/// Degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatLon {
    pub lat: f64,
    pub lon: f64,
}

impl LatLon {
    /// On the Earth, or nothing.
    fn checked(lat: f64, lon: f64) -> Option<Self> {
        ((-90.0..=90.0).contains(&lat) && (-360.0..=360.0).contains(&lon)).then_some(Self { lat, lon })
    }

    /// Metres a degree, northwards and eastwards, on the ellipsoid.
    fn metres(self) -> (f64, f64) {
        let e2 = F * (2.0 - F);
        let (sin, cos) = self.lat.to_radians().sin_cos();
        let w = (1.0 - e2 * sin * sin).sqrt();
        let degree = 1.0_f64.to_radians();
        (A * (1.0 - e2) / w.powi(3) * degree, A / w * cos * degree)
    }
}

/// What a raster's coordinates are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crs {
    /// EPSG:4326, longitude first.
    Geographic,
    /// EPSG:326xx and 327xx.
    Utm { zone: u8, south: bool },
    /// EPSG:3857.
    WebMercator,
}

impl Crs {
    #[must_use]
    pub fn from_epsg(code: u16) -> Option<Self> {
        let zone = u8::try_from(code % 100).ok().filter(|zone| (1..=60).contains(zone));
        match code {
            4326 => Some(Self::Geographic),
            3857 => Some(Self::WebMercator),
            32_601..=32_660 => Some(Self::Utm { zone: zone?, south: false }),
            32_701..=32_760 => Some(Self::Utm { zone: zone?, south: true }),
            _ => None,
        }
    }

    fn locate(self, x: f64, y: f64) -> Option<LatLon> {
        match self {
            Self::Geographic => LatLon::checked(y, x),
            Self::WebMercator => LatLon::checked((y / A).sinh().atan().to_degrees(), (x / A).to_degrees()),
            Self::Utm { zone, south } => utm(zone, south, x, y),
        }
    }
}

/// The inverse of the transverse Mercator projection by Krüger's series (Karney 2011, to n⁴: under a micrometre inside a zone).
fn utm(zone: u8, south: bool, x: f64, y: f64) -> Option<LatLon> {
    let n = F / (2.0 - F);
    let (n2, n3, n4) = (n * n, n.powi(3), n.powi(4));
    let radius = A / (1.0 + n) * (1.0 + n2 / 4.0 + n4 / 64.0);
    let beta = [
        n / 2.0 - 2.0 / 3.0 * n2 + 37.0 / 96.0 * n3 - n4 / 360.0,
        n2 / 48.0 + n3 / 15.0 - 437.0 / 1_440.0 * n4,
        17.0 / 480.0 * n3 - 37.0 / 840.0 * n4,
        4_397.0 / 161_280.0 * n4,
    ];
    let xi = (y - if south { 10_000_000.0 } else { 0.0 }) / (0.9996 * radius);
    let eta = (x - 500_000.0) / (0.9996 * radius);
    let (mut xi1, mut eta1) = (xi, eta);
    for (beta, order) in beta.iter().zip([2.0, 4.0, 6.0, 8.0]) {
        xi1 -= beta * (order * xi).sin() * (order * eta).cosh();
        eta1 -= beta * (order * xi).cos() * (order * eta).sinh();
    }
    // The tangent of the conformal latitude, and from it that of the geographic one by Newton's method.
    let (tau1, e) = (xi1.sin() / (eta1.sinh().powi(2) + xi1.cos().powi(2)).sqrt(), (F * (2.0 - F)).sqrt());
    let mut tau = tau1;
    for _ in 0..5 {
        let root = (1.0 + tau * tau).sqrt();
        let sigma = (e * (e * tau / root).atanh()).sinh();
        let found = tau * (1.0 + sigma * sigma).sqrt() - sigma * root;
        let slope = (1.0 - e * e) * (1.0 + tau * tau) / ((1.0 + (1.0 - e * e) * tau * tau) * root * (1.0 + found * found).sqrt());
        tau += (tau1 - found) / (slope * (1.0 + found * found));
    }
    let middle = f64::from(zone) * 6.0 - 183.0;
    LatLon::checked(tau.atan().to_degrees(), middle + eta1.sinh().atan2(xi1.cos()).to_degrees())
}

/// A raster with coordinates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Raster {
    pub crs: Crs,
    /// x = a·column + b·row + c, y = d·column + e·row + f.
    pub affine: [f64; 6],
}

/// A pinhole over flat ground.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    pub position: LatLon,
    /// Above the ground, metres.
    pub height_m: f64,
    /// Focal length in pixels.
    pub focal_px: f64,
    /// The frame's middle.
    pub centre: (f64, f64),
    /// Degrees: clockwise from north, up from the horizon, clockwise about the optical axis.
    pub yaw: f64,
    pub pitch: f64,
    pub roll: f64,
}

/// How a frame's pixels lie on the ground.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ground {
    Raster(Raster),
    Camera(Camera),
}

impl Ground {
    /// The place behind a point of the stored frame, and its error in metres. `None` where the ray misses the ground or is too flat.
    #[must_use]
    pub fn locate(&self, x: f64, y: f64) -> Option<(LatLon, f64)> {
        match self {
            Self::Raster(raster) => raster.locate(x, y),
            Self::Camera(camera) => camera.locate(x, y),
        }
    }
}

impl Raster {
    fn at(&self, x: f64, y: f64) -> Option<LatLon> {
        let [a, b, c, d, e, f] = self.affine;
        self.crs.locate(a * x + b * y + c, d * x + e * y + f)
    }

    /// A raster says nothing of its own accuracy: the error is half a pixel's diagonal.
    fn locate(&self, x: f64, y: f64) -> Option<(LatLon, f64)> {
        let (here, next) = (self.at(x, y)?, self.at(x + 1.0, y + 1.0)?);
        let (north, east) = here.metres();
        Some((here, ((next.lat - here.lat) * north).hypot((next.lon - here.lon) * east) / 2.0))
    }
}

/// What the sensors of a small aircraft are taken to be good for: position without correction, gimbal, focal length from its 35 mm figure.
const POSITION_M: f64 = 5.0;
const ANGLE: f64 = 1.5;
const FOCAL: f64 = 0.1;
/// Of the height: the barometer's drift, and ground that isn't flat.
const HEIGHT_M: f64 = 3.0;
const HEIGHT: f64 = 0.05;
/// Rays flatter than this say nothing: 10° below the horizon.
const FLATTEST: f64 = 0.17;

impl Camera {
    fn locate(&self, x: f64, y: f64) -> Option<(LatLon, f64)> {
        let ((sy, cy), (sp, cp), (sr, cr)) =
            (self.yaw.to_radians().sin_cos(), self.pitch.to_radians().sin_cos(), self.roll.to_radians().sin_cos());
        // East, north, up.
        let (forward, right, down) = ([cp * sy, cp * cy, sp], [cy, -sy, 0.0], [sy * sp, cy * sp, -cp]);
        let (u, v) = ((x - self.centre.0) / self.focal_px, (y - self.centre.1) / self.focal_px);
        let (along, below) = (u * cr - v * sr, u * sr + v * cr);
        let [east, north, up] = std::array::from_fn(|axis| forward[axis] + right[axis] * along + down[axis] * below);
        let length = east.hypot(north).hypot(up);
        if -up < FLATTEST * length {
            return None;
        }
        let scale = self.height_m / -up;
        let (away, range) = (east.hypot(north) * scale, length * scale);
        let turned = ANGLE.to_radians() * range * range / self.height_m;
        let lifted = away / self.height_m * (HEIGHT_M + HEIGHT * self.height_m);
        let error = POSITION_M.hypot(turned).hypot(lifted).hypot(away * FOCAL);
        let (metres_north, metres_east) = self.position.metres();
        let place = LatLon::checked(self.position.lat + north * scale / metres_north, self.position.lon + east * scale / metres_east)?;
        error.is_finite().then_some((place, error))
    }
}

/// The point of the stored frame `[width, height]` that is seen at `x`, `y` under EXIF `orientation`.
#[must_use]
pub fn stored(orientation: u8, (width, height): (f64, f64), (x, y): (f64, f64)) -> (f64, f64) {
    match orientation {
        2 => (width - x, y),
        3 => (width - x, height - y),
        4 => (x, height - y),
        5 => (y, x),
        6 => (y, height - x),
        7 => (width - y, height - x),
        8 => (width - y, x),
        _ => (x, y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_places() {
        // By GDAL 3.10, but for the first, the projection's origin: zone, south, easting, northing, latitude, longitude.
        let cases = [
            (31, false, 500_000.0, 0.0, 0.0, 3.0),
            (31, false, 448_000.0, 5_411_900.0, 48.857_885_004_682_61, 2.291_071_619_759_391),
            (56, true, 334_873.25, 6_252_266.0, -33.857_000_835_767_98, 151.215_000_535_637_42),
            (33, false, 790_000.0, 9_000_000.0, 80.694_233_945_970_88, 31.271_125_347_450_972),
        ];
        for (zone, south, x, y, lat, lon) in cases {
            let found = Crs::Utm { zone, south }.locate(x, y).unwrap();
            assert!((found.lat - lat).abs() < 1e-9 && (found.lon - lon).abs() < 1e-9, "{found:?}, wanted {lat} {lon}");
        }
        let corner = Crs::WebMercator.locate(20_037_508.342_789, 20_037_508.342_789).unwrap();
        assert!((corner.lat - 85.051_128_78).abs() < 1e-7 && (corner.lon - 180.0).abs() < 1e-9);
        assert_eq!(Crs::from_epsg(32_633), Some(Crs::Utm { zone: 33, south: false }));
        assert!([32_600, 32_661, 32_700, 2_056, 0].into_iter().all(|code| Crs::from_epsg(code).is_none()));
        assert!(Crs::Geographic.locate(10.0, 91.0).is_none());
    }

    #[test]
    fn a_camera_sees_what_is_under_it() {
        let position = LatLon { lat: 47.0, lon: 8.0 };
        let camera = Camera { position, height_m: 100.0, focal_px: 1_000.0, centre: (500.0, 400.0), yaw: 90.0, pitch: -90.0, roll: 0.0 };
        let (middle, least) = Ground::Camera(camera).locate(500.0, 400.0).unwrap();
        assert!((middle.lat - 47.0).abs() < 1e-12 && (middle.lon - 8.0).abs() < 1e-12);
        // Facing east, the upper edge is 40 m east; the right one 50 m south.
        let metres = |place: LatLon| ((place.lat - 47.0) * 111_170.0, (place.lon - 8.0) * 76_060.0);
        let (north, east) = metres(camera.locate(500.0, 0.0).unwrap().0);
        assert!(north.abs() < 0.01 && (east - 40.0).abs() < 0.1, "{north} {east}");
        let (place, error) = camera.locate(1_000.0, 400.0).unwrap();
        let (north, east) = metres(place);
        assert!((north + 50.0).abs() < 0.1 && east.abs() < 0.01 && error > least, "{north} {east} {error}");
        // Looking down by 45°, the middle is as far away as it is high; towards the horizon nothing is said.
        let tilted = Camera { pitch: -45.0, yaw: 0.0, ..camera };
        assert!((metres(tilted.locate(500.0, 400.0).unwrap().0).0 - 100.0).abs() < 0.1);
        assert_eq!(Camera { pitch: 0.0, ..camera }.locate(500.0, 400.0), None);
    }

    #[test]
    fn orientations_go_back_to_the_stored_corner() {
        // Where the stored upper left corner is seen, in a stored frame of 40 × 30.
        let seen = [(0.0, 0.0), (40.0, 0.0), (40.0, 30.0), (0.0, 30.0), (0.0, 0.0), (30.0, 0.0), (30.0, 40.0), (0.0, 40.0)];
        for (orientation, seen) in (1..).zip(seen) {
            assert_eq!(stored(orientation, (40.0, 30.0), seen), (0.0, 0.0), "{orientation}");
        }
    }
}
