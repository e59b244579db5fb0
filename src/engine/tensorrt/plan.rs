//! A serialised engine with what it was built for and its digest, so that one for another device, or a damaged one, is refused before TensorRT reads it.
//!
//! ```text
//! "uhr-plan" | version u32 = 1 | TensorRT 4 × u32, compute capability 2 × u32 | bytes of the plan u64 | SHA-256 of the plan | the plan
//! ```
//! Numbers are little-endian.
//!
//! # Why
//! TensorRT checks a plan's version and GPU itself, but not its bytes: what a bad disk made of a plan it may well run, or fall over.

use sha2::{Digest, Sha256};

use crate::engine::tensorrt::shim::Identity;

const MAGIC: &[u8; 12] = b"uhr-plan\x01\0\0\0";
/// Bytes before the plan.
pub const SEAL: usize = 12 + 6 * 4 + 8 + 32;

/// What of a plan is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("plan: wanted a sealed plan of this version, found {0} bytes of something else")]
    Unsealed(usize),
    #[error("plan: wanted one built for {wanted}, found one for {found}")]
    Other { wanted: Identity, found: Identity },
    #[error("plan: wanted {wanted} bytes, found {found}")]
    Length { wanted: u64, found: u64 },
    #[error("plan: wanted SHA-256 {wanted}, found {found}")]
    Digest { wanted: String, found: String },
}

/// A plan, and whether it was held to its seal already.
#[derive(Clone, Copy, Debug)]
pub enum Plan<'a> {
    /// With its seal.
    Sealed(&'a [u8]),
    /// Without: it was built for the device at hand, and is whole.
    Whole(Whole<'a>),
}

/// What [`Plan::Whole`] holds, made by this room only.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a>(&'a [u8]);

impl<'a> Whole<'a> {
    /// Of bytes that [`sealed_by`] found good.
    pub(super) fn of(sealed: &'a [u8]) -> Self {
        Self(sealed.get(SEAL..).unwrap_or_default())
    }
}

impl<'a> Plan<'a> {
    /// The plan's own bytes, for a device that is `identity`.
    ///
    /// # Errors
    /// What of a sealed one is not as wanted.
    pub fn bytes(self, identity: &Identity) -> Result<&'a [u8], PlanError> {
        match self {
            Self::Sealed(bytes) => unsealed(identity, bytes),
            Self::Whole(Whole(bytes)) => Ok(bytes),
        }
    }
}

impl<'a> From<&'a [u8]> for Plan<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Sealed(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Plan<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Sealed(bytes)
    }
}

/// What stands before `plan`, built for `identity`.
#[must_use]
pub fn seal(identity: &Identity, plan: &[u8]) -> [u8; SEAL] {
    let built_for = identity.tensorrt.iter().chain(&identity.compute).flat_map(|number| number.to_le_bytes());
    let len = (plan.len() as u64).to_le_bytes();
    let mut seal = [0; SEAL];
    let bytes = MAGIC.iter().copied().chain(built_for).chain(len).chain(Sha256::digest(plan));
    seal.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
    seal
}

/// `plan`, built for `identity`, as it is kept.
#[must_use]
pub fn sealed(identity: &Identity, plan: &[u8]) -> Vec<u8> {
    [&seal(identity, plan)[..], plan].concat()
}

/// As [`unsealed`]: the SHA-256 of the plan in `bytes`.
///
/// # Errors
/// What of it is not as wanted.
pub fn sealed_by(identity: &Identity, bytes: &[u8]) -> Result<String, PlanError> {
    unsealed(identity, bytes).map(|_| told_digest(bytes))
}

/// The plan's SHA-256 that a seal tells; empty of bytes that have no room for one.
#[must_use]
pub fn told_digest(bytes: &[u8]) -> String {
    hex(bytes.get(SEAL - 32..SEAL).unwrap_or_default())
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The plan in `bytes`, if it was built for `identity` and is whole.
///
/// # Errors
/// What of it is not as wanted.
pub fn unsealed<'a>(identity: &Identity, bytes: &'a [u8]) -> Result<&'a [u8], PlanError> {
    let split = bytes.split_at_checked(SEAL).and_then(|(seal, plan)| Some((seal.strip_prefix(MAGIC)?, plan)));
    let Some((seal, plan)) = split else { return Err(PlanError::Unsealed(bytes.len())) };
    let (numbers, seal) = seal.split_at(6 * 4);
    let (len, digest) = seal.split_at(8);
    let mut built_for = numbers.chunks_exact(4).map(|number| u32::from_le_bytes(number.try_into().unwrap_or_default()));
    let mut next = || built_for.next().unwrap_or_default();
    let found = Identity { tensorrt: [next(), next(), next(), next()], compute: [next(), next()] };
    if found != *identity {
        return Err(PlanError::Other { wanted: *identity, found });
    }
    let (wanted, found) = (u64::from_le_bytes(len.try_into().unwrap_or_default()), plan.len() as u64);
    if wanted != found {
        return Err(PlanError::Length { wanted, found });
    }
    let found = Sha256::digest(plan);
    if found[..] != *digest {
        return Err(PlanError::Digest { wanted: hex(digest), found: hex(&found) });
    }
    Ok(plan)
}
