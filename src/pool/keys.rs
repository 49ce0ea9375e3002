//! The pool key's subkeys, one per purpose.
//!
//! `subkey = HKDF-SHA256(salt = pool id, secret = pool key, info = "esker 1 " || purpose || generation (4, LE))`.

use aws_lc_rs::{hkdf, hmac};
use zeroize::Zeroizing;

use super::aead::BodyKey;

/// What a subkey is for; no two purposes share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Records of segments: extents and map nodes.
    Record,
    /// Indexes of segments.
    Index,
    /// Small sealed objects: catalogue, openings, seals.
    Object,
    /// The MAC of the pool record.
    PoolRecord,
    /// Wrapping a pool key in a key slot.
    SlotWrap,
}

impl Purpose {
    const ALL: [Self; 5] = [Self::Record, Self::Index, Self::Object, Self::PoolRecord, Self::SlotWrap];

    fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Index => "index",
            Self::Object => "object",
            Self::PoolRecord => "pool record",
            Self::SlotWrap => "slot wrap",
        }
    }
}

/// The subkeys of one generation of a pool's key. Wiped on drop; shows no secret in any output.
pub struct PoolKeys {
    pool_id: [u8; 16],
    generation: u32,
    subkeys: Zeroizing<[[u8; 32]; Purpose::ALL.len()]>,
}

impl std::fmt::Debug for PoolKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PoolKeys(generation {})", self.generation)
    }
}

struct Length32;

impl hkdf::KeyType for Length32 {
    fn len(&self) -> usize {
        32
    }
}

impl PoolKeys {
    /// Derives the subkeys of `pool_key`.
    pub fn new(pool_id: [u8; 16], generation: u32, pool_key: &[u8; 32]) -> Self {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &pool_id).extract(pool_key);
        let mut subkeys = Zeroizing::new([[0; 32]; Purpose::ALL.len()]);
        for purpose in Purpose::ALL {
            let info: [&[u8]; 3] = [b"esker 1 ", purpose.name().as_bytes(), &generation.to_le_bytes()];
            prk.expand(&info, Length32)
                .and_then(|okm| okm.fill(&mut subkeys[purpose as usize]))
                .expect("32 bytes are one HKDF block");
        }
        Self { pool_id, generation, subkeys }
    }

    /// The pool's id; it is part of what every seal authenticates.
    pub fn pool_id(&self) -> &[u8; 16] {
        &self.pool_id
    }

    /// The generation of the pool key, written in the header of every object.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The key of the body with this random salt.
    pub fn body(&self, purpose: Purpose, salt: &[u8; 16]) -> BodyKey {
        BodyKey::new(&self.subkeys[purpose as usize], salt)
    }

    /// HMAC-SHA256 of `msg` under the subkey of `purpose`.
    pub fn mac(&self, purpose: Purpose, msg: &[u8]) -> [u8; 32] {
        hmac_sha256(&self.subkeys[purpose as usize], msg)
    }
}

fn hmac_sha256(key: &[u8], msg: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), msg);
    let mut out = [0; 32];
    out.copy_from_slice(tag.as_ref());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn subkeys_are_hkdf_as_written() {
        let keys = PoolKeys::new([1; 16], 3, &[2; 32]);
        let prk = hmac_sha256(&[1; 16], &[2; 32]);
        for purpose in Purpose::ALL {
            let info = [b"esker 1 ", purpose.name().as_bytes(), &3u32.to_le_bytes(), &[1]].concat();
            assert_eq!(keys.subkeys[purpose as usize], hmac_sha256(&prk, &info));
        }
    }

    #[test]
    fn purpose_pool_generation_and_key_all_matter() {
        let base = PoolKeys::new([1; 16], 1, &[2; 32]);
        let mut macs: Vec<_> = Purpose::ALL.iter().map(|p| base.mac(*p, b"m")).collect();
        macs.push(PoolKeys::new([9; 16], 1, &[2; 32]).mac(Purpose::Record, b"m"));
        macs.push(PoolKeys::new([1; 16], 2, &[2; 32]).mac(Purpose::Record, b"m"));
        macs.push(PoolKeys::new([1; 16], 1, &[3; 32]).mac(Purpose::Record, b"m"));
        let distinct: std::collections::HashSet<_> = macs.iter().collect();
        assert_eq!(distinct.len(), macs.len());
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", PoolKeys::new([1; 16], 4, &[2; 32])), "PoolKeys(generation 4)");
    }

    #[test]
    fn keys_cross_threads() {
        fn both<T: Send + Sync>() {}
        both::<PoolKeys>();
        both::<BodyKey>();
    }
}
