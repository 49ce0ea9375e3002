//! Why something about a pool did not work.

use thiserror::Error;

use super::catalogue::{MAX_NAME, MAX_VOLUMES};
use super::record::FORMAT;
use super::sealed::SealedError;
use crate::store::StoreError;

/// Why something about a pool did not work, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PoolError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A sealed object is damaged, swapped or too new.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// There is no pool.
    #[error("there is no pool at {0}; `esker format` makes one")]
    NotAPool(String),
    /// There is a pool already.
    #[error("there is a pool at {0} already; nothing was changed")]
    AlreadyAPool(String),
    /// No key slot opens with this password.
    #[error("wrong password: it opens none of the pool's key slots")]
    WrongPassword,
    /// Passwords must not be empty: nothing is ever stored unencrypted.
    #[error("the password is empty")]
    EmptyPassword,
    /// Written by a newer esker.
    #[error("object {key} has format version {found}, this esker reads up to {FORMAT}: use a newer esker")]
    Newer {
        /// The object's key.
        key: String,
        /// The version it states.
        found: u16,
    },
    /// An object does not hold what it must.
    #[error("object {key} is damaged: {why}")]
    Damaged {
        /// The object's key.
        key: String,
        /// What was found.
        why: String,
    },
    /// The settings of the password's key derivation cannot work.
    #[error("Argon2 settings: {0}")]
    Argon2(String),
    /// The key slot that this pool was opened with is gone: somebody changed the password meanwhile.
    #[error("the password was changed by somebody else meanwhile; open the pool again with the new one")]
    SlotGone,
    /// No volume has this name.
    #[error("there is no volume {0:?} in the pool")]
    NoSuchVolume(String),
    /// A volume has this name already.
    #[error("there is a volume {0:?} in the pool already")]
    VolumeExists(String),
    /// Not a name for a volume.
    #[error(
        "{0:?} is not a name for a volume: 1 to {MAX_NAME} of a-z, A-Z, 0-9, '.', '_' and '-', the first a letter or a digit"
    )]
    Name(String),
    /// Not a size for a volume.
    #[error("{0} bytes is not a size for a volume: it is a multiple of 4096, at least 4096 and less than 8 EiB")]
    Size(u64),
    /// Not a block size.
    #[error("{0} is not a block size: 512 or 4096")]
    BlockSize(u32),
    /// The catalogue is full.
    #[error("a pool holds at most {MAX_VOLUMES} volumes")]
    TooManyVolumes,
    /// Others kept changing the same thing.
    #[error("others keep changing the pool at the same time; try again")]
    Contended,
    /// A worker thread failed.
    #[error("deriving the key from the password failed; is there enough memory?")]
    Worker,
}
