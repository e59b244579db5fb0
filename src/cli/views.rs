//! `views`: the views and tiles as the encoder gets them.

use std::io::Write;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use safetensors::{Dtype, tensor::TensorView};

use crate::config::Bands;
use crate::geometry::{GeometryError, Layout, VisionShape};
use crate::imaging::{FrameSource, ImagingError, Limits, Pyramid, Reading};
use crate::kernels::{Isa, Pool};
use crate::units::{Bytes, Px};

#[derive(Args)]
#[command(group(ArgGroup::new("output").args(["out", "raw", "sum"]).required(true).multiple(true)))]
pub struct ViewsArgs {
    /// The picture
    frame: PathBuf,
    /// Writes view1.png, view2.png … into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Writes `view{s}` u8 [R,R,3] and `tiles{s}` f32 [n,3,T,T], the tiles that are not all padding, in raster order
    #[arg(long, value_name = "OUT.safetensors")]
    raw: Option<PathBuf>,
    /// Makes all tiles as the encoder gets them, sums up their values and prints how many there were and the sum: to time the way from file to encoder
    #[arg(long)]
    sum: bool,
    /// Takes a JPEG, or a TIFF in strips, that ends early: the rows it lacks become padding
    #[arg(long)]
    allow_truncated: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ViewsError {
    #[error(transparent)]
    Imaging(#[from] ImagingError),
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    #[error("{path}: cannot be written: {reason}")]
    Write { path: PathBuf, reason: String },
}

impl ViewsError {
    /// 1 failed, 5 bad input.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Imaging(error) => error.exit_code(),
            Self::Geometry(_) => 5,
            Self::Write { .. } => 1,
        }
    }
}

pub fn run(args: &ViewsArgs, shape: &VisionShape, limits: &Limits, bands: Option<Bands>, threads: usize) -> Result<(), ViewsError> {
    let reading = Reading { bands, allow_truncated: args.allow_truncated };
    let source = FrameSource::open_as(&args.frame, limits, &reading)?;
    let (width, height) = source.size();
    let layout = Layout::new(shape, width, height)?;
    let mut pyramid = Pyramid::new(shape, limits.max_side.min(Px(width.0.max(height.0))), Isa::detect());
    let pool = Pool::new(threads);
    let missing = pyramid.fill(&source, &layout, limits, &pool, &mut |_| ())?.missing;
    let layout = layout.without(source.last_rows(), missing);
    if missing.0 > 0 {
        eprintln!("{}: {} of {} rows are missing", args.frame.display(), missing.0, source.stored.1.0);
    }
    if args.sum {
        let (tiles, sum) = sum(&pyramid, &layout, shape, &pool);
        let mut out = std::io::stdout().lock();
        let refuse = |error: std::io::Error| ViewsError::Write { path: "stdout".into(), reason: error.to_string() };
        writeln!(out, "{tiles} tiles, sum {sum:.3}").map_err(refuse)?;
    }
    if let Some(folder) = &args.out {
        for view in layout.present() {
            let path = folder.join(format!("view{}.png", view.id.index() + 1));
            let refuse = |reason: String| ViewsError::Write { path: path.clone(), reason };
            let file =
                std::fs::create_dir_all(folder).and_then(|()| std::fs::File::create(&path)).map_err(|error| refuse(error.to_string()))?;
            let mut encoder = png::Encoder::new(std::io::BufWriter::new(file), view.side.0, view.side.0);
            encoder.set_color(png::ColorType::Rgb);
            let writer = encoder.write_header().and_then(|mut writer| {
                writer.write_image_data(pyramid.view(view.id.index()))?;
                writer.finish()
            });
            writer.map_err(|error| refuse(error.to_string()))?;
        }
    }
    if let Some(path) = &args.raw {
        let tile = shape.tile().get();
        let refuse = |reason: String| ViewsError::Write { path: path.clone(), reason };
        let mut tiles = Vec::new();
        for view in layout.present() {
            let [columns, rows] = view.encoded_tiles();
            let mut values = vec![0.0_f32; view.encoded_tile_count() * 3 * tile * tile];
            let places = rows.flat_map(|y| columns.clone().map(move |x| (x, y)));
            places.zip(values.chunks_exact_mut(3 * tile * tile)).for_each(|((x, y), out)| pyramid.tile(view, x, y, out));
            tiles.push((view, values));
        }
        let mut tensors = Vec::new();
        for (view, values) in &tiles {
            let number = view.id.index() + 1;
            let side = view.side.get();
            let picture = TensorView::new(Dtype::U8, vec![side, side, 3], pyramid.view(view.id.index()));
            let count = view.encoded_tile_count();
            let cut = TensorView::new(Dtype::F32, vec![count, 3, tile, tile], bytemuck::cast_slice(values));
            tensors.push((format!("view{number}"), picture.map_err(|error| refuse(error.to_string()))?));
            tensors.push((format!("tiles{number}"), cut.map_err(|error| refuse(error.to_string()))?));
        }
        safetensors::serialize_to_file(tensors, None, path).map_err(|error| refuse(error.to_string()))?;
    }
    Ok(())
}

/// Tiles, and the sum of their values: the same on any number of threads.
fn sum(pyramid: &Pyramid, layout: &Layout, shape: &VisionShape, pool: &Pool) -> (usize, f64) {
    const LANES: usize = 16;
    let (values, threads) = (3 * shape.tile().get().pow(2), pool.threads());
    let mut tiles = vec![0.0_f32; threads * values];
    let mut sums = vec![0.0_f64; threads];
    let (mut count, mut total) = (0, 0.0);
    for view in layout.present() {
        let [columns, rows] = view.encoded_tiles();
        let number = view.encoded_tile_count();
        for first in (0..number).step_by(threads) {
            let batch = threads.min(number - first);
            pool.pairs(&mut tiles[..batch * values], values, &mut sums[..batch], 1, &|at, tile, sum| {
                let at = first + at;
                pyramid.tile(view, columns.start + at % columns.len(), rows.start + at / columns.len(), tile);
                let mut lanes = [0.0_f64; LANES];
                let (chunks, rest) = tile.as_chunks::<LANES>();
                chunks.iter().for_each(|chunk| lanes.iter_mut().zip(chunk).for_each(|(lane, &value)| *lane += f64::from(value)));
                sum[0] = lanes.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value)).sum::<f64>();
            });
            total += sums[..batch].iter().sum::<f64>();
        }
        count += number;
    }
    (count, total)
}

impl Limits {
    /// A profile's, with all of its memory for a picture that is decoded whole.
    #[must_use]
    pub fn of(profile: &crate::config::Profile) -> Self {
        let whole: Bytes = profile.memory_limit;
        Self { max_side: profile.frame.max_side, max_pixels: profile.frame.max_pixels, whole }
    }
}
