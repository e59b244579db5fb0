//! A few rows of a picture as its decoder gives them, and how the filter reads them.

use crate::kernels::{GROUP, Isa, Packed, pack_grey, pack_rgb, pack_ycc, upsample_h2v1, upsample_h2v2};
use crate::units::Bytes;

/// Rows decoded together.
pub const BATCH: usize = 16;
/// Most rows of a batch: those, and what was held back for want of the rows below.
pub const MOST_ROWS: usize = BATCH + GROUP;
/// A JPEG's rows end at whole blocks of up to two.
const ALIGNED: usize = 16;

/// Rows of a picture, in one of the forms that decoders have.
pub struct Batch {
    /// Rows that are complete, for the filter.
    pub rows: usize,
    pub pixels: Pixels,
    bytes: Vec<u8>,
}

/// What the bytes of a batch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pixels {
    /// `[rows][width, 3]`.
    Rgb { width: usize },
    /// `[rows][stride]`.
    Grey { stride: usize },
    /// Luma `[MOST_ROWS][stride]`, then two planes of chroma. See [`Planes`].
    Ycc(Planes),
}

/// Luma and chroma side by side. With `v` of 2 the chroma's first row is the one above the batch's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planes {
    /// Bytes of a luma row.
    pub stride: usize,
    /// Samples of luma a sample of chroma, across and down: 1 or 2.
    pub h: usize,
    pub v: usize,
    /// Samples of a chroma row that are picture.
    pub chroma_width: usize,
}

impl Planes {
    #[must_use]
    pub fn chroma_stride(&self) -> usize {
        self.stride / self.h
    }
    /// Rows above the batch's own.
    #[must_use]
    pub fn above(&self) -> usize {
        usize::from(self.v == 2)
    }
    /// Rows a chroma plane has room for.
    #[must_use]
    pub fn chroma_rows(&self) -> usize {
        MOST_ROWS / self.v + 2 * self.above()
    }
}

/// What one group of rows needs while it is filtered.
pub struct Scratch {
    /// `[GROUP][2][side]`, upsampled.
    chroma: Vec<u8>,
    sums: Vec<u16>,
    /// `[pixels][GROUP]`.
    pub group: Vec<Packed>,
}

impl Scratch {
    /// For rows of `side` pixels, `pixels` of them packed at once.
    #[must_use]
    pub fn new(side: usize, pixels: usize) -> Self {
        let side = side.next_multiple_of(2);
        Self { chroma: vec![0; GROUP * 2 * side], sums: vec![0; side], group: vec![0; pixels * GROUP] }
    }

    #[must_use]
    pub fn bytes(side: usize, pixels: usize) -> Bytes {
        let side = side.next_multiple_of(2);
        Bytes::of::<u8>(GROUP * 2 * side) + Bytes::of::<u16>(side) + Bytes::of::<Packed>(pixels * GROUP)
    }
}

impl Batch {
    /// Room for rows of `side` pixels in any form.
    #[must_use]
    pub fn new(side: usize) -> Self {
        Self { rows: 0, pixels: Pixels::Rgb { width: 0 }, bytes: vec![0; Self::len(side)] }
    }

    /// Bytes of a batch for rows of `side` pixels: three planes.
    #[must_use]
    pub fn len(side: usize) -> usize {
        MOST_ROWS * 3 * side.next_multiple_of(ALIGNED)
    }

    /// Row `row` of an RGB batch.
    pub fn rgb_row(&mut self, row: usize, width: usize) -> &mut [u8] {
        self.pixels = Pixels::Rgb { width };
        &mut self.bytes[row * width * 3..(row + 1) * width * 3]
    }

    /// All rows of a grey batch.
    pub fn grey_rows(&mut self, stride: usize) -> &mut [u8] {
        self.pixels = Pixels::Grey { stride };
        &mut self.bytes[..MOST_ROWS * stride]
    }

    /// Luma, and both planes of chroma.
    pub fn planes(&mut self, planes: Planes) -> [&mut [u8]; 3] {
        self.pixels = Pixels::Ycc(planes);
        let (luma, chroma) = self.bytes.split_at_mut(MOST_ROWS * planes.stride);
        let len = planes.chroma_rows() * planes.chroma_stride();
        let (blue, red) = chroma.split_at_mut(len);
        [luma, blue, &mut red[..len]]
    }

    fn chroma(&self, planes: &Planes, plane: usize, row: usize) -> &[u8] {
        let stride = planes.chroma_stride();
        let start = MOST_ROWS * planes.stride + (plane * planes.chroma_rows() + row) * stride;
        &self.bytes[start..start + planes.chroma_width]
    }

    /// Rows `rows` of a group become ready for [`Self::pack`].
    pub fn prepare(&self, isa: Isa, rows: std::ops::Range<usize>, scratch: &mut Scratch) {
        let Pixels::Ycc(planes) = self.pixels else { return };
        let side = scratch.chroma.len() / (GROUP * 2);
        if planes.h == 1 {
            return;
        }
        for (number, row) in rows.enumerate() {
            for plane in 0..2 {
                let out = &mut scratch.chroma[(number * 2 + plane) * side..][..side];
                if planes.v == 1 {
                    upsample_h2v1(isa, self.chroma(&planes, plane, row), out);
                } else {
                    let near = row / 2 + 1;
                    let far = if row % 2 == 0 { near - 1 } else { near + 1 };
                    upsample_h2v2(isa, self.chroma(&planes, plane, near), self.chroma(&planes, plane, far), &mut scratch.sums, out);
                }
            }
        }
    }

    /// Rows `rows` of a group as they are, `[rows][width, 3]`. `scratch` holds as many packed pixels as are unpacked at once.
    pub fn rgb(&self, isa: Isa, rows: std::ops::Range<usize>, width: usize, scratch: &mut Scratch, out: &mut [u8]) {
        if matches!(self.pixels, Pixels::Rgb { .. }) {
            out.copy_from_slice(&self.bytes[rows.start * width * 3..rows.end * width * 3]);
            return;
        }
        self.prepare(isa, rows.clone(), scratch);
        let step = scratch.group.len() / GROUP;
        for start in (0..width).step_by(step) {
            let columns = start..width.min(start + step);
            self.pack(isa, rows.clone(), columns.clone(), scratch);
            for row in 0..rows.len() {
                let to = out[(row * width + start) * 3..][..columns.len() * 3].as_chunks_mut::<3>().0;
                for (pixel, packed) in to.iter_mut().zip(scratch.group.chunks_exact(GROUP)) {
                    // See [`Packed`]: a sample is the upper byte of its 16 bits, its sign turned.
                    let [_, r, _, g, _, b, ..] = packed[row].to_le_bytes();
                    *pixel = [r, g, b].map(|sample| sample ^ 0x80);
                }
            }
        }
    }

    /// Pixels `columns` of a group's `rows` into `scratch.group`.
    pub fn pack(&self, isa: Isa, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>, scratch: &mut Scratch) {
        /// Columns whose groups stay in the first cache while eight rows are written into them.
        const NEAR: usize = 256;
        let side = scratch.chroma.len() / (GROUP * 2);
        for start in columns.clone().step_by(NEAR) {
            let own = start..columns.end.min(start + NEAR);
            let group = &mut scratch.group[(start - columns.start) * GROUP..][..own.len() * GROUP];
            for (number, row) in rows.clone().enumerate() {
                let at = |stride: usize| row * stride + own.start..row * stride + own.end;
                match self.pixels {
                    Pixels::Rgb { width } => {
                        let at = at(width);
                        pack_rgb(isa, &self.bytes[at.start * 3..at.end * 3], number, group);
                    }
                    Pixels::Grey { stride } => pack_grey(isa, &self.bytes[at(stride)], number, group),
                    Pixels::Ycc(planes) => {
                        let luma = &self.bytes[at(planes.stride)];
                        let [blue, red] = [0, 1].map(|plane| {
                            if planes.h == 1 {
                                &self.chroma(&planes, plane, row)[own.clone()]
                            } else {
                                &scratch.chroma[(number * 2 + plane) * side..][own.clone()]
                            }
                        });
                        pack_ycc(isa, luma, blue, red, number, group);
                    }
                }
            }
        }
    }
}
