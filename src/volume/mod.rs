//! The engine: one attached volume.
//!
//! | file | what |
//! | --- | --- |
//! | `attach`, `locate`, `replay`, `rings`, `resume`, `highwater` | taking a volume: log, seal, opening, journal |
//! | `write`, `gate`, `index`, `ranges`, `space`, `wakes` | a write: ring, index, waiting for room |
//! | `cutter`, `coalesce`, `pipeline`, `publish` | on the way to the bucket: cut, build, PUT, in order, into the map |
//! | `read`, `fetch`, `single_flight`, `readahead`, `extents` | a read: index, cache, map, store |
//! | `checkpoint`, `detach`, `delete`, `status` | saving the map, giving the volume back, ending it, telling of it |

mod attach;
mod checkpoint;
mod coalesce;
mod cutter;
mod delete;
mod detach;
mod device;
mod engine;
mod error;
mod extents;
mod fetch;
mod gate;
mod highwater;
mod index;
mod locate;
mod options;
mod pipeline;
mod publish;
mod ranges;
mod read;
mod readahead;
mod replay;
mod resume;
mod rings;
mod single_flight;
mod space;
mod status;
mod wakes;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use esker_block::{BlockError, BlockResult};

pub use delete::{Deleted, delete};
pub use error::AttachError;
pub use options::{AttachOptions, Host, OnOutage};
pub use status::VolumeStatus;

use crate::env::Env;
use crate::pool::{Pool, VolumeRecord};
use engine::Engine;

/// An attached volume; a [`esker_block::BlockDevice`].
///
/// Dropping it without [`Volume::detach`] is a crash: the journal stays, and the next attach adopts it.
pub struct Volume {
    engine: Arc<Engine>,
}

impl Volume {
    /// Takes the volume: seals what was, opens the next epoch, adopts the journal of a crashed predecessor.
    ///
    /// # Errors
    /// Whatever stands against it, see [`AttachError`]; nothing is lost by an error.
    pub async fn attach(
        pool: &Pool,
        volume: &VolumeRecord,
        options: AttachOptions,
        env: Env,
    ) -> Result<Self, AttachError> {
        Ok(Self { engine: attach::attach(pool, volume, options, env).await? })
    }

    /// Refuses new requests, makes everything durable, writes a checkpoint, seals the log and removes the journal.
    ///
    /// # Errors
    /// When the volume was fenced, or the store refuses. Nothing acknowledged is lost: the journal stays.
    pub async fn detach(&self) -> BlockResult<()> {
        detach::detach(&self.engine).await
    }

    /// What `esker status` shows.
    pub fn status(&self) -> VolumeStatus {
        status::of(&self.engine)
    }

    /// The epoch that this attach holds.
    pub fn epoch(&self) -> u32 {
        self.engine.epoch
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if !self.engine.log.lock().closed && self.engine.failure().is_none() {
            self.engine.fail(BlockError::ShuttingDown);
        }
    }
}
