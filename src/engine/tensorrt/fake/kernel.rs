//! What the fake's engines do: the scripted engines' functions over words of device memory. A plan is one of these as JSON.

use std::ffi::CStr;

use half::f16;
use serde::{Deserialize, Serialize};

use crate::engine::onnx::EncoderShape;
use crate::engine::scripted::{Script, encode_tile, look_at, project_rows};
use crate::engine::tensorrt::names;
use crate::engine::tensorrt::shim::{Dtype, TensorInfo};
use crate::units::Px;

/// An engine. Each has two tensors; the decoder's read and write the rows `[positions, kv-width]` of its keys and values in place, a row holding the
/// script as it stood after its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(super) enum Kernel {
    Encode { tile: Px, patch: Px, feature_dim: usize },
    Project { feature_dim: usize, hidden: usize },
    Ids { kv_width: usize },
    Rows { hidden: usize, kv_width: usize },
    Look { hidden: usize },
    Head { kv_width: usize, vocab: usize, stop: u32, answer_len: u32 },
}

/// Words of a script in its row: the hash and the count.
const SCRIPT_WORDS: usize = 2;
/// Values of f16 in a word.
const F16S: usize = 4;

impl Kernel {
    /// Whether its sizes can be run at all.
    pub fn sound(self) -> bool {
        let fits = |kv_width: usize| kv_width.is_multiple_of(F16S) && kv_width >= SCRIPT_WORDS * F16S;
        match self {
            Self::Encode { tile, patch, feature_dim } => patch.0 > 0 && tile >= patch && feature_dim > 0,
            Self::Project { feature_dim, hidden } => feature_dim > 0 && hidden > 0,
            Self::Ids { kv_width } => fits(kv_width),
            Self::Rows { hidden, kv_width } => hidden > 0 && fits(kv_width),
            Self::Look { hidden } => hidden > 0,
            Self::Head { kv_width, vocab, stop, .. } => vocab > stop as usize && fits(kv_width),
        }
    }

    /// Names and declared shapes of its two tensors, what it fills last.
    pub fn tensors(self) -> [(&'static CStr, TensorInfo); 2] {
        let info = TensorInfo::new;
        let kv = |width| (names::KV, info(Dtype::F16, &[0, width]));
        match self {
            Self::Encode { tile, patch, feature_dim } => {
                let shape = EncoderShape { tile, patch, feature_dim };
                let tiles = info(Dtype::F32, &[0, 3, tile.get(), tile.get()]);
                [(names::TILES, tiles), (names::FEATURES, info(Dtype::F16, &[0, shape.tokens(), feature_dim]))]
            }
            Self::Project { feature_dim, hidden } => {
                [(names::FEATURES, info(Dtype::F16, &[0, feature_dim])), (names::ROWS, info(Dtype::F32, &[0, hidden]))]
            }
            Self::Ids { kv_width } => [(names::IDS, info(Dtype::I32, &[0])), kv(kv_width)],
            Self::Rows { hidden, kv_width } => [(names::ROWS, info(Dtype::F16, &[0, hidden])), kv(kv_width)],
            Self::Look { hidden } => [(names::ROWS, info(Dtype::F16, &[0, hidden])), (names::SCORES, info(Dtype::F32, &[0]))],
            Self::Head { kv_width, vocab, .. } => [kv(kv_width), (names::LOGITS, info(Dtype::F32, &[vocab]))],
        }
    }

    /// Whether a run's tensors are its own and of one size: of the decoder's, that all new positions are among those of the cache.
    pub fn admits(self, given: [&TensorInfo; 2]) -> bool {
        let [(_, first), (_, second)] = self.tensors();
        let (inner, outer) = (given[0].dims[0], given[1].dims[0]);
        let together = match self {
            Self::Encode { .. } | Self::Project { .. } | Self::Look { .. } => inner == outer,
            Self::Ids { .. } | Self::Rows { .. } => inner <= outer,
            Self::Head { .. } => true,
        };
        first.admits(given[0]) && second.admits(given[1]) && together
    }

    /// Runs over memory that [`Self::admits`] has let through; `counts`: the first dimension of each tensor.
    pub fn run(self, counts: [usize; 2], first: &mut [u64], second: &mut [u64]) {
        match self {
            Self::Encode { tile, patch, feature_dim } => {
                let shape = EncoderShape { tile, patch, feature_dim };
                let (tiles, features) = (floats(first).chunks_exact(shape.values_in()), halves_mut(second));
                let places = features.chunks_exact_mut(shape.values_out());
                tiles.zip(places).take(counts[0]).for_each(|(tile, features)| encode_tile(&shape, tile, features));
            }
            Self::Project { feature_dim, hidden } => {
                let features = &halves(first)[..counts[0] * feature_dim];
                project_rows((features, feature_dim), (&mut floats_mut(second)[..counts[0] * hidden], hidden));
            }
            Self::Ids { kv_width } => {
                let ids: &[u32] = &bytemuck::cast_slice(first)[..counts[0]];
                extend(ids.chunks_exact(1), Script::take_ids, counts, kv_width, second);
            }
            Self::Rows { hidden, kv_width } => {
                let rows = &halves(first)[..counts[0] * hidden];
                extend(rows.chunks_exact(hidden), Script::take_rows, counts, kv_width, second);
            }
            Self::Look { hidden } => {
                look_at(&halves(first)[..counts[0] * hidden], hidden, &mut floats_mut(second)[..counts[0]]);
            }
            Self::Head { kv_width, vocab, stop, answer_len } => {
                let row = script_row(first, counts[0] - 1, kv_width);
                let mut script = read(row);
                script.say(stop, answer_len, &mut floats_mut(second)[..vocab]);
                write(row, script);
            }
        }
    }
}

/// New positions, the last of those in the cache: each goes on from the script of the one before.
fn extend<'a, T: 'a>(
    new: impl Iterator<Item = &'a [T]>,
    take: impl Fn(&mut Script, &[T]),
    [count, positions]: [usize; 2],
    kv_width: usize,
    kv: &mut [u64],
) {
    let start = positions - count;
    let mut script = if start == 0 { Script::default() } else { read(script_row(kv, start - 1, kv_width)) };
    for (position, values) in (start..).zip(new) {
        take(&mut script, values);
        write(script_row(kv, position, kv_width), script);
    }
}

fn script_row(kv: &mut [u64], position: usize, kv_width: usize) -> &mut [u64] {
    &mut kv[position * kv_width / F16S..][..SCRIPT_WORDS]
}

fn read(row: &[u64]) -> Script {
    // The count was a u32 when it was written; poison isn't, and says the answer is over.
    Script { state: row[0], said: u32::try_from(row[1]).unwrap_or(u32::MAX - 1) }
}

fn write(row: &mut [u64], script: Script) {
    (row[0], row[1]) = (script.state, u64::from(script.said));
}

fn floats(words: &[u64]) -> &[f32] {
    bytemuck::cast_slice(words)
}

fn floats_mut(words: &mut [u64]) -> &mut [f32] {
    bytemuck::cast_slice_mut(words)
}

fn halves(words: &[u64]) -> &[f16] {
    bytemuck::cast_slice(words)
}

fn halves_mut(words: &mut [u64]) -> &mut [f16] {
    bytemuck::cast_slice_mut(words)
}
