//! What each segment of the volume holds, as the engine carries it along between checkpoints.
//!
//! The table is that of the newest committed checkpoint, with what was learnt since without changing the map: subtrees
//! on the free list that were walked, and deletions that the store has confirmed. A crash forgets those, and they are done
//! again. Segments enter it when the log that covers them does: see [`Accounts::published`].

use std::collections::BTreeSet;

use tracing::error;

use super::pipeline::Landed;
use crate::map::{MapError, NodeLoad, Usage, UsageChange, UsageTotals};
use crate::probe::{Mutant, planted};
use crate::segment::{Introduced, RecordRef, SegmentId};
use crate::sync::Mutex;

/// See the module.
#[derive(Debug)]
pub(super) struct Accounts {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None`: not read yet, or found to be wrong.
    usage: Option<Usage>,
    /// The directory of the newest table; `None`: there is none.
    at: Option<RecordRef>,
    /// The segments that hold the newest table: dead as soon as another one counts.
    tables: Vec<Introduced>,
    /// Came into use since the last checkpoint began.
    fresh: Vec<Introduced>,
    /// Their bytes.
    fresh_bytes: u64,
    /// Stored bytes of what the table says is live.
    live: u64,
    /// Came into use before the checkpoint that is under way began.
    covered: Vec<Introduced>,
    /// Written for a checkpoint that came to nothing.
    wasted: Vec<Introduced>,
    /// They can be neither read nor counted.
    hopeless: bool,
    /// They were not read but counted, or found to be wrong, since the volume was attached.
    doubtful: bool,
}

/// What a checkpoint adds to the accounts.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// Segments that came into use before it began.
    pub fresh: Vec<Introduced>,
    /// Data segments that it wrote itself, without those of the table.
    pub nodes: Vec<Introduced>,
}

impl Accounts {
    /// Accounts whose table is still in the store, of a volume whose log after the checkpoint brought `fresh` into use.
    pub(super) fn new(at: Option<RecordRef>, empty: bool, fresh: Vec<Introduced>) -> Self {
        let usage = (empty && at.is_none()).then(Usage::default);
        let (tables, covered, wasted) = (Vec::new(), Vec::new(), Vec::new());
        let (fresh_bytes, live, hopeless, doubtful) = (bytes_of(&fresh), 0, false, false);
        let state = State { usage, at, tables, fresh, fresh_bytes, live, covered, wasted, hopeless, doubtful };
        Self { state: Mutex::new(state) }
    }

    /// A segment is shown in the map: it, and what it introduces, is in use.
    pub(super) fn published(&self, landed: &Landed, id: SegmentId) {
        let mut state = self.state.lock();
        state.fresh.push(Introduced { segment: id, bytes: landed.index.bytes, born: landed.through_op });
        state.fresh.extend_from_slice(&landed.index.introduced);
        state.fresh_bytes += u64::from(landed.index.bytes) + bytes_of(&landed.index.introduced);
    }

    /// Bytes that came into use since the last checkpoint began, and the live ones as of the newest. What the former have
    /// superseded is not known before the next one.
    pub(super) fn unaccounted(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.fresh_bytes, state.live)
    }

    /// Something was written that nobody will refer to.
    pub(super) fn waste(&self, segments: Vec<Introduced>) {
        self.state.lock().wasted.extend(segments);
    }

    /// Takes what came into use; a checkpoint that begins now covers it.
    pub(super) fn take_fresh(&self) -> Vec<Introduced> {
        let mut state = self.state.lock();
        let fresh = std::mem::take(&mut state.fresh);
        state.fresh_bytes = 0;
        state.covered.extend(fresh);
        state.covered.clone()
    }

    /// The checkpoint came to nothing: what it covered is for the next one, and what it wrote is refuse.
    pub(super) fn give_back(&self, added: Added) {
        let mut state = self.state.lock();
        state.covered.clear();
        let fresh = if planted(Mutant::FreshLost) { Vec::new() } else { added.fresh };
        let later = std::mem::replace(&mut state.fresh, fresh);
        state.fresh.extend(later);
        state.fresh_bytes = bytes_of(&state.fresh);
        state.wasted.extend(added.nodes);
    }

    /// Where the table is, if it has to be read first.
    pub(super) fn unread(&self) -> Option<Option<RecordRef>> {
        let state = self.state.lock();
        state.usage.is_none().then_some(state.at)
    }

    /// The accounts can be neither read nor counted: there will be none.
    pub(super) fn give_up(&self) {
        let mut state = self.state.lock();
        (state.hopeless, state.doubtful) = (true, true);
    }

    /// Whether there will be none.
    pub(super) fn are_hopeless(&self) -> bool {
        self.state.lock().hopeless
    }

    /// What is stored is to be counted: the table, if there is one, cannot be read.
    pub(super) fn doubt(&self) {
        self.state.lock().doubtful = true;
    }

    /// Whether they say for certain what nobody needs: a table that was counted does not have what an older checkpoint needs.
    pub(super) fn are_certain(&self) -> bool {
        !self.state.lock().doubtful
    }

    /// A checkpoint without accounts is committed: what it covers is not accounted for.
    pub(super) fn committed_without(&self) {
        let mut state = self.state.lock();
        state.at = None;
        state.covered.clear();
        state.wasted.clear();
    }

    /// The table was read, or counted anew.
    pub(super) fn loaded(&self, at: Option<RecordRef>, usage: Usage, tables: Vec<Introduced>) {
        let mut state = self.state.lock();
        // Somebody else may have read them, and gone on from there.
        if state.usage.is_none() && state.at == at {
            state.live = usage.totals().live;
            (state.usage, state.tables) = (Some(usage), tables);
        }
    }

    /// The table of a checkpoint that adds and changes this: a copy, to be written.
    ///
    /// # Errors
    /// The accounts do not fit the map: they are wrong, and have to be counted anew. `Ok(None)`: they were found to be wrong
    /// meanwhile. Never an empty table instead: what it does not have counts as an orphan.
    pub(super) fn next(&self, added: &Added, change: &UsageChange) -> Result<Option<Usage>, MapError> {
        let state = self.state.lock();
        let Some(mut usage) = state.usage.clone() else { return Ok(None) };
        state.add(&mut usage, added);
        usage.apply(change)?;
        Ok(Some(usage))
    }

    /// The checkpoint is committed, and `tables` hold its table.
    pub(super) fn committed(&self, added: &Added, change: &UsageChange, at: RecordRef, tables: Vec<Introduced>) {
        let mut state = self.state.lock();
        let usage = state.usage.take().map(|mut usage| {
            state.add(&mut usage, added);
            usage.apply(change).map(|()| usage)
        });
        state.wasted.clear();
        state.covered.clear();
        (state.at, state.tables) = (Some(at), tables);
        match usage {
            Some(Ok(usage)) => {
                state.live = usage.totals().live;
                state.usage = Some(usage);
            }
            Some(Err(e)) => state.wrong(&e),
            // Found to be wrong since the table was written: so is the table.
            None => state.at = None,
        }
    }

    /// The accounts are wrong: nothing is deleted or compacted until they are counted anew.
    pub(super) fn forget(&self, why: &MapError) {
        self.state.lock().wrong(why);
    }

    /// Nodes on the free list, at most `max`, the last first: children come after their parents, so the list stays short.
    pub(super) fn dropped(&self, max: usize, wanted: impl Fn(&NodeLoad) -> bool) -> Vec<NodeLoad> {
        let state = self.state.lock();
        let Some(usage) = &state.usage else { return Vec::new() };
        usage.dropped.iter().rev().filter(|load| wanted(load)).take(max).copied().collect()
    }

    /// Nodes of the free list were read.
    pub(super) fn walked(&self, change: &UsageChange) {
        let mut state = self.state.lock();
        let Some(usage) = &mut state.usage else { return };
        if let Err(e) = usage.apply(change) {
            state.wrong(&e);
        }
    }

    /// The store has confirmed that these are gone.
    pub(super) fn deleted(&self, ids: &BTreeSet<SegmentId>) {
        if let Some(usage) = &mut self.state.lock().usage {
            ids.iter().for_each(|id| usage.remove(*id));
        }
    }

    /// Looks at the table, if it is there.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Usage) -> T) -> Option<T> {
        self.state.lock().usage.as_ref().map(look)
    }

    /// Whether a segment is in use, or came into use since the last checkpoint began, or holds the table.
    pub(super) fn knows(&self, id: SegmentId) -> bool {
        let state = self.state.lock();
        let lists = [(Mutant::SweepForgetsReplayed, &state.fresh), (Mutant::SweepForgetsCovered, &state.covered)];
        let known = lists.into_iter().filter(|(forgets, _)| !planted(*forgets)).map(|(_, list)| list);
        let listed = known.chain([&state.tables, &state.wasted]).any(|list| list.iter().any(|i| i.segment == id));
        listed || state.usage.as_ref().is_none_or(|u| u.segments.contains_key(&id))
    }

    /// Bytes that are in use, and of which the newest checkpoint does not say how much is live.
    pub(super) fn new_bytes(&self) -> u64 {
        let state = self.state.lock();
        bytes_of(&state.fresh) + bytes_of(&state.covered)
    }

    /// The sums of the table, with what is not in it yet counted as stored.
    pub(super) fn totals(&self) -> Option<UsageTotals> {
        let state = self.state.lock();
        let mut totals = state.usage.as_ref()?.totals();
        totals.overhead += bytes_of(&state.tables);
        for i in state.fresh.iter().chain(&state.covered).chain(&state.tables).chain(&state.wasted) {
            totals.objects += 1;
            totals.bytes += u64::from(i.bytes);
        }
        Some(totals)
    }
}

fn bytes_of(segments: &[Introduced]) -> u64 {
    segments.iter().map(|i| u64::from(i.bytes)).sum()
}

impl State {
    fn add(&self, usage: &mut Usage, added: &Added) {
        let all = added.fresh.iter().chain(&added.nodes).chain(&self.wasted).chain(&self.tables);
        all.for_each(|i| usage.add(i.segment, i.bytes, i.born));
    }

    fn wrong(&mut self, why: &MapError) {
        debug_assert!(false, "the accounts are wrong: {why}");
        error!(%why, "the accounts of segments are wrong; nothing is deleted until they are counted anew");
        (self.usage, self.at, self.doubtful) = (None, None, true);
    }
}
