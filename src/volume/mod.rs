//! The engine: one attached volume.
//!
//! | file | what |
//! | --- | --- |
//! | `attach`, `locate`, `replay`, `rings`, `resume`, `highwater` | taking a volume: log, seal, opening, journal |
//! | `write`, `gate`, `index`, `ranges`, `space`, `wakes` | a write: ring, index, waiting for room |
//! | `cutter`, `coalesce`, `pipeline`, `publish` | on the way to the bucket: cut, build, PUT, in order, into the map |
//! | `read`, `fetch`, `single_flight`, `readahead`, `extents` | a read: index, cache, map, store |
//! | `accounts`, `census` | what each segment holds |
//! | `upkeep`, `merge`, `data_writer`, `compaction`, `deleting`, `orphans` | giving space back |
//! | `checkpoint`, `detach`, `delete`, `status` | saving the map, giving the volume back, ending it, telling of it |

mod accounts;
mod attach;
mod census;
mod checkpoint;
mod coalesce;
mod compaction;
mod cutter;
mod data_writer;
mod delete;
mod deleting;
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
mod log_end;
mod merge;
mod on_demand;
mod options;
mod orphans;
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
mod upkeep;
mod wakes;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use esker_block::{BlockError, BlockResult};

pub use delete::{Deleted, delete};
pub use error::AttachError;
pub use on_demand::Compacted;
pub use options::{AttachOptions, CompactOptions, Host, OnOutage};
pub(crate) use publish::apply;
pub use status::{SpaceStatus, VolumeStatus};

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

    /// Compacts now, as far as it goes: merges what is scattered, empties segments that hold garbage, has the dead ones
    /// deleted. Requests go on meanwhile. `say` is told how far it is.
    ///
    /// # Errors
    /// When the volume fails or is given back meanwhile, or the store refuses. Nothing is lost by an error.
    pub async fn compact(&self, say: &(dyn Fn(String) + Send + Sync)) -> BlockResult<Compacted> {
        on_demand::compact(&self.engine, say).await
    }

    /// What `esker status` shows.
    pub fn status(&self) -> VolumeStatus {
        status::of(&self.engine)
    }

    /// The number of the last operation, 0 before the first: each write, trim and batch takes the next one when it enters
    /// the journal, and a crash leaves a prefix of them.
    pub fn last_operation(&self) -> u64 {
        self.engine.ring.next_op() - 1
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
