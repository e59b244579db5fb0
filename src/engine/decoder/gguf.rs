//! GGUF, versions 2 and 3: metadata and tensors of a mapped file.
//!
//! # Why
//! The bytes come from outside: every count, length and offset is held against the file's size before it is used, and nothing is allocated
//! in proportion to a number the file merely claims.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::engine::decoder::DecoderError;
use crate::kernels::{Format, Matrix, map_file};

/// Bounds that no known model comes near.
const MAX_TENSORS: u64 = 1 << 16;
const MAX_KEYS: u64 = 1 << 16;
const MAX_DIMS: u32 = 4;
const MAX_DEPTH: u32 = 3;

/// A number or a text of the metadata; arrays are checked and skipped.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(f64),
    Text(String),
    Other,
}

struct Tensor {
    /// Fastest dimension first, as in the file.
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// A parsed file. Tensors' places have been held against its size.
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, Tensor>,
    data: usize,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let left = self.bytes.len() - self.at;
        let len = usize::try_from(len).ok().filter(|&len| len <= left).ok_or(format!("wanted {len} more bytes, found {left}"))?;
        self.at += len;
        Ok(&self.bytes[self.at - len..self.at])
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(*self.take(N as u64)?.first_chunk().ok_or("a short read")?)
    }
    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }
    fn text(&mut self) -> Result<String, String> {
        let len = self.u64()?;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| "a text that is not UTF-8".into())
    }
    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, String> {
        let number = |value: f64| Ok(Value::Number(value));
        match kind {
            0 => number(f64::from(self.array::<1>()?[0])),
            1 => number(f64::from(i8::from_le_bytes(self.array()?))),
            2 => number(f64::from(u16::from_le_bytes(self.array()?))),
            3 => number(f64::from(i16::from_le_bytes(self.array()?))),
            4 => number(f64::from(self.u32()?)),
            5 => number(f64::from(i32::from_le_bytes(self.array()?))),
            6 => number(f64::from(f32::from_le_bytes(self.array()?))),
            7 => self.array::<1>().map(|_| Value::Other),
            8 => self.text().map(Value::Text),
            9 if depth < MAX_DEPTH => {
                let (kind, count) = (self.u32()?, self.u64()?);
                for _ in 0..count {
                    self.value(kind, depth + 1)?;
                }
                Ok(Value::Other)
            }
            10 => number(self.u64()? as f64),
            11 => number(i64::from_le_bytes(self.array()?) as f64),
            12 => number(f64::from_le_bytes(self.array()?)),
            _ => Err(format!("metadata of type {kind}, wanted 0 to 12")),
        }
    }
}

/// ggml's number of a format.
fn format(kind: u32) -> Option<Format> {
    match kind {
        0 => Some(Format::F32),
        1 => Some(Format::F16),
        2 => Some(Format::Q4_0),
        3 => Some(Format::Q4_1),
        8 => Some(Format::Q8_0),
        _ => None,
    }
}

impl Gguf {
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, DecoderError> {
        let refuse = |reason: String| DecoderError::Format { path: path.to_owned(), reason };
        let map = map_file(path).map_err(|error| refuse(error.to_string()))?;
        let (metadata, tensors, data) = Self::parse(&map).map_err(refuse)?;
        Ok(Self { path: path.to_owned(), map, metadata, tensors, data })
    }

    #[allow(clippy::type_complexity)]
    fn parse(bytes: &[u8]) -> Result<(HashMap<String, Value>, HashMap<String, Tensor>, usize), String> {
        let mut reader = Reader { bytes, at: 0 };
        let magic = reader.array::<4>()?;
        if &magic != b"GGUF" {
            return Err(format!("wanted a GGUF file, found one that starts {magic:02x?}"));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("wanted GGUF version 2 or 3, found {version}"));
        }
        let (tensor_count, key_count) = (reader.u64()?, reader.u64()?);
        if tensor_count > MAX_TENSORS || key_count > MAX_KEYS {
            return Err(format!("wanted at most {MAX_TENSORS} tensors and {MAX_KEYS} metadata keys, found {tensor_count} and {key_count}"));
        }
        let mut metadata = HashMap::new();
        for _ in 0..key_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, 0)?;
            metadata.insert(key, value);
        }
        let mut tensors = HashMap::new();
        for _ in 0..tensor_count {
            let name = reader.text()?;
            let count = reader.u32()?;
            if count > MAX_DIMS {
                return Err(format!("tensor {name}: wanted at most {MAX_DIMS} dimensions, found {count}"));
            }
            let dims = (0..count).map(|_| reader.u64()).collect::<Result<Vec<_>, _>>()?;
            let (kind, offset) = (reader.u32()?, reader.u64()?);
            if tensors.insert(name.clone(), Tensor { dims, kind, offset }).is_some() {
                return Err(format!("tensor {name} is there twice"));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Number(value)) if *value >= 1.0 && *value <= 4096.0 && (*value as u64).is_power_of_two() => *value as usize,
            Some(other) => return Err(format!("general.alignment: wanted a power of two up to 4096, found {other:?}")),
        };
        Ok((metadata, tensors, reader.at.next_multiple_of(alignment)))
    }

    /// A text of the metadata.
    pub fn text(&self, key: &str) -> Result<&str, DecoderError> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => Ok(text),
            other => Err(self.key_error(key, "a text", other)),
        }
    }

    /// A whole number of the metadata, within `range`.
    pub fn count(&self, key: &str, range: std::ops::RangeInclusive<u32>) -> Result<usize, DecoderError> {
        let wanted = || format!("a whole number from {} to {}", range.start(), range.end());
        match self.metadata.get(key) {
            Some(Value::Number(value))
                if value.fract() == 0.0 && *value >= f64::from(*range.start()) && *value <= f64::from(*range.end()) =>
            {
                Ok(*value as usize)
            }
            other => Err(self.key_error(key, &wanted(), other)),
        }
    }

    /// As [`Self::count`], or `default` where the key is absent.
    pub fn count_or(&self, key: &str, range: std::ops::RangeInclusive<u32>, default: usize) -> Result<usize, DecoderError> {
        if self.metadata.contains_key(key) { self.count(key, range) } else { Ok(default) }
    }

    /// A finite number above 0, or `default` where the key is absent.
    pub fn positive_or(&self, key: &str, default: Option<f32>) -> Result<f32, DecoderError> {
        match (self.metadata.get(key), default) {
            (Some(Value::Number(value)), _) if value.is_finite() && *value > 0.0 => Ok(*value as f32),
            (None, Some(default)) => Ok(default),
            (other, _) => Err(self.key_error(key, "a finite number above 0", other)),
        }
    }

    /// The value of a key, if it is there.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    pub fn key_error(&self, key: &str, wanted: &str, found: Option<&Value>) -> DecoderError {
        let found = found.map_or("nothing".to_owned(), |value| format!("{value:?}"));
        DecoderError::Key { path: self.path.clone(), key: key.to_owned(), wanted: wanted.to_owned(), found }
    }

    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Columns and rows of a tensor of two dimensions.
    pub fn sides(&self, name: &str) -> Result<(usize, usize), DecoderError> {
        match self.tensors.get(name).map(|tensor| &tensor.dims[..]) {
            Some(&[cols, rows]) if cols <= 1 << 24 && rows <= 1 << 24 => Ok((cols as usize, rows as usize)),
            other => Err(self.tensor_error(name, "two dimensions of at most 16777216", &format!("{other:?}"))),
        }
    }

    pub fn tensor_error(&self, name: &str, wanted: &str, found: &str) -> DecoderError {
        DecoderError::Tensor { path: self.path.clone(), tensor: name.to_owned(), wanted: wanted.to_owned(), found: found.to_owned() }
    }

    /// Where tensor `name` `[rows, cols]` lies in the file: its format and its bytes' range. One dimension counts as one row.
    pub fn locate(&self, name: &str, rows: usize, cols: usize) -> Result<Located, DecoderError> {
        let tensor = self.tensors.get(name).ok_or_else(|| self.tensor_error(name, "this tensor", "none of that name"))?;
        let found = match tensor.dims[..] {
            [cols] => Some((1, cols)),
            [cols, rows] => Some((rows, cols)),
            _ => None,
        };
        if found != Some((rows as u64, cols as u64)) {
            return Err(self.tensor_error(name, &format!("[{rows}, {cols}]"), &format!("{:?}, fastest first", tensor.dims)));
        }
        let format = format(tensor.kind).ok_or_else(|| {
            self.tensor_error(name, "F32 (0), F16 (1), Q4_0 (2), Q4_1 (3) or Q8_0 (8)", &format!("ggml type {}", tensor.kind))
        })?;
        if !cols.is_multiple_of(format.block()) {
            return Err(self.tensor_error(name, "rows of whole blocks of 32", &format!("rows of {cols}")));
        }
        let len = rows.checked_mul(format.row_bytes(cols));
        let start = usize::try_from(tensor.offset).ok().and_then(|offset| self.data.checked_add(offset));
        let range = start.zip(len).and_then(|(start, len)| Some(start..start.checked_add(len)?));
        match range {
            Some(range) if range.end <= self.map.len() => Ok(Located { format, rows, cols, start: range.start, len: range.len() }),
            _ => Err(self.tensor_error(name, "bytes inside the file", &format!("offset {} of {} bytes", tensor.offset, self.map.len()))),
        }
    }

    /// The tensor at a place that [`Self::locate`] gave.
    #[must_use]
    pub fn matrix(&self, at: &Located) -> Matrix<'_> {
        Matrix { format: at.format, rows: at.rows, cols: at.cols, bytes: &self.map[at.start..at.start + at.len] }
    }
}

/// A tensor's place in its file.
#[derive(Clone, Copy, Debug)]
pub struct Located {
    format: Format,
    rows: usize,
    cols: usize,
    start: usize,
    pub len: usize,
}
