//! The GPS and lens tags of EXIF.

use exif::{Exif, In, Tag, Value};

use crate::imaging::geotag::Geotag;

/// Fills in what the tags say.
pub fn read(exif: &Exif, geotag: &mut Geotag) {
    let field = |tag| exif.get_field(tag, In::PRIMARY);
    let numbers = |tag| match field(tag).map(|field| &field.value) {
        Some(Value::Rational(values)) => values.iter().map(|value| value.to_f64()).collect(),
        _ => Vec::new(),
    };
    let letter = |tag| match field(tag).map(|field| &field.value) {
        Some(Value::Ascii(text)) => text.first().and_then(|text| text.first()).copied(),
        _ => None,
    };
    let angle = |tag, reference, [positive, negative]: [u8; 2], most: f64| {
        let parts: Vec<f64> = numbers(tag);
        let (&[degrees, minutes, seconds], Some(letter)) = (&parts[..], letter(reference)) else { return None };
        let value = degrees + minutes / 60.0 + seconds / 3_600.0;
        let sign = if letter == negative { -1.0 } else { 1.0 };
        (value.is_finite() && value <= most && [positive, negative].contains(&letter)).then_some(sign * value)
    };
    let lat = angle(Tag::GPSLatitude, Tag::GPSLatitudeRef, *b"NS", 90.0);
    let lon = angle(Tag::GPSLongitude, Tag::GPSLongitudeRef, *b"EW", 180.0);
    // A receiver without a fix says V, or writes zeros; another datum is up to a kilometre off.
    let fixed = letter(Tag::GPSStatus) != Some(b'V');
    let datum = match field(Tag::GPSMapDatum).map(|field| &field.value) {
        Some(Value::Ascii(text)) => text.first().is_none_or(|text| text.is_empty() || text.starts_with(b"WGS")),
        _ => true,
    };
    let position = lat.zip(lon).filter(|place| *place != (0.0, 0.0));
    geotag.position = position.filter(|_| fixed && datum).map(|(lat, lon)| [lat, lon]);
    let below = field(Tag::GPSAltitudeRef).and_then(|field| field.value.get_uint(0)) == Some(1);
    let altitude = numbers(Tag::GPSAltitude).first().copied().filter(|altitude| altitude.is_finite());
    geotag.altitude_m = altitude.map(|altitude| if below { -altitude } else { altitude });
    geotag.focal_35mm =
        field(Tag::FocalLengthIn35mmFilm).and_then(|field| field.value.get_uint(0)).filter(|focal| *focal > 0).map(f64::from);
}
