use std::io::Write;
use std::ops::ControlFlow;

use super::*;
use crate::units::FrameId;

/// Smooth, and different at every place.
fn colour(x: usize, y: usize) -> [u8; 3] {
    let wave = |period: f64, at: usize| 100.0 * (at as f64 / period).sin() + 120.0;
    [wave(61.0, x) as u8, wave(83.0, y) as u8, wave(97.0, x + 2 * y) as u8]
}

/// A PNG of `width` × `height` stored pixels with the orientation in an eXIf chunk.
fn png(width: usize, height: usize, orientation: u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| colour(x, y))).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer
        .write_chunk(
            png::chunk::eXIf,
            &[b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[orientation, 0, 0, 0, 0, 0, 0, 0]].concat(),
        )
        .unwrap();
    writer.write_image_data(&pixels).unwrap();
    writer.finish().unwrap();
    bytes
}

fn decode_jpeg(bytes: &[u8]) -> (usize, usize, Vec<[u8; 3]>) {
    let mut decoder = mozjpeg::Decompress::new_mem(bytes).unwrap().rgb().unwrap();
    let (width, height) = (decoder.width(), decoder.height());
    (width, height, decoder.read_scanlines().unwrap())
}

fn limits() -> Limits {
    Limits { max_side: Px(4_096), max_pixels: 1 << 24, whole: Bytes(1 << 24) }
}

fn open(bytes: &[u8], folder: &Path) -> FrameSource {
    let path = folder.join("frame");
    std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    FrameSource::open(&path, &limits()).unwrap()
}

#[test]
fn every_level_is_the_frame_as_seen_at_half_the_one_below() {
    for (width, height) in [(1, 1), (5, 700), (257, 256), (513, 300), (700, 531)] {
        for orientation in 1..=8 {
            let folder = tempfile::tempdir().unwrap();
            let source = open(&png(width, height, orientation), folder.path());
            let cache = ZoomFolder::open(&folder.path().join("zoom"), Bytes(1 << 26)).unwrap();
            prepare(&source, &limits(), &cache, Isa::detect(), &mut |_| ControlFlow::Continue(())).unwrap();
            let pack = Pack::open(&cache.pack(source.id()), source.id()).unwrap().unwrap();
            let (seen_width, seen_height) = if orientation >= 5 { (height, width) } else { (width, height) };
            assert_eq!(pack.size(), (Px::of(seen_width), Px::of(seen_height)));
            let (right, low) = (seen_width - 1, seen_height - 1);
            // Where a seen pixel is stored.
            let at = |x: usize, y: usize| match orientation {
                2 => (right - x, y),
                3 => (right - x, low - y),
                4 => (x, low - y),
                5 => (y, x),
                6 => (y, right - x),
                7 => (low - y, right - x),
                8 => (low - y, x),
                _ => (x, y),
            };
            let mut wanted: Vec<Vec<[f64; 3]>> =
                (0..seen_height).map(|y| (0..seen_width).map(|x| colour(at(x, y).0, at(x, y).1).map(f64::from)).collect()).collect();
            let shape = pack.shape();
            for level in (0..shape.levels()).rev() {
                assert_eq!(shape.size(level), (wanted[0].len(), wanted.len()));
                let (columns, rows) = shape.grid(level);
                for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
                    let (wide, tall, pixels) = decode_jpeg(&pack.tile(level, x, y).unwrap().unwrap());
                    assert_eq!((wide, tall), ((wanted[0].len() - x * TILE).min(TILE), (wanted.len() - y * TILE).min(TILE)));
                    let own = |at: usize| wanted[y * TILE + at / wide][x * TILE + at % wide];
                    let off = |(at, pixel): (usize, &[u8; 3])| {
                        pixel.iter().zip(own(at)).map(|(found, wanted)| (f64::from(*found) - wanted).abs()).fold(0.0, f64::max)
                    };
                    let worst = pixels.iter().enumerate().map(off).fold(0.0, f64::max);
                    assert!(worst < 20.0, "{width} x {height}, orientation {orientation}, level {level}, tile {x}, {y}: {worst} off");
                }
                assert!(pack.tile(level, columns, 0).unwrap().is_none() && pack.tile(level, 0, rows).unwrap().is_none());
                let half = |row: &[[f64; 3]]| {
                    row.chunks(2).map(|pair| [0, 1, 2].map(|c| (pair[0][c] + pair[pair.len() - 1][c]) / 2.0)).collect::<Vec<_>>()
                };
                let narrow: Vec<_> = wanted.iter().map(|row| half(row)).collect();
                wanted = narrow
                    .chunks(2)
                    .map(|pair| {
                        let both = pair[0].iter().zip(&pair[pair.len() - 1]);
                        both.map(|(a, b)| [0, 1, 2].map(|c| (a[c] + b[c]) / 2.0)).collect()
                    })
                    .collect();
            }
            assert!(pack.tile(shape.levels(), 0, 0).unwrap().is_none());
            let (wide, tall, _) = decode_jpeg(&thumbnail(&source, &limits(), Isa::detect()).unwrap());
            assert_eq!((wide, tall), shape.size(0), "{width} x {height}");
        }
    }
}

#[test]
fn a_jpeg_of_planes_is_as_its_own_decoder_has_it() {
    let folder = tempfile::tempdir().unwrap();
    for chroma in [(1, 1), (2, 1), (2, 2)] {
        let (width, height) = (300, 277);
        let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
        compress.set_size(width, height);
        compress.set_fastest_defaults();
        compress.set_chroma_sampling_pixel_sizes(chroma, chroma);
        let mut started = compress.start_compress(Vec::new()).unwrap();
        for y in 0..height {
            let row: Vec<u8> = (0..width).flat_map(|x| colour(x, y)).collect();
            started.write_scanlines(&row).unwrap();
        }
        let bytes = started.finish().unwrap();
        let (_, _, wanted) = decode_jpeg(&bytes);
        let source = open(&bytes, folder.path());
        let mut found = vec![[0; 3]; width * height];
        let mut rows = decode::open(&source, &limits(), width, [0; 3]).unwrap();
        let (mut batch, mut scratch) = (Batch::new(width), Scratch::new(width, 64));
        let mut at = 0;
        while at < height {
            rows.next(&mut batch).unwrap();
            for first in (0..batch.rows).step_by(GROUP) {
                let own = first..batch.rows.min(first + GROUP);
                let out = &mut found[(at + first) * width..][..own.len() * width];
                batch.rgb(Isa::detect(), own, width, &mut scratch, out.as_flattened_mut());
            }
            at += batch.rows;
        }
        assert!(found == wanted, "{chroma:?}");
    }
}

#[test]
fn what_breaks_off_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let whole = png(600, 500, 1);
    let source = open(&whole[..whole.len() / 2], folder.path());
    let cache = ZoomFolder::open(&folder.path().join("zoom"), Bytes(1 << 26)).unwrap();
    let mut go = |_| ControlFlow::Continue(());
    let error = prepare(&source, &limits(), &cache, Isa::detect(), &mut go).unwrap_err().to_string();
    assert!(error.contains("broken after") && error.contains("of 500 rows"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path().join("zoom")).unwrap().count(), 0);
    // Stopped halfway, and a folder that is too small.
    let source = open(&whole, folder.path());
    let stopped = prepare(&source, &limits(), &cache, Isa::detect(), &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ZoomError::Stopped)));
    let small = ZoomFolder::open(&folder.path().join("small"), Bytes(1 << 20)).unwrap();
    let error = prepare(&source, &limits(), &small, Isa::detect(), &mut go).unwrap_err().to_string();
    assert!(error.contains("the folder may hold 1048576 bytes"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path().join("zoom")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(folder.path().join("small")).unwrap().count(), 0);
}

#[test]
fn a_damaged_pack_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = open(&png(600, 500, 1), folder.path());
    let cache = ZoomFolder::open(&folder.path().join("zoom"), Bytes(1 << 26)).unwrap();
    prepare(&source, &limits(), &cache, Isa::detect(), &mut |_| ControlFlow::Continue(())).unwrap();
    let path = cache.pack(source.id());
    let good = std::fs::read(&path).unwrap();
    let opens = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Pack::open(&path, source.id()).map(|pack| pack.is_some())
    };
    assert!(opens(&good).unwrap());
    // Every byte of the header and the index, and every length.
    for at in 0..180 {
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        assert!(opens(&bad).is_err(), "byte {at}");
    }
    for len in [0, 7, 63, 64, 100, 250, good.len() / 2, good.len() - 1] {
        assert!(opens(&good[..len]).is_err(), "{len} bytes");
    }
    assert!(Pack::open(&path, FrameId([0; 8])).is_err());
    assert!(Pack::open(&cache.pack(FrameId([0; 8])), FrameId([0; 8])).unwrap().is_none());
}

#[test]
fn what_was_not_looked_at_for_longest_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ZoomFolder::open(folder.path(), Bytes(3_000)).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(100);
    for (number, age) in [(1, 30), (2, 20), (3, 10)] {
        let path = cache.pack(FrameId([number; 8]));
        std::fs::write(&path, [0; 1_000]).unwrap();
        std::fs::File::open(&path).unwrap().set_modified(old - std::time::Duration::from_secs(age)).unwrap();
    }
    std::fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
    cache.touch(&cache.pack(FrameId([1; 8])));
    cache.make_room(Bytes(1_500)).unwrap();
    let left = |number| cache.pack(FrameId([number; 8])).exists();
    assert!(left(1) && !left(2) && !left(3) && folder.path().join("notes.txt").exists());
    assert!(cache.make_room(Bytes(3_001)).is_err());
}

#[test]
fn the_plan_of_memory_grows_with_a_side_alone() {
    // 50 MiB of bands for the longest side there may be.
    let most = zoom_bytes(Px(32_768)).mib();
    assert!(most > 48.0 && most < 72.0, "{most}");
    assert!(zoom_bytes(Px(8_192)).mib() < 20.0);
}
