//! Frames to qualify with where none are given: seeded fields, roads and roofs, as JPEG.

use std::path::Path;

use jpeg_encoder::{ColorType, Encoder};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::qualify::QualifyError;
use crate::units::Px;

/// Draws a frame of `width` × `height` into the file `path`. The same seed draws the same.
///
/// # Errors
/// A file that can't be written, a side above a JPEG's 65,535.
pub fn draw(path: &Path, width: Px, height: Px, seed: u64) -> Result<(), QualifyError> {
    let wrong = |found: String| QualifyError::File { path: path.to_owned(), wanted: "a frame drawn", found };
    let (Ok(w), Ok(h)) = (u16::try_from(width.0), u16::try_from(height.0)) else {
        return Err(wrong(format!("{width} x {height}")));
    };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut below = move |bound: usize| (random.next_u64() % bound.max(1) as u64) as usize;
    let (columns, rows) = (width.get(), height.get());
    let mut pixels = vec![0; columns * rows * 3];
    // Fields: a patchwork of colours with grain.
    let field = (columns.max(rows) / 12).max(8);
    let across = columns.div_ceil(field);
    let colours: Vec<[u8; 3]> = (0..across * rows.div_ceil(field)).map(|_| [40, 60, 30].map(|low| low + below(80) as u8)).collect();
    let mut grain = seed as u32 | 1;
    for (at, pixel) in pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (x, y) = (at % columns, at / columns);
        grain = grain.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (grain >> 28) as u8;
        *pixel = colours[y / field * across + x / field].map(|value| value + noise);
    }
    // Roofs and vehicles.
    for _ in 0..columns * rows / 40_000 {
        let (w, h) = (6 + below(60), 6 + below(60));
        let (left, top) = (below(columns), below(rows));
        let colour = [(); 3].map(|()| 90 + below(160) as u8);
        for y in top..(top + h).min(rows) {
            pixels[(y * columns + left) * 3..(y * columns + (left + w).min(columns)) * 3].as_chunks_mut().0.fill(colour);
        }
    }
    let encoder = Encoder::new_file(path, 90).map_err(|error| wrong(error.to_string()))?;
    encoder.encode(&pixels, w, h, ColorType::Rgb).map_err(|error| wrong(error.to_string()))
}
