//! Broken, hostile and odd inputs through the command line: a named error with wanted and found, the right exit code, no panic, memory within
//! the plan.

mod common;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use common::{jpeg, path, png, refusal, with_chunk};
use mozjpeg::ColorSpace::{JCS_CMYK, JCS_GRAYSCALE, JCS_RGB};
use sha2::{Digest, Sha256};

const QUESTION: &str = "is there a red ship?";

/// Exit code and words of what is said about a frame of these bytes.
fn refused(bytes: &[u8], code: i32, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame");
    std::fs::write(&file, bytes).unwrap();
    expect(&["ask", path(&file), QUESTION], code, words);
}

fn expect(args: &[&str], code: i32, words: &[&str]) {
    let (found, said) = refusal(args);
    assert_eq!(found, code, "{args:?}: {said}");
    assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said} without {words:?}");
    assert!(!said.contains("panicked"), "{said}");
}

/// The receipt of a frame of these bytes, answered within the planned memory.
fn answered(bytes: &[u8]) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame");
    std::fs::write(&file, bytes).unwrap();
    let document = common::documents(&["--json", "ask", path(&file), QUESTION, "--budget", "60"]).remove(0);
    let memory = &document["receipt"]["memory"];
    let (planned, peak) = (memory["planned_bytes"].as_u64().unwrap(), memory["peak_bytes"].as_u64().unwrap());
    assert!(peak <= planned + planned / 10, "peak {peak} of {planned} planned");
    document["receipt"].clone()
}

#[test]
fn what_is_no_picture() {
    expect(&["ask", "/nowhere.jpg", QUESTION], 1, &["/nowhere.jpg", "cannot be read"]);
    refused(b"", 5, &["wanted a JPEG, PNG, TIFF or WebP picture", "an empty file"]);
    refused(b"a plain text, long enough", 5, &["wanted a JPEG, PNG, TIFF or WebP picture", "found a file that starts"]);
    refused(&[0xff, 0xd8, 0xff], 5, &["ends before its frame header"]);
    refused(b"\x89PNG\r\n\x1a\n", 5, &["ends before its header"]);
}

#[test]
fn truncated_pictures() {
    let whole = jpeg(400, 300, JCS_RGB, false);
    for share in [2, 10, 50, 90, 99] {
        let (code, said) = {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("cut.jpg");
            std::fs::write(&file, &whole[..whole.len() * share / 100]).unwrap();
            refusal(&["ask", path(&file), QUESTION])
        };
        assert!(code == 5 && said.contains("cut.jpg") && said.contains("end"), "{share} %: {code} {said}");
    }
    let whole = png(400, 300, png::ColorType::Rgb, &common_pixels(400 * 300 * 3));
    refused(&whole[..whole.len() / 2], 5, &["broken after", "of 300 rows"]);
}

fn common_pixels(count: usize) -> Vec<u8> {
    (0..count).map(|at| ((at * 2_654_435_761) >> 13) as u8).collect()
}

/// A JPEG's frame header with other sides.
fn resized(bytes: &[u8], width: u16, height: u16) -> Vec<u8> {
    let at = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let mut bytes = bytes.to_vec();
    bytes[at + 5..at + 7].copy_from_slice(&height.to_be_bytes());
    bytes[at + 7..at + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

#[test]
fn sizes_beyond_the_profile() {
    let small = jpeg(16, 16, JCS_RGB, false);
    refused(&resized(&small, 60_000, 60_000), 5, &["60000 x 60000", "at most 32768 px a side", "200000000 pixels"]);
    refused(&resized(&small, 0, 16), 5, &["wanted 1 x 1 or more", "0 x 16"]);
    // An honest header of a bomb: 20,000 × 10,000 rows promised, none there.
    refused(&resized(&small, 20_000, 10_000), 5, &["of 10000 rows"]);
}

#[test]
fn decompression_bombs_stay_within_the_plan() {
    // 12,000 × 8,000 of one colour: 288 MB of pixels in under a megabyte, streamed.
    let flat = png(12_000, 8_000, png::ColorType::Rgb, &vec![9; 12_000 * 8_000 * 3]);
    assert!(flat.len() < 1 << 20);
    answered(&flat);
    // A header chunk that inflates to 256 MiB beside a small picture is not inflated.
    let small = png(40, 30, png::ColorType::Rgb, &common_pixels(40 * 30 * 3));
    let zeros = zlib(&vec![0; 256 << 20]);
    answered(&with_chunk(&small, b"zTXt", &[b"Comment\0\0", &zeros[..]].concat()));
    answered(&with_chunk(&small, b"iCCP", &[b"icc\0\0", &zeros[..]].concat()));
    // Decoded whole: progressive beyond a small memory is refused with the figure.
    let folder = tempfile::tempdir().unwrap();
    let (frame, profile) = (folder.path().join("frame.jpg"), folder.path().join("small.toml"));
    let host = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("firmware-config/host.toml")).unwrap();
    std::fs::write(&profile, host.replace("limit-mib = 2048", "limit-mib = 256")).unwrap();
    std::fs::write(&frame, jpeg(6_000, 4_000, JCS_RGB, true)).unwrap();
    expect(&["--profile", path(&profile), "ask", path(&frame), QUESTION], 1, &["a progressive JPEG is decoded whole", "144"]);
    // Decoded whole, and admitted.
    answered(&jpeg(300, 200, JCS_RGB, true));
}

/// zlib's stream of `data`, borrowed from a PNG's own.
fn zlib(data: &[u8]) -> Vec<u8> {
    let row = data.len() / 1024;
    let file = png(row as u32, 1024, png::ColorType::Grayscale, data);
    let mut stream = Vec::new();
    let mut at = 8;
    while at < file.len() {
        let len = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        if &file[at + 4..at + 8] == b"IDAT" {
            stream.extend_from_slice(&file[at + 8..at + 8 + len]);
        }
        at += 12 + len;
    }
    stream
}

#[test]
fn odd_but_legal_pictures_are_answered() {
    let one = answered(&png(1, 1, png::ColorType::Rgb, &[10, 200, 30]));
    assert_eq!(one["budget"]["per_view"][0]["view_px"], 672);
    let notes = one["degraded"].to_string();
    assert!(notes.contains("view 4032 px dropped") && notes.contains("upscaled from 1 px"), "{notes}");
    // The whole budget stands at the one view left.
    let budgets: Vec<u64> = one["budget"]["per_view"].as_array().unwrap().iter().map(|view| view["budget"].as_u64().unwrap()).collect();
    assert_eq!(budgets, [59, 0, 0, 0]);
    let wide = answered(&jpeg(3_000, 100, JCS_RGB, false));
    assert_eq!((&wide["frames"][0]["w"], &wide["frames"][0]["h"]), (&3_000.into(), &100.into()));
    assert_eq!(wide["budget"]["per_view"][2]["tiles_encoded"], 8 * 2);
    answered(&jpeg(300, 200, JCS_GRAYSCALE, false));
    let see_through = answered(&png(30, 20, png::ColorType::Rgba, &common_pixels(30 * 20 * 4)));
    assert!(see_through["degraded"].to_string().contains("transparency dropped"), "{see_through}");
    answered(&png(30, 20, png::ColorType::GrayscaleAlpha, &common_pixels(30 * 20 * 2)));
    let inks = answered(&jpeg(64, 64, JCS_CMYK, false));
    assert!(inks["degraded"].to_string().contains("CMYK made RGB"), "{inks}");
}

#[test]
fn orientations_are_applied() {
    // Big-endian TIFF with one entry: orientation.
    let exif = |value: u8| [b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[value], &[0; 6]].concat();
    let (w, h) = (50_usize, 30_usize);
    // Smooth, and far from black and white, where rounding between the filter's passes would clip.
    let pixels: Vec<u8> = (0..w * h * 3).map(|at| 96 + (at / 3 % w + 2 * (at / 3 / w) + 9 * (at % 3)) as u8 / 2).collect();
    let upright = png(w as u32, h as u32, png::ColorType::Rgb, &pixels);
    // EXIF 2.32, 4.6.4 A: where the stored row 0 and column 0 are seen. Each gives, for a seen place, the stored one.
    type Place = fn(usize, usize, usize, usize) -> (usize, usize);
    let stored: [Place; 8] = [
        |x, y, _, _| (x, y),
        |x, y, w, _| (w - 1 - x, y),
        |x, y, w, h| (w - 1 - x, h - 1 - y),
        |x, y, _, h| (x, h - 1 - y),
        |x, y, _, _| (y, x),
        |x, y, _, h| (y, h - 1 - x),
        |x, y, w, h| (w - 1 - y, h - 1 - x),
        |x, y, w, _| (w - 1 - y, x),
    ];
    for (value, stored) in (1..).zip(stored) {
        let (seen_w, seen_h) = if value >= 5 { (h, w) } else { (w, h) };
        let mut seen = Vec::new();
        for y in 0..seen_h {
            for x in 0..seen_w {
                let (x, y) = stored(x, y, w, h);
                seen.extend_from_slice(&pixels[(y * w + x) * 3..][..3]);
            }
        }
        let turned = png(seen_w as u32, seen_h as u32, png::ColorType::Rgb, &seen);
        let (found, wanted) = (views(&with_chunk(&upright, b"eXIf", &exif(value))), views(&turned));
        // Where rows become columns, the two passes of the filter change places, and what is rounded between them: up to one step before and one after.
        let allowed = if value >= 5 { 2 } else { 0 };
        let worst = found.iter().zip(&wanted).map(|(found, wanted)| found.abs_diff(*wanted)).max();
        assert!(found.len() == wanted.len() && worst <= Some(allowed), "orientation {value}: off by {worst:?}");
    }
}

/// The pixels of the views of a frame.
fn views(frame: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("frame"), folder.path().join("views.safetensors"));
    std::fs::write(&file, frame).unwrap();
    let run = common::run(&["views", path(&file), "--raw", path(&out)]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let bytes = std::fs::read(&out).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    tensors.tensor("view1").unwrap().data().to_vec()
}

#[test]
fn questions_and_budgets_beyond_their_limits() {
    let frame = "samples/drawn.jpg";
    expect(&["ask", frame, ""], 2, &["question", "found none"]);
    expect(&["ask", frame, "  \n"], 2, &["question"]);
    expect(&["ask", frame], 2, &["one to 4 frames and at least one question"]);
    expect(&["ask", frame, &"why ".repeat(300)], 3, &["wanted 303 tokens", "allows 256 tokens"]);
    // Many characters, in many words or in one.
    expect(&["ask", frame, &"why ".repeat(2_500)], 3, &["wanted 10000 bytes", "allows 4096 bytes"]);
    expect(&["ask", frame, &"a".repeat(10_000)], 3, &["wanted 10000 bytes", "allows 4096 bytes"]);
    expect(&["ask", frame, frame, QUESTION, "--budget", "0,0,0,1"], 3, &["nothing of it is left for frame 2 of 2"]);
    expect(&["ask", frame, QUESTION, "--mode", "coverage", "--select", "topk"], 2, &["coverage", "uhr-bat"]);
    expect(&["views", frame], 2, &["--out", "--raw", "--sum"]);
    expect(&["compress", frame, "--out", "/tmp/never", "--budget", "1", "--threads", "100000"], 2, &["1 to 256", "100000"]);
    expect(&["ask", frame, QUESTION, "--budget", "0"], 3, &["0"]);
    expect(&["ask", frame, QUESTION, "--budget", "0,0,0,0"], 3, &["0"]);
    expect(&["ask", frame, QUESTION, "--budget", "1,2,3,11100"], 3, &["11106 tokens", "11100 tokens"]);
    expect(&["ask", frame, QUESTION, "--budget", "lots"], 2, &["lots", "onboard, bench, xlrs, ablation"]);
    expect(&["ask", frame, QUESTION, "--max-new", "0"], 2, &["--max-new"]);
    expect(&["ask", frame, QUESTION, "--max-new", "33"], 3, &["32 tokens", "33 tokens"]);
    let output = common::command().args(["ask", frame]).arg(std::ffi::OsStr::from_bytes(b"is \xff there?")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("wanted UTF-8"));
    // Results that can't be written are an error.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = common::command().args(["--profile", "sim", "plan"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stdout: No space left"));
    // Words that the model doesn't know are counted in the receipt.
    let documents = common::documents(&["--profile", "sim", "--json", "ask", frame, "what colour is the submarine xyzzy?"]);
    assert!(documents[0]["receipt"]["degraded"].to_string().contains("question: 2 of its tokens"), "{}", documents[0]["receipt"]);
    // Beyond the context: a package of the same model that allows 3,000 positions.
    let package = package(&[], &|text| text.replace("context = 12288", "context = 3000"));
    expect(&["--model", path(package.path()), "ask", frame, QUESTION], 3, &["3000 tokens"]);
}

/// A copy of the model's package with changed files, their digests put right, and a changed manifest.
fn package(files: &[(&str, &dyn Fn(&mut Vec<u8>))], manifest: &dyn Fn(String) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/uhr-nano");
    for entry in std::fs::read_dir(&model).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let mut text = std::fs::read_to_string(model.join("model.toml")).unwrap();
    for (name, change) in files {
        let mut bytes = std::fs::read(model.join(name)).unwrap();
        let digest = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let before = digest(&bytes);
        change(&mut bytes);
        assert!(text.contains(&before));
        text = text.replace(&before, &digest(&bytes));
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    std::fs::write(folder.path().join("model.toml"), manifest(text)).unwrap();
    folder
}

/// Where the description of a tensor stands, after its name: dimensions' count, dimensions, type, offset.
fn described(bytes: &[u8], name: &str) -> usize {
    bytes.windows(name.len()).position(|part| part == name.as_bytes()).unwrap() + name.len()
}

#[test]
fn packages_that_do_not_fit() {
    let same = |text: String| text;
    let q = "blk.0.attn_q.weight";
    let flip = |bytes: &mut Vec<u8>| {
        let at = described(bytes, q);
        bytes[at + 4] ^= 32;
    };
    let kind = |bytes: &mut Vec<u8>| {
        let at = described(bytes, q);
        bytes[at + 20] = 6;
    };
    let far = |bytes: &mut Vec<u8>| {
        let at = described(bytes, q);
        bytes[at + 30] = 0x7f;
    };
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let short = |bytes: &mut Vec<u8>| bytes.truncate(11);
    let junk = |bytes: &mut Vec<u8>| bytes.fill(7);
    let empty = |bytes: &mut Vec<u8>| bytes.clear();
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: [(&str, Change<'_>, &[&str]); 10] = [
        ("decoder.gguf", &flip, &[q, "wanted", "found"]),
        ("decoder.gguf", &kind, &[q, "Q4_0", "ggml type 6"]),
        ("decoder.gguf", &far, &[q, "bytes inside the file"]),
        ("decoder.gguf", &cut, &["bytes inside the file"]),
        ("decoder.gguf", &short, &["wanted 8 more bytes, found 3"]),
        ("decoder.gguf", &junk, &["wanted a GGUF file"]),
        ("decoder.gguf", &empty, &["decoder.gguf"]),
        ("encoder.onnx", &junk, &["encoder.onnx"]),
        ("positions.safetensors", &junk, &["positions.safetensors"]),
        ("tokenizer.json", &junk, &["tokenizer.json"]),
    ];
    for (file, change, words) in cases {
        let package = package(&[(file, change)], &same);
        expect(&["--model", path(package.path()), "ask", "samples/drawn.jpg", QUESTION], 5, words);
    }
    let manifests: [(&str, &str, i32, &[&str]); 9] = [
        ("feature-dim = 144", "feature-dim = 128", 5, &["encoder.onnx", "128", "144"]),
        ("tile-px = 336", "tile-px = 335", 5, &["335"]),
        ("interface-layer = 2", "interface-layer = 9", 5, &["interface layer 9", "1 to"]),
        ("interface-layer = 2", "interface-layer = 0", 5, &["interface-layer"]),
        ("[prompt]", "[prompt]\nsurprise = 1", 5, &["surprise"]),
        ("format = 1", "format = 2", 5, &["format", "2", "1"]),
        ("{image}", "", 5, &["prompt.template", "{image}"]),
        ("\"</s>\"", "\"<no such token>\"", 5, &["<no such token>"]),
        ("pad = \"mean\"", "pad = 3", 5, &["pad"]),
    ];
    for (from, to, code, words) in manifests {
        let package = package(&[], &|text| {
            assert!(text.contains(from));
            text.replace(from, to)
        });
        expect(&["--model", path(package.path()), "ask", "samples/drawn.jpg", QUESTION], code, words);
    }
    let package = package(&[], &same);
    let decoder = package.path().join("decoder.gguf");
    let mut bytes = std::fs::read(&decoder).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&decoder, bytes).unwrap();
    expect(&["--model", path(package.path()), "ask", "samples/drawn.jpg", QUESTION], 5, &["decoder.gguf", "wanted", "found"]);
    std::fs::remove_file(&decoder).unwrap();
    expect(&["--model", path(package.path()), "ask", "samples/drawn.jpg", QUESTION], 1, &["decoder.gguf"]);
    expect(&["--model", "/nowhere", "ask", "samples/drawn.jpg", QUESTION], 1, &["/nowhere/model.toml"]);
    expect(&["--profile", "nowhere", "ask", "samples/drawn.jpg", QUESTION], 2, &["nowhere", "host, sim, a6000"]);
}
