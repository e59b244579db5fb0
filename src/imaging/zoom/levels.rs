//! Rows in, tiles of every level out.
//!
//! A level gathers a band, the rows of one row of tiles; when it is full its tiles are cut, and its pixels, four to one, are the next rows of the coarser
//! level. Pixels at an odd edge are averaged with what is there.
//!
//! # Why
//! Rows come as the file stores them, and the viewer wants them as seen. Columns are mirrored as rows come in. Rows that come from the bottom up start with
//! the short band and the single row, which are the last ones as seen, so bands and pairs are the same as in a file stored upright. A picture that is
//! turned is cut into tiles first, and each tile is turned.

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use crate::imaging::zoom::ZoomError;
use crate::imaging::zoom::shape::{TILE, ZoomShape};

/// Of the tiles' JPEGs: differences from the decoded frame are below what a screen shows, at a sixth of PNG's size.
const QUALITY: u8 = 86;

/// How stored rows and columns become those that are seen (EXIF 2.32, tag 0x0112): mirrored first, then turned over the diagonal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    mirror_x: bool,
    mirror_y: bool,
    transpose: bool,
}

impl Turn {
    #[must_use]
    pub fn of(orientation: u8) -> Self {
        Self { mirror_x: matches!(orientation, 2 | 3 | 7 | 8), mirror_y: matches!(orientation, 3 | 4 | 6 | 7), transpose: orientation >= 5 }
    }
}

struct Level {
    /// Of the levels, from the coarsest.
    number: usize,
    /// As rows come.
    width: usize,
    height: usize,
    /// Rows of a band: a row of tiles, or just a pair where no tiles are wanted.
    rows: usize,
    band: Vec<u8>,
    filled: usize,
    given: usize,
}

pub struct Levels {
    /// Finest first.
    levels: Vec<Level>,
    turn: Turn,
    tile: Vec<u8>,
    jpeg: Vec<u8>,
}

/// Where tiles go: level, column and row as seen, JPEG.
type Put<'a> = &'a mut dyn FnMut(usize, usize, usize, &[u8]) -> Result<(), ZoomError>;

impl Levels {
    /// For rows of `width` pixels, `height` of them; tiles are cut of the levels that are `stored`.
    #[must_use]
    pub fn new(width: usize, height: usize, turn: Turn, stored: &dyn Fn(usize) -> bool) -> Self {
        let shape = ZoomShape::new(width, height);
        let level = |number: usize| {
            let (width, height) = shape.size(number);
            let rows = if stored(number) { TILE } else { 2 };
            Level { number, width, height, rows, band: vec![0; rows.min(height) * width * 3], filled: 0, given: 0 }
        };
        Self { levels: (0..shape.levels()).rev().map(level).collect(), turn, tile: Vec::new(), jpeg: Vec::new() }
    }

    /// The next row, `[width, 3]`.
    ///
    /// # Errors
    /// Those of `put`, or of the encoder.
    pub fn take(&mut self, row: &[u8], put: Put<'_>) -> Result<(), ZoomError> {
        let Self { levels, turn, tile, jpeg } = self;
        let Some(finest) = levels.first_mut() else { return Ok(()) };
        let to = finest.next_row();
        if turn.mirror_x {
            let (to, row) = (to.as_chunks_mut::<3>().0, row.as_chunks::<3>().0);
            to.iter_mut().zip(row.iter().rev()).for_each(|(to, pixel)| *to = *pixel);
        } else {
            to.copy_from_slice(row);
        }
        settle(levels, *turn, tile, jpeg, put)
    }
}

/// Where the first level's band is full, cuts its tiles and hands its rows, halved, to the next.
fn settle(levels: &mut [Level], turn: Turn, tile: &mut Vec<u8>, jpeg: &mut Vec<u8>, put: Put<'_>) -> Result<(), ZoomError> {
    let Some((level, coarser)) = levels.split_first_mut() else { return Ok(()) };
    if level.filled < level.wanted(turn.mirror_y) {
        return Ok(());
    }
    if level.rows == TILE {
        level.cut(turn, tile, jpeg, put)?;
    }
    let count = level.filled;
    let mut first = 0;
    while first < count && !coarser.is_empty() {
        // Of an odd number of rows the last as seen stands alone: from the bottom up that is the first.
        let alone = (turn.mirror_y && first == 0 && !count.is_multiple_of(2)) || first + 1 == count;
        let second = if alone { first } else { first + 1 };
        let pair = [first, second].map(|row| &level.band[row * level.width * 3..(row + 1) * level.width * 3]);
        halve(pair, coarser[0].next_row());
        settle(coarser, turn, tile, jpeg, put)?;
        first = second + 1;
    }
    level.given += count;
    level.filled = 0;
    Ok(())
}

/// Two rows → one of half the width, to the nearest.
fn halve([above, below]: [&[u8]; 2], out: &mut [u8]) {
    let (pairs, single) = (above.chunks(6).zip(below.chunks(6)), out.as_chunks_mut::<3>().0);
    for ((above, below), out) in pairs.zip(single) {
        for (channel, out) in out.iter_mut().enumerate() {
            // At an odd edge a pixel stands for itself and the one beside it.
            let beside = if above.len() == 6 { channel + 3 } else { channel };
            let sum = [above[channel], above[beside], below[channel], below[beside]].map(u16::from).iter().sum::<u16>();
            *out = ((sum + 2) / 4) as u8;
        }
    }
}

impl Level {
    /// Rows of the band that is being filled.
    fn wanted(&self, upwards: bool) -> usize {
        let left = self.height - self.given;
        if upwards && self.given == 0 {
            let short = self.height % self.rows;
            return if short == 0 { self.rows.min(left) } else { short };
        }
        self.rows.min(left)
    }

    fn next_row(&mut self) -> &mut [u8] {
        let len = self.width * 3;
        self.filled += 1;
        &mut self.band[(self.filled - 1) * len..self.filled * len]
    }

    /// Cuts a full band into tiles.
    fn cut(&self, turn: Turn, tile: &mut Vec<u8>, jpeg: &mut Vec<u8>, put: Put<'_>) -> Result<(), ZoomError> {
        let first = if turn.mirror_y { self.height - self.given - self.filled } else { self.given };
        let down = first / TILE;
        for across in 0..self.width.div_ceil(TILE) {
            let columns = across * TILE..self.width.min((across + 1) * TILE);
            let (wide, tall) = (columns.len(), self.filled);
            tile.resize(wide * tall * 3, 0);
            let pixels = tile.as_chunks_mut::<3>().0;
            for row in 0..tall {
                let from = if turn.mirror_y { tall - 1 - row } else { row } * self.width + columns.start;
                let own = self.band[from * 3..(from + wide) * 3].as_chunks::<3>().0;
                if turn.transpose {
                    own.iter().enumerate().for_each(|(at, pixel)| pixels[at * tall + row] = *pixel);
                } else {
                    pixels[row * wide..(row + 1) * wide].copy_from_slice(own);
                }
            }
            if turn.transpose {
                encode(tile, tall, wide, jpeg)?;
                put(self.number, down, across, jpeg)?;
            } else {
                encode(tile, wide, tall, jpeg)?;
                put(self.number, across, down, jpeg)?;
            }
        }
        Ok(())
    }
}

fn encode(rgb: &[u8], width: usize, height: usize, jpeg: &mut Vec<u8>) -> Result<(), ZoomError> {
    jpeg.clear();
    let wrong = |reason: String| ZoomError::Encode { width, height, reason };
    let side = |length: usize| u16::try_from(length).map_err(|error| wrong(error.to_string()));
    let mut encoder = Encoder::new(jpeg, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder.encode(rgb, side(width)?, side(height)?, ColorType::Rgb).map_err(|error| wrong(error.to_string()))
}
