//! The decoder's keys and values of all positions so far, f16.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::arena::Full;
use crate::units::{Bytes, Tokens};

/// Keys and values `[layers][capacity][kv_heads · head_dim]`, filled from the front.
pub struct KvCache {
    keys: Vec<f16>,
    values: Vec<f16>,
    width: usize,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// For `capacity` positions of `layers` layers, `width` values each for keys and for values.
    #[must_use]
    pub fn new(layers: usize, width: usize, capacity: Tokens) -> Self {
        let values = layers * capacity.get() * width;
        Self { keys: vec![f16::ZERO; values], values: vec![f16::ZERO; values], width, capacity: capacity.get(), len: 0 }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(layers: usize, width: usize, capacity: Tokens) -> Bytes {
        Bytes::of::<f16>(2 * layers * capacity.get() * width)
    }

    #[must_use]
    pub fn len(&self) -> Tokens {
        Tokens::of(self.len)
    }

    /// Positions that there is room for, taken or not.
    #[must_use]
    pub fn capacity(&self) -> Tokens {
        Tokens::of(self.capacity)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all positions.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Takes the next `wanted` positions; the first of them is returned.
    ///
    /// # Errors
    /// [`Full`], and nothing is taken.
    pub fn reserve(&mut self, wanted: Tokens) -> Result<usize, Full> {
        let free = Tokens::of(self.capacity - self.len);
        if wanted > free {
            return Err(Full { what: "KV cache", wanted, free });
        }
        let first = self.len;
        self.len += wanted.get();
        Ok(first)
    }

    /// Writes the rows `[n, width]` of `keys` from position `first` of `layer`.
    pub fn put_keys(&mut self, layer: usize, first: usize, keys: &[f32]) {
        let start = (layer * self.capacity + first) * self.width;
        self.keys[start..start + keys.len()].convert_from_f32_slice(keys);
    }

    /// As [`Self::put_keys`], for values.
    pub fn put_values(&mut self, layer: usize, first: usize, values: &[f32]) {
        let start = (layer * self.capacity + first) * self.width;
        self.values[start..start + values.len()].convert_from_f32_slice(values);
    }

    /// Keys of all positions taken, `[len, width]`.
    #[must_use]
    pub fn keys(&self, layer: usize) -> &[f16] {
        &self.keys[layer * self.capacity * self.width..][..self.len * self.width]
    }

    /// Values of all positions taken, `[len, width]`.
    #[must_use]
    pub fn values(&self, layer: usize) -> &[f16] {
        &self.values[layer * self.capacity * self.width..][..self.len * self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cache_takes_nothing() {
        let mut cache = KvCache::new(2, 4, Tokens(3));
        assert_eq!(cache.reserve(Tokens(2)), Ok(0));
        assert_eq!(cache.reserve(Tokens(2)), Err(Full { what: "KV cache", wanted: Tokens(2), free: Tokens(1) }));
        assert_eq!((cache.reserve(Tokens(1)), cache.len()), (Ok(2), Tokens(3)));
        cache.put_keys(1, 2, &[1.0; 4]);
        assert!(cache.keys(1)[8..].iter().all(|key| *key == f16::ONE));
        assert!(cache.keys(0).iter().all(|key| *key == f16::ZERO));
    }
}
