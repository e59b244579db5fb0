//! What the tests of the command line share.
#![allow(dead_code)]

pub mod daemon;

use std::path::Path;
use std::process::{Command, Output};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// The binary under test, run from the repository's root.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uhr-edge"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

pub fn run(args: &[&str]) -> Output {
    command().args(args).output().unwrap()
}

/// Exit code and what it said on stderr.
pub fn refusal(args: &[&str]) -> (i32, String) {
    let output = run(args);
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Seeded numbers.
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound as u64) as usize
    }

    /// In [-1, 1).
    pub fn number(&mut self) -> f32 {
        (self.0.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }
}

/// A JPEG of `width` × `height` pixels of `colour`'s components.
pub fn jpeg(width: usize, height: usize, colour: mozjpeg::ColorSpace, progressive: bool) -> Vec<u8> {
    let mut compress = mozjpeg::Compress::new(colour);
    compress.set_size(width, height);
    compress.set_fastest_defaults();
    if progressive {
        compress.set_progressive_mode();
    }
    let mut started = compress.start_compress(Vec::new()).unwrap();
    let mut row = vec![0; width * started.components().len()];
    for y in 0..height {
        row.iter_mut().enumerate().for_each(|(x, value)| *value = ((x * 7) ^ (y * 13)) as u8);
        started.write_scanlines(&row).unwrap();
    }
    started.finish().unwrap()
}

/// A PNG with the given pixels.
pub fn png(width: u32, height: u32, colour: png::ColorType, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(colour);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    bytes
}

/// `bytes` of a PNG with a chunk put in after its header.
pub fn with_chunk(bytes: &[u8], name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let chunk = [&name[..], data].concat();
    let crc = chunk.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    });
    let len = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&bytes[..33], &len, &chunk, &(!crc).to_be_bytes(), &bytes[33..]].concat()
}

/// One JSON document a line of stdout.
pub fn documents(args: &[&str]) -> Vec<serde_json::Value> {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
