//! What nothing refers to: behind a seal that counts, or in a finished epoch and unknown to the accounts; where there are
//! none, part of no map that ever counted.

use std::collections::{BTreeSet, HashSet};

use super::ScrubError;
use super::accounts::Accounts;
use super::finding::{Findings, Kind};
use super::volume::Pass;
use crate::map::{NodeContent, NodeLoad};
use crate::segment::{RecordRef, RootRef, SegmentId};

/// Nodes of old maps that are read together.
const BATCH: usize = 64;

/// The bytes of all leaked objects.
pub(super) fn bytes(findings: &Findings) -> u64 {
    findings.iter().filter(|f| f.kind == Kind::LeakedObject).map(|f| f.wasted).sum()
}

/// All objects of a deleted volume but its openings and seals that count.
pub(super) fn after_deletion(pass: &mut Pass<'_>) {
    let volume = pass.volume.number;
    let mut left: Vec<(SegmentId, u64)> = Vec::new();
    for (epoch, objects) in &pass.listing.log {
        let end = pass.finish(*epoch).map(|p| p.end_seq);
        let gone = objects.iter().filter(|(seq, _)| **seq != 0 && Some(**seq) != end);
        left.extend(gone.map(|(seq, size)| (SegmentId::log(volume, *epoch, *seq), *size)));
    }
    left.extend(pass.listing.data.iter().map(|(id, size)| (*id, *size)));
    for (id, size) in left {
        pass.find(Kind::LeakedObject, &id.key(), "its volume has been deleted").wasting(size);
    }
}

/// Enters the leaked objects of a volume whose map has been walked.
pub(super) async fn find(pass: &mut Pass<'_>) -> Result<(), ScrubError> {
    beyond_seals(pass);
    match pass.accounts {
        Accounts::Known { .. } => return unknown(pass).await,
        Accounts::Unreadable(_) => {
            pass.report.leaks_unknown = pass.accounts.unreadable();
            return Ok(());
        }
        Accounts::None => {}
    }
    let newest = pass.newest();
    let known = |id: &&SegmentId| pass.referenced.contains(*id) || id.epoch() >= newest;
    let mut left: BTreeSet<SegmentId> = pass.listing.data.keys().filter(|id| !known(id)).copied().collect();
    old_maps(pass, &mut left).await?;
    if left.is_empty() {
        pass.report.leaks_unknown = None;
    }
    if pass.report.leaks_unknown.is_some() {
        return Ok(());
    }
    for id in left {
        let size = pass.listing.data.get(&id).copied().unwrap_or(0);
        let why = format!("epoch {} is over, and no map that its log named refers to it", id.epoch());
        pass.find(Kind::LeakedObject, &id.key(), why).wasting(size);
    }
    Ok(())
}

/// What the accounts do not know: of finished epochs, for in the newest one it may be on its way into them.
async fn unknown(pass: &mut Pass<'_>) -> Result<(), ScrubError> {
    let (newest, volume) = (pass.newest(), pass.volume.number);
    let logs = pass.ends.iter().flat_map(|(epoch, end)| {
        let objects = pass.listing.log.get(epoch).into_iter().flat_map(|o| o.range(1..(*end).max(1)));
        objects.map(|(seq, size)| (SegmentId::log(volume, *epoch, *seq), *size))
    });
    let data = pass.listing.data.iter().map(|(id, size)| (*id, *size)).filter(|(id, _)| id.epoch() < newest);
    let unknown = |id: &SegmentId| {
        pass.may_be_gone(*id)
            && !pass.accounts.know(id)
            && !pass.report.usage.contains_key(id)
            && !pass.stray_seals.contains(id)
    };
    let left: Vec<(SegmentId, u64)> = logs.chain(data).filter(|(id, _)| unknown(id)).collect();
    if left.is_empty() {
        pass.report.leaks_unknown = None;
    }
    if pass.report.leaks_unknown.is_some() {
        return Ok(());
    }
    for (id, size) in left {
        // The owner deletes such objects once it finds them.
        if !pass.source.is_missing(&id.key()).await? {
            let why = format!("epoch {} is over, and the accounts do not know it", id.epoch());
            pass.find(Kind::LeakedObject, &id.key(), why).wasting(size);
        }
    }
    Ok(())
}

fn beyond_seals(pass: &mut Pass<'_>) {
    let mut left: Vec<(SegmentId, u64)> = Vec::new();
    for (epoch, end) in &pass.ends {
        let Some(objects) = pass.listing.log.get(epoch) else { continue };
        let beyond = objects.range(end + 1..);
        left.extend(beyond.map(|(seq, size)| (SegmentId::log(pass.volume.number, *epoch, *seq), *size)));
    }
    for (id, size) in left {
        pass.find(Kind::LeakedObject, &id.key(), "it lies behind the seal that ends its log").wasting(size);
    }
}

/// Takes out of `left` what a map refers to that the log has named once. Leaves need not be read: the nodes above say
/// where they are.
async fn old_maps(pass: &mut Pass<'_>, left: &mut BTreeSet<SegmentId>) -> Result<(), ScrubError> {
    let mut roots: Vec<RootRef> = pass.roots.iter().copied().collect();
    roots.sort_unstable_by_key(|r| (r.record.segment, r.record.offset));
    let mut seen: HashSet<RecordRef> = HashSet::new();
    while let Some(root) = roots.pop() {
        if left.is_empty() {
            return Ok(());
        }
        left.remove(&root.record.segment);
        let mut stack = vec![NodeLoad { level: root.levels, index: 0, record: root.record }];
        while !stack.is_empty() && !left.is_empty() {
            let mut loads = stack.split_off(stack.len().saturating_sub(BATCH));
            loads.retain(|load| load.level > 0 && seen.insert(load.record));
            for (load, node) in loads.iter().zip(pass.read_nodes(&loads).await?) {
                let Ok((_, NodeContent::Inner(children))) = node else {
                    // An old map may have lost nodes; what they referred to is not known then.
                    pass.report.leaks_unknown = Some(format!("{} cannot be read", load.record.segment.key()));
                    continue;
                };
                for child in children {
                    left.remove(&child.record.segment);
                    stack.push(child);
                }
            }
        }
    }
    Ok(())
}
