//! JPEG by rows of blocks. Grey and the usual YCbCr samplings come as planes; the rest, and what is reduced while it is decoded, as libjpeg's own RGB.

use std::fs::File;

use crate::imaging::decode::batch::{BATCH, Batch, Planes};
use crate::imaging::decode::{Fault, Rows};
use crate::imaging::libjpeg::{BLOCK, Colours, Jpeg, Output};
use crate::imaging::source::FrameSource;
use crate::kernels::GROUP;

/// A reduced frame is at least this many times as long as the largest view: then the antialiasing filter hides the difference.
const REDUCED: usize = 3;

pub struct JpegRows {
    jpeg: Jpeg,
    form: Form,
    width: usize,
    height: usize,
    /// Rows given, and rows decoded.
    given: usize,
    decoded: usize,
    /// A fault whose rows before it are to be given first.
    fault: Option<Fault>,
}

enum Form {
    Rows,
    /// CMYK, a row of it.
    Cmyk(Vec<u8>),
    Grey {
        stride: usize,
    },
    /// With the rows that wait for those below.
    Ycc {
        planes: Planes,
        held: [Vec<u8>; 3],
    },
}

impl JpegRows {
    pub fn open(file: File, source: &FrameSource, finest: usize) -> Result<Self, Fault> {
        let mut jpeg = Jpeg::open(file)?;
        let (width, height) = jpeg.size();
        if (width, height) != (source.stored.0.get(), source.stored.1.get()) {
            return Err(Fault::new(format!("the header changed to {width} x {height}")));
        }
        // Reduced by the inverse DCT, to 1/2, 1/4 or 1/8. Not where chroma is subsampled: it would come without its own filter, 3/255 off at hard edges.
        let even = jpeg.sampling().all(|factors| factors == (1, 1));
        let enough = |eighths: &u8| even && width.max(height) * usize::from(*eighths) / 8 >= REDUCED * finest;
        let eighths = [1_u8, 2, 4].into_iter().find(enough);
        let form = if jpeg.colours() == Colours::Cmyk {
            Form::Cmyk(vec![0; width * 4])
        } else if eighths.is_some() {
            Form::Rows
        } else {
            form(&jpeg)
        };
        jpeg.start(match form {
            Form::Rows => Output::Rgb { eighths: eighths.unwrap_or(8) },
            Form::Cmyk(_) => Output::Cmyk,
            Form::Grey { .. } | Form::Ycc { .. } => Output::Planes,
        })?;
        let (width, height) = if matches!(form, Form::Rows) { jpeg.output_size() } else { (width, height) };
        Ok(Self { jpeg, form, width, height, given: 0, decoded: 0, fault: None })
    }

    /// Decodes a batch into `batch`, below the rows that were held back.
    fn decode(&mut self, batch: &mut Batch) -> Result<(), Fault> {
        let Self { jpeg, form, width, height, given, decoded, .. } = self;
        match form {
            Form::Rows => {
                while *decoded < *height && *decoded - *given < BATCH {
                    jpeg.read_row(batch.rgb_row(*decoded - *given, *width))?;
                    *decoded += 1;
                }
            }
            Form::Cmyk(row) => {
                while *decoded < *height && *decoded - *given < BATCH {
                    jpeg.read_row(row)?;
                    let out = batch.rgb_row(*decoded - *given, *width);
                    row.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<3>().0).for_each(|(cmyk, rgb)| *rgb = rgb_of(*cmyk));
                    *decoded += 1;
                }
            }
            Form::Grey { stride } => {
                while *decoded < *height && *decoded - *given < BATCH {
                    let rows = &mut batch.grey_rows(*stride)[(*decoded - *given) * *stride..];
                    jpeg.read_planes(&mut [rows], &[*stride])?;
                    *decoded += BLOCK;
                }
            }
            Form::Ycc { planes, .. } => {
                let strides = [planes.stride, planes.chroma_stride(), planes.chroma_stride()];
                let end = *decoded + BATCH;
                while *decoded < (*height).min(end) {
                    let [luma, blue, red] = batch.planes(*planes);
                    let row = *decoded - *given;
                    let chroma = (row / planes.v + planes.above()) * strides[1];
                    jpeg.read_planes(&mut [&mut luma[row * strides[0]..], &mut blue[chroma..], &mut red[chroma..]], &strides)?;
                    *decoded += BLOCK * planes.v;
                }
            }
        }
        Ok(())
    }

    /// Rows of the batch that can be given, with what they lack at the picture's edges filled in and what comes after them held back.
    fn complete(&mut self, batch: &mut Batch) -> usize {
        let all = self.decoded.min(self.height) - self.given;
        let Form::Ycc { planes, held } = &mut self.form else { return all };
        if planes.v == 1 {
            return all;
        }
        let ends = self.decoded >= self.height || self.fault.is_some();
        let stride = planes.chroma_stride();
        let rows = if ends { all } else { all - GROUP };
        let [luma, blue, red] = batch.planes(*planes);
        for chroma in [&mut *blue, &mut *red] {
            // The row above the picture is its first, the one below it its last (jdmainct.c).
            if self.given == 0 {
                chroma.copy_within(stride..2 * stride, 0);
            }
            if ends {
                let last = all.div_ceil(2);
                chroma.copy_within(last * stride..(last + 1) * stride, (last + 1) * stride);
            }
        }
        if ends {
            return rows;
        }
        held[0].copy_from_slice(&luma[rows * planes.stride..][..GROUP * planes.stride]);
        for (held, chroma) in held[1..].iter_mut().zip([blue, red]) {
            let len = held.len();
            held.copy_from_slice(&chroma[rows / 2 * stride..][..len]);
        }
        rows
    }
}

impl Rows for JpegRows {
    fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn next(&mut self, batch: &mut Batch) -> Result<(), Fault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if let Form::Ycc { planes, held } = &self.form
            && planes.v == 2
            && self.given > 0
        {
            for (plane, held) in batch.planes(*planes).into_iter().zip(held) {
                plane[..held.len()].copy_from_slice(held);
            }
        }
        if let Err(fault) = self.decode(batch) {
            if self.decoded == self.given {
                return Err(fault);
            }
            self.fault = Some(fault);
        }
        batch.rows = self.complete(batch);
        self.given += batch.rows;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => self.jpeg.finish(),
        }
    }
}

/// As Pillow converts: the file has the inks inverted, as Adobe's programs write them; a colour is what its own ink and black leave.
fn rgb_of([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    [c, m, y].map(|ink| {
        let product = u32::from(255 - ink) * u32::from(k) + 128;
        k.saturating_sub(u8::try_from((product + (product >> 8)) >> 8).unwrap_or(u8::MAX))
    })
}

/// The planes that the crate's own colour kernels understand; otherwise libjpeg makes RGB.
fn form(jpeg: &Jpeg) -> Form {
    let width = jpeg.size().0;
    let sampling: Vec<_> = jpeg.sampling().collect();
    match (jpeg.colours(), &sampling[..]) {
        (Colours::Grey, [(1, 1)]) => Form::Grey { stride: width.next_multiple_of(BLOCK) },
        // libjpeg repeats samples, without a filter, where a chroma row has no more than two.
        (Colours::YCbCr, &[(h, v), (1, 1), (1, 1)]) if [(1, 1), (2, 1), (2, 2)].contains(&(h, v)) && (h == 1 || width > 4) => {
            let planes = Planes { stride: width.next_multiple_of(h * BLOCK), h, v, chroma_width: width.div_ceil(h) };
            let chroma = vec![0; (GROUP / 2 + 1) * planes.chroma_stride()];
            Form::Ycc { planes, held: [vec![0; GROUP * planes.stride], chroma.clone(), chroma] }
        }
        _ => Form::Rows,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::imaging::decode::Scratch;
    use crate::imaging::source::Limits;
    use crate::kernels::Isa;
    use crate::units::{Bytes, Px};

    /// A picture of `width` × `height` with a pixel of chroma for `h` × `v` of luma, in `colour`.
    fn picture(width: usize, height: usize, (h, v): (u8, u8), colour: mozjpeg::ColorSpace, progressive: bool) -> Vec<u8> {
        let mut compress = mozjpeg::Compress::new(colour);
        compress.set_size(width, height);
        compress.set_fastest_defaults();
        if colour == mozjpeg::ColorSpace::JCS_RGB {
            compress.set_chroma_sampling_pixel_sizes((h, v), (h, v));
        }
        if progressive {
            compress.set_progressive_mode();
        }
        let mut started = compress.start_compress(Vec::new()).unwrap();
        let channels = started.components().len();
        let mut state = 5_u32;
        for y in 0..height {
            let row: Vec<u8> = (0..width * channels)
                .map(|at| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ((at * 3 + y * 5) % 200 + (state >> 27) as usize) as u8
                })
                .collect();
            started.write_scanlines(&row).unwrap();
        }
        started.finish().unwrap()
    }

    #[test]
    fn planes_become_the_pixels_that_libjpeg_makes() {
        let rgb = mozjpeg::ColorSpace::JCS_RGB;
        let grey = mozjpeg::ColorSpace::JCS_GRAYSCALE;
        let mut cases = vec![(70, 41, (1, 1), grey, false), (500, 65, (2, 2), rgb, true)];
        for sampling in [(1, 1), (2, 1), (2, 2), (1, 2), (4, 1)] {
            for size in [(1, 1), (3, 2), (5, 7), (6, 16), (33, 17), (64, 48), (71, 8), (300, 25), (97, 131)] {
                cases.push((size.0, size.1, sampling, rgb, false));
            }
        }
        for (width, height, sampling, colour, progressive) in cases {
            let bytes = picture(width, height, sampling, colour, progressive);
            let mut wanted = mozjpeg::Decompress::new_mem(&bytes).unwrap().rgb().unwrap();
            let wanted: Vec<[u8; 3]> = wanted.read_scanlines().unwrap();
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&bytes).unwrap();
            let limits = Limits { max_side: Px(1_000), max_pixels: 1 << 20, whole: Bytes(1 << 24) };
            let source = FrameSource::open(file.path(), &limits).unwrap();
            let mut rows = JpegRows::open(File::open(file.path()).unwrap(), &source, 4_032).unwrap();
            let (mut batch, mut scratch) = (Batch::new(width), Scratch::new(width, width));
            let mut found = Vec::new();
            while found.len() < width * height {
                rows.next(&mut batch).unwrap();
                assert!(batch.rows > 0 && (batch.rows % GROUP == 0 || found.len() + batch.rows * width == width * height));
                for first in (0..batch.rows).step_by(GROUP) {
                    let own = first..batch.rows.min(first + GROUP);
                    batch.prepare(Isa::detect(), own.clone(), &mut scratch);
                    batch.pack(Isa::detect(), own.clone(), 0..width, &mut scratch);
                    for row in 0..own.len() {
                        found.extend((0..width).map(|x| {
                            let [_, r, _, g, _, b, ..] = scratch.group[x * GROUP + row].to_le_bytes();
                            [r ^ 0x80, g ^ 0x80, b ^ 0x80]
                        }));
                    }
                }
            }
            rows.finish().unwrap();
            assert!(found == wanted, "{width} x {height}, {sampling:?}, progressive {progressive}");
        }
    }
}
