//! Switches and marks for the simulator: bugs that can be planted, and branches whose visits are counted.
//!
//! With the feature `sim` each thread has its own switch and its own counts, so that simulations can run side by side.
//! Without it, as in every release build, both functions are empty: nothing is planted and nothing is counted.

#[cfg(all(feature = "sim", not(debug_assertions)))]
compile_error!("the feature `sim` plants bugs on demand: it does not belong in a release build");

/// Declares an enum whose variants have a name for people and scripts, and a line that says what they are.
macro_rules! named {
    ($(#[$about:meta])* $kind:ident { $($variant:ident = $name:literal: $what:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $kind {
            $(#[doc = $what] $variant,)*
        }

        impl $kind {
            /// All of them, in order.
            pub const ALL: &[$kind] = &[$($kind::$variant,)*];

            /// A word for scripts and reports.
            pub const fn name(self) -> &'static str {
                match self { $($kind::$variant => $name,)* }
            }

            /// What it is, in a line.
            pub const fn what(self) -> &'static str {
                match self { $($kind::$variant => $what,)* }
            }
        }
    };
}

named! {
    /// A bug that the simulator must find (`scripts/mutants`, docs/testing.md).
    Mutant {
        FlushBeforePut = "flush-before-put": "a flush completes before the PUT of its segment is done",
        FlushesOutOfOrder = "flushes-out-of-order": "a flush completes although a segment before its own has not landed",
        FlushForgetsTheLast = "flush-forgets-the-last": "a flush waits for all operations but the last one",
        FuaIgnored = "fua-ignored": "a FUA write completes as soon as it is in the journal",
        SkipSeal = "skip-seal": "recovery goes on without putting the seal",
        AnySealFrees = "any-seal-frees": "a seal that no opening names is trusted as its owner's own: the volume counts as given back",
        LateSegmentsIgnored = "late-segments-ignored": "a segment that landed before the seal is not applied",
        ServeBeforeOpening = "serve-before-opening": "the volume is served before its opening is created",
        LostRaceIsWon = "lost-race-is-won": "an attach goes on although somebody else's opening stands under its number",
        SaltUsedAgain = "salt-used-again": "every segment of an epoch takes the same salt",
        AnotherBodyOnRetry = "another-body-on-retry": "a retried PUT sends another body under the same key",
        ExistsIsOurs = "exists-is-ours": "a 412 is taken for our own earlier PUT without a comparison",
        ConflictFences = "conflict-fences": "a 409 with nothing there is taken for somebody else's object",
        TakenIsOurs = "taken-is-ours": "a writer whose key is taken goes on as if its segment were there",
        ReplayDropsLast = "replay-drops-last": "recovery forgets the journal's last record",
        ReplayStopsAtIncomplete = "replay-stops-at-incomplete": "the journal ends for recovery at the first incomplete record",
        SecondCrashRefused = "second-crash-refused": "a journal that one recovery adopted is refused by the next one",
        JournalNotNeeded = "journal-not-needed": "recovery goes on when the journal of the same boot is missing",
        LivingJournalIgnored = "living-journal-ignored": "a journal that a living process holds does not keep others away",
        ResumeWithoutRing = "resume-without-ring": "a device is resumed although its journal is gone",
        LowerNumberWins = "lower-number-wins": "in the index the lower operation number wins",
        CutOverIncomplete = "cut-over-incomplete": "a segment is cut over a record that is still being filled",
        FreedBeforePublished = "freed-before-published": "ring space is free as soon as the segment landed, before the map shows it",
        EarlierWriteWins = "earlier-write-wins": "within a segment the earlier of two writes to a block wins",
        DataBeforeTrims = "data-before-trims": "trims of a segment are applied after its data",
        TrimForgottenInIndex = "trim-forgotten-in-index": "a trim is journalled and not entered into the index",
        ShortBodyAccepted = "short-body-accepted": "a body that ends early is filled up with zeroes",
        DamageReadsAsZero = "damage-reads-as-zero": "a record that does not open reads as zeroes",
        CacheKeyTooShort = "cache-key-too-short": "records of one segment share a cache entry",
        FencedStillDeletes = "fenced-still-deletes": "a writer that was fenced deletes what its own accounts hold dead, though no log names that",
        DeletesBeforeNamed = "deletes-before-named": "what a checkpoint leaves dead is deleted before the log names the checkpoint",
        CheckpointTooEarly = "checkpoint-too-early": "the log names a checkpoint before its nodes are in the bucket",
        CheckpointCoversTooMuch = "checkpoint-covers-too-much": "a checkpoint claims a segment that is not in its map",
        FrozenLayerDropped = "frozen-layer-dropped": "the changes that a failed checkpoint froze are forgotten",
        RelocationIgnoresTrims = "relocation-ignores-trims": "a relocation moves blocks that a trim has erased, and so brings them back",
        RelocationUnconditional = "relocation-unconditional": "a relocation moves blocks that were overwritten since they were copied, and so brings old ones back",
        ReadGivesUpOnMoved = "read-gives-up-on-moved": "a read that finds an object gone does not look whether its content has moved",
        SealInHoleCounts = "seal-in-hole-counts": "a seal where deletion left a hole is taken for the log's end",
        SweepForgetsCovered = "sweep-forgets-covered": "the sweep of orphans does not know what a checkpoint under way covers",
        SweepForgetsReplayed = "sweep-forgets-replayed": "the sweep of orphans does not know what recovery replayed",
        WalksTwice = "walks-twice": "two walk the same nodes of the free list at once",
        FreshLost = "fresh-lost": "the segments that a failed checkpoint covered never enter the accounts",
        UsageForgetsReplaced = "usage-forgets-replaced": "the accounts forget the pieces of a leaf that replaces another one",
        DetachWithoutFlush = "detach-without-flush": "a detach seals cleanly with operations left in the journal",
        PublisherNotWoken = "publisher-not-woken": "nobody wakes the publisher when a segment has landed",
        SpaceWaiterForgotten = "space-waiter-forgotten": "nobody wakes who waits for room in the journal",
    }
}

named! {
    /// A branch of the engine that simulations must reach: recovery, retries, races, limits.
    Branch {
        FirstAttach = "first-attach": "a volume that nobody ever opened",
        CleanlySealed = "cleanly-sealed": "the log was sealed by its owner",
        UncleanSealFound = "unclean-seal-found": "an earlier recovery had put the seal already",
        SealPut = "seal-put": "the seal was put by this recovery",
        SealRaced = "seal-raced": "somebody else's seal stood where ours was to go",
        SegmentBelowSeal = "segment-below-seal": "a segment had landed where the seal was to go",
        ObjectsBeyondGap = "objects-beyond-gap": "objects beyond a gap in the log, or beyond the seal, were left out",
        LongLog = "long-log": "a log of more than one LIST page",
        LogWithHoles = "log-with-holes": "the log that counts begins behind segments that were deleted",
        SealInHole = "seal-in-hole": "our seal stood where a deleted segment had been, and did not count",
        RecoveryStartedOver = "recovery-started-over": "the log was read anew, mostly as it had changed meanwhile",
        RecoveryDamagedLookedAgain = "recovery-damaged-looked-again": "an object of the log came damaged: read once more",
        ReplayFromCheckpoint = "replay-from-checkpoint": "recovery started at a checkpoint of the epoch itself",
        ReplayOldEpochs = "replay-old-epochs": "recovery applied segments of epochs before the newest",
        IndexLongerThanTail = "index-longer-than-tail": "an index needed a second GET",
        RingAdopted = "ring-adopted": "a journal with records beyond the log was adopted",
        RingAdoptedWithVoid = "ring-adopted-with-void": "an adopted journal had records that were never completed",
        RingAdoptedEmpty = "ring-adopted-empty": "a journal was adopted that held nothing beyond the log",
        RingGoneWithBoot = "ring-gone-with-boot": "the journal went with the boot before",
        RingGoneWithSeal = "ring-gone-with-seal": "the journal was removed with a clean seal",
        RingMissingRefused = "ring-missing-refused": "the journal of this boot is missing: refused",
        RingMissingLookedAgain = "ring-missing-looked-again": "a missing journal: the log looked at once more",
        RingMissingGivenUp = "ring-missing-given-up": "the journal of this boot is missing: given up on request",
        RingBusyRefused = "ring-busy-refused": "a living process holds the journal: refused",
        RingBusyTakenOver = "ring-busy-taken-over": "a living process holds the journal: taken over",
        StrayRefused = "stray-refused": "a journal that no opening names holds writes: refused",
        StrayPutAside = "stray-put-aside": "a journal that no opening names was put aside",
        StrayEmptyRemoved = "stray-empty-removed": "an empty journal that no opening names was removed",
        OtherHostRefused = "other-host-refused": "another host may hold the volume: refused",
        OtherHostTakenOver = "other-host-taken-over": "another host's volume was taken over",
        OpeningLost = "opening-lost": "somebody else's opening stood under our number",
        OpeningUndecided = "opening-undecided": "it could not be found out whether our opening landed",
        ResumedWithRing = "resumed-with-ring": "a device went on with its journal",
        ResumedClean = "resumed-clean": "a device went on after a clean seal",
        ResumeRefusedOther = "resume-refused-other": "a device was not resumed: somebody else had opened the volume",
        ResumeRefusedRing = "resume-refused-ring": "a device was not resumed: its journal is missing",
        PutOursAfterAll = "put-ours-after-all": "a PUT was refused because an earlier try of it had landed",
        PutConflictWithNothing = "put-conflict-with-nothing": "a PUT met a conflict with nothing there, and was sent again",
        PutTaken = "put-taken": "a PUT found somebody else's bytes",
        GetHedged = "get-hedged": "a slow GET got a second one beside it",
        GetShort = "get-short": "a body ended early and was fetched again",
        RecordFetchedTwice = "record-fetched-twice": "a record that did not open was fetched once more",
        MissingExplainedByOpening = "missing-explained-by-opening": "an object was missing because somebody newer owns the volume",
        Fenced = "fenced": "a writer found that it is fenced",
        OutageToldWaiters = "outage-told-waiters": "who waited through too long an outage got an error",
        CutForFlush = "cut-for-flush": "a segment was cut for a flush",
        CutFull = "cut-full": "a segment was cut because it was full",
        CutAged = "cut-aged": "a segment was cut because its oldest write was old enough",
        CutSqueezed = "cut-squeezed": "a segment was cut because the journal was full",
        CutToMove = "cut-to-move": "a segment without operations was cut to move blocks",
        CutWhatWaits = "cut-what-waits": "a segment was cut early, as moves or a checkpoint had waited for one",
        ScatteredMerged = "scattered-merged": "compaction on demand merged scattered extents",
        ExtentsMoved = "extents-moved": "compaction wrote extents anew",
        CompactedGarbage = "compacted-garbage": "segments were emptied for the garbage in them",
        CompactionStuck = "compaction-stuck": "the store refused so many deletions that compaction stopped",
        CompactedAhead = "compacted-ahead": "segments were emptied before there was too much garbage, as they were cheap",
        CompactedBare = "compacted-bare": "while somebody wrote a merge took nothing along",
        CompactedTiny = "compacted-tiny": "segments were emptied as they are tiny",
        CheckpointToFree = "checkpoint-to-free": "a checkpoint was written as that frees space",
        FreeListWalked = "free-list-walked": "what a trim dropped from the map was walked",
        SegmentsDeleted = "segments-deleted": "segments that nothing refers to were deleted",
        OrphansDeleted = "orphans-deleted": "objects of finished epochs that nothing accounts for were deleted",
        DeadOfPredecessorDeleted = "dead-of-predecessor-deleted": "what an attach found dead was deleted at once",
        AccountsCounted = "accounts-counted": "the accounts of segments were counted, as there was no table",
        ReadFoundMoved = "read-found-moved": "a reader found an object gone whose content had moved",
        CutToNameCheckpoint = "cut-to-name-checkpoint": "a segment without operations was cut to name a checkpoint",
        CutWaitedForWriter = "cut-waited-for-writer": "the cutter met a record that was still being filled",
        CutBlocked = "cut-blocked": "too many segments were on their way to cut another one",
        LandedAhead = "landed-ahead": "a segment landed before its predecessor",
        WaitedForRoom = "waited-for-room": "a write waited for room in the journal",
        EdgeFetched = "edge-fetched": "a write of part of a block fetched the rest first",
        CheckpointWritten = "checkpoint-written": "a checkpoint was written",
        CheckpointFailed = "checkpoint-failed": "a checkpoint failed and was tried again",
        NodeLoaded = "node-loaded": "a map node was fetched",
        DetachedClean = "detached-clean": "a volume was given back",
        DetachWithoutCheckpoint = "detach-without-checkpoint": "a volume was given back without a checkpoint",
    }
}

/// Whether this bug is planted in simulations on this thread. Always false without the feature `sim`.
#[inline]
pub fn planted(bug: Mutant) -> bool {
    #[cfg(feature = "sim")]
    return switches::PLANTED.get() == Some(bug);
    #[cfg(not(feature = "sim"))]
    {
        let _ = bug;
        false
    }
}

/// Counts a visit of a branch. Does nothing without the feature `sim`.
#[inline]
pub fn reached(branch: Branch) {
    #[cfg(feature = "sim")]
    switches::REACHED.with_borrow_mut(|counts| counts[branch as usize] += 1);
    #[cfg(not(feature = "sim"))]
    let _ = branch;
}

#[cfg(feature = "sim")]
pub use switches::{plant, take_reached};

#[cfg(feature = "sim")]
mod switches {
    use std::cell::{Cell, RefCell};

    use super::{Branch, Mutant};

    thread_local! {
        pub(super) static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
        pub(super) static REACHED: RefCell<Vec<u64>> = RefCell::new(vec![0; Branch::ALL.len()]);
    }

    /// Plants a bug in what runs on this thread from here on, or none.
    pub fn plant(bug: Option<Mutant>) {
        PLANTED.set(bug);
    }

    /// The visits counted on this thread since the last call, by branch, in the order of [`Branch::ALL`].
    pub fn take_reached() -> Vec<u64> {
        REACHED.with_borrow_mut(|counts| std::mem::replace(counts, vec![0; Branch::ALL.len()]))
    }
}
