//! The scripted engines' functions over words of device memory, behind the tensors that a package's graphs have. A plan is one of these as JSON.

use std::ffi::{CStr, CString};

use half::f16;
use serde::{Deserialize, Serialize};

use crate::engine::onnx::EncoderShape;
use crate::engine::scripted::{Script, encode_tile, look_at, project_rows};
use crate::engine::tensorrt::fake::network::{Declared, Tensors, numbered};
use crate::engine::tensorrt::names;
use crate::engine::tensorrt::shim::{Dtype, TensorInfo};
use crate::units::Px;

/// An engine. The decoder's write what they remember of a position to its row of every layer's keys and values, each block in its own way, and find
/// it in the caches when they go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(super) enum Kernel {
    Encode {
        tile: Px,
        patch: Px,
        feature_dim: usize,
    },
    Project {
        feature_dim: usize,
        hidden: usize,
    },
    /// Any run but a step's starts the answer anew.
    Run {
        hidden: usize,
        kv_width: usize,
        layers: usize,
        vocab: usize,
        stop: u32,
        answer_len: u32,
        step: bool,
    },
    /// Up to the keys of layer `layers`.
    Anchor {
        hidden: usize,
        kv_width: usize,
        layers: usize,
    },
}

/// What a row of scripted embeddings begins with: not a number, and no poison. Then the two halves of the id.
pub(super) const ID_MARK: u16 = 0x7E00;

/// Words of a position's row: two of what is remembered.
const WORDS: usize = 2;
/// Values of f16 in a word.
const F16S: usize = 4;
/// Before the caches: rows and their count, and in the anchor pass who looks at what.
const CACHES: usize = 2;
const ANCHOR_CACHES: usize = 4;
/// Told apart by a multiple of it, so that a block in another's place is found out.
const BLOCK: u64 = 0x9E37_79B9_7F4A_7C15;

impl Kernel {
    /// Whether its sizes can be run at all.
    pub fn sound(self) -> bool {
        let fits = |kv_width: usize| kv_width.is_multiple_of(F16S) && kv_width >= WORDS * F16S;
        match self {
            Self::Encode { tile, patch, feature_dim } => patch.0 > 0 && tile >= patch && feature_dim > 0,
            Self::Project { feature_dim, hidden } => feature_dim > 0 && hidden > 0,
            Self::Run { hidden, kv_width, layers, vocab, stop, .. } => hidden > 2 && layers > 0 && vocab > stop as usize && fits(kv_width),
            Self::Anchor { hidden, kv_width, layers } => hidden > 2 && layers > 0 && fits(kv_width),
        }
    }

    /// Blocks of keys and values that it reads and makes.
    fn blocks(self) -> usize {
        match self {
            Self::Run { layers, .. } => 2 * layers,
            Self::Anchor { layers, .. } => 2 * layers - 1,
            _ => 0,
        }
    }

    /// Inputs, then outputs.
    pub fn tensors(self) -> Vec<Declared> {
        let info = TensorInfo::new;
        let declared = |name: &CStr, tensor, output| Declared { name: name.to_owned(), tensor, output, alias: None };
        let input = |name, tensor| declared(name, tensor, false);
        let output = |name, tensor| declared(name, tensor, true);
        let blocks = |stem: &str, kv_width: usize, rows: usize, output: bool| {
            let block = |number: usize| {
                let name = format!("{}{}{}", if output { "new_" } else { "" }, ["k", "v"][number % 2], stem);
                let name = CString::new(numbered(&name, number / 2)).unwrap_or_default();
                Declared { name, tensor: info(Dtype::F16, &[rows, kv_width]), output, alias: None }
            };
            (0..self.blocks()).map(block).collect::<Vec<_>>()
        };
        match self {
            Self::Encode { tile, patch, feature_dim } => {
                let shape = EncoderShape { tile, patch, feature_dim };
                let tiles = info(Dtype::F32, &[0, 3, tile.get(), tile.get()]);
                vec![input(names::TILES, tiles), output(names::FEATURES, info(Dtype::F16, &[0, shape.tokens(), feature_dim]))]
            }
            Self::Project { feature_dim, hidden } => {
                vec![input(names::FEATURES, info(Dtype::F16, &[0, feature_dim])), output(names::ROWS, info(Dtype::F32, &[0, hidden]))]
            }
            Self::Run { hidden, kv_width, vocab, step, .. } => {
                let rows = usize::from(step);
                let mut all =
                    vec![input(names::INPUTS_EMBEDS, info(Dtype::F16, &[rows, hidden])), input(names::LENGTH, info(Dtype::I32, &[1]))];
                all.extend(blocks("_cache_", kv_width, 0, false));
                all.extend(blocks("_", kv_width, rows, true));
                all.push(output(names::LOGITS, info(Dtype::F32, &[vocab])));
                all
            }
            Self::Anchor { hidden, kv_width, .. } => {
                let some = info(Dtype::I32, &[0]);
                let mut all =
                    vec![input(names::INPUTS_EMBEDS, info(Dtype::F16, &[0, hidden])), input(names::LENGTH, info(Dtype::I32, &[1]))];
                all.extend([input(names::QUERY_ROWS, some), input(names::VISUAL_KEYS, some)]);
                all.extend(blocks("_cache_", kv_width, 0, false));
                all.extend(blocks("_", kv_width, 0, true));
                all.push(output(names::IMPORTANCE, info(Dtype::F32, &[0])));
                all
            }
        }
    }

    /// Whether a run's dimensions go together.
    pub fn admits(self, given: impl Fn(usize) -> TensorInfo) -> bool {
        let first = |place: usize| given(place).dims[0];
        let blocks = self.blocks();
        let all = |from: usize, wanted: u64| (from..from + blocks).all(|place| first(place) == wanted);
        match self {
            Self::Encode { .. } | Self::Project { .. } => first(0) == first(1),
            Self::Run { .. } => all(CACHES, first(CACHES)) && all(CACHES + blocks, first(0)),
            Self::Anchor { .. } => {
                all(ANCHOR_CACHES, first(ANCHOR_CACHES))
                    && all(ANCHOR_CACHES + blocks, first(0))
                    && first(3) == first(ANCHOR_CACHES + 2 * blocks)
            }
        }
    }

    /// Runs over memory that has been let through.
    pub fn run(self, tensors: &mut Tensors<'_>) {
        match self {
            Self::Encode { tile, patch, feature_dim } => {
                let shape = EncoderShape { tile, patch, feature_dim };
                let (tiles, features) = tensors.pair::<f32, f16>(0, 1);
                let places = features.chunks_exact_mut(shape.values_out());
                tiles.chunks_exact(shape.values_in()).zip(places).for_each(|(tile, features)| encode_tile(&shape, tile, features));
            }
            Self::Project { feature_dim, hidden } => {
                let (features, rows) = tensors.pair::<f16, f32>(0, 1);
                project_rows((features, feature_dim), (rows, hidden));
            }
            Self::Run { hidden, kv_width, stop, answer_len, step, .. } => {
                let (blocks, place) = (self.blocks(), Place { caches: CACHES, blocks: self.blocks(), width: kv_width });
                let held = tensors.values::<u32>(1)[0] as usize;
                let before = if held == 0 { Some([0, 0]) } else { place.cached(tensors, held - 1) };
                let sound = place.zeros_behind(tensors, held);
                let mut script = before.map_or(Script::default(), |[state, said]| Script { state, said: u32::try_from(said).unwrap_or(0) });
                let rows = tensors.values::<f16>(0).len() / hidden;
                for row in 0..rows {
                    take(&mut script, &tensors.values::<f16>(0)[row * hidden..][..hidden]);
                    place.write(tensors, row, [script.state, u64::from(script.said)]);
                }
                script.said = if step { script.said } else { 0 };
                let logits = tensors.values_mut::<f32>(CACHES + 2 * blocks);
                script.say(stop, answer_len, logits);
                if before.is_none() || !sound {
                    logits.fill(f32::NAN);
                }
                place.write(tensors, rows - 1, [script.state, u64::from(script.said)]);
            }
            Self::Anchor { hidden, kv_width, .. } => {
                let place = Place { caches: ANCHOR_CACHES, blocks: self.blocks(), width: kv_width };
                let held = tensors.values::<u32>(1)[0] as usize;
                let bound = tensors.values::<f16>(ANCHOR_CACHES).len() / kv_width;
                let sound = place.zeros_behind(tensors, held);
                let rows = tensors.values::<f16>(0).len() / hidden;
                for row in 0..rows {
                    let weight = weight(&tensors.values::<f16>(0)[row * hidden..][..hidden]);
                    place.write(tensors, row, [u64::from(weight.to_bits()), (held + row) as u64]);
                }
                let looks = tensors.values::<u32>(2).iter().all(|row| (*row as usize) < rows);
                let found = ANCHOR_CACHES + 2 * self.blocks();
                for number in 0..tensors.values::<u32>(3).len() {
                    let key = tensors.values::<u32>(3)[number] as usize;
                    let seen = if key < held {
                        place.cached(tensors, key).filter(|[_, position]| *position == key as u64)
                    } else {
                        let row = key.checked_sub(bound).filter(|row| *row < rows);
                        row.map(|row| [u64::from(weight(&tensors.values::<f16>(0)[row * hidden..][..hidden]).to_bits()), 0])
                    };
                    let score = seen.and_then(|[bits, _]| u32::try_from(bits).ok()).map_or(f32::NAN, f32::from_bits);
                    tensors.values_mut::<f32>(found)[number] = if sound && looks { score } else { f32::NAN };
                }
            }
        }
    }
}

/// A row of a prompt: an id's or a visual one.
fn take(script: &mut Script, row: &[f16]) {
    if row[0].to_bits() == ID_MARK {
        script.take_ids(&[u32::from(row[1].to_bits()) | u32::from(row[2].to_bits()) << 16]);
    } else {
        script.take_rows(row);
    }
}

/// What the scripted importance of a row is.
fn weight(row: &[f16]) -> f32 {
    let mut score = [0.0];
    look_at(row, row.len(), &mut score);
    score[0]
}

/// Where keys and values are among an engine's tensors: caches, then as many new blocks.
#[derive(Clone, Copy)]
struct Place {
    caches: usize,
    blocks: usize,
    width: usize,
}

impl Place {
    fn mark(block: usize) -> u64 {
        BLOCK.wrapping_mul(block as u64 + 1)
    }

    /// What is remembered of `position`, if every block has the same of it.
    fn cached(self, tensors: &Tensors<'_>, position: usize) -> Option<[u64; WORDS]> {
        let read = |block: usize| {
            let row = tensors.values::<u64>(self.caches + block).get(position * self.width / F16S..)?.first_chunk::<WORDS>()?;
            Some(row.map(|word| word ^ Self::mark(block)))
        };
        let first = read(0)?;
        (1..self.blocks).all(|block| read(block) == Some(first)).then_some(first)
    }

    fn write(self, tensors: &mut Tensors<'_>, row: usize, words: [u64; WORDS]) {
        for block in 0..self.blocks {
            let to = &mut tensors.values_mut::<u64>(self.caches + self.blocks + block)[row * self.width / F16S..][..self.width / F16S];
            to.fill(0);
            to[..WORDS].copy_from_slice(&words.map(|word| word ^ Self::mark(block)));
        }
    }

    /// Whether rows that nobody looks at are numbers that do no harm: those from `held` on.
    fn zeros_behind(self, tensors: &Tensors<'_>, held: usize) -> bool {
        let behind = |block: usize| tensors.values::<u64>(self.caches + block).get(held * self.width / F16S..);
        (0..self.blocks).all(|block| behind(block).is_some_and(|words| words.iter().all(|word| *word == 0)))
    }
}
