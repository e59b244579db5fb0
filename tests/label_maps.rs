//! `--partition labels=FILE` through the command line: a map becomes regions, or an error that says what was wanted and what was there.

mod common;

use std::path::Path;

use common::path;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use uhr_edge::config::Digest;
use uhr_edge::geometry::{Layout, VisionShape};
use uhr_edge::units::Px;

const QUESTION: &str = "is there a red ship?";

fn grey(width: u32, height: u32, label: &dyn Fn(u32, u32) -> u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..height).flat_map(|y| (0..width).map(move |x| label(x, y))).collect();
    common::png(width, height, png::ColorType::Grayscale, &pixels)
}

/// A frame of `width` × `height` pixels as stored, with an orientation tag.
fn frame(width: u32, height: u32, orientation: u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..width * height * 3).map(|at| (at % 251) as u8).collect();
    let exif = [&b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..], &[orientation], &[0; 6]].concat();
    common::with_chunk(&common::png(width, height, png::ColorType::Rgb, &pixels), b"eXIf", &exif)
}

fn npy(kind: &str, width: usize, height: usize, values: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({height}, {width}), }}\n");
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), values].concat()
}

fn shape() -> VisionShape {
    VisionShape::new([672, 1344, 2688, 4032].map(Px).to_vec(), Px(336), Px(14), [0.5; 3], [0.25; 3]).unwrap()
}

/// Labels of a view's unmasked tokens, counted pixel by pixel.
fn votes(layout: &Layout, view: usize, label: &dyn Fn(u32, u32) -> u8) -> Vec<u8> {
    let view = &layout.views()[view];
    let mut counts = vec![[0_u32; 256]; view.tokens().get()];
    for y in 0..layout.height.0 {
        for x in 0..layout.width.0 {
            counts[view.token_at(Px(x), Px(y)).unwrap() as usize][usize::from(label(x, y))] += 1;
        }
    }
    let best = |counts: &[u32; 256]| (0..=255_u8).rev().max_by_key(|&label| counts[usize::from(label)]).unwrap();
    (0..view.tokens().0).filter(|&token| !view.is_masked(token)).map(|token| best(&counts[token as usize])).collect()
}

fn regions_of(labels: &[u8]) -> usize {
    let kinds: std::collections::BTreeSet<u8> = labels.iter().copied().filter(|&label| label > 0).collect();
    labels.iter().filter(|&&label| label == 0).count() + kinds.len()
}

#[test]
fn a_map_of_the_frame_as_seen_makes_its_regions() {
    let folder = tempfile::tempdir().unwrap();
    let (file, map) = (folder.path().join("frame.png"), folder.path().join("map.png"));
    // Stored lying down, seen standing up.
    std::fs::write(&file, frame(1_500, 900, 6)).unwrap();
    let (width, height) = (900, 1_500);
    let layout = Layout::new(&shape(), Px(width), Px(height)).unwrap();
    let stripes = |x: u32, y: u32| if x < 300 { 0 } else { 1 + (y / 90) as u8 };
    let cases: [&dyn Fn(u32, u32) -> u8; 3] = [&stripes, &|_, _| 0, &|_, _| 200];
    for label in cases {
        std::fs::write(&map, grey(width, height, label)).unwrap();
        let partition = format!("labels={}", path(&map));
        let documents = common::documents(&["--profile", "sim", "--json", "ask", path(&file), QUESTION, "--partition", &partition]);
        let receipt = &documents[0]["receipt"];
        assert_eq!(receipt["engines"]["partition"], "labels");
        let digest = Digest::of(std::fs::File::open(&map).unwrap()).unwrap();
        assert_eq!(receipt["frames"][0]["label_map"], digest.to_string());
        for (at, view) in receipt["budget"]["per_view"].as_array().unwrap().iter().enumerate() {
            let wanted = if layout.views()[at].dropped { 0 } else { regions_of(&votes(&layout, at, label)) };
            assert_eq!(view["regions"], wanted, "view {at}");
            assert!(view["tokens"].as_u64() <= view["budget"].as_u64());
        }
    }
}

#[test]
fn maps_that_do_not_fit_are_refused_before_a_model_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame.png");
    std::fs::write(&file, frame(60, 40, 6)).unwrap();
    let good = grey(40, 60, &|_, _| 1);
    let cases: [(&str, Vec<u8>, i32, &[&str]); 6] = [
        ("stored.png", grey(60, 40, &|_, _| 1), 5, &["as it is seen, 40 x 60", "found 60 x 40"]),
        ("small.npy", npy("<i4", 40, 59, &[0; 40 * 59 * 4]), 5, &["40 x 60", "40 x 59"]),
        ("negative.npy", npy("|i1", 40, 60, &[[1; 2_399].as_slice(), &[0x80]].concat()), 5, &["pixel (39, 59)", "-128"]),
        ("cut.png", good[..good.len() - 16].to_vec(), 5, &["broken after"]),
        ("colour.png", frame(40, 60, 1), 5, &["grey or palette", "Rgb"]),
        ("text.png", b"labels!!".to_vec(), 5, &["PNG, TIFF or npy"]),
    ];
    for (name, bytes, wanted, words) in cases {
        let map = folder.path().join(name);
        std::fs::write(&map, bytes).unwrap();
        let partition = format!("labels={}", path(&map));
        let (code, message) = common::refusal(&["--profile", "sim", "ask", path(&file), QUESTION, "--partition", &partition]);
        assert!(code == wanted && words.iter().all(|word| message.contains(word)) && message.contains(name), "{name}: {code} {message}");
    }
    let (code, message) = common::refusal(&["ask", path(&file), QUESTION, "--partition", "labels=/nowhere"]);
    assert!(code == 1 && message.contains("/nowhere"), "{code} {message}");
    let (code, message) = common::refusal(&["ask", path(&file), QUESTION, "--partition", "labels="]);
    assert!(code == 2 && message.contains("labels=FILE"), "{code} {message}");
}

/// Two views of 4 and 8 tokens a side, with what else is given.
fn features(to: &Path, more: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let mut tensors = Vec::new();
    let floats = |count: usize| (0..count).flat_map(|at| (at as f32).to_le_bytes()).collect::<Vec<u8>>();
    tensors.push(("view1.features", Dtype::F32, vec![16, 2], floats(32)));
    tensors.push(("view2.features", Dtype::F32, vec![64, 2], floats(128)));
    tensors.push(("importance", Dtype::F32, vec![16], floats(16)));
    tensors.extend(more.iter().cloned());
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let metadata = [("views", "56,112"), ("tile", "56"), ("patch", "14")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    safetensors::serialize_to_file(views, Some(metadata.into()), to).unwrap();
}

fn labels_of(file: &Path, view: usize) -> Vec<i32> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let data = tensors.tensor(&format!("view{view}.labels")).unwrap().data().to_vec();
    data.as_chunks::<4>().0.iter().copied().map(i32::from_le_bytes).collect()
}

#[test]
fn compress_takes_a_square_map_of_the_whole_view() {
    let folder = tempfile::tempdir().unwrap();
    let [input, out, map] = ["in", "out", "map"].map(|name| folder.path().join(name));
    // Quarters of 8 x 8 pixels: 7, background, 3 and 3; one token of padding.
    let quarter = |x: u32, y: u32| [7, 0, 3, 3][((y / 8) * 2 + x / 8) as usize];
    std::fs::write(&map, grey(16, 16, &quarter)).unwrap();
    let mask = [vec![0_u8], vec![1; 15]].concat();
    features(&input, &[("view1.mask", Dtype::U8, vec![16], mask)]);
    let partition = format!("labels={}", path(&map));
    let args = ["compress", path(&input), "--out", path(&out), "--budget", "9,9", "--partition", &partition];
    let run = common::run(&args);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(labels_of(&out, 1), [-1, 0, 1, 2, 0, 0, 3, 4, 5, 5, 5, 5, 5, 5, 5, 5]);
    let fine = labels_of(&out, 2);
    assert_eq!((fine[0], fine[4], fine[5], fine[63], fine.iter().max()), (0, 1, 2, 17, Some(&17)));
    // Refused: a map that is no square, labels given twice, starts without k-means, no picture.
    std::fs::write(&map, grey(16, 15, &|_, _| 1)).unwrap();
    let (code, message) = common::refusal(&args);
    assert!(code == 5 && message.contains("a square") && message.contains("16 x 15"), "{code} {message}");
    features(&input, &[("view2.labels", Dtype::I32, vec![64], vec![0; 256])]);
    let (code, message) = common::refusal(&args);
    assert!(code == 5 && message.contains("view2.labels") && message.contains("labels=FILE"), "{code} {message}");
    for method in ["superpixels", "segmenter"] {
        let (code, message) = common::refusal(&[&args[..7], &[method]].concat());
        assert!(code == 2 && message.contains(method) && message.contains("no picture"), "{code} {message}");
    }
    let (code, message) = common::refusal(&[&args[..], &["--init", path(&input)]].concat());
    assert!(code == 2 && message.contains("--init: wanted --partition kmeans"), "{code} {message}");
}
