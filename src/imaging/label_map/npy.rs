//! npy (NumPy's format, versions 1 to 3): a magic, a header that is a Python dictionary, then the values in C order.
//!
//! # Why
//! The header has three known keys, so a strict reader of a few lines stands for a parser of Python literals.

use std::fs::File;
use std::io::{BufReader, Read};

use super::{Header, Refusal, Sink, Stop, labels};

/// A header that says more than this is none of NumPy's.
const LONGEST: usize = 1 << 12;

/// An integer type: bytes, sign, byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    size: usize,
    signed: bool,
    big: bool,
}

/// The dictionary's values as text, and where the values of the array begin.
struct Fields {
    kind: String,
    fortran: String,
    shape: String,
    start: u64,
}

fn fields(file: &mut BufReader<File>) -> Result<Fields, String> {
    let ended = |_| "the file ends before its header does".to_owned();
    let mut head = [0; 8];
    file.read_exact(&mut head).map_err(ended)?;
    let mut len = [0; 4];
    let wide = match head[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(format!("wanted npy version 1, 2 or 3, found {version}")),
    };
    file.read_exact(&mut len[..wide]).map_err(ended)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > LONGEST {
        return Err(format!("header: wanted at most {LONGEST} bytes, found {len}"));
    }
    let mut text = vec![0; len];
    file.read_exact(&mut text).map_err(ended)?;
    let text = String::from_utf8(text).map_err(|_| "header: wanted UTF-8".to_owned())?;
    let wrong = || format!("header: wanted {{'descr': …, 'fortran_order': …, 'shape': …}}, found {:?}", text.trim());
    let mut inside = text.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(wrong)?.trim();
    let (mut kind, mut fortran, mut shape) = (None, None, None);
    while !inside.is_empty() {
        let (key, rest) = inside.split_once(':').ok_or_else(wrong)?;
        let rest = rest.trim_start();
        let end = if rest.starts_with('(') { rest.find(')').map(|at| at + 1) } else { Some(rest.find(',').unwrap_or(rest.len())) };
        let (value, rest) = rest.split_at(end.ok_or_else(wrong)?);
        let place = match key.trim() {
            "'descr'" => &mut kind,
            "'fortran_order'" => &mut fortran,
            "'shape'" => &mut shape,
            _ => return Err(wrong()),
        };
        if place.replace(value.trim().to_owned()).is_some() {
            return Err(wrong());
        }
        let rest = rest.trim_start();
        inside = rest.strip_prefix(',').or(rest.is_empty().then_some("")).ok_or_else(wrong)?.trim_start();
    }
    let (Some(kind), Some(fortran), Some(shape)) = (kind, fortran, shape) else { return Err(wrong()) };
    Ok(Fields { kind, fortran, shape, start: (8 + wide + len) as u64 })
}

fn kind(text: &str) -> Option<Kind> {
    let [order, letter, size] = *text.strip_prefix('\'')?.strip_suffix('\'')?.as_bytes() else { return None };
    let (signed, size) = match (letter, size) {
        (b'u', size) => (false, size),
        (b'i', size) => (true, size),
        _ => return None,
    };
    let size = match size {
        b'1' => 1,
        b'2' => 2,
        b'4' => 4,
        b'8' => 8,
        _ => return None,
    };
    let big = match order {
        b'<' => false,
        b'>' => true,
        b'|' if size == 1 => false,
        _ => return None,
    };
    Some(Kind { size, signed, big })
}

/// `(height, width)`.
fn shape(text: &str) -> Option<(u32, u32)> {
    let (height, width) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some((height.trim().parse().ok()?, width.trim().trim_end_matches(',').trim_end().parse().ok()?))
}

fn parse(file: &mut BufReader<File>) -> Result<(Kind, u32, u32), Refusal> {
    let fields = fields(file).map_err(Refusal::Broken)?;
    let unsupported = |what, wanted, found: &str| Refusal::Unsupported { what, wanted, found: found.to_owned() };
    let kind = kind(&fields.kind).ok_or_else(|| unsupported("dtype", "integers of 8 to 64 bits", &fields.kind))?;
    if fields.fortran != "False" {
        return Err(unsupported("fortran_order", "False", &fields.fortran));
    }
    let (height, width) = shape(&fields.shape).ok_or_else(|| unsupported("shape", "(height, width)", &fields.shape))?;
    let wanted = u128::from(fields.start) + u128::from(width) * u128::from(height) * kind.size as u128;
    let found = file.get_ref().metadata().map_err(|error| Refusal::Broken(error.to_string()))?.len();
    if u128::from(found) != wanted {
        return Err(Refusal::Broken(format!("wanted {wanted} bytes for its shape, found {found}")));
    }
    Ok((kind, width, height))
}

pub fn header(mut file: BufReader<File>) -> Result<Header, Refusal> {
    let (kind, width, height) = parse(&mut file)?;
    Ok(Header { width, height, held: ("a row", u64::from(width) * kind.size as u64) })
}

pub fn rows(mut file: BufReader<File>, (width, height): (u32, u32), sink: &mut Sink<'_>) -> Result<(), Stop> {
    let Ok((kind, wide, tall)) = parse(&mut file) else { return Err("the header changed".to_owned().into()) };
    if (wide, tall) != (width, height) {
        return Err("the header changed".to_owned().into());
    }
    let mut bytes = vec![0; width as usize * kind.size];
    let mut row = vec![0; width as usize];
    for _ in 0..height {
        file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        numbers(kind, &bytes, &mut row)?;
        sink(&row);
    }
    Ok(())
}

fn numbers(kind: Kind, bytes: &[u8], row: &mut [u32]) -> Result<(), Stop> {
    macro_rules! read {
        ($number:ty, $size:literal) => {{
            let parts = bytes.as_chunks::<$size>().0.iter();
            labels(parts.map(|&part| if kind.big { <$number>::from_be_bytes(part) } else { <$number>::from_le_bytes(part) }), row)
        }};
    }
    match (kind.signed, kind.size) {
        (false, 1) => read!(u8, 1),
        (false, 2) => read!(u16, 2),
        (false, 4) => read!(u32, 4),
        (false, _) => read!(u64, 8),
        (true, 1) => read!(i8, 1),
        (true, 2) => read!(i16, 2),
        (true, 4) => read!(i32, 4),
        (true, _) => read!(i64, 8),
    }
}
