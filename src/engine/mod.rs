//! What runs a network: the vision encoder, the projector and the decoder, each behind a trait.
//!
//! # Why
//! A shape or a type that an engine can't serve is found at load, by the tensor's name, and never in flight. Sizes of weights and
//! workspaces are told to the memory map before a question comes.

pub mod decoder;
pub mod onnx;
pub mod scripted;
pub mod tensorrt;
mod tokenizer;

use std::path::PathBuf;

use half::f16;

use crate::arena::Full;
use crate::kernels::Pool;
use crate::units::{Bytes, Px, Tokens};

pub use decoder::{Decoder, DecoderError, DecoderShape, Segment};
pub use tokenizer::{Tokenizer, TokenizerError};

/// What an engine could not do, with wanted and found.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{path}: {reason}")]
    Load { path: PathBuf, reason: String },
    #[error("{path}: tensor {tensor}: wanted {wanted}, found {found}")]
    Tensor { path: PathBuf, tensor: String, wanted: String, found: String },
    #[error("{engine}: {reason}")]
    Run { engine: &'static str, reason: String },
    #[error("{engine}: wanted {wanted} values of {what}, found {found}")]
    Length { engine: &'static str, what: &'static str, wanted: usize, found: usize },
    #[error("{engine}: {source}")]
    Device { engine: &'static str, source: tensorrt::ShimError },
    #[error(transparent)]
    Built(#[from] tensorrt::BuiltError),
    #[error(transparent)]
    Full(#[from] Full),
    #[error(transparent)]
    Decoder(#[from] decoder::DecoderError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Tiles to features.
pub trait VisionEncoder: Send {
    /// For receipts: library, version, arithmetic.
    fn id(&self) -> &str;
    /// Weights and workspace.
    fn bytes(&self) -> Bytes;
    /// `tiles` `[n,3,T,T]` f32, normalised → `out` `[n,P,d_v]` f16, tiles shared out over `pool`. A tile's features don't depend on its neighbours.
    fn encode(&mut self, tiles: &[f32], out: &mut [f16], pool: &Pool) -> Result<(), EngineError>;
    /// Runs on every thread of `pool` at the same time, so that all it will ever hold is resident before memory is measured.
    fn warm_up(&mut self, _pool: &Pool) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Features to the decoder's width.
pub trait Projector: Send {
    fn id(&self) -> &str;
    fn bytes(&self) -> Bytes;
    /// Most rows of a call.
    fn chunk(&self) -> Tokens;
    /// `features` `[n,d_v]` f16 → `out` `[n,d]` f32.
    fn project(&mut self, features: &[f16], out: &mut [f32]) -> Result<(), EngineError>;
}

/// A picture to a label a pixel.
pub trait Segmenter: Send {
    fn id(&self) -> &str;
    /// Weights and workspace.
    fn bytes(&self) -> Bytes;
    /// Width and height of its picture.
    fn size(&self) -> (Px, Px);
    /// `picture` `[3,H,W]` f32, normalised as tiles are → `labels` `[H,W]`.
    fn segment(&mut self, picture: &[f32], labels: &mut [u32]) -> Result<(), EngineError>;
}
