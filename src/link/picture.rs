//! What a ground station sees of an answer: the frame, or what of it mattered, as a JPEG of a size that the link can carry.
//!
//! # Why
//! A frame has a hundred megabytes, a radio carries one kilobyte a second. First comes a glimpse of 2 kB, the whole frame with the evidence outlined; who wants
//! to see more asks for the detail, the evidence and its surroundings in what the line carries in 20 s.

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use serde_json::Value;

use crate::geometry::{GeometryError, Layout, Rect, VisionShape};
use crate::imaging::{FrameSource, ImagingError, Limits, Pyramid, Reading, decoder_bytes};
use crate::journal::FrameEntry;
use crate::kernels::{Isa, Pool};
use crate::units::{Bytes, BytesPerSecond, Px};

/// Which picture of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureKind {
    Glimpse,
    /// In at most so many bytes: [`detail_bytes`] of the line.
    Evidence(Bytes),
}

/// Bytes of a detail: at least, and at most.
pub const LEAST_DETAIL: Bytes = Bytes(4_096);
pub const MOST_DETAIL: Bytes = Bytes(262_144);
/// What a detail may take on its line, without what is lost.
const DETAIL_SECONDS: u64 = 20;

/// Most bytes of a detail for a line of such a rate.
#[must_use]
pub fn detail_bytes(rate: BytesPerSecond) -> Bytes {
    Bytes(u64::from(rate.0) * DETAIL_SECONDS).clamp(LEAST_DETAIL, MOST_DETAIL)
}

impl PictureKind {
    fn most(self) -> Bytes {
        match self {
            Self::Glimpse => Bytes(2_048),
            Self::Evidence(most) => most,
        }
    }

    /// Longer sides, the largest first that is worth the trying: a pixel takes a third of a bit at least.
    fn sides(self) -> impl Iterator<Item = usize> {
        let sides: &[usize] = match self {
            Self::Glimpse => &[192, 160, 128, 96, 64, 48],
            Self::Evidence(_) => &[1_344, 1_024, 832, 640, 512, 384, 256, 192, 128, 96],
        };
        let most = self.most().0.saturating_mul(24);
        sides.iter().copied().filter(move |side| (side * side) as u64 <= most)
    }
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error(transparent)]
    Imaging(#[from] ImagingError),
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    #[error("picture: wanted a JPEG of at most {allowed}, found none small enough")]
    Large { allowed: Bytes },
    #[error("picture of {width} x {height}: {reason}")]
    Encode { width: usize, height: usize, reason: String },
}

/// The side of the view that pictures are cut from.
const VIEW: Px = Px(1_344);
const TILE: Px = Px(336);
const PATCH: Px = Px(14);
const MARK: [u8; 3] = [255, 0, 255];

/// Most that [`draw`] holds for frames of at most `max_side` pixels a side, beside what a picture that isn't decoded by rows is admitted for.
///
/// # Errors
/// None but of a shape that is fixed here.
pub fn picture_bytes(max_side: Px) -> Result<Bytes, GeometryError> {
    let shape = VisionShape::new(vec![VIEW], TILE, PATCH, [0.5; 3], [1.0; 3])?;
    let (views, workshop) = Pyramid::bytes(&shape, max_side);
    // The part that is cut out, and its smaller copies.
    Ok(views + views + views + workshop + decoder_bytes(max_side))
}

/// Pixels, `[h, w, 3]`.
struct Canvas {
    w: usize,
    h: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    /// A part of a picture whose rows are `stride` pixels.
    fn cut(rgb: &[u8], stride: usize, [x, y, w, h]: [usize; 4]) -> Self {
        let rows = (y..y + h).flat_map(|row| rgb[(row * stride + x) * 3..(row * stride + x + w) * 3].iter().copied());
        Self { w, h, rgb: rows.collect() }
    }

    /// As much smaller as the longer side says, each pixel the mean of those it covers.
    fn reduced(&self, longer: usize) -> Self {
        let scale = self.w.max(self.h) as f64 / longer as f64;
        if scale <= 1.0 {
            return Self { w: self.w, h: self.h, rgb: self.rgb.clone() };
        }
        let side = |length: usize| ((length as f64 / scale).round() as usize).max(1);
        let (w, h) = (side(self.w), side(self.h));
        let mut rgb = Vec::with_capacity(w * h * 3);
        for y in 0..h {
            for x in 0..w {
                let (x0, x1) = (x * self.w / w, ((x + 1) * self.w).div_ceil(w));
                let (y0, y1) = (y * self.h / h, ((y + 1) * self.h).div_ceil(h));
                let mut sums = [0_usize; 3];
                for row in y0..y1 {
                    for pixel in self.rgb[(row * self.w + x0) * 3..(row * self.w + x1) * 3].as_chunks::<3>().0 {
                        sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += usize::from(*value));
                    }
                }
                rgb.extend(sums.map(|sum| (sum / ((x1 - x0) * (y1 - y0))) as u8));
            }
        }
        Self { w, h, rgb }
    }

    /// Outlines a box, in this canvas's pixels, one pixel wide.
    fn outline(&mut self, [x0, y0, x1, y1]: [f64; 4]) {
        let clamp = |value: f64, most: usize| (value.max(0.0) as usize).min(most - 1);
        let (x0, x1) = (clamp(x0, self.w), clamp(x1, self.w));
        let (y0, y1) = (clamp(y0, self.h), clamp(y1, self.h));
        let mut dot = |x: usize, y: usize| self.rgb[(y * self.w + x) * 3..][..3].copy_from_slice(&MARK);
        (x0..=x1).for_each(|x| [y0, y1].into_iter().for_each(|y| dot(x, y)));
        (y0..=y1).for_each(|y| [x0, x1].into_iter().for_each(|x| dot(x, y)));
    }

    fn jpeg(&self, quality: u8) -> Result<Vec<u8>, PictureError> {
        let wrong = |reason: String| PictureError::Encode { width: self.w, height: self.h, reason };
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, quality);
        encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
        encoder.set_optimized_huffman_tables(true);
        let side = |length: usize| u16::try_from(length).map_err(|error| wrong(error.to_string()));
        encoder.encode(&self.rgb, side(self.w)?, side(self.h)?, ColorType::Rgb).map_err(|error| wrong(error.to_string()))?;
        Ok(bytes)
    }
}

/// The boxes of the first frame in an answer's document.
fn evidence(document: &Value) -> impl Iterator<Item = Rect> + '_ {
    let boxes = document["receipt"]["evidence"].as_array().map(Vec::as_slice).unwrap_or_default();
    let number = |entry: &Value, key: &str| entry[key].as_f64().unwrap_or(0.0);
    boxes.iter().filter(|entry| entry["frame"].as_u64().unwrap_or(0) == 0).map(move |entry| Rect {
        x: number(entry, "x"),
        y: number(entry, "y"),
        w: number(entry, "w"),
        h: number(entry, "h"),
    })
}

/// Draws a picture of an answer about `frame`. Decodes the frame: seconds for a large one.
///
/// # Errors
/// A frame that is gone, changed or doesn't decode.
pub fn draw(frame: &FrameEntry, document: &Value, kind: PictureKind, limits: &Limits, reading: &Reading) -> Result<Vec<u8>, PictureError> {
    let source = FrameSource::open_as(&frame.path, limits, reading)?;
    let found = source.digest.to_string();
    if found != frame.sha256 {
        return Err(ImagingError::Changed { path: frame.path.clone(), wanted: frame.sha256.clone(), found }.into());
    }
    let shape = VisionShape::new(vec![VIEW], TILE, PATCH, [0.5; 3], [1.0; 3])?;
    let (width, height) = source.size();
    let layout = Layout::new(&shape, width, height)?;
    let mut pyramid = Pyramid::new(&shape, limits.max_side.min(width.max(height)), Isa::detect());
    pyramid.fill(&source, &layout, limits, &Pool::new(1), &mut |_| ())?;
    let view = layout.finest();
    let content = view.content;
    let boxes: Vec<Rect> = evidence(document).map(|rect| view.from_frame(rect)).collect();
    let whole = [content.left, content.top, content.width, content.height];
    let part = match kind {
        PictureKind::Glimpse => whole,
        PictureKind::Evidence(_) => boxes.iter().copied().reduce(Rect::union).map_or(whole, |rect| around(rect, whole)),
    };
    let canvas = Canvas::cut(pyramid.view(view.id.index()), view.side.get(), part);
    let longer = canvas.w.max(canvas.h);
    // A part that is smaller than the largest side is tried as it is first.
    let as_it_is = kind.sides().next().filter(|largest| *largest > longer).map(|_| longer);
    for side in as_it_is.into_iter().chain(kind.sides().filter(|side| *side <= longer)) {
        let mut small = canvas.reduced(side);
        let scale = small.w as f64 / canvas.w as f64;
        for rect in &boxes {
            let (x, y) = (rect.x - part[0] as f64, rect.y - part[1] as f64);
            small.outline([x, y, x + rect.w, y + rect.h].map(|value| value * scale));
        }
        for quality in [80, 65, 50, 35, 20] {
            let bytes = small.jpeg(quality)?;
            if Bytes::of::<u8>(bytes.len()) <= kind.most() {
                return Ok(bytes);
            }
        }
    }
    Err(PictureError::Large { allowed: kind.most() })
}

/// A box with a quarter of its size around it, 128 pixels a side at least, within `whole`.
fn around(rect: Rect, whole: [usize; 4]) -> [usize; 4] {
    let span = |from: f64, len: f64, low: usize, most: usize| {
        let wanted = (len * 1.5).max(128.0).min(most as f64);
        let start = (from + len / 2.0 - wanted / 2.0).clamp(low as f64, (low + most) as f64 - wanted);
        (start as usize, wanted as usize)
    };
    let (x, w) = span(rect.x, rect.w, whole[0], whole[2]);
    let (y, h) = span(rect.y, rect.h, whole[1], whole[3]);
    [x, y, w.max(1), h.max(1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::FrameState;
    use crate::units::{FrameId, FrameNumber, UnixMillis};
    use serde_json::json;

    #[test]
    fn pictures_keep_to_their_sizes() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/drawn.jpg");
        let limits = Limits { max_side: Px(8_192), max_pixels: 1 << 26, whole: Bytes(0) };
        let source = FrameSource::open(&path, &limits).unwrap();
        let mut frame = FrameEntry {
            number: FrameNumber(1),
            id: FrameId([0; 8]),
            sha256: source.digest.to_string(),
            path,
            w: source.size().0.0,
            h: source.size().1.0,
            bytes: 0,
            seen_at: UnixMillis(0),
            state: FrameState::Ready,
            reason: None,
            in_slot: false,
            ingest_ms: None,
            geotag: None,
            begun: 0,
        };
        let document = json!({ "receipt": { "evidence": [{ "frame": 0, "x": 100, "y": 200, "w": 400, "h": 300, "score": 1.0 }] } });
        let drawn = |frame: &FrameEntry, document: &Value, kind| draw(frame, document, kind, &limits, &Reading::default());
        let glimpse = drawn(&frame, &document, PictureKind::Glimpse).unwrap();
        let detail = |rate| PictureKind::Evidence(detail_bytes(BytesPerSecond(rate)));
        let evidence = drawn(&frame, &document, detail(1_200)).unwrap();
        // What a line carries is what its detail has, within limits.
        assert_eq!([0, 1_152, 18_432, u32::MAX].map(|rate| detail_bytes(BytesPerSecond(rate)).0), [4_096, 23_040, 262_144, 262_144]);
        let (slow, fast) = (drawn(&frame, &document, detail(200)).unwrap(), drawn(&frame, &document, detail(100_000)).unwrap());
        assert!(slow.len() <= 4_096 && slow.len() <= evidence.len() && evidence.len() <= fast.len() && fast.len() <= 262_144);
        // Of the whole frame, more is seen on a fast line.
        let whole = |rate| drawn(&frame, &json!({}), detail(rate)).unwrap().len();
        let sizes = [200, 1_200, 100_000].map(whole);
        assert!(sizes.is_sorted() && sizes[0] < sizes[2], "{sizes:?}");
        assert!(glimpse.len() <= 2_048 && evidence.len() <= 24_576, "{} {}", glimpse.len(), evidence.len());
        assert!(glimpse.starts_with(&[0xff, 0xd8]) && evidence.starts_with(&[0xff, 0xd8]));
        // Without evidence, the whole frame.
        assert!(drawn(&frame, &json!({}), detail(1_200)).is_ok());
        frame.sha256 = "another".into();
        assert!(matches!(drawn(&frame, &document, PictureKind::Glimpse), Err(PictureError::Imaging(ImagingError::Changed { .. }))));
    }
}
