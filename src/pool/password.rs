//! Making a pool, opening it, changing its password.

use std::sync::Arc;

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::chain::{Chain, TRIES};
use super::error::PoolError;
use super::keys::PoolKeys;
use super::record::{Record, Unverified};
use super::slot::{Argon2Params, Slot};
use super::{Inner, Pool};
use crate::env::Env;
use crate::store::Store;

pub(super) const POOL: Chain = Chain("pool");
const FIRST: u64 = 1;

impl Pool {
    /// Makes a pool: probes the store, draws a random pool key and wraps it under the password.
    ///
    /// # Errors
    /// [`PoolError::AlreadyAPool`], and nothing is changed; a store that is not fit to hold a pool.
    pub async fn format(
        store: Store,
        password: &SecretString,
        params: Argon2Params,
        env: &Env,
    ) -> Result<Pool, PoolError> {
        params.check()?;
        if POOL.newest(&store).await?.is_some() {
            return Err(PoolError::AlreadyAPool(store.url().to_string()));
        }
        store.probe().await?;
        let mut pool_key = Zeroizing::new([0; 32]);
        env.entropy.fill(&mut *pool_key);
        let (pool_id, generation) = (env.random16(), 1);
        let slot = Slot::make(1, params, password, (&pool_id, generation, &pool_key), env).await?;
        let keys = PoolKeys::new(pool_id, generation, &pool_key);
        let record = Record { n: FIRST, pool_id, generation, made_ms: env.clock.wall_ms(), slots: vec![slot] };
        if !POOL.create(&store, FIRST, record.encode(&keys)).await? {
            return Err(PoolError::AlreadyAPool(store.url().to_string()));
        }
        Ok(Self::of(store, keys, pool_key, 1))
    }

    /// Opens a pool.
    ///
    /// # Errors
    /// [`PoolError::NotAPool`], [`PoolError::WrongPassword`], [`PoolError::Newer`], [`PoolError::Damaged`], or what the
    /// store says.
    pub async fn open(store: Store, password: &SecretString, env: &Env) -> Result<Pool, PoolError> {
        let read = newest(&store).await?;
        let record = &read.record;
        for slot in &record.slots {
            if let Some(pool_key) = slot.unlock(password, &record.pool_id, record.generation, env).await? {
                let keys = PoolKeys::new(record.pool_id, record.generation, &pool_key);
                let id = slot.id;
                read.verify(&keys)?;
                return Ok(Self::of(store, keys, pool_key, id));
            }
        }
        Err(PoolError::WrongPassword)
    }

    /// Replaces the password that this pool was opened with. No data is touched. Who has kept a copy of the old record
    /// (it stays in the bucket) and knows the old password still gets at the pool key. This handle goes on working, but
    /// its slot is gone: open the pool again to change the password once more.
    ///
    /// # Errors
    /// [`PoolError::SlotGone`] if somebody else replaced the password meanwhile.
    pub async fn change_password(&self, new: &SecretString, env: &Env) -> Result<(), PoolError> {
        let keys = self.keys();
        for _ in 0..TRIES {
            let mut record = newest(self.store()).await?.verify(keys)?;
            let at = record.slots.iter().position(|s| s.id == self.inner.slot).ok_or(PoolError::SlotGone)?;
            let id = record.slots.iter().map(|s| s.id).max().unwrap_or(0).checked_add(1).ok_or(PoolError::Contended)?;
            let key = (keys.pool_id(), keys.generation(), &*self.inner.pool_key);
            record.slots[at] = Slot::make(id, record.slots[at].params, new, key, env).await?;
            record.n += 1;
            record.made_ms = env.clock.wall_ms();
            if POOL.create(self.store(), record.n, record.encode(keys)).await? {
                return Ok(());
            }
        }
        Err(PoolError::Contended)
    }

    pub(super) fn of(store: Store, keys: PoolKeys, pool_key: Zeroizing<[u8; 32]>, slot: u32) -> Pool {
        Pool { inner: Arc::new(Inner { store, keys: Arc::new(keys), pool_key, slot }) }
    }
}

async fn newest(store: &Store) -> Result<Unverified, PoolError> {
    let Some((n, bytes)) = POOL.newest(store).await? else {
        return Err(PoolError::NotAPool(store.url().to_string()));
    };
    Record::decode(&POOL.key(n), n, &bytes)
}
