//! JPEG, PNG, TIFF and WebP bytes → header, orientation, place (EXIF, XMP, GeoTIFF), rows, views.

use uhr_edge::geometry::{Layout, Rect, VisionShape};
use uhr_edge::imaging::{FrameSource, Limits, Pyramid, Reading};
use uhr_edge::kernels::{Isa, Pool};
use uhr_edge::units::{Bytes, Px};

pub fn run(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let limits = Limits { max_side: Px(2_048), max_pixels: 1 << 20, whole: Bytes(8 << 20) };
    // One file in two is allowed to end early.
    let reading = Reading { bands: None, allow_truncated: bytes.len().is_multiple_of(2) };
    let Ok(source) = FrameSource::open_as(file.path(), &limits, &reading) else { return };
    let shape = VisionShape::new(vec![Px(56), Px(112)], Px(56), Px(14), [0.5; 3], [0.25; 3]).unwrap();
    let (width, height) = source.size();
    let _ = source.corners(Rect { x: 0.0, y: 0.0, w: f64::from(width.0), h: f64::from(height.0) });
    let layout = Layout::new(&shape, width, height).unwrap();
    let mut pyramid = Pyramid::new(&shape, limits.max_side, Isa::detect());
    let _ = pyramid.fill(&source, &layout, &limits, &Pool::new(1), &mut |_| ());
}
