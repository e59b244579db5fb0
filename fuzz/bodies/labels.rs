//! PNG, TIFF and npy bytes → a label map, and the votes on it.

use uhr_edge::compress::regions::Voter;
use uhr_edge::geometry::{Layout, VisionShape};
use uhr_edge::imaging::{LabelMap, Limits};
use uhr_edge::kernels::Pool;
use uhr_edge::units::{Bytes, Px};

pub fn run(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let limits = Limits { max_side: Px(512), max_pixels: 1 << 16, whole: Bytes(4 << 20) };
    let Ok(map) = LabelMap::open(file.path(), &limits) else { return };
    let shape = VisionShape::new(vec![Px(56), Px(112)], Px(56), Px(14), [0.5; 3], [0.25; 3]).unwrap();
    let (width, height) = map.size();
    let layout = Layout::new(&shape, width, height).unwrap();
    let mut voter = Voter::new(&shape, limits.max_side, 1);
    let mut labels = vec![0; shape.all_tokens().get()];
    voter.start(&layout, &|_| true, (width, height), &mut labels).unwrap();
    let pool = Pool::new(1);
    let _ = map.rows(&limits, &mut |row| voter.row(row, &pool, &mut labels));
}
