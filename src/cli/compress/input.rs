//! What `compress` reads: tensors of a safetensors file, each held against the shape and type it must have.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use half::f16;
use safetensors::{Dtype, SafeTensors};

use super::CompressCliError;
use crate::compress::regions::Rows;
use crate::geometry::VisionShape;
use crate::units::Px;

/// A safetensors file, its path kept for messages.
pub struct Input<'a> {
    pub path: &'a Path,
    pub tensors: SafeTensors<'a>,
}

/// Features `[count, dim]`, in the file's own memory where it is aligned.
pub struct Features<'a> {
    pub dim: usize,
    values: Values<'a>,
}

enum Values<'a> {
    F16(Cow<'a, [f16]>),
    F32(Cow<'a, [f32]>),
}

impl Features<'_> {
    #[must_use]
    pub fn rows(&self) -> Rows<'_> {
        match &self.values {
            Values::F16(values) => Rows::F16(values),
            Values::F32(values) => Rows::F32(values),
        }
    }
}

/// The sides of the views, from the file's metadata.
pub fn shape(path: &Path, bytes: &[u8]) -> Result<VisionShape, CompressCliError> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| format_error(path, &error))?;
    let none = HashMap::new();
    let metadata = header.metadata().as_ref().unwrap_or(&none);
    let number = |key: &str, text: &str| {
        text.trim().parse().map(Px).map_err(|_| CompressCliError::Tensor {
            path: path.to_owned(),
            tensor: format!("metadata {key}"),
            wanted: "whole numbers of pixels".into(),
            found: format!("{text:?}"),
        })
    };
    let text = |key: &str| {
        metadata.get(key).map(String::as_str).ok_or_else(|| CompressCliError::Tensor {
            path: path.to_owned(),
            tensor: format!("metadata {key}"),
            wanted: "a string".into(),
            found: "none".into(),
        })
    };
    let views = text("views")?.split(',').map(|side| number("views", side)).collect::<Result<Vec<_>, _>>()?;
    let (tile, patch) = (number("tile", text("tile")?)?, number("patch", text("patch")?)?);
    let shape = VisionShape::new(views, tile, patch, [0.5; 3], [0.5; 3]);
    shape.map_err(|source| CompressCliError::Shape { path: path.to_owned(), source })
}

fn format_error(path: &Path, error: &safetensors::SafeTensorError) -> CompressCliError {
    CompressCliError::Format { path: path.to_owned(), reason: format!("wanted a safetensors file: {error}") }
}

impl<'a> Input<'a> {
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Result<Self, CompressCliError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| format_error(path, &error))?;
        Ok(Self { path, tensors })
    }

    pub fn has(&self, view: usize, what: &str) -> bool {
        self.tensors.tensor(&format!("view{}.{what}", view + 1)).is_ok()
    }

    /// Width of a view's `count` rows, where the file has them.
    pub fn width(&self, view: usize, what: &str, count: usize) -> Option<usize> {
        let tensor = self.tensors.tensor(&format!("view{}.{what}", view + 1)).ok()?;
        matches!(*tensor.shape(), [rows, _] if rows == count).then(|| tensor.shape()[1])
    }

    pub fn wrong(&self, tensor: &str, wanted: String, found: String) -> CompressCliError {
        CompressCliError::Tensor { path: self.path.to_owned(), tensor: tensor.to_owned(), wanted, found }
    }

    /// The bytes of a tensor, where there is one; of another type or shape it is an error.
    pub fn optional(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Option<&'a [u8]>, CompressCliError> {
        let Ok(tensor) = self.tensors.tensor(name) else { return Ok(None) };
        if tensor.dtype() != dtype || tensor.shape() != shape {
            return Err(self.wrong(name, format!("{dtype:?} {shape:?}"), format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
        }
        Ok(Some(tensor.data()))
    }

    pub fn required(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8], CompressCliError> {
        self.optional(name, dtype, shape)?.ok_or_else(|| self.wrong(name, format!("{dtype:?} {shape:?}"), "none".into()))
    }

    /// Type, width and bytes of features `[count, d]` in f32 or f16; their values are not looked at.
    pub fn shaped(&self, name: &str, count: usize) -> Result<(Dtype, usize, &'a [u8]), CompressCliError> {
        let wanted = || format!("F32 or F16 [{count}, d]");
        let tensor = self.tensors.tensor(name).map_err(|_| self.wrong(name, wanted(), "none".into()))?;
        let (&[rows, dim], dtype @ (Dtype::F32 | Dtype::F16)) = (tensor.shape(), tensor.dtype()) else {
            return Err(self.wrong(name, wanted(), format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
        };
        if rows != count || dim == 0 {
            return Err(self.wrong(name, wanted(), format!("{dtype:?} [{rows}, {dim}]")));
        }
        Ok((dtype, dim, tensor.data()))
    }

    /// Features `[count, d]` in f32 or f16, all finite.
    pub fn rows(&self, name: &str, count: usize) -> Result<Features<'a>, CompressCliError> {
        let (dtype, dim, bytes) = self.shaped(name, count)?;
        let values = if dtype == Dtype::F32 {
            Values::F32(bytemuck::try_cast_slice(bytes).map_or_else(|_| Cow::Owned(floats(bytes)), Cow::Borrowed))
        } else {
            let copy = |_| Cow::Owned(bytes.as_chunks::<2>().0.iter().copied().map(f16::from_le_bytes).collect());
            Values::F16(bytemuck::try_cast_slice(bytes).map_or_else(copy, Cow::Borrowed))
        };
        let bad = match &values {
            Values::F16(values) => values.iter().position(|value| !value.is_finite()).map(|at| (at, values[at].to_f32())),
            Values::F32(values) => values.iter().position(|value| !value.is_finite()).map(|at| (at, values[at])),
        };
        match bad {
            Some((at, value)) => Err(self.wrong(name, "finite numbers".into(), format!("{value} in row {}", at / dim))),
            None => Ok(Features { dim, values }),
        }
    }

    pub fn indices(&self, name: &str, values: &[i32]) -> Result<Vec<u32>, CompressCliError> {
        let wanted = |value: &i32| self.wrong(name, "numbers from 0".into(), value.to_string());
        values.iter().map(|value| u32::try_from(*value).map_err(|_| wanted(value))).collect()
    }

    /// Tokens below `count` that start k-means: one or more, no more than there are tokens.
    pub fn tokens(&self, name: &str, count: usize) -> Result<Vec<u32>, CompressCliError> {
        let tensor = self.tensors.tensor(name).map_err(|_| self.wrong(name, "I32 [k]".into(), "none".into()))?;
        if tensor.dtype() != Dtype::I32 || !matches!(tensor.shape(), &[k] if k > 0) {
            return Err(self.wrong(name, "I32 [k], k of 1 or more".into(), format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
        }
        let tokens = self.indices(name, &numbers(tensor.data()))?;
        match tokens.iter().find(|token| **token as usize >= count) {
            Some(token) => Err(self.wrong(name, format!("tokens below {count}"), token.to_string())),
            None if tokens.len() > count => Err(self.wrong(name, format!("at most {count} tokens"), tokens.len().to_string())),
            None => Ok(tokens),
        }
    }
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes).collect()
}

pub fn numbers(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks::<4>().0.iter().copied().map(i32::from_le_bytes).collect()
}
