//! The chains of a pool, object by object: for those who look at more than the newest.

use bytes::Bytes;
use secrecy::SecretString;

use super::Pool;
use super::chain::PATIENCE;
use super::error::PoolError;
use super::keys::PoolKeys;
use super::password::POOL;
use super::record::{self, Record};
use super::volumes::VOLUMES;
use crate::env::Env;
use crate::store::{Cause, Store, StoreError};

/// Older pool records that are tried where the newest cannot be read.
const TRIED: usize = 100;

/// A key of one of the two chains, with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKey {
    /// `pool/<~n>`
    Record(u64),
    /// `volumes/<~n>`
    Catalogue(u64),
}

impl ChainKey {
    /// The key, below the pool's prefix.
    pub fn key(self) -> String {
        match self {
            Self::Record(n) => POOL.key(n),
            Self::Catalogue(n) => VOLUMES.key(n),
        }
    }
}

/// What a key of a chain means; `None` for all others.
pub fn chain_key(key: &str) -> Option<ChainKey> {
    POOL.number(key).map(ChainKey::Record).or_else(|| VOLUMES.number(key).map(ChainKey::Catalogue))
}

/// Whether bytes begin like a pool record and end early. Nothing is verified.
pub fn record_is_cut(bytes: &[u8]) -> bool {
    record::is_cut(bytes)
}

impl Pool {
    /// Checks that `bytes` are record `n` of this pool, made with the pool's key.
    ///
    /// # Errors
    /// Damaged, too new, or of another pool.
    pub fn check_record(&self, n: u64, bytes: &Bytes) -> Result<(), PoolError> {
        let key = POOL.key(n);
        let record = Record::decode(&key, n, bytes)?.verify(self.keys())?;
        if record.pool_id == *self.id() {
            return Ok(());
        }
        Err(PoolError::Damaged { key, why: "it is of another pool".to_string() })
    }

    /// Opens the pool by the newest record that can be read and opens with `password`, where the newest of all is
    /// damaged. What it says of the pool is no newer than that record: to look at the pool, not to write to it.
    ///
    /// # Errors
    /// [`PoolError::NotAPool`] or [`PoolError::WrongPassword`] where no record opens; what the store says.
    pub async fn open_older(store: Store, password: &SecretString, env: &Env) -> Result<Pool, PoolError> {
        let listed = store.list("pool/", None, TRIED, Cause::Admin, PATIENCE).await?;
        let mut any = false;
        for n in listed.iter().filter_map(|l| POOL.number(&l.key)) {
            let key = POOL.key(n);
            let bytes = match store.get(&key, Cause::Admin, PATIENCE).await {
                Ok(bytes) => bytes,
                Err(StoreError::NotFound { .. } | StoreError::Short { .. }) => continue,
                Err(e) => return Err(e.into()),
            };
            let Ok(read) = Record::decode(&key, n, &bytes) else { continue };
            any = true;
            for slot in &read.record.slots {
                let (id, generation) = (read.record.pool_id, read.record.generation);
                let Some(pool_key) = slot.unlock(password, &id, generation, env).await? else { continue };
                let keys = PoolKeys::new(id, generation, &pool_key);
                let slot = slot.id;
                if read.verify(&keys).is_ok() {
                    return Ok(Self::of(store, keys, pool_key, slot));
                }
                break;
            }
        }
        if any { Err(PoolError::WrongPassword) } else { Err(PoolError::NotAPool(store.url().to_string())) }
    }
}
