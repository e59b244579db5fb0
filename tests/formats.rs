//! TIFF and WebP frames, whole and damaged, and pictures that end early by leave of the user.

mod common;

use common::{jpeg, path, refusal};
use mozjpeg::ColorSpace::JCS_RGB;
use tiff::encoder::{TiffEncoder, colortype};
use tiff::tags::Tag;

const QUESTION: &str = "is there a red ship?";

/// One value of a directory: tag, type (3 short, 4 long), values.
type Entry = (u16, u16, Vec<u32>);

/// A little-endian TIFF: directory first, then `data` at the offset that is handed to `entries`.
fn tiff(entries: impl Fn(u32) -> Vec<Entry>, data: &[u8]) -> Vec<u8> {
    // Long arrays stand between the directory and the data.
    let count = entries(0).len() as u32;
    let directory = 8 + 2 + 12 * count + 4;
    let size = |(_, kind, values): &Entry| (values.len() * if *kind == 3 { 2 } else { 4 }) as u32;
    let extra: u32 = entries(0).iter().map(size).filter(|&size| size > 4).sum();
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((count as u16).to_le_bytes());
    let (mut far, mut at) = (Vec::new(), directory);
    for entry in entries(directory + extra) {
        let (tag, kind, values) = &entry;
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend((values.len() as u32).to_le_bytes());
        let mut own: Vec<u8> = values
            .iter()
            .flat_map(|value| if *kind == 3 { value.to_le_bytes()[..2].to_vec() } else { value.to_le_bytes().to_vec() })
            .collect();
        if own.len() > 4 {
            bytes.extend(at.to_le_bytes());
            at += own.len() as u32;
            far.extend(own);
        } else {
            own.resize(4, 0);
            bytes.extend(own);
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(far);
    bytes.extend(data);
    bytes
}

/// Grey, 8 bits, uncompressed strips of `rows` rows.
fn strips(width: u32, height: u32, rows: u32, more: &[Entry]) -> Vec<u8> {
    let data: Vec<u8> = (0..width * height).map(|at| (at % 251) as u8).collect();
    let count = if rows == 0 { 1 } else { height.div_ceil(rows) };
    let entries = |start: u32| {
        let mut entries = vec![
            (256, 4, vec![width]),
            (257, 4, vec![height]),
            (258, 3, vec![8]),
            (259, 3, vec![1]),
            (262, 3, vec![1]),
            (273, 4, (0..count).map(|strip| start + strip * rows * width).collect()),
            (277, 3, vec![1]),
            (278, 4, vec![rows]),
            (279, 4, (0..count).map(|strip| rows.min(height - strip * rows.min(height)) * width).collect()),
        ];
        for entry in more {
            entries.retain(|own: &Entry| own.0 != entry.0);
            entries.push(entry.clone());
        }
        entries.sort_by_key(|entry| entry.0);
        entries
    };
    tiff(entries, &data)
}

fn file(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame");
    std::fs::write(&file, bytes).unwrap();
    (folder, file)
}

fn refused(bytes: &[u8], args: &[&str], words: &[&str]) {
    let (_folder, file) = file(bytes);
    let (code, said) = refusal(&[&["views", path(&file), "--sum"], args].concat());
    assert!((code == 5 || code == 1) && words.iter().all(|word| said.contains(word)) && !said.contains("panicked"), "{code}: {said}");
}

fn summed(bytes: &[u8], args: &[&str]) -> (String, String) {
    let (_folder, file) = file(bytes);
    let output = common::run(&[&["views", path(&file), "--sum"], args].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn damaged_and_hostile_tiffs_are_named_errors() {
    let whole = strips(400, 300, 16, &[]);
    summed(&whole, &[]);
    refused(&whole[..whole.len() / 2], &[], &["the file ends early", "of 300 rows"]);
    refused(&whole[..20], &[], &["frame"]);
    refused(b"II*\0\x08\0\0\0\0\0\0\0\0\0", &[], &["frame"]);
    // Zero-size strips, and fewer of them than the height needs.
    refused(&strips(400, 300, 16, &[(278, 4, vec![0])]), &[], &["frame"]);
    refused(&strips(400, 300, 16, &[(257, 4, vec![3_000])]), &[], &["frame"]);
    refused(&strips(400, 300, 300, &[(273, 4, vec![0xffff_fff0])]), &[], &["the file ends early"]);
    // Sizes beyond the profile, and a directory that claims more entries than there are.
    refused(
        &strips(400, 300, 300, &[(256, 4, vec![4_000_000_000]), (257, 4, vec![4_000_000_000]), (278, 4, vec![4_000_000_000])]),
        &[],
        &["at most 32768 px a side"],
    );
    refused(&strips(400, 300, 300, &[(256, 4, vec![0])]), &[], &["frame"]);
    // One compressed strip of a size that isn't admitted: 30,000 × 6,000 as one piece takes 540 MB.
    let lying = strips(
        16,
        16,
        16,
        &[
            (256, 4, vec![30_000]),
            (257, 4, vec![6_000]),
            (259, 3, vec![5]),
            (278, 4, vec![6_000]),
            (277, 3, vec![3]),
            (258, 3, vec![8, 8, 8]),
            (262, 3, vec![2]),
        ],
    );
    let host = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/firmware-config/host.toml")).unwrap();
    let (folder, frame) = file(&lying);
    let profile = folder.path().join("small.toml");
    std::fs::write(&profile, host.replace("limit-mib = 2048", "limit-mib = 256")).unwrap();
    let (code, said) = refusal(&["--profile", path(&profile), "views", path(&frame), "--sum"]);
    assert!(code == 1 && said.contains("a TIFF strip is decoded whole"), "{code}: {said}");
    for (tag, value, word) in [(258_u16, 32_u32, "32"), (259, 34_712, "compression"), (262, 3, "frame"), (339, 3, "sample format")] {
        refused(&strips(40, 30, 30, &[(tag, 3, vec![value])]), &[], &[word]);
    }
}

#[test]
fn a_million_directories_are_never_read() {
    let mut bytes = strips(40, 30, 30, &[]);
    // Empty directories, each naming the next; the last one the first of them.
    let first = bytes.len() as u32;
    let next = 8 + 2 + 12 * 9;
    bytes[next..next + 4].copy_from_slice(&first.to_le_bytes());
    for number in 1..=1_000_000_u32 {
        bytes.extend([0, 0]);
        bytes.extend((first + 6 * (number % 1_000_000)).to_le_bytes());
    }
    let begun = std::time::Instant::now();
    summed(&bytes, &[]);
    assert!(begun.elapsed().as_secs() < 20);
}

#[test]
fn bands_are_chosen_and_the_others_named() {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut encoder = TiffEncoder::new(&mut bytes).unwrap();
    let mut image = encoder.new_image::<colortype::RGBA8>(40, 30).unwrap();
    // Four bands, none of them transparency.
    image.encoder().write_tag(Tag::ExtraSamples, &[0_u16][..]).unwrap();
    image.write_data(&(0..40 * 30).flat_map(|_| [10, 20, 30, 200]).collect::<Vec<u8>>()).unwrap();
    let bytes = bytes.into_inner();
    let host = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/firmware-config/host.toml")).unwrap();
    let view = |bands: &str| {
        let (folder, frame) = file(&bytes);
        let (profile, out) = (folder.path().join("p.toml"), folder.path().join("out.safetensors"));
        std::fs::write(&profile, host.replace("slots = 4", &format!("slots = 4\n{bands}"))).unwrap();
        let output = common::run(&["--profile", path(&profile), "views", path(&frame), "--raw", path(&out)]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let middle = std::fs::read(&out).ok().map(|bytes| {
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let data = tensors.tensor("view1").unwrap().data().to_vec();
            data[(336 * 672 + 336) * 3..][..3].to_vec()
        });
        (output.status.code().unwrap(), said, middle)
    };
    assert_eq!(view("").2.unwrap(), [10, 20, 30]);
    assert_eq!(view("bands = [4, 2, 1]").2.unwrap(), [200, 20, 10]);
    assert_eq!(view("bands = [3]").2.unwrap(), [30, 30, 30]);
    let (code, said, _) = view("bands = [1, 2, 5]");
    assert!(code == 5 && said.contains("wanted band 5, found 4"), "{code}: {said}");
    let (_folder, frame) = file(&bytes);
    let document = common::documents(&["--json", "ask", path(&frame), QUESTION, "--budget", "60"]).remove(0);
    assert!(document["receipt"]["degraded"].to_string().contains("bands 4 of 4 dropped"), "{document}");
}

#[test]
fn a_picture_that_ends_early_gives_its_rows_where_that_is_allowed() {
    let whole = jpeg(800, 600, JCS_RGB, false);
    let cut = &whole[..whole.len() / 2];
    refused(cut, &[], &["ends early"]);
    let (said, note) = summed(cut, &["--allow-truncated"]);
    assert!(said.contains("tiles") && note.contains("of 600 rows are missing"), "{said} {note}");
    let (all, _) = summed(&whole, &[]);
    let tiles = |said: &str| said.split(' ').next().unwrap().parse::<usize>().unwrap();
    assert!(tiles(&said) < tiles(&all), "{said} {all}");
    let (_folder, frame) = file(cut);
    let document = common::documents(&["--json", "ask", path(&frame), QUESTION, "--budget", "60", "--allow-truncated"]).remove(0);
    let receipt = &document["receipt"];
    assert!(receipt["degraded"].to_string().contains("the file ends early"), "{receipt}");
    let view = &receipt["budget"]["per_view"][1];
    assert!(view["tiles_encoded"].as_u64() < Some(16 * 3 / 4), "{view}");
    // Strips give their rows, to the row; a file without any is refused all the same.
    let whole = strips(400, 300, 300, &[]);
    let (_, note) = summed(&whole[..whole.len() - 400 * 50], &["--allow-truncated"]);
    assert!(note.contains("50 of 300 rows are missing"), "{note}");
    refused(&whole[..whole.len() - 400 * 300], &["--allow-truncated"], &["ends early"]);
    refused(&jpeg(800, 600, JCS_RGB, false)[..200], &["--allow-truncated"], &["end"]);
    // What isn't truncated is taken as it is.
    assert_eq!(summed(&whole, &["--allow-truncated"]), summed(&whole, &[]));
}

#[test]
fn webp_pictures_are_admitted_or_refused() {
    let mut bytes = Vec::new();
    let pixels: Vec<u8> = (0..60 * 40 * 3).map(|at| (at % 253) as u8).collect();
    image_webp::WebPEncoder::new(&mut bytes).encode(&pixels, 60, 40, image_webp::ColorType::Rgb8).unwrap();
    summed(&bytes, &[]);
    refused(&bytes[..bytes.len() / 2], &[], &["frame"]);
    refused(&bytes[..14], &[], &["frame"]);
    refused(&[&bytes[..12], &[0xff; 40][..]].concat(), &[], &["frame"]);
}
