//! The tiles of a frame in one file.
//!
//! ```text
//! "uhrzoom1" · sha256 of the frame's file [32] · width, height, tile, levels, tiles, milliseconds of preparation (u32 each)
//! a tile of every level, coarsest first, rows of tiles: offset u64, length u32
//! first 8 bytes of the sha256 of all that · the tiles, in the order they were made
//! ```
//! Numbers are little-endian.
//!
//! # Why
//! A frame of 150 megapixels has three thousand tiles; as files of their own they cost more in the file system than in bytes. The index is written last, the
//! file gets its name after that, and what was cut short by a power cut shows in the digest.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::config::Digest;
use crate::imaging::zoom::shape::{TILE, ZoomShape};
use crate::imaging::zoom::{ZoomError, ZoomFolder, file_error};
use crate::units::{Bytes, FrameId, Px};

const MAGIC: &[u8; 8] = b"uhrzoom1";
const HEADER: usize = 64;
/// Bytes of the index a tile.
pub const ENTRY: usize = 12;
const CHECK: usize = 8;
/// Written together.
pub const BUFFER: usize = 1 << 20;
/// Room is made in steps of as much.
const STEP: u64 = 16 << 20;

/// A pack being written.
pub struct PackWriter<'a> {
    folder: &'a ZoomFolder,
    file: BufWriter<tempfile::NamedTempFile>,
    path: PathBuf,
    shape: ZoomShape,
    /// Header and index.
    head: Vec<u8>,
    at: u64,
    room: u64,
}

impl<'a> PackWriter<'a> {
    pub fn new(folder: &'a ZoomFolder, id: FrameId, digest: Digest, shape: ZoomShape) -> Result<Self, ZoomError> {
        let path = folder.pack(id);
        let tiles = shape.tiles();
        let mut head = Vec::with_capacity(HEADER + tiles * ENTRY + CHECK);
        head.extend(MAGIC);
        head.extend(digest.0);
        for number in [shape.width, shape.height, TILE, shape.levels(), tiles, 0] {
            head.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        head.resize(HEADER + tiles * ENTRY + CHECK, 0);
        let mut file = BufWriter::with_capacity(BUFFER, folder.draft()?);
        let at = head.len() as u64;
        file.write_all(&head).map_err(|error| file_error(&path, error))?;
        Ok(Self { folder, file, path, shape, head, at, room: 0 })
    }

    pub fn put(&mut self, level: usize, x: usize, y: usize, jpeg: &[u8]) -> Result<(), ZoomError> {
        let after = self.at + jpeg.len() as u64;
        if after > self.room {
            self.room = after + STEP;
            self.folder.make_room(Bytes(self.room))?;
        }
        let Some(number) = self.shape.number(level, x, y) else { return Ok(()) };
        self.file.write_all(jpeg).map_err(|error| file_error(&self.path, error))?;
        let entry = &mut self.head[HEADER + number * ENTRY..][..ENTRY];
        entry[..8].copy_from_slice(&self.at.to_le_bytes());
        entry[8..].copy_from_slice(&u32::try_from(jpeg.len()).unwrap_or(0).to_le_bytes());
        self.at = after;
        Ok(())
    }

    pub fn finish(mut self, took: Duration) -> Result<(), ZoomError> {
        let took = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        self.head[HEADER - 4..HEADER].copy_from_slice(&took.to_le_bytes());
        let end = self.head.len() - CHECK;
        let check = check(&self.head[..end]);
        self.head[end..].copy_from_slice(&check);
        let written = (|| {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&self.head)?;
            let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            file.as_file().sync_data()?;
            file.persist(&self.path).map_err(|error| error.error)
        })();
        written.map(drop).map_err(|error| file_error(&self.path, error))
    }
}

fn check(head: &[u8]) -> [u8; CHECK] {
    let mut check = [0; CHECK];
    check.copy_from_slice(&Sha256::digest(head)[..CHECK]);
    check
}

/// A pack whose tiles can be read. It stays readable when its file is dropped from the folder.
pub struct Pack {
    file: File,
    path: PathBuf,
    shape: ZoomShape,
    index: Vec<u8>,
    prepared: Duration,
}

impl Pack {
    /// Opens and checks the pack of the frame `id`. `None`: there is none.
    ///
    /// # Errors
    /// A pack that is cut short, damaged or of another frame.
    pub fn open(path: &Path, id: FrameId) -> Result<Option<Self>, ZoomError> {
        let failed = |error| file_error(path, error);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let len = file.metadata().map_err(failed)?.len();
        let wrong = |wanted, found: String| ZoomError::Pack { path: path.to_owned(), wanted, found };
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(failed)?;
        let number = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&header[at..at + 4]);
            u32::from_le_bytes(bytes)
        };
        if !header.starts_with(MAGIC) || header[8..16] != id.0 || number(48) as usize != TILE {
            return Err(wrong("its frame's digest", format!("{:02x?}", &header[..16])));
        }
        let (width, height) = (number(40), number(44));
        // libjpeg's longest side: also the bound of what is allocated here.
        if width.max(height) > 65_500 || width.min(height) == 0 {
            return Err(wrong("sides of 1 to 65500 px", format!("{width} x {height}")));
        }
        let shape = ZoomShape::new(width as usize, height as usize);
        let mut head = vec![0; HEADER + shape.tiles() * ENTRY + CHECK];
        file.read_exact_at(&mut head, 0).map_err(failed)?;
        let end = head.len() - CHECK;
        if head[end..] != check(&head[..end]) {
            return Err(wrong("an index of its own digest", "another".into()));
        }
        let pack = Self {
            path: path.to_owned(),
            file,
            shape,
            prepared: Duration::from_millis(number(60).into()),
            index: head[HEADER..end].to_vec(),
        };
        let last = (0..shape.tiles()).map(|tile| pack.entry(tile)).map(|(at, size)| at.saturating_add(size as u64)).max();
        match last {
            Some(end) if end <= len => Ok(Some(pack)),
            found => Err(wrong("all tiles in the file", format!("{} of {len} bytes", found.unwrap_or(0)))),
        }
    }

    #[must_use]
    pub fn shape(&self) -> ZoomShape {
        self.shape
    }

    /// Width and height of the frame as seen.
    #[must_use]
    pub fn size(&self) -> (Px, Px) {
        (Px::of(self.shape.width), Px::of(self.shape.height))
    }

    /// How long it took to make.
    #[must_use]
    pub fn prepared(&self) -> Duration {
        self.prepared
    }

    /// A tile's JPEG. `None`: there is no such tile.
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn tile(&self, level: usize, x: usize, y: usize) -> Result<Option<Vec<u8>>, ZoomError> {
        let Some(number) = self.shape.number(level, x, y) else { return Ok(None) };
        let (at, len) = self.entry(number);
        let mut jpeg = vec![0; len];
        self.file.read_exact_at(&mut jpeg, at).map_err(|error| file_error(&self.path, error))?;
        Ok(Some(jpeg))
    }

    fn entry(&self, number: usize) -> (u64, usize) {
        let entry = &self.index[number * ENTRY..][..ENTRY];
        let (mut at, mut len) = ([0; 8], [0; 4]);
        at.copy_from_slice(&entry[..8]);
        len.copy_from_slice(&entry[8..]);
        (u64::from_le_bytes(at), u32::from_le_bytes(len) as usize)
    }
}
