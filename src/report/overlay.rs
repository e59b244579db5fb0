//! The overlay: one view of the frame with kept tokens outlined by view, merged tokens tinted by region, and evidence boxes.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::geometry::Rect;
use crate::pipeline::{Picture, Shown};

/// Outlines of kept tokens, coarsest view first; a pyramid with more views starts again.
const VIEW_COLOURS: [[u8; 3]; 4] = [[255, 80, 80], [255, 190, 40], [80, 220, 120], [70, 160, 255]];
const EVIDENCE: [u8; 3] = [255, 0, 255];

#[derive(Debug, thiserror::Error)]
#[error("{path}: the overlay cannot be written: {reason}")]
pub struct ReportError {
    path: PathBuf,
    reason: String,
}

/// A canvas over one view, in frame pixels outside and its own pixels inside.
pub struct Overlay<'a> {
    picture: &'a Picture<'a>,
    rgb: Vec<u8>,
}

impl<'a> Overlay<'a> {
    #[must_use]
    pub fn new(picture: &'a Picture<'a>) -> Self {
        Self { picture, rgb: picture.rgb().to_vec() }
    }

    /// Draws the selection of one answer.
    pub fn draw(&mut self, shown: &Shown) {
        for merged in &shown.merged {
            let tint = region_colour(merged.region);
            merged.members.iter().for_each(|&rect| self.fill(rect, tint));
        }
        for kept in &shown.kept {
            self.outline(kept.rect, VIEW_COLOURS[kept.view.index() % VIEW_COLOURS.len()], 1);
        }
        for box_ in &shown.evidence {
            self.outline(Rect { x: box_.x, y: box_.y, w: box_.w, h: box_.h }, EVIDENCE, 3);
        }
    }

    /// Writes the part of the canvas that is frame, without its padding, as PNG.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        let refuse = |reason: String| ReportError { path: path.to_owned(), reason };
        let file = std::fs::File::create(path).map_err(|error| refuse(error.to_string()))?;
        let mut file = std::io::BufWriter::new(file);
        let (left, top, width, height) = self.picture.content();
        let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().map_err(|error| refuse(error.to_string()))?;
        let side = self.picture.side();
        let rows: Vec<u8> =
            (top..top + height).flat_map(|y| self.rgb[(y * side + left) * 3..(y * side + left + width) * 3].iter().copied()).collect();
        writer.write_image_data(&rows).map_err(|error| refuse(error.to_string()))?;
        writer.finish().map_err(|error| refuse(error.to_string()))?;
        file.flush().map_err(|error| refuse(error.to_string()))
    }

    /// The canvas pixels that `rect` covers, at least one, as x0..x1, y0..y1.
    fn pixels(&self, rect: Rect) -> [usize; 4] {
        let side = self.picture.side();
        let (x, y, w, h) = self.picture.from_frame(rect);
        let low = |value: f64| (value.floor().max(0.0) as usize).min(side - 1);
        let high = |value: f64, low: usize| (value.ceil().max(0.0) as usize).clamp(low + 1, side);
        let (x0, y0) = (low(x), low(y));
        [x0, high(x + w, x0), y0, high(y + h, y0)]
    }

    fn fill(&mut self, rect: Rect, colour: [u8; 3]) {
        let [x0, x1, y0, y1] = self.pixels(rect);
        let side = self.picture.side();
        for y in y0..y1 {
            for pixel in self.rgb[(y * side + x0) * 3..(y * side + x1) * 3].chunks_exact_mut(3) {
                for (value, tint) in pixel.iter_mut().zip(colour) {
                    *value = ((u16::from(*value) * 5 + u16::from(tint) * 2) / 7) as u8;
                }
            }
        }
    }

    fn outline(&mut self, rect: Rect, colour: [u8; 3], thick: usize) {
        let [x0, x1, y0, y1] = self.pixels(rect);
        let side = self.picture.side();
        for y in y0..y1 {
            for x in x0..x1 {
                if x < x0 + thick || x + thick >= x1 || y < y0 + thick || y + thick >= y1 {
                    self.rgb[(y * side + x) * 3..][..3].copy_from_slice(&colour);
                }
            }
        }
    }
}

/// A colour of its own for each region number, far from its neighbours'.
fn region_colour(region: u32) -> [u8; 3] {
    let mixed = region.wrapping_mul(0x9E37_79B1);
    [mixed >> 24, mixed >> 16, mixed >> 8].map(|byte| (byte & 0xff) as u8)
}
