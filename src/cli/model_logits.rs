//! `model logits`: a decoder's logits over given tokens, for parity with other runtimes.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use safetensors::{Dtype, tensor::TensorView};

use crate::arena::KvCache;
use crate::engine::decoder::Llama;
use crate::engine::{Decoder, DecoderError, Segment};
use crate::kernels::Pool;
use crate::units::{Bytes, Tokens};

/// Threads of a command that has no profile to say so.
pub const THREADS: usize = 2;

/// 1 to 256, as profiles have it.
pub fn threads(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|threads| (1..=256).contains(threads)).ok_or_else(|| format!("wanted 1 to 256, found {text:?}"))
}

#[derive(Args)]
pub struct LogitsArgs {
    /// The GGUF file
    #[arg(long, value_name = "F.gguf")]
    decoder: PathBuf,
    /// Token ids with commas between
    #[arg(long, value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// Where to write `logits` f32 [n, vocab]
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
    #[arg(long, default_value_t = THREADS, value_parser = threads)]
    threads: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum LogitsError {
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    #[error("memory: keys, values and logits need {wanted}, the profile's limit is {allowed}")]
    Memory { wanted: Bytes, allowed: Bytes },
    #[error("{path}: cannot be written: {reason}")]
    Write { path: PathBuf, reason: String },
}

impl LogitsError {
    /// 1 failed, 5 bad input.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Decoder(_) => 5,
            Self::Memory { .. } | Self::Write { .. } => 1,
        }
    }
}

/// `limit`: what the keys and values, the workspace and the logits may take.
pub fn run(args: &LogitsArgs, limit: Bytes) -> Result<(), LogitsError> {
    let wanted = Tokens::of(args.tokens.len());
    let mut decoder = Llama::load(&args.decoder, wanted, Arc::new(Pool::new(args.threads)))?;
    let shape = decoder.shape().clone();
    let logits = Bytes::of::<f32>(args.tokens.len().saturating_mul(shape.vocab));
    let wanted_bytes = KvCache::bytes(shape.layers, shape.kv_width(), wanted) + decoder.workspace() + logits;
    if wanted_bytes > limit {
        return Err(LogitsError::Memory { wanted: wanted_bytes, allowed: limit });
    }
    let mut kv = KvCache::new(shape.layers, shape.kv_width(), wanted);
    let mut bytes = Vec::with_capacity(args.tokens.len() * shape.vocab * 4);
    for (number, token) in args.tokens.iter().enumerate() {
        if number == 0 {
            decoder.prefill(&mut kv, &[Segment::Ids(&[*token])])?;
        } else {
            decoder.step(&mut kv, *token)?;
        }
        bytes.extend(decoder.logits().iter().flat_map(|logit| logit.to_le_bytes()));
    }
    let refuse = |reason: String| LogitsError::Write { path: args.out.clone(), reason };
    let view = TensorView::new(Dtype::F32, vec![args.tokens.len(), shape.vocab], &bytes).map_err(|error| refuse(error.to_string()))?;
    safetensors::serialize_to_file([("logits", view)], None, &args.out).map_err(|error| refuse(error.to_string()))
}
