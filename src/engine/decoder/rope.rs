//! Rotary positions: which values of a head are rotated together, and how far.
//!
//! Sources: RoFormer (arXiv 2104.09864); linear scaling (arXiv 2306.15595); YaRN (arXiv 2309.00071), with the ramp's ends rounded outwards and the
//! magnitude `0.1 · ln s + 1`, as Hugging Face's and llama.cpp's models have them; `rope_freqs.weight`, a divisor a pair, as Llama 3's GGUF files have it.

use std::f64::consts::TAU;

use crate::engine::decoder::gguf::{Gguf, Value};
use crate::engine::decoder::{DecoderError, Pairs};

/// Rotations within the original context from which on a pair is left as it is, and up to which it is stretched in full: YaRN's defaults.
const FAST: f64 = 32.0;
const SLOW: f64 = 1.0;
/// A divisor a pair.
const DIVISORS: &str = "rope_freqs.weight";

/// Rotation of a head's first values.
pub struct Rope {
    /// Radians a position, one a pair.
    frequencies: Vec<f32>,
    /// What rotated values are multiplied by.
    magnitude: f32,
    pairs: Pairs,
}

impl Rope {
    /// Of `file`, whose keys begin with `family`, for heads whose first `rotary` values are rotated.
    ///
    /// # Errors
    /// A scaling other than none, linear and yarn; factors that can't be.
    pub fn load(file: &Gguf, family: &str, rotary: usize, pairs: Pairs) -> Result<Self, DecoderError> {
        let key = |part: &str| format!("{family}.rope.{part}");
        let base = f64::from(file.positive_or(&key("freq_base"), Some(10_000.0))?);
        let plain = (0..rotary / 2).map(|pair| base.powf(-2.0 * pair as f64 / rotary as f64));
        let kind = key("scaling.type");
        let factor = || file.positive_or(&key("scaling.factor"), None).map(f64::from);
        let (scaled, magnitude): (Vec<f64>, f64) = match file.value(&kind) {
            None => (plain.collect(), 1.0),
            Some(Value::Text(name)) if name == "none" => (plain.collect(), 1.0),
            Some(Value::Text(name)) if name == "linear" => {
                let factor = factor()?;
                (plain.map(|frequency| frequency / factor).collect(), 1.0)
            }
            Some(Value::Text(name)) if name == "yarn" => {
                let (factor, context) = (factor()?, file.count(&key("scaling.original_context_length"), 1..=1 << 24)?);
                let ramp = Ramp::new(base, rotary, context);
                let magnitude = file.positive_or(&key("scaling.attn_factor"), Some(1.0))?;
                let stretched = plain.enumerate().map(|(pair, frequency)| {
                    let share = ramp.share(pair);
                    frequency / factor * share + frequency * (1.0 - share)
                });
                (stretched.collect(), f64::from(magnitude) * (0.1 * factor.ln() + 1.0))
            }
            other => return Err(file.key_error(&kind, "none, linear or yarn", other)),
        };
        let mut divisors = vec![1.0; rotary / 2];
        if file.has(DIVISORS) {
            file.matrix(&file.locate(DIVISORS, 1, rotary / 2)?).row(0, &mut divisors);
        }
        let frequencies: Vec<f32> =
            scaled.iter().zip(&divisors).map(|(frequency, divisor)| (frequency / f64::from(*divisor)) as f32).collect();
        match frequencies.iter().find(|frequency| !frequency.is_finite()) {
            Some(found) => Err(file.tensor_error(DIVISORS, "divisors of finite frequencies", &found.to_string())),
            None => Ok(Self { frequencies, magnitude: magnitude as f32, pairs }),
        }
    }

    /// Rotates each head of `dim` values in rows of `width`, the first of which stands at position `first`.
    pub fn rotate(&self, rows: &mut [f32], width: usize, dim: usize, first: usize) {
        let half = self.frequencies.len();
        for (row, values) in rows.chunks_exact_mut(width).enumerate() {
            for (pair, frequency) in self.frequencies.iter().enumerate() {
                let (sin, cos) = ((first + row) as f32 * frequency).sin_cos();
                let (sin, cos) = (sin * self.magnitude, cos * self.magnitude);
                let (at, other) = match self.pairs {
                    Pairs::Adjacent => (2 * pair, 2 * pair + 1),
                    Pairs::Halves => (pair, pair + half),
                };
                for head in values.chunks_exact_mut(dim) {
                    let (a, b) = (head[at], head[other]);
                    head[at] = a * cos - b * sin;
                    head[other] = a * sin + b * cos;
                }
            }
        }
    }
}

/// Between the pairs that are left and those that are stretched in full.
struct Ramp {
    low: f64,
    high: f64,
}

impl Ramp {
    fn new(base: f64, rotary: usize, context: usize) -> Self {
        // The pair, not rounded, that turns so often within the original context.
        let pair = |turns: f64| rotary as f64 * (context as f64 / (turns * TAU)).ln() / (2.0 * base.ln());
        let most = rotary as f64 - 1.0;
        Self { low: pair(FAST).floor().max(0.0), high: pair(SLOW).ceil().min(most) }
    }

    /// How much of the stretch a pair gets.
    fn share(&self, pair: usize) -> f64 {
        let width = (self.high - self.low).max(1e-3);
        ((pair as f64 - self.low) / width).clamp(0.0, 1.0)
    }
}
