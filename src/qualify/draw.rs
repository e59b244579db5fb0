//! Frames to qualify with where none are given: seeded fields, roads and roofs, as JPEG, drawn row by row.

use std::path::Path;

use jpeg_encoder::{Encoder, ImageBuffer, JpegColorType, rgb_to_ycbcr};

use crate::qualify::QualifyError;
use crate::qualify::measure::Choices;
use crate::units::Px;

/// A frame that is worked out as the encoder asks for its rows: a drawn one must not count as memory of the pipeline.
struct Drawn {
    width: u16,
    height: u16,
    /// Side of a field, fields across, and their colours.
    field: usize,
    across: usize,
    fields: Vec<[u8; 3]>,
    /// Roofs and vehicles, those in front last.
    things: Vec<Thing>,
    seed: u32,
}

struct Thing {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    colour: [u8; 3],
}

impl ImageBuffer for Drawn {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    fn width(&self) -> u16 {
        self.width
    }

    fn height(&self) -> u16 {
        self.height
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let y = usize::from(y);
        let first = buffers[0].len();
        // Grain differs from row to row.
        let mut grain = (self.seed ^ (y as u32).wrapping_mul(0x9E37_79B9)) | 1;
        let mut put = |at: usize, [r, g, b]: [u8; 3]| {
            let (luma, blue, red) = rgb_to_ycbcr(r, g, b);
            for (buffer, value) in buffers.iter_mut().zip([luma, blue, red]) {
                if at < buffer.len() { buffer[at] = value } else { buffer.push(value) }
            }
        };
        for x in 0..usize::from(self.width) {
            grain = grain.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (grain >> 28) as u8;
            put(first + x, self.fields[y / self.field * self.across + x / self.field].map(|value| value + noise));
        }
        for thing in self.things.iter().filter(|thing| (thing.top..thing.top + thing.height).contains(&y)) {
            (thing.left..(thing.left + thing.width).min(usize::from(self.width))).for_each(|x| put(first + x, thing.colour));
        }
    }
}

/// Draws a frame of `width` × `height` into the file `path`. The same seed draws the same.
///
/// # Errors
/// A file that can't be written, a side of 0 or above a JPEG's 65,535.
pub fn draw(path: &Path, width: Px, height: Px, seed: u64) -> Result<(), QualifyError> {
    let wrong = |found: String| QualifyError::File { path: path.to_owned(), wanted: "a frame drawn", found };
    let sides = u16::try_from(width.0).ok().zip(u16::try_from(height.0).ok()).filter(|(w, h)| *w > 0 && *h > 0);
    let (w, h) = sides.ok_or_else(|| wrong(format!("{width} x {height}")))?;
    let mut choices = Choices::new(seed);
    let mut below = move |bound: usize| choices.below(bound);
    let (columns, rows) = (width.get(), height.get());
    let field = (columns.max(rows) / 12).max(8);
    let across = columns.div_ceil(field);
    let mut tone = |least: u8, span: u8| least + u8::try_from(below(usize::from(span))).unwrap_or(0);
    let fields = (0..across * rows.div_ceil(field)).map(|_| [40, 60, 30].map(|least| tone(least, 80))).collect();
    let things = (0..columns * rows / 40_000).map(|_| {
        let colour = [(); 3].map(|()| tone(90, 160));
        let [width, height] = [(); 2].map(|()| usize::from(tone(6, 60)));
        (colour, width, height)
    });
    let things: Vec<_> = things.collect();
    let things =
        things.into_iter().map(|(colour, width, height)| Thing { left: below(columns), top: below(rows), width, height, colour }).collect();
    let frame = Drawn { width: w, height: h, field, across, fields, things, seed: seed as u32 };
    let encoder = Encoder::new_file(path, 90).map_err(|error| wrong(error.to_string()))?;
    encoder.encode_image(frame).map_err(|error| wrong(error.to_string()))
}
