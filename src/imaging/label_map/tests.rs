use std::path::PathBuf;

use super::*;

const LIMITS: Limits = Limits { max_side: Px(500), max_pixels: 100_000, whole: Bytes(2 << 20) };

fn write(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn read(bytes: &[u8]) -> Result<(u32, Vec<u32>), LabelMapError> {
    let (_folder, path) = write(bytes);
    let map = LabelMap::open(&path, &LIMITS)?;
    let mut labels = Vec::new();
    map.rows(&LIMITS, &mut |row| labels.extend_from_slice(row))?;
    Ok((map.width, labels))
}

fn png_bytes(width: u32, height: u32, colour: ::png::ColorType, depth: ::png::BitDepth, packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == ::png::ColorType::Indexed {
        encoder.set_palette(vec![9; 3 * 16]);
    }
    encoder.write_header().unwrap().write_image_data(packed).unwrap();
    bytes
}

fn npy_bytes(header: &str, values: &[u8]) -> Vec<u8> {
    let len = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), values].concat()
}

fn npy_of(kind: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    npy_bytes(&format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}  \n"), values)
}

/// Tags of a little-endian TIFF and the bytes that follow its directory; `data` stands at offset 8.
fn tiff_bytes(tags: &[(u16, u16, u32, u32)], data: &[u8]) -> Vec<u8> {
    let directory = u32::try_from(8 + data.len()).unwrap();
    let mut bytes = [b"II*\0", &directory.to_le_bytes()[..], data].concat();
    bytes.extend(u16::try_from(tags.len()).unwrap().to_le_bytes());
    for (tag, kind, count, value) in tags {
        bytes.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bytes.extend([0; 4]);
    bytes
}

/// A grey TIFF in strips of `rows` rows through the encoder of the crate.
fn tiff_strips<C: ::tiff::encoder::colortype::ColorType>(width: u32, height: u32, rows: u32, values: &[C::Inner]) -> Vec<u8>
where
    [C::Inner]: ::tiff::encoder::TiffValue,
{
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut encoder = ::tiff::encoder::TiffEncoder::new(&mut bytes).unwrap().with_compression(::tiff::encoder::Compression::Lzw);
    let mut image = encoder.new_image::<C>(width, height).unwrap();
    image.rows_per_strip(rows).unwrap();
    image.write_data(values).unwrap();
    bytes.into_inner()
}

/// Its sides' product doesn't fit 64 bits: the refusal must not come from a sum that wrapped.
#[test]
fn a_tile_larger_than_all_memory_is_refused() {
    let tags = [(256, 1), (257, 16), (258, 8), (259, 1), (262, 1), (277, 1), (322, 0xd100_0020), (323, 0xcb00_0010), (324, 8), (325, 16)];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map.tif");
    std::fs::write(&path, tiff_bytes(&tags.map(|(tag, value)| (tag, 4, 1, value)), &[0; 16])).unwrap();
    let error = LabelMap::open(&path, &LIMITS).err().unwrap();
    assert!(matches!(error, LabelMapError::Memory { .. }), "{error}");
}

#[test]
fn labels_come_as_they_are_stored() {
    use ::png::{BitDepth, ColorType};
    use ::tiff::encoder::colortype::{Gray8, Gray16, Gray32, GrayI16};
    let wanted = [0, 1, 2, 3, 4, 250];
    let halves: Vec<u8> = wanted.iter().flat_map(|&value| [1, value]).collect();
    let raised = |by: u32| wanted.map(|value| u32::from(value) + by).to_vec();
    let number = |by: u32| raised(by).iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let big: Vec<u8> = raised(70_000).iter().flat_map(|value| u64::from(*value).to_be_bytes()).collect();
    let cases: [(&str, Vec<u8>, Vec<u32>); 13] = [
        ("grey 8", png_bytes(3, 2, ColorType::Grayscale, BitDepth::Eight, &wanted), raised(0)),
        ("grey 16", png_bytes(3, 2, ColorType::Grayscale, BitDepth::Sixteen, &halves), raised(256)),
        ("palette 4", png_bytes(3, 2, ColorType::Indexed, BitDepth::Four, &[0x12, 0x30, 0xf0, 0x50]), vec![1, 2, 3, 15, 0, 5]),
        ("grey 2", png_bytes(3, 2, ColorType::Grayscale, BitDepth::Two, &[0b0001_1000, 0b1100_0100]), vec![0, 1, 2, 3, 0, 1]),
        ("grey 1", png_bytes(3, 2, ColorType::Grayscale, BitDepth::One, &[0b1010_0000, 0b0110_0000]), vec![1, 0, 1, 0, 1, 1]),
        ("tiff 8", tiff_strips::<Gray8>(3, 2, 1, &wanted), raised(0)),
        ("tiff 16", tiff_strips::<Gray16>(3, 2, 2, &wanted.map(|value| u16::from(value) + 300)), raised(300)),
        ("tiff 32", tiff_strips::<Gray32>(3, 2, 1, &wanted.map(|value| u32::from(value) + 70_000)), raised(70_000)),
        ("tiff i16", tiff_strips::<GrayI16>(3, 2, 1, &wanted.map(i16::from)), raised(0)),
        ("npy u1", npy_of("|u1", "(2, 3)", &wanted), raised(0)),
        ("npy i4", npy_of("<i4", "(2, 3)", &number(9)), raised(9)),
        ("npy u4", npy_of("<u4", "(2, 3)", &number(1 << 31)), raised(1 << 31)),
        ("npy >u8", npy_of(">u8", "(2, 3)", &big), raised(70_000)),
    ];
    for (name, bytes, wanted) in cases {
        let (width, labels) = read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((width, labels), (3, wanted), "{name}");
    }
}

#[test]
fn tiles_are_put_together() {
    // 20 x 18 pixels in four tiles of 16 x 16; outside the picture they hold 99.
    let value = |x: usize, y: usize| if x < 20 && y < 18 { (x + 7 * y) as u8 } else { 99 };
    let mut data = Vec::new();
    for (left, top) in [(0, 0), (16, 0), (0, 16), (16, 16)] {
        (0..256).for_each(|at| data.push(value(left + at % 16, top + at / 16)));
    }
    let (offsets, counts) = (8 + u32::try_from(data.len()).unwrap(), 24 + u32::try_from(data.len()).unwrap());
    [0, 256, 512, 768].iter().for_each(|at| data.extend((8_u32 + at).to_le_bytes()));
    (0..4).for_each(|_| data.extend(256_u32.to_le_bytes()));
    let tags = [
        (256, 3, 1, 20),
        (257, 3, 1, 18),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
        (322, 3, 1, 16),
        (323, 3, 1, 16),
        (324, 4, 4, offsets),
        (325, 4, 4, counts),
    ];
    let wanted: Vec<u32> = (0..20 * 18).map(|at| u32::from(value(at % 20, at / 20))).collect();
    assert_eq!(read(&tiff_bytes(&tags, &data)).unwrap(), (20, wanted));
}

#[test]
fn what_is_wrong_is_named() {
    use ::png::{BitDepth, ColorType};
    use ::tiff::encoder::colortype::{Gray8, Gray32Float, RGB8};
    let grey = png_bytes(3, 2, ColorType::Grayscale, BitDepth::Eight, &[1; 6]);
    let long = "x".repeat(5_000);
    let white = tiff_bytes(
        &[(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 0), (273, 4, 1, 8), (278, 3, 1, 1), (279, 4, 1, 1)],
        &[5],
    );
    let huge = tiff_bytes(
        &[
            (256, 3, 1, 400),
            (257, 3, 1, 250),
            (258, 3, 1, 32),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (273, 4, 1, 8),
            (278, 4, 1, u32::MAX),
            (279, 4, 1, 400_000),
        ],
        &[5],
    );
    let cases: [(&str, Vec<u8>, &[&str]); 25] = [
        ("nothing", Vec::new(), &["wanted PNG, TIFF or npy", "an empty file"]),
        ("jpeg", vec![0xff, 0xd8, 0xff, 0xe0, 0, 0, 0, 0], &["wanted PNG, TIFF or npy", "ff, d8"]),
        ("rgb png", png_bytes(1, 1, ColorType::Rgb, BitDepth::Eight, &[1; 3]), &["grey or palette indices", "Rgb"]),
        ("cut png", grey[..grey.len() - 20].to_vec(), &["broken after"]),
        ("png header", grey[..20].to_vec(), &["broken after 0"]),
        ("wide png", png_bytes(501, 1, ColorType::Grayscale, BitDepth::Eight, &[1; 501]), &["500 px", "501 x 1"]),
        ("rgb tiff", tiff_strips::<RGB8>(1, 1, 1, &[1; 3]), &["one grey band", "RGB(8)"]),
        ("float tiff", tiff_strips::<Gray32Float>(1, 1, 1, &[1.0]), &["whole numbers", "floating point"]),
        ("white tiff", white, &["0 is black", "0 is white"]),
        ("one strip", huge, &["broken after 0 of 250"]),
        ("cut tiff", tiff_strips::<Gray8>(9, 9, 9, &[1; 81])[..20].to_vec(), &["broken"]),
        ("tiff magic", b"II*\0".to_vec(), &["broken"]),
        ("npy version", b"\x93NUMPY\x09\0\0\0".to_vec(), &["version 1, 2 or 3, found 9"]),
        ("npy end", b"\x93NUMPY\x01\0\x30\0{".to_vec(), &["ends before"]),
        ("npy float", npy_of("<f4", "(1, 1)", &[0; 4]), &["integers of 8 to 64 bits", "<f4"]),
        ("npy bool", npy_of("|b1", "(1, 1)", &[0]), &["integers of 8 to 64 bits", "|b1"]),
        ("npy 1-d", npy_of("<i4", "(4,)", &[0; 16]), &["(height, width)", "(4,)"]),
        ("npy 3-d", npy_of("<i4", "(1, 2, 2)", &[0; 16]), &["(height, width)", "(1, 2, 2)"]),
        ("npy short", npy_of("<i4", "(2, 2)", &[0; 15]), &["wanted 88 bytes", "found 87"]),
        ("npy long", npy_of("|u1", "(0, 4)", &[]), &["1 x 1 or more", "4 x 0"]),
        ("npy lie", npy_of("<i8", "(4294967295, 4294967295)", &[0; 8]), &["found"]),
        ("npy key", npy_bytes("{'descr': '<i4', 'size': 3}", &[]), &["'fortran_order'", "'size'"]),
        ("npy long header", npy_bytes(&long, &[]), &["at most 4096 bytes, found 5000"]),
        ("npy negative", npy_of("|i1", "(2, 2)", &[1, 2, 3, 0xfd]), &["pixel (1, 1)", "0 to 4294967294", "found -3"]),
        ("npy masked", npy_of("<u4", "(1, 1)", &[0xff; 4]), &["pixel (0, 0)", "found 4294967295"]),
    ];
    for (name, bytes, words) in cases {
        let message = read(&bytes).expect_err(name).to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{name}: {message}");
    }
    let fortran = npy_bytes("{'descr': '<i4', 'fortran_order': True, 'shape': (1, 1)}", &[0; 4]);
    assert!(read(&fortran).unwrap_err().to_string().contains("fortran_order: wanted False"));
}

#[test]
fn what_must_be_held_whole_is_admitted() {
    let strip = tiff_strips::<::tiff::encoder::colortype::Gray8>(300, 300, 300, &[1; 90_000]);
    let (_folder, path) = write(&strip);
    let small = Limits { whole: Bytes(100_000), ..LIMITS };
    let error = LabelMap::open(&path, &small).unwrap_err();
    assert!(matches!(error, LabelMapError::Memory { wanted: Bytes(540_000), allowed: Bytes(100_000), .. }), "{error}");
    assert_eq!(error.exit_code(), 1);
    assert!(read(&strip).is_ok());
}

#[test]
fn damaged_files_are_errors_or_labels_never_panics() {
    use ::png::{BitDepth, ColorType};
    use rand_core::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    let mut below = |bound: usize| (random.next_u64() % bound as u64) as usize;
    let seeds = [
        png_bytes(9, 7, ColorType::Grayscale, BitDepth::Sixteen, &[3; 126]),
        png_bytes(9, 7, ColorType::Indexed, BitDepth::Four, &[0x21; 35]),
        tiff_strips::<::tiff::encoder::colortype::Gray16>(9, 7, 2, &[5; 63]),
        tiff_strips::<::tiff::encoder::colortype::Gray32>(9, 7, 7, &[6; 63]),
        npy_of("<i2", "(7, 9)", &[1; 126]),
    ];
    let (_folder, path) = write(&[]);
    let mut taken = 0;
    let cases = std::env::var("UHR_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000);
    for case in 0..cases {
        let mut bytes = seeds[case % seeds.len()].clone();
        for _ in 0..1 + below(4) {
            let at = below(bytes.len());
            match below(4) {
                0 => bytes[at] = below(256) as u8,
                1 => bytes[at] ^= 1 << below(8),
                2 => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
                _ => bytes.truncate(at + 1),
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        let Ok(map) = LabelMap::open(&path, &LIMITS) else { continue };
        taken += usize::from(map.rows(&LIMITS, &mut |_| ()).is_ok());
    }
    assert!(taken > 0);
}
