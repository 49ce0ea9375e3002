//! The pool: its record and key slots, its keys, how bytes are sealed under them, and the catalogue of volumes.
//!
//! Two chains of numbered create-only objects hold what changes, `pool/<~n>` and `volumes/<~n>`; the newest one of each
//! says everything. See docs/format.md.

pub mod aead;
mod catalogue;
mod chain;
mod compression;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod inspect;
pub mod keys;
mod password;
mod record;
pub mod sealed;
mod slot;
mod volumes;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

pub use catalogue::{Catalogue, MAX_NAME, MAX_VOLUME_BYTES, MAX_VOLUMES, VolumeRecord, check_name};
pub use compression::{Compression, UnknownCompression};
pub use error::PoolError;
pub use inspect::{ChainKey, chain_key, record_is_cut};
pub use slot::Argon2Params;
pub use volumes::NewVolume;

use crate::store::Store;
use keys::PoolKeys;

/// An opened pool. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    keys: Arc<PoolKeys>,
    /// Kept to wrap it again when the password changes.
    pool_key: Zeroizing<[u8; 32]>,
    /// The slot that the password opened.
    slot: u32,
}

impl Pool {
    /// Where the pool is.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The keys that seal everything in it.
    pub fn keys(&self) -> &Arc<PoolKeys> {
        &self.inner.keys
    }

    /// The pool's random id.
    pub fn id(&self) -> &[u8; 16] {
        self.inner.keys.pool_id()
    }

    /// The pool's id as 32 hex digits.
    pub fn id_hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(*self.id()))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} at {})", self.id_hex(), self.inner.store.url())
    }
}
