//! GeoTIFF (OGC 19-008r4): coordinates of a raster.

use tiff::tags::Tag;

use crate::geometry::{Crs, Ground, Raster};
use crate::imaging::geotag::Geotag;
use crate::imaging::source::tiff::Reader;

/// Keys: kind of raster (2: a coordinate is a pixel's centre), geographic and projected system.
const RASTER_TYPE: u16 = 1025;
const GEOGRAPHIC: u16 = 2048;
const PROJECTED: u16 = 3072;

/// `None` for a TIFF without any coordinates.
pub fn read(reader: &mut Reader) -> Option<Geotag> {
    let keys = reader.get_tag_u16_vec(Tag::GeoKeyDirectoryTag).ok()?;
    let outcome = crs(&keys).and_then(|crs| Ok(Raster { crs, affine: affine(reader, &keys)? }));
    Some(match outcome {
        Ok(raster) => Geotag { ground: Some(Ground::Raster(raster)), ..Geotag::default() },
        Err(reason) => Geotag { no_ground: Some(reason), ..Geotag::default() },
    })
}

/// The value of a key that stands in the directory itself.
fn key(keys: &[u16], wanted: u16) -> Option<u16> {
    keys.as_chunks::<4>().0.iter().skip(1).find(|[id, place, ..]| *id == wanted && *place == 0).map(|entry| entry[3])
}

fn crs(keys: &[u16]) -> Result<Crs, String> {
    let code = key(keys, PROJECTED).or_else(|| key(keys, GEOGRAPHIC)).ok_or("the coordinates' reference system isn't named")?;
    Crs::from_epsg(code).ok_or_else(|| format!("wanted coordinates in EPSG:4326, 3857, 326xx or 327xx, found EPSG:{code}"))
}

fn affine(reader: &mut Reader, keys: &[u16]) -> Result<[f64; 6], String> {
    let mut numbers = |tag| reader.get_tag_f64_vec(tag).unwrap_or_default();
    let matrix = numbers(Tag::ModelTransformationTag);
    let (scale, points) = (numbers(Tag::ModelPixelScaleTag), numbers(Tag::ModelTiepointTag));
    let [a, b, c, d, e, f] = match (&matrix[..], &scale[..], &points[..]) {
        (&[a, b, _, c, d, e, _, f, ..], ..) => [a, b, c, d, e, f],
        (_, &[wide, tall, ..], &[column, row, _, x, y, _]) if wide > 0.0 && tall > 0.0 => {
            [wide, 0.0, x - column * wide, 0.0, -tall, y + row * tall]
        }
        _ => return Err("wanted a pixel scale above 0 with one tie point, or a transformation".into()),
    };
    // Coordinates of pixels' centres: a pixel's corner is half a pixel before.
    let half = if key(keys, RASTER_TYPE) == Some(2) { 0.5 } else { 0.0 };
    let affine = [a, b, c - half * (a + b), d, e, f - half * (d + e)];
    match affine {
        _ if affine.iter().any(|number| !number.is_finite()) => Err("coordinates that are not finite".into()),
        [a, b, _, d, e, _] if a * e - b * d == 0.0 => Err("coordinates that don't tell pixels apart".into()),
        _ => Ok(affine),
    }
}
