//! A seeded random projection of features to fewer coordinates before they are clustered (Achlioptas 2003: signs, scaled).
//!
//! # Why
//! Lloyd's cost is linear in the width, and distances between a thousand coordinates survive in a few dozen: where milliseconds matter more than the exact
//! partition, this is the knob. It is off by default, and the receipt says when it isn't.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::work::{BLOCK, SHARDS};
use crate::compress::regions::ViewFeatures;
use crate::compress::{CompressError, MASKED};
use crate::kernels::{Isa, LANES, Pool, float_products};
use crate::units::Bytes;

/// Projected features of one view at a time, and the signs.
pub struct Sketch {
    to: usize,
    seed: u64,
    max_tokens: usize,
    max_from: usize,
    /// `[groups][from][LANES]`, ±1/√to.
    signs: Vec<f32>,
    /// Width that `signs` stands for.
    from: usize,
    /// `[tokens][to]`.
    pub rows: Vec<f32>,
    scratch: Vec<Scratch>,
}

struct Scratch {
    rows: Vec<f32>,
    products: Vec<f32>,
    bad: Option<(u32, f32)>,
}

impl Sketch {
    /// Of `tokens` tokens of up to `from` features to `to` coordinates.
    #[must_use]
    pub fn new(tokens: usize, from: usize, to: usize, seed: u64) -> Self {
        let wide = to.next_multiple_of(LANES);
        let scratch = || Scratch { rows: vec![0.0; BLOCK * from], products: vec![0.0; BLOCK * wide], bad: None };
        let scratch = (0..SHARDS).map(|_| scratch()).collect();
        Self { to, seed, max_tokens: tokens, max_from: from, signs: vec![0.0; wide * from], from: 0, rows: vec![0.0; tokens * to], scratch }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(tokens: usize, from: usize, to: usize) -> Bytes {
        let wide = to.next_multiple_of(LANES);
        Bytes::of::<f32>(wide * from + tokens * to + SHARDS * BLOCK * (from + wide))
    }

    /// Projects with the signs of `seed` from now on.
    pub fn reseed(&mut self, seed: u64) {
        (self.seed, self.from) = (seed, 0);
    }

    /// Projects the unmasked tokens of `view` into `rows`; masked ones, which nobody looks at, become 0.
    ///
    /// # Errors
    /// A feature that is not finite, or a view larger than the room for it.
    pub fn project(&mut self, isa: Isa, view: &ViewFeatures<'_>, labels: &[u32], pool: &Pool) -> Result<(), CompressError> {
        let (to, wide, dim) = (self.to, self.to.next_multiple_of(LANES), view.dim);
        let tokens = view.grid.tokens();
        for (what, found, room) in [("tokens", tokens, self.max_tokens), ("features", dim, self.max_from)] {
            if found > room {
                return Err(CompressError::Room { what, found, room });
            }
        }
        self.draw(dim);
        let signs = &self.signs[..wide * dim];
        let per_shard = tokens.div_ceil(SHARDS).next_multiple_of(BLOCK);
        let rows = &mut self.rows[..tokens * to];
        pool.pairs(&mut self.scratch, 1, rows, per_shard * to, &|number, scratch, rows| {
            let scratch = &mut scratch[0];
            scratch.bad = None;
            for (block, out) in rows.chunks_mut(BLOCK * to).enumerate() {
                let (first, count) = (number * per_shard + block * BLOCK, out.len() / to);
                let inputs = &mut scratch.rows[..count * dim];
                for (at, row) in inputs.chunks_exact_mut(dim).enumerate() {
                    if labels[first + at] == MASKED {
                        row.fill(0.0);
                        continue;
                    }
                    let start = (first + at) * dim;
                    if let Some(bad) = view.rows.not_finite(start, dim) {
                        scratch.bad.get_or_insert(((first + at) as u32, bad));
                    }
                    view.rows.copy_scaled(isa, start, 1.0, row);
                }
                let products = &mut scratch.products[..count * wide];
                float_products(isa, inputs, dim, signs, products);
                out.chunks_exact_mut(to).zip(products.chunks_exact(wide)).for_each(|(out, products)| out.copy_from_slice(&products[..to]));
            }
        });
        match self.scratch.iter().find_map(|scratch| scratch.bad) {
            Some((token, found)) => Err(CompressError::NotFinite { what: "clustering feature", token, found }),
            None => Ok(()),
        }
    }

    /// Signs for features of width `dim`, unless they are there.
    fn draw(&mut self, dim: usize) {
        if self.from == dim {
            return;
        }
        self.from = dim;
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let scale = 1.0 / (self.to as f32).sqrt();
        for (group, block) in self.signs.chunks_exact_mut(dim * LANES).take(self.to.div_ceil(LANES)).enumerate() {
            for lanes in block.chunks_exact_mut(LANES) {
                let bits = random.next_u32();
                for (lane, sign) in lanes.iter_mut().enumerate() {
                    let there = group * LANES + lane < self.to;
                    *sign = if !there {
                        0.0
                    } else if bits >> lane & 1 == 1 {
                        scale
                    } else {
                        -scale
                    };
                }
            }
        }
    }
}
