//! What our own client and the board say to each other: fragments of 16 + 112 bytes in a TUNNEL's payload, and records in them.
//!
//! ```text
//!  0        1      2          6           10      12      14      16 … 128
//!  version  kind   session    question    index   count   CRC-16  data
//!  1        0…9    u32 LE     u32 LE      u16 LE  u16 LE  u16 LE  at most 112 bytes
//! ```
//! The CRC (CRC-16/IBM-3740) is over the header without it, then the data. A transfer is `count` fragments; all but the last carry 112 bytes, and the
//! last 4 bytes of the whole are the CRC-32 (ISO-HDLC) of what goes before.
//!
//! # Why
//! TUNNEL passes every radio and router as it is. The wire version is in each fragment; kinds and records only grow at their ends, and
//! `tests/link_golden.rs` holds the bytes.

mod records;

pub use records::{Accept, Asked, BoxPx, Nack, Piece, Progress, Query, Reject, Reply, Setting, What};

use crc::{CRC_16_IBM_3740, CRC_32_ISO_HDLC, Crc};

/// Of the fragments and records below.
pub const WIRE_VERSION: u8 = 1;
pub const HEADER: usize = 16;
/// Data of one fragment.
pub const DATA: usize = 112;
/// Header and data: the payload of a TUNNEL.
pub const FRAGMENT: usize = HEADER + DATA;
/// Declared in `uhr.xml`, in MAVLink's private range.
pub const PAYLOAD_TYPE: u16 = 33_331;
/// Bytes of a transfer's CRC-32.
pub const TRAILER: usize = 4;

const CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_3740);
const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// What a fragment is of. Only ever appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Query = 0,
    Accept = 1,
    Reject = 2,
    Progress = 3,
    Answer = 4,
    Blob = 5,
    Nack = 6,
    DoneAck = 7,
    Cancel = 8,
    Status = 9,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Query,
        Self::Accept,
        Self::Reject,
        Self::Progress,
        Self::Answer,
        Self::Blob,
        Self::Nack,
        Self::DoneAck,
        Self::Cancel,
        Self::Status,
    ];

    /// Of several fragments, repaired: the others are one fragment each and never repaired.
    #[must_use]
    pub fn is_transfer(self) -> bool {
        matches!(self, Self::Query | Self::Answer | Self::Blob | Self::Status)
    }
}

/// A conversation of one ground station: drawn at random when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session(pub u32);

/// A question within its session, by the ground station's own count; it may wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number(pub u32);

/// The first 16 bytes of a fragment, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub session: Session,
    pub number: Number,
    /// Below `count`.
    pub index: u16,
    /// Above 0.
    pub count: u16,
}

/// Why bytes are no fragment or record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("fragment: wanted {HEADER} to {FRAGMENT} bytes, found {found}")]
    Length { found: usize },
    #[error("fragment: wanted wire version {WIRE_VERSION}, found {found}")]
    Version { found: u8 },
    #[error("fragment: wanted a kind of 0 to 9, found {found}")]
    Kind { found: u8 },
    #[error("fragment: wanted an index below the count {count}, found {index}")]
    Index { index: u16, count: u16 },
    #[error("fragment: wanted CRC {wanted:04x}, found {found:04x}")]
    Checksum { wanted: u16, found: u16 },
    #[error("{what}: wanted a record of wire version {WIRE_VERSION}, found something else")]
    Record { what: &'static str },
    #[error("transfer: wanted CRC {wanted:08x}, found {found:08x}")]
    Whole { wanted: u32, found: u32 },
    #[error("record: wanted at most {allowed} bytes, found more")]
    Large { allowed: usize },
}

fn checksum(header: &[u8], data: &[u8]) -> u16 {
    let mut digest = CRC16.digest();
    digest.update(header);
    digest.update(data);
    digest.finalize()
}

impl Header {
    /// Writes a fragment and says how long it is. `data` is cut at 112 bytes, which no caller has more of.
    pub fn write(&self, data: &[u8], out: &mut [u8; FRAGMENT]) -> usize {
        let data = &data[..data.len().min(DATA)];
        out[0] = WIRE_VERSION;
        out[1] = self.kind as u8;
        out[2..6].copy_from_slice(&self.session.0.to_le_bytes());
        out[6..10].copy_from_slice(&self.number.0.to_le_bytes());
        out[10..12].copy_from_slice(&self.index.to_le_bytes());
        out[12..14].copy_from_slice(&self.count.to_le_bytes());
        let sum = checksum(&out[..14], data);
        out[14..16].copy_from_slice(&sum.to_le_bytes());
        out[HEADER..HEADER + data.len()].copy_from_slice(data);
        HEADER + data.len()
    }

    /// The header of a fragment, and its data.
    ///
    /// # Errors
    /// Lengths first, then version, kind, numbers and checksum.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (Some((header, data)), true) = (bytes.split_first_chunk::<HEADER>(), bytes.len() <= FRAGMENT) else {
            return Err(WireError::Length { found: bytes.len() });
        };
        if header[0] != WIRE_VERSION {
            return Err(WireError::Version { found: header[0] });
        }
        let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let long = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (wanted, found) = (checksum(&header[..14], data), short(14));
        if wanted != found {
            return Err(WireError::Checksum { wanted, found });
        }
        let kind = Kind::ALL.get(usize::from(header[1])).copied().ok_or(WireError::Kind { found: header[1] })?;
        let (index, count) = (short(10), short(12));
        if index >= count {
            return Err(WireError::Index { index, count });
        }
        Ok((Self { kind, session: Session(long(2)), number: Number(long(6)), index, count }, data))
    }
}

/// Writes the trailer behind the first `len` bytes of a transfer, and gives the whole length.
///
/// # Errors
/// No room for it.
pub fn seal(bytes: &mut [u8], len: usize) -> Result<usize, WireError> {
    let allowed = bytes.len();
    let (body, rest) = bytes.split_at_mut_checked(len).ok_or(WireError::Large { allowed })?;
    let trailer = rest.first_chunk_mut::<TRAILER>().ok_or(WireError::Large { allowed })?;
    *trailer = CRC32.checksum(body).to_le_bytes();
    Ok(len + TRAILER)
}

/// The bytes of a transfer without their trailer.
///
/// # Errors
/// A transfer that is not what was sent.
pub fn unseal(bytes: &[u8]) -> Result<&[u8], WireError> {
    let (body, trailer) = bytes.split_last_chunk::<TRAILER>().ok_or(WireError::Length { found: bytes.len() })?;
    let (wanted, found) = (CRC32.checksum(body), u32::from_le_bytes(*trailer));
    if wanted == found { Ok(body) } else { Err(WireError::Whole { wanted, found }) }
}

/// CRC-32 of a file, as MAVLink FTP and the trailers have it (ISO-HDLC, but for FTP without its initial and final inversion: see `ftp`).
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    CRC32.checksum(bytes)
}

/// `record` in postcard's form, in `out`.
///
/// # Errors
/// It needs more room.
pub fn record<'a, T: serde::Serialize>(record: &T, out: &'a mut [u8]) -> Result<&'a [u8], WireError> {
    let allowed = out.len();
    postcard::to_slice(record, out).map(|bytes| &*bytes).map_err(|_| WireError::Large { allowed })
}

/// The record in `bytes`; nothing may follow it.
///
/// # Errors
/// Something else.
pub fn read<'a, T: serde::Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(bytes) {
        Ok((record, [])) => Ok(record),
        _ => Err(WireError::Record { what }),
    }
}

/// The record at the front of `bytes`, and what follows it.
///
/// # Errors
/// Something else.
pub fn read_front<'a, T: serde::Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<(T, &'a [u8]), WireError> {
    postcard::take_from_bytes(bytes).map_err(|_| WireError::Record { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Header = Header { kind: Kind::Answer, session: Session(0x0102_0304), number: Number(u32::MAX), index: 2, count: 3 };

    #[test]
    fn a_fragment_reads_as_it_was_written_and_no_flipped_bit_passes() {
        let mut out = [0; FRAGMENT];
        let len = HEAD.write(b"hello", &mut out);
        assert_eq!(Header::read(&out[..len]), Ok((HEAD, &b"hello"[..])));
        for bit in 0..len * 8 {
            let mut flipped = out;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(&flipped[..len]).is_err(), "bit {bit}");
        }
        for short in 0..len {
            assert!(Header::read(&out[..short]).is_err(), "{short} bytes");
        }
        assert!(matches!(Header::read(&[0; 200]), Err(WireError::Length { found: 200 })));
    }

    #[test]
    fn a_transfer_has_its_own_checksum() {
        let mut bytes = *b"an answer....";
        let len = seal(&mut bytes, 9).unwrap();
        assert_eq!(unseal(&bytes[..len]), Ok(&b"an answer"[..]));
        bytes[3] ^= 1;
        assert!(matches!(unseal(&bytes[..len]), Err(WireError::Whole { .. })));
        assert!(seal(&mut bytes, 10).is_err());
    }

    #[test]
    fn any_bytes_are_survived_as_records() {
        let mut state = 7_u64;
        for _ in 0..100_000 {
            let mut bytes = [0_u8; 40];
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (state >> 59) as u8;
            }
            let _ = (read::<Query>("query", &bytes), read::<Reply>("reply", &bytes), read::<Nack>("nack", &bytes));
        }
    }
}
