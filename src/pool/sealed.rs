//! Small sealed objects: the catalogue, openings and seals.
//!
//! ```text
//! 0   magic "ESKEROBJ"
//! 8   format version, 2 bytes LE (of openings 2, of others 1)
//! 10  kind, 2
//! 12  key generation, 4
//! 16  salt, 16
//! 32  payload length, 4
//! 36  ciphertext of the payload, then the tag (16)
//! ```
//! XChaCha20-Poly1305 under the `object` subkey, number 0, associated data: the 36 header bytes, the pool id, the
//! object's key below the pool's prefix.

use bytes::Bytes;
use thiserror::Error;

use super::aead::TAG;
use super::keys::{PoolKeys, Purpose};
use crate::wire::{Malformed, Put, Reader};

/// The newest version of the object format that this code reads.
pub const FORMAT: u16 = 2;
/// No sealed object's payload is longer than this.
pub const MAX_PAYLOAD: usize = 64 << 20;

const MAGIC: &[u8; 8] = b"ESKEROBJ";
const HEADER: usize = 36;

/// What a small sealed object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ObjectKind {
    /// `volumes/<~n>`
    Catalogue = 1,
    /// `log/<v>/<~k>/0`
    Opening = 2,
    /// The seal that ends an epoch's log.
    Seal = 3,
}

impl ObjectKind {
    /// The version that this code writes, and the newest it reads.
    const fn version(self) -> u16 {
        match self {
            // Version 1 had no accounts in the checkpoint.
            ObjectKind::Opening => 2,
            ObjectKind::Catalogue | ObjectKind::Seal => 1,
        }
    }
}

/// Why a sealed object could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealedError {
    /// Not the layout of a sealed object.
    #[error("object {key}: {what}")]
    Malformed {
        /// The object's key.
        key: String,
        /// What is wrong with the bytes.
        what: Malformed,
    },
    /// Written by a newer esker.
    #[error("object {key} has format version {found}, this esker reads up to {FORMAT}: use a newer esker")]
    Version {
        /// The object's key.
        key: String,
        /// The version it states.
        found: u16,
    },
    /// Another kind of object than the one that belongs here.
    #[error("object {key} is of kind {found}, not {wanted:?}")]
    Kind {
        /// The object's key.
        key: String,
        /// The kind it states.
        found: u16,
        /// The kind that was asked for.
        wanted: ObjectKind,
    },
    /// Sealed under another generation of the pool's key.
    #[error("object {key} is sealed under key generation {found}, this is generation {ours}")]
    Generation {
        /// The object's key.
        key: String,
        /// The generation it states.
        found: u32,
        /// The generation of the keys at hand.
        ours: u32,
    },
    /// Altered, swapped, or of another pool.
    #[error("object {key} does not authenticate: it was altered, or it is not the object that was written here")]
    Auth {
        /// The object's key.
        key: String,
    },
}

/// Seals `payload` as the object `key`. `salt` is random and never used twice.
pub fn seal_object(keys: &PoolKeys, kind: ObjectKind, key: &str, salt: [u8; 16], payload: &[u8]) -> Bytes {
    assert!(payload.len() <= MAX_PAYLOAD, "a sealed object's payload is at most {MAX_PAYLOAD} bytes");
    let mut out = Vec::with_capacity(HEADER + payload.len() + TAG);
    out.extend_from_slice(MAGIC);
    out.put_u16(kind.version());
    out.put_u16(kind as u16);
    out.put_u32(keys.generation());
    out.extend_from_slice(&salt);
    out.put_u32(payload.len() as u32);
    let aad = aad(keys, &out, key);
    keys.body(Purpose::Object, &salt).seal_into(0, &aad, payload, &mut out);
    Bytes::from(out)
}

/// Opens an object that [`seal_object`] made with the same keys, kind and key.
pub fn open_object(keys: &PoolKeys, kind: ObjectKind, key: &str, bytes: &[u8]) -> Result<Vec<u8>, SealedError> {
    open_versioned(keys, kind, key, bytes).map(|(_, payload)| payload)
}

/// The same, with the version that the payload is of.
pub fn open_versioned(
    keys: &PoolKeys,
    kind: ObjectKind,
    key: &str,
    bytes: &[u8],
) -> Result<(u16, Vec<u8>), SealedError> {
    let malformed = |what| SealedError::Malformed { key: key.to_owned(), what };
    let mut r = Reader::new(bytes);
    if r.take(MAGIC.len()).map_err(malformed)? != MAGIC {
        return Err(malformed(Malformed("not a sealed object")));
    }
    let version = r.u16().map_err(malformed)?;
    if version == 0 {
        return Err(malformed(Malformed("format version 0")));
    }
    if version > FORMAT {
        return Err(SealedError::Version { key: key.to_owned(), found: version });
    }
    let found = r.u16().map_err(malformed)?;
    if found != kind as u16 {
        return Err(SealedError::Kind { key: key.to_owned(), found, wanted: kind });
    }
    if version > kind.version() {
        return Err(SealedError::Version { key: key.to_owned(), found: version });
    }
    let generation = r.u32().map_err(malformed)?;
    if generation != keys.generation() {
        return Err(SealedError::Generation { key: key.to_owned(), found: generation, ours: keys.generation() });
    }
    let salt = r.array().map_err(malformed)?;
    let len = r.u32().map_err(malformed)? as usize;
    if len > MAX_PAYLOAD || r.remaining() != len + TAG {
        return Err(malformed(Malformed("its length is not the one its header states")));
    }
    let (header, sealed) = bytes.split_at(HEADER);
    keys.body(Purpose::Object, &salt)
        .open_copy(0, &aad(keys, header, key), sealed)
        .map(|payload| (version, payload))
        .map_err(|_| SealedError::Auth { key: key.to_owned() })
}

/// The kind that a sealed object's header states; `None` if the bytes are not one. Nothing is authenticated.
pub fn object_kind(bytes: &[u8]) -> Option<u16> {
    let mut r = Reader::new(bytes.strip_prefix(MAGIC)?);
    r.u16().ok()?;
    r.u16().ok()
}

/// Whether the bytes begin like a sealed object and end before its header says. Nothing is authenticated.
pub fn is_cut(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(head) {
        return false;
    }
    let stated = bytes.get(HEADER - 4..HEADER).and_then(|b| Reader::new(b).u32().ok());
    stated.is_none_or(|len| bytes.len() < HEADER + len as usize + TAG)
}

fn aad(keys: &PoolKeys, header: &[u8], key: &str) -> Vec<u8> {
    [header, keys.pool_id(), key.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn keys() -> PoolKeys {
        PoolKeys::new([1; 16], 1, &[2; 32])
    }

    #[test]
    fn round_trips_and_names_its_kind() {
        let k = keys();
        let b = seal_object(&k, ObjectKind::Seal, "log/x", [3; 16], b"payload");
        assert_eq!(open_object(&k, ObjectKind::Seal, "log/x", &b).unwrap(), b"payload");
        assert_eq!(object_kind(&b), Some(3));
        assert_eq!(object_kind(&b[..11]), None);
        assert_eq!(object_kind(b"ESKERSEGxxxxxxxx"), None);
        assert!((0..b.len()).all(|n| is_cut(&b[..n])) && !is_cut(&b) && !is_cut(b"ESKERS"));
    }

    #[test]
    fn each_mismatch_has_its_error() {
        let k = keys();
        let b = seal_object(&k, ObjectKind::Opening, "log/x", [3; 16], b"payload");
        let open = |keys: &PoolKeys, kind, key: &str, b: &[u8]| open_object(keys, kind, key, b).unwrap_err();
        let wrong_key = open(&k, ObjectKind::Opening, "log/y", &b);
        assert_eq!(wrong_key, SealedError::Auth { key: "log/y".into() });
        assert!(wrong_key.to_string().contains("log/y"));
        assert!(matches!(open(&k, ObjectKind::Seal, "log/x", &b), SealedError::Kind { found: 2, .. }));
        let newer = PoolKeys::new([1; 16], 2, &[2; 32]);
        let e = open(&newer, ObjectKind::Opening, "log/x", &b);
        assert!(matches!(e, SealedError::Generation { found: 1, ours: 2, .. }));
        let other_pool = PoolKeys::new([5; 16], 1, &[2; 32]);
        assert!(matches!(open(&other_pool, ObjectKind::Opening, "log/x", &b), SealedError::Auth { .. }));
        let mut v = b.to_vec();
        v[8] = 3;
        assert!(matches!(open(&k, ObjectKind::Opening, "log/x", &v), SealedError::Version { found: 3, .. }));
        let mut longer = b.to_vec();
        longer.push(0);
        assert!(matches!(open(&k, ObjectKind::Opening, "log/x", &longer), SealedError::Malformed { .. }));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_or_cut_is_refused(payload in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, bit in 0u8..8) {
            let k = keys();
            let b = seal_object(&k, ObjectKind::Catalogue, "volumes/0", [3; 16], &payload);
            prop_assert!(open_object(&k, ObjectKind::Catalogue, "volumes/0", &b[..at.index(b.len())]).is_err());
            let mut v = b.to_vec();
            v[at.index(b.len())] ^= 1 << bit;
            prop_assert!(open_object(&k, ObjectKind::Catalogue, "volumes/0", &v).is_err());
        }

        #[test]
        fn hostile_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), stamp: bool) {
            if stamp && bytes.len() >= 12 {
                bytes[..12].copy_from_slice(b"ESKEROBJ\x01\0\x01\0");
            }
            object_kind(&bytes);
            prop_assert!(open_object(&keys(), ObjectKind::Catalogue, "volumes/0", &bytes).is_err());
        }
    }
}
