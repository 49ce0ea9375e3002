//! Creating, finding and deleting volumes in the catalogue.

use super::Pool;
use super::catalogue::{Catalogue, MAX_VOLUMES, VolumeRecord, check_block_size, check_name, check_size};
use super::chain::{Chain, TRIES};
use super::compression::Compression;
use super::error::PoolError;
use super::sealed::{ObjectKind, SealedError, open_object, seal_object};
use crate::env::Env;

pub(super) const VOLUMES: Chain = Chain("volumes");

/// What a new volume shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name: see [`check_name`].
    pub name: String,
    /// Its size in bytes, a multiple of 4096.
    pub size: u64,
    /// The block size that its device shows: 512 or 4096.
    pub block_size: u32,
    /// How its records are compressed.
    pub compression: Compression,
}

impl Pool {
    /// The newest catalogue.
    ///
    /// # Errors
    /// Damaged or too new, or what the store says.
    pub async fn catalogue(&self) -> Result<Catalogue, PoolError> {
        let Some((n, bytes)) = VOLUMES.newest(self.store()).await? else { return Ok(Catalogue::empty()) };
        self.read_catalogue(n, &bytes)
    }

    /// Catalogue `n` from the bytes of its object.
    ///
    /// # Errors
    /// Damaged or too new.
    pub fn read_catalogue(&self, n: u64, bytes: &[u8]) -> Result<Catalogue, PoolError> {
        let key = VOLUMES.key(n);
        let payload = open_object(self.keys(), ObjectKind::Catalogue, &key, bytes)?;
        Ok(Catalogue::decode(n, &payload).map_err(|what| SealedError::Malformed { key, what })?)
    }

    /// All volumes, by ascending number.
    ///
    /// # Errors
    /// As [`Pool::catalogue`].
    pub async fn volumes(&self) -> Result<Vec<VolumeRecord>, PoolError> {
        Ok(self.catalogue().await?.volumes)
    }

    /// The volume called `name`.
    ///
    /// # Errors
    /// [`PoolError::NoSuchVolume`], or as [`Pool::catalogue`].
    pub async fn volume(&self, name: &str) -> Result<VolumeRecord, PoolError> {
        let found = self.catalogue().await?.find(name).cloned();
        found.ok_or_else(|| PoolError::NoSuchVolume(name.to_string()))
    }

    /// Enters a new volume, which gives it its number. Its content is zeroes.
    ///
    /// # Errors
    /// [`PoolError::Name`], [`PoolError::Size`], [`PoolError::BlockSize`], [`PoolError::VolumeExists`],
    /// [`PoolError::TooManyVolumes`].
    pub async fn create_volume(&self, new: NewVolume, env: &Env) -> Result<VolumeRecord, PoolError> {
        check_name(&new.name)?;
        check_size(new.size)?;
        check_block_size(new.block_size)?;
        let uuid = uuid(env);
        let change = |catalogue: &mut Catalogue| {
            if catalogue.find(&new.name).is_some() {
                return Err(PoolError::VolumeExists(new.name.clone()));
            }
            if catalogue.volumes.len() >= MAX_VOLUMES {
                return Err(PoolError::TooManyVolumes);
            }
            let number = catalogue.next;
            catalogue.next = number.checked_add(1).ok_or(PoolError::TooManyVolumes)?;
            let volume = VolumeRecord {
                number,
                uuid,
                name: new.name.clone(),
                size: new.size,
                block_size: new.block_size,
                compression: new.compression,
                created_ms: env.clock.wall_ms(),
            };
            catalogue.volumes.push(volume.clone());
            Ok(volume)
        };
        self.change(change, env).await
    }

    /// Takes a volume out of the catalogue. Its objects stay: the caller acquires the volume
    /// first, so that nobody serves it, and its objects are deleted later.
    ///
    /// # Errors
    /// [`PoolError::NoSuchVolume`].
    pub async fn delete_volume_record(&self, volume: &VolumeRecord, env: &Env) -> Result<(), PoolError> {
        // By number: meanwhile the name may belong to a new volume.
        let change = |catalogue: &mut Catalogue| {
            let at = catalogue.volumes.iter().position(|v| v.number == volume.number);
            catalogue.volumes.remove(at.ok_or_else(|| PoolError::NoSuchVolume(volume.name.clone()))?);
            Ok(())
        };
        self.change(change, env).await
    }

    /// Applies `change` to the newest catalogue and creates the next; whoever loses that race starts over.
    async fn change<T>(
        &self,
        change: impl Fn(&mut Catalogue) -> Result<T, PoolError>,
        env: &Env,
    ) -> Result<T, PoolError> {
        for _ in 0..TRIES {
            let mut catalogue = self.catalogue().await?;
            let answer = change(&mut catalogue)?;
            catalogue.n += 1;
            let key = VOLUMES.key(catalogue.n);
            let object = seal_object(self.keys(), ObjectKind::Catalogue, &key, env.random16(), &catalogue.encode());
            if VOLUMES.create(self.store(), catalogue.n, object).await? {
                return Ok(answer);
            }
        }
        Err(PoolError::Contended)
    }
}

/// A random UUID (version 4).
fn uuid(env: &Env) -> [u8; 16] {
    let mut uuid = env.random16();
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
