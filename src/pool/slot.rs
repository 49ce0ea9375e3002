//! Key slots: the pool key, wrapped under a key that Argon2id derives from a password.

use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::aead::TAG;
use super::error::PoolError;
use super::keys::{PoolKeys, Purpose};
use crate::env::Env;
use crate::wire::Put;

/// A wrapped pool key: 32 bytes and the tag.
pub(super) const WRAPPED: usize = 32 + TAG;

/// What Argon2id costs. The defaults are the second recommendation of RFC 9106: 64 MiB, 3 passes, 4 lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Params {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Argon2Params {
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

impl Argon2Params {
    /// Bounds against a record made to eat memory or time: 1 GiB, 100 passes, 64 lanes.
    pub(super) fn check(&self) -> Result<Params, PoolError> {
        if self.memory_kib > 1 << 20 || self.passes > 100 || self.lanes > 64 {
            return Err(PoolError::Argon2("at most 1 GiB, 100 passes and 64 lanes".into()));
        }
        Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(|e| PoolError::Argon2(e.to_string()))
    }
}

/// One password's way to the pool key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    /// Names the slot; never used again in a pool.
    pub id: u32,
    pub params: Argon2Params,
    /// Salt of Argon2id.
    pub salt: [u8; 16],
    /// Salt of the wrapping.
    pub wrap_salt: [u8; 16],
    /// The pool key of the newest generation, sealed.
    pub wrapped: [u8; WRAPPED],
}

impl Slot {
    /// A new slot for `password`.
    pub(super) async fn make(
        id: u32,
        params: Argon2Params,
        password: &SecretString,
        to: (&[u8; 16], u32, &[u8; 32]),
        env: &Env,
    ) -> Result<Slot, PoolError> {
        let (pool_id, generation, pool_key) = to;
        if password.expose_secret().is_empty() {
            return Err(PoolError::EmptyPassword);
        }
        let mut slot = Slot { id, params, salt: env.random16(), wrap_salt: env.random16(), wrapped: [0; WRAPPED] };
        let kek = slot.derive(password, env).await?;
        slot.wrap(&kek, pool_id, generation, pool_key);
        Ok(slot)
    }

    /// Seals `pool_key` under `kek`.
    pub(super) fn wrap(&mut self, kek: &[u8; 32], pool_id: &[u8; 16], generation: u32, pool_key: &[u8; 32]) {
        let mut out = Vec::with_capacity(WRAPPED);
        PoolKeys::new(*pool_id, generation, kek).body(Purpose::SlotWrap, &self.wrap_salt).seal_into(
            0,
            &self.aad(pool_id, generation),
            pool_key,
            &mut out,
        );
        self.wrapped.copy_from_slice(&out);
    }

    /// The pool key, if `password` is this slot's.
    pub(super) async fn unlock(
        &self,
        password: &SecretString,
        pool_id: &[u8; 16],
        generation: u32,
        env: &Env,
    ) -> Result<Option<Zeroizing<[u8; 32]>>, PoolError> {
        let kek = self.derive(password, env).await?;
        let body = PoolKeys::new(*pool_id, generation, &kek).body(Purpose::SlotWrap, &self.wrap_salt);
        let Ok(key) = body.open_copy(0, &self.aad(pool_id, generation), &self.wrapped) else { return Ok(None) };
        let key = Zeroizing::new(key);
        let mut out = Zeroizing::new([0; 32]);
        out.copy_from_slice(&key);
        Ok(Some(out))
    }

    /// The key that wraps, from the password: slow on purpose, so on a worker thread.
    async fn derive(&self, password: &SecretString, env: &Env) -> Result<Zeroizing<[u8; 32]>, PoolError> {
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.check()?);
        let (password, salt) = (password.clone(), self.salt);
        let derived = env.heavy(move || {
            let mut kek = Zeroizing::new([0; 32]);
            argon.hash_password_into(password.expose_secret().as_bytes(), &salt, &mut *kek).map(|()| kek)
        });
        derived.await.ok_or(PoolError::Worker)?.map_err(|e| PoolError::Argon2(e.to_string()))
    }

    /// Everything of the slot that is not secret belongs to the seal.
    fn aad(&self, pool_id: &[u8; 16], generation: u32) -> Vec<u8> {
        let mut aad = pool_id.to_vec();
        aad.put_u32(generation);
        self.put_open(&mut aad);
        aad
    }

    /// The slot's fields before the wrapped key.
    pub(super) fn put_open(&self, out: &mut Vec<u8>) {
        out.put_u32(self.id);
        out.put_u32(self.params.memory_kib);
        out.put_u32(self.params.passes);
        out.put_u32(self.params.lanes);
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.wrap_salt);
    }
}
