//! One volume: pass after pass until what was found is not a moment's state of a volume that is written to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::ScrubError;
use super::accounts::Accounts;
use super::chains::Known;
use super::epochs::MAX_GAPS;
use super::finding::{Finding, Findings, Kind};
use super::leaks;
use super::listing::Listing;
use super::recount::Recount;
use super::report::{State, VolumeReport};
use super::segments::Suspects;
use super::source::Source;
use crate::map::{Map, SegmentChange};
use crate::segment::{CheckpointRef, Opening, RootRef, SegmentId, log_prefix};

/// Passes over a volume whose log moves on under findings that may pass.
const PASSES: usize = 4;

/// Looks at one volume. No report on one that is long gone.
pub(super) async fn check(source: &Source<'_>, volume: &Known) -> Result<(Option<VolumeReport>, Findings), ScrubError> {
    let mut first: Option<(VolumeReport, Findings)> = None;
    for n in 0..PASSES {
        let mut pass = Pass::new(source, volume, n == 0 && source.options.data).await?;
        pass.run().await?;
        let seen = (pass.newest(), pass.run_end);
        let (report, found) = (pass.report, pass.findings);
        let (_, kept) = match &mut first {
            Some(first) => {
                // Once more the same: then it was no moment's state.
                let again = |f: &Finding| found.iter().any(|o| o.kind == f.kind && o.key == f.key);
                first.1.retain(|f| !f.kind.may_pass() || again(f));
                first
            }
            None => first.insert((report, found)),
        };
        if !kept.iter().any(|f| f.kind.may_pass()) || !moved(source, volume.number, seen).await? {
            break;
        }
    }
    let (mut report, findings) = first.unwrap_or_default();
    report.leaked_bytes = leaks::bytes(&findings);
    let gone = !volume.current && report.objects == 0;
    Ok(((!gone).then_some(report), findings))
}

/// Whether the log has gone on since it was listed.
async fn moved(source: &Source<'_>, volume: u32, seen: (u32, u64)) -> Result<bool, ScrubError> {
    let (newest, end) = seen;
    let mut now = Listing::default();
    let first = source.page(&format!("log/{volume:08x}/"), None).await?;
    let epoch = first.iter().find_map(|l| match super::keys::name_of(&l.key) {
        super::keys::Name::Segment(id) => Some(id.epoch()),
        _ => None,
    });
    if epoch.unwrap_or(0) != newest {
        return Ok(true);
    }
    let prefix = log_prefix(volume, newest);
    now.below(source, &prefix, Some(format!("{prefix}{end:016x}"))).await?;
    Ok(now.log.contains_key(&newest))
}

/// What is known of the operations and segments before the next one.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// The salt that the next segment must name.
    pub salt: Option<[u8; 16]>,
    /// The last operation.
    pub op: Option<u64>,
    /// The newest checkpoint that was named.
    pub checkpoint: Option<CheckpointRef>,
    /// Segments were deleted since `op` was known.
    pub hole: bool,
}

/// One pass over one volume.
pub(super) struct Pass<'a> {
    pub source: &'a Source<'a>,
    pub volume: &'a Known,
    /// Whether data records are read.
    pub data: bool,
    pub listing: Listing,
    /// Sizes of all segments there are.
    pub sizes: HashMap<SegmentId, u64>,
    pub findings: Findings,
    pub report: VolumeReport,
    pub openings: BTreeMap<u32, Opening>,
    /// Where finished epochs end.
    pub ends: BTreeMap<u32, u64>,
    /// The last seq of the newest epoch's log that counts.
    pub run_end: u64,
    /// Objects that are not what they should be: what is read of them is not looked at one by one.
    pub bad: HashMap<SegmentId, Kind>,
    pub suspects: Suspects,
    pub chain: Chain,
    /// The newest checkpoint that attaching would start from; `None` if nothing tells.
    pub start: Option<CheckpointRef>,
    /// The map that attaching would build.
    pub map: Option<Map>,
    /// The map as the log tells it from its beginning, or why it does not.
    pub replayed: Result<Map, String>,
    /// Leaves that the log has touched.
    pub leaves: BTreeSet<u64>,
    /// The roots of all checkpoints that were ever named.
    pub roots: HashSet<RootRef>,
    /// Segments that a map that counts refers to.
    pub referenced: HashSet<SegmentId>,
    /// What `start` says of each segment.
    pub accounts: Accounts,
    /// What its tree says.
    pub recount: Recount,
    /// What of each segment only the free list needs.
    pub freed: BTreeMap<SegmentId, SegmentChange>,
    /// What came into use with the log after `start`.
    pub introduced: HashSet<SegmentId>,
    /// Seals that stand where segments have been deleted.
    pub stray_seals: HashSet<SegmentId>,
}

impl<'a> Pass<'a> {
    pub(super) async fn new(source: &'a Source<'a>, volume: &'a Known, data: bool) -> Result<Self, ScrubError> {
        let name = volume.name.clone().unwrap_or_else(|| format!("number {}", volume.number));
        source.progress.begin(&format!("{name}: listing"), 0);
        let listing = Listing::of(source, volume.number).await?;
        let sizes = listing.sizes(volume.number);
        let report = VolumeReport {
            number: volume.number,
            name: volume.name.clone(),
            objects: listing.objects,
            stored_bytes: listing.bytes,
            ..VolumeReport::default()
        };
        Ok(Self {
            source,
            volume,
            data,
            listing,
            sizes,
            findings: Findings::default(),
            report,
            openings: BTreeMap::new(),
            ends: BTreeMap::new(),
            run_end: 0,
            bad: HashMap::new(),
            suspects: Suspects::default(),
            chain: Chain::default(),
            start: None,
            map: None,
            replayed: Err("the log was not read".into()),
            leaves: BTreeSet::new(),
            roots: HashSet::new(),
            referenced: HashSet::new(),
            accounts: Accounts::None,
            recount: Recount::default(),
            freed: BTreeMap::new(),
            introduced: HashSet::new(),
            stray_seals: HashSet::new(),
        })
    }

    /// The newest epoch; 0 if there is none.
    pub(super) fn newest(&self) -> u32 {
        self.listing.log.keys().next_back().copied().unwrap_or(0)
    }

    /// The volume's size in bytes, as far as anything tells.
    pub(super) fn size(&self) -> u64 {
        let opened = || self.openings.values().next_back().map(|o| o.size);
        self.volume.size.or_else(opened).unwrap_or(crate::pool::MAX_VOLUME_BYTES)
    }

    /// Enters a finding about an object of the volume.
    pub(super) fn find(&mut self, kind: Kind, key: &str, why: impl Into<String>) -> &mut Finding {
        self.findings.add(kind, Some(self.volume.number), key, why)
    }

    /// What is shown as progress.
    pub(super) fn begin(&self, what: &str, len: u64) {
        let number = || format!("number {}", self.volume.number);
        let name = self.volume.name.clone().unwrap_or_else(number);
        self.source.progress.begin(&format!("{name}: {what}"), len);
    }

    pub(super) async fn run(&mut self) -> Result<(), ScrubError> {
        for listed in std::mem::take(&mut self.listing.strangers) {
            let why = "no object of a volume has such a key";
            self.find(Kind::UnknownObject, &listed.key, why).wasting(listed.size);
        }
        if !self.volume.given && !self.was_opened().await? {
            return self.never_made();
        }
        let newest = self.newest();
        self.report.epoch = newest;
        if newest == 0 {
            return self.never_opened().await;
        }
        if self.openings.is_empty() {
            self.read_openings().await?;
        }
        self.lost_epochs().await?;
        self.report.state = match self.openings.get(&newest) {
            None => State::Unreadable,
            Some(o) if o.tombstone => State::Deleted,
            Some(_) => State::Open,
        };
        if self.report.state == State::Deleted {
            self.check_seals().await?;
            leaks::after_deletion(self);
            return Ok(());
        }
        self.settle_newest().await?;
        self.read_log().await?;
        self.read_data_indexes().await?;
        self.walk().await?;
        self.check_accounts().await?;
        leaks::find(self).await
    }

    /// Of a number that no catalogue gave away: whether somebody with the pool's keys opened such a volume. Then it is one,
    /// and the catalogue that named it is gone.
    async fn was_opened(&mut self) -> Result<bool, ScrubError> {
        let before = self.findings.clone();
        self.read_openings().await?;
        if self.openings.is_empty() {
            self.findings = before;
            return Ok(false);
        }
        if let Some(key) = self.volume.unnamed_by.clone() {
            let why = format!("volume number {} was opened, and no catalogue names it", self.volume.number);
            self.find(Kind::MissingObject, &key, why).meaning("the volume cannot be found");
        }
        Ok(true)
    }

    /// Epochs after the newest that the log shows, and that data segments tell of: an opening comes before its epoch's data.
    async fn lost_epochs(&mut self) -> Result<(), ScrubError> {
        let newest = self.newest();
        let told: BTreeMap<u32, SegmentId> =
            self.listing.data.keys().filter(|id| id.epoch() > newest).map(|id| (id.epoch(), *id)).collect();
        for (epoch, id) in told.into_iter().rev().take(MAX_GAPS) {
            let key = SegmentId::log(self.volume.number, epoch, 0).key();
            if self.source.is_missing(&key).await? {
                let why = format!("{} is there, so epoch {epoch} was opened", id.key());
                self.find(Kind::MissingObject, &key, why)
                    .meaning("attaching shows the volume as it was before that epoch");
            }
        }
        Ok(())
    }

    fn never_made(&mut self) -> Result<(), ScrubError> {
        let mut ids: Vec<_> = self.sizes.iter().map(|(id, size)| (*id, *size)).collect();
        ids.sort_unstable();
        for (id, size) in ids {
            self.find(Kind::UnknownObject, &id.key(), "no volume ever had this number").wasting(size);
        }
        Ok(())
    }

    /// A volume without a log must not have data either.
    async fn never_opened(&mut self) -> Result<(), ScrubError> {
        self.report.state = State::Unused;
        if self.listing.data.is_empty() {
            return Ok(());
        }
        let key = SegmentId::log(self.volume.number, 1, 0).key();
        if self.source.is_missing(&key).await? {
            let why = format!("there are {} data segments, but no log", self.listing.data.len());
            self.find(Kind::MissingObject, &key, why).meaning("attaching would begin an empty volume");
        }
        Ok(())
    }
}
