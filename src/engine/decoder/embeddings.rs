//! The table of embeddings, for a decoder that is given rows and never ids.

use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::engine::decoder::gguf::{Gguf, Located};
use crate::engine::decoder::llama::sizes;
use crate::engine::decoder::{DecoderError, DecoderShape};
use crate::units::Bytes;

/// Ids to rows of the decoder's width.
pub trait Embed: Send {
    /// Writes the row `[hidden]` of `id`, which is below the vocabulary's size.
    fn embed(&mut self, id: u32, row: &mut [f16]);
    /// What it holds on the host.
    fn bytes(&self) -> Bytes;
}

/// The table of a GGUF file, which stays mapped.
pub struct Embeddings {
    file: Gguf,
    table: Located,
    row: Vec<f32>,
}

impl Embeddings {
    /// The table of `path`, and the sizes of its decoder.
    ///
    /// # Errors
    /// Names the key or the tensor that isn't as wanted.
    pub fn load(path: &Path) -> Result<(Self, DecoderShape), DecoderError> {
        let file = Gguf::open(path)?;
        let shape = sizes(&file)?.shape;
        let table = file.locate("token_embd.weight", shape.vocab, shape.hidden)?;
        Ok((Self { file, table, row: vec![0.0; shape.hidden] }, shape))
    }
}

impl Embed for Embeddings {
    fn embed(&mut self, id: u32, row: &mut [f16]) {
        self.file.matrix(&self.table).row(id as usize, &mut self.row);
        row.convert_from_f32_slice(&self.row);
    }

    fn bytes(&self) -> Bytes {
        Bytes(self.table.len as u64)
    }
}
