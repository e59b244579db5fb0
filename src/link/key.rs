//! The key that both ends of a link share: 32 bytes in a file of mode 0600.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// A key for MAVLink 2 signing. Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{path}: wanted a key file, found {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}: wanted {KEY_BYTES} bytes, found {found}")]
    Length { path: PathBuf, found: u64 },
    #[error("{path}: wanted a file that only its owner can read (mode 0600), found mode {found:04o}")]
    Open { path: PathBuf, found: u32 },
    #[error("key: wanted 64 hexadecimal digits, or Base64 of {KEY_BYTES} bytes, found {found} characters of something else")]
    Text { found: usize },
    #[error("key: wanted one that somebody chose, found all zeros")]
    Zero,
    #[error("passphrase: wanted at least {wanted} characters, found {found}")]
    Passphrase { wanted: usize, found: usize },
}

/// Fewest characters of a passphrase.
pub const MIN_PASSPHRASE: usize = 8;

impl Key {
    /// # Errors
    /// All zeros, which is what an empty field looks like.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Result<Self, KeyError> {
        if bytes == [0; KEY_BYTES] { Err(KeyError::Zero) } else { Ok(Self(bytes)) }
    }

    /// A key out of the system's random numbers.
    ///
    /// # Errors
    /// The system has none.
    pub fn random() -> Result<Self, KeyError> {
        let path = Path::new("/dev/urandom");
        let mut bytes = [0; KEY_BYTES];
        File::open(path)
            .and_then(|mut file| file.read_exact(&mut bytes))
            .map_err(|source| KeyError::File { path: path.to_owned(), source })?;
        Self::from_bytes(bytes)
    }

    /// SHA-256 of the passphrase's UTF-8, as QGroundControl, Mission Planner and MAVProxy do.
    ///
    /// # Errors
    /// A passphrase that is too short to keep anybody out.
    pub fn from_passphrase(passphrase: &str) -> Result<Self, KeyError> {
        let found = passphrase.chars().count();
        if found < MIN_PASSPHRASE {
            return Err(KeyError::Passphrase { wanted: MIN_PASSPHRASE, found });
        }
        Ok(Self(Sha256::digest(passphrase.as_bytes()).into()))
    }

    /// 64 hexadecimal digits, or Base64.
    ///
    /// # Errors
    /// Something else.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let wrong = || KeyError::Text { found: text.chars().count() };
        let mut bytes = [0; KEY_BYTES];
        if text.len() == 2 * KEY_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
            }
            return Self::from_bytes(bytes);
        }
        if text.len() > 2 * KEY_BYTES {
            return Err(wrong());
        }
        let decoded = data_url::forgiving_base64::decode_to_vec(text.as_bytes()).map_err(|_| wrong())?;
        bytes = decoded.try_into().map_err(|_| wrong())?;
        Self::from_bytes(bytes)
    }

    /// # Errors
    /// No such file, one that others can read, or one that holds no key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let wrong = |source| KeyError::File { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(wrong)?;
        let about = file.metadata().map_err(wrong)?;
        let mode = about.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open { path: path.to_owned(), found: mode });
        }
        if about.len() != KEY_BYTES as u64 {
            return Err(KeyError::Length { path: path.to_owned(), found: about.len() });
        }
        let mut bytes = [0; KEY_BYTES];
        file.read_exact(&mut bytes).map_err(wrong)?;
        Self::from_bytes(bytes)
    }

    /// Writes a new file of mode 0600; on disk when this returns.
    ///
    /// # Errors
    /// A file that is there already (a key is never written over), or what the system says.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let wrong = |source| KeyError::File { path: path.to_owned(), source };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(wrong)?;
        file.write_all(&self.0).and_then(|()| file.sync_all()).map_err(wrong)
    }

    /// Puts this key in the place of the one in `path`, whole or not at all.
    ///
    /// # Errors
    /// What the system says.
    pub fn replace(&self, path: &Path) -> Result<(), KeyError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let beside = PathBuf::from(name);
        match std::fs::remove_file(&beside) {
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(KeyError::File { path: beside, source }),
            _ => {}
        }
        self.save(&beside)?;
        std::fs::rename(&beside, path).map_err(|source| KeyError::File { path: path.to_owned(), source })
    }

    /// A name of the key that tells nothing of it, 16 hexadecimal digits: what was heard with it is kept under that.
    #[must_use]
    pub fn name(&self) -> String {
        let digest = Sha256::new().chain_update(b"uhr-edge link key").chain_update(self.0).finalize();
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(in crate::link) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_text_and_passphrases() {
        let bytes: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = Key::from_bytes(bytes).unwrap();
        assert_eq!(Key::from_text(&hex).unwrap(), key);
        assert_eq!(Key::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap(), key);
        for wrong in ["", "00", "zz", &"0".repeat(64), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8hIiM="] {
            assert!(Key::from_text(wrong).is_err(), "{wrong}");
        }
        // printf '%s' 'correct horse' | sha256sum
        let made = Key::from_passphrase("correct horse").unwrap();
        assert_eq!(made.bytes()[..4], Sha256::digest(b"correct horse")[..4]);
        assert!(matches!(Key::from_passphrase("short"), Err(KeyError::Passphrase { wanted: 8, found: 5 })));
        assert_eq!(format!("{made:?}"), "Key(…)");
        assert!(made.name().len() == 16 && made.name() != key.name() && made.name() == made.clone().name());
    }

    #[test]
    fn files_are_for_their_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link.key");
        let key = Key::random().unwrap();
        key.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Key::load(&path).unwrap(), key);
        assert!(matches!(key.save(&path), Err(KeyError::File { .. })));
        let other = Key::random().unwrap();
        other.replace(&path).unwrap();
        assert_eq!(Key::load(&path).unwrap(), other);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Key::load(&path), Err(KeyError::Open { found: 0o640, .. })));
        std::fs::write(&path, "short").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Key::load(&path), Err(KeyError::Length { found: 5, .. })));
    }
}
