//! Ending a volume: a tombstone as its last opening, then its objects.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use tracing::info;

use super::attach::Attach;
use super::error::AttachError;
use super::options::AttachOptions;
use crate::env::Env;
use crate::pool::{Pool, VolumeRecord};
use crate::segment::Opening;
use crate::store::{Cause, Patience};

/// DELETEs side by side.
const PARALLEL: usize = 32;
/// Keys of one LIST.
const PAGE: usize = 1000;
const PATIENCE: Patience = Patience::For(std::time::Duration::from_secs(60));

/// What deleting did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deleted {
    /// Objects removed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Takes the volume, ends its log with a tombstone, and removes its segments. Openings and seals stay: a stalled
/// writer must find them. Can be run again after a crash. `progress` is told of objects removed so far.
///
/// # Errors
/// As for attaching; a volume in use is refused.
pub async fn delete(
    pool: &Pool,
    volume: &VolumeRecord,
    options: &AttachOptions,
    env: &Env,
    mut progress: impl FnMut(u64),
) -> Result<Deleted, AttachError> {
    let attempt = Attach { pool, volume, options, env, writer: env.random16() };
    match attempt.acquire(true).await {
        Ok(acquired) => {
            if let Some(ring) = acquired.ring {
                ring.remove().map_err(|source| AttachError::Local { path: ring.path().into(), source })?;
            }
        }
        // An earlier delete got this far.
        Err(AttachError::Deleted { .. }) => {}
        Err(e) => return Err(e),
    }
    let mut done = Deleted::default();
    let ends = seals(pool, volume).await?;
    for prefix in [format!("data/{:08x}/", volume.number), format!("log/{:08x}/", volume.number)] {
        let mut after: Option<String> = None;
        loop {
            let page = pool.store().list(&prefix, after.as_deref(), PAGE, Cause::Delete, PATIENCE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            let doomed: Vec<_> = page.iter().filter(|l| !kept(&l.key, &ends)).collect();
            done.bytes += doomed.iter().map(|l| l.size).sum::<u64>();
            done.objects += doomed.len() as u64;
            stream::iter(doomed)
                .map(|l| pool.store().delete(&l.key, Cause::Delete, PATIENCE))
                .buffer_unordered(PARALLEL)
                .try_collect::<Vec<()>>()
                .await?;
            progress(done.objects);
        }
    }
    info!(volume = volume.name, objects = done.objects, bytes = done.bytes, "deleted");
    Ok(done)
}

/// The seal of each epoch: epoch's key prefix to the seal's key, from what the openings say.
async fn seals(pool: &Pool, volume: &VolumeRecord) -> Result<BTreeMap<String, String>, AttachError> {
    use super::replay::LogReader;
    use crate::segment::{SegmentId, log_prefix};
    let reader = LogReader { pool, volume, patience: PATIENCE };
    let mut ends = BTreeMap::new();
    let Some(found) = super::locate::newest(pool.store(), volume.number, PATIENCE).await? else { return Ok(ends) };
    let mut opening: Opening = reader.opening(found.epoch).await?;
    while let Some(p) = opening.predecessor {
        let seal = SegmentId::log(volume.number, p.epoch, p.end_seq).key();
        ends.insert(log_prefix(volume.number, p.epoch), seal);
        opening = reader.opening(p.epoch).await?;
    }
    Ok(ends)
}

/// Whether an object stays: an opening, or a seal that counts.
fn kept(key: &str, ends: &BTreeMap<String, String>) -> bool {
    let Some((prefix, seq)) = key.rsplit_once('/') else { return true };
    let opening = key.starts_with("log/") && seq.bytes().all(|b| b == b'0');
    opening || ends.get(&format!("{prefix}/")).is_some_and(|seal| seal == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{SegmentId, log_prefix};

    #[test]
    fn openings_and_seals_stay() {
        let seal = SegmentId::log(1, 2, 9).key();
        let ends = BTreeMap::from([(log_prefix(1, 2), seal.clone())]);
        assert!(kept(&seal, &ends));
        assert!(kept(&SegmentId::log(1, 2, 0).key(), &ends));
        assert!(!kept(&SegmentId::log(1, 2, 8).key(), &ends));
        assert!(!kept(&SegmentId::data(1, 2, 0).key(), &ends));
    }
}
