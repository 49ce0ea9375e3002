//! What is wrong, where, and what it means for a reader.

use std::collections::{BTreeMap, HashMap};

/// Findings kept in one run; more are counted.
const MAX_FINDINGS: usize = 10_000;
/// Ranges kept of one finding; more are left out, and it says so.
const MAX_RANGES: usize = 10_000;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something that was written is not there as it was written.
    Damage,
    /// Space is taken by what nothing refers to.
    Leak,
    /// Worth knowing, and no harm.
    Note,
}

impl Severity {
    /// A lower-case word that stays the same from version to version.
    pub fn word(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Leak => "leak",
            Self::Note => "note",
        }
    }
}

/// What is wrong. docs/scrub.md describes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A pool record does not verify.
    DamagedPoolRecord,
    /// A catalogue of volumes does not open.
    DamagedCatalogue,
    /// An opening does not open.
    DamagedOpening,
    /// A seal does not open.
    DamagedSeal,
    /// A segment's header, trailer or index does not open.
    DamagedIndex,
    /// A map node does not open.
    DamagedNode,
    /// A data record does not open.
    DamagedRecord,
    /// An object ends early.
    TruncatedObject,
    /// An object that something refers to is not there.
    MissingObject,
    /// An object stands where another one belongs.
    ForeignObject,
    /// Authentic objects contradict each other.
    InconsistentLog,
    /// The map and the log say different things of a block.
    MapMismatch,
    /// The accounts say other than what was counted.
    WrongAccount,
    /// Objects lie beyond a gap at the end of a log whose writer may be at work.
    LogGap,
    /// An object that nothing refers to, nor ever will.
    LeakedObject,
    /// A key that no object of a pool has.
    UnknownObject,
    /// What a test of the store left behind.
    LeftoverProbe,
}

impl Kind {
    /// A lower-case word that stays the same from version to version.
    pub fn word(self) -> &'static str {
        match self {
            Self::DamagedPoolRecord => "damaged-pool-record",
            Self::DamagedCatalogue => "damaged-catalogue",
            Self::DamagedOpening => "damaged-opening",
            Self::DamagedSeal => "damaged-seal",
            Self::DamagedIndex => "damaged-index",
            Self::DamagedNode => "damaged-node",
            Self::DamagedRecord => "damaged-record",
            Self::TruncatedObject => "truncated-object",
            Self::MissingObject => "missing-object",
            Self::ForeignObject => "foreign-object",
            Self::InconsistentLog => "inconsistent-log",
            Self::MapMismatch => "map-mismatch",
            Self::WrongAccount => "wrong-account",
            Self::LogGap => "log-gap",
            Self::LeakedObject => "leaked-object",
            Self::UnknownObject => "unknown-object",
            Self::LeftoverProbe => "leftover-probe",
        }
    }

    /// How much it matters.
    pub fn severity(self) -> Severity {
        match self {
            Self::LeakedObject => Severity::Leak,
            Self::LogGap | Self::UnknownObject | Self::LeftoverProbe => Severity::Note,
            _ => Severity::Damage,
        }
    }

    /// Whether it may have been a moment's state of a volume that is written to: objects come and go, bytes never change.
    pub(super) fn may_pass(self) -> bool {
        matches!(self, Self::MissingObject | Self::LogGap | Self::LeakedObject | Self::UnknownObject)
    }
}

/// Bytes of a volume's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    /// Where it begins.
    pub offset: u64,
    /// How long it is, more than 0.
    pub length: u64,
}

/// Disjoint ranges that do not touch, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Begin to end.
    spans: BTreeMap<u64, u64>,
    left_out: bool,
}

impl Ranges {
    /// Adds the bytes from `begin` to `end` (not included).
    pub(super) fn add(&mut self, begin: u64, end: u64) {
        if begin >= end {
            return;
        }
        let (mut begin, mut end) = (begin, end);
        while let Some((&b, &e)) = self.spans.range(..=end).next_back().filter(|(_, e)| **e >= begin) {
            self.spans.remove(&b);
            (begin, end) = (begin.min(b), end.max(e));
        }
        if self.spans.len() < MAX_RANGES {
            self.spans.insert(begin, end);
        } else {
            self.left_out = true;
        }
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.spans.iter().map(|(b, e)| ByteRange { offset: *b, length: e - b })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Whether there were more than 10,000, of which some are not here.
    pub fn left_out(&self) -> bool {
        self.left_out
    }
}

/// One thing that is wrong with one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// The number of the volume that it belongs to, if it belongs to one.
    pub volume: Option<u32>,
    /// The object's key, below the pool's prefix.
    pub key: String,
    /// The bytes of the volume that it affects.
    pub ranges: Ranges,
    /// What was seen.
    pub why: String,
    /// Further places in the same object of which the same is true.
    pub more: u64,
    /// Whether the volume cannot be attached because of it.
    pub blocks_attach: bool,
    /// Bytes that are taken for nothing.
    pub wasted: u64,
    /// What it means where the ranges do not tell.
    pub(super) meaning: Option<String>,
}

impl Finding {
    /// Says that the volume cannot be attached because of it.
    pub(super) fn blocking(&mut self, blocks: bool) -> &mut Self {
        self.blocks_attach |= blocks;
        self
    }

    /// Says what it means.
    pub(super) fn meaning(&mut self, what: impl Into<String>) -> &mut Self {
        self.meaning = Some(what.into());
        self
    }

    /// Says that `bytes` are taken for nothing.
    pub(super) fn wasting(&mut self, bytes: u64) -> &mut Self {
        self.wasted = bytes;
        self
    }

    /// What it means for a reader.
    pub fn effect(&self) -> String {
        let mut effects: Vec<&str> = Vec::new();
        let wastes = format!("wastes {} bytes", self.wasted);
        if self.wasted > 0 {
            effects.push(&wastes);
        }
        if self.blocks_attach {
            effects.push("the volume cannot be attached");
        }
        if !self.ranges.is_empty() && self.kind == Kind::MapMismatch {
            effects.push("reads of these ranges may not show what was written last");
        } else if !self.ranges.is_empty() {
            effects.push("reads of these ranges fail with EIO");
        }
        effects.extend(self.meaning.as_deref());
        if effects.is_empty() { "no data is affected".into() } else { effects.join("; ") }
    }
}

/// Everything found, one finding for each kind and object.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    list: Vec<Finding>,
    by_object: HashMap<(Kind, String), usize>,
    /// Findings beyond the limit, by severity.
    left_out: BTreeMap<Severity, u64>,
    /// Takes what is beyond the limit.
    spare: Option<Box<Finding>>,
}

impl Findings {
    /// Enters a finding, or finds the one that is there: `why` of the first time stays.
    pub(super) fn add(&mut self, kind: Kind, volume: Option<u32>, key: &str, why: impl Into<String>) -> &mut Finding {
        if let Some(&at) = self.by_object.get(&(kind, key.to_owned())) {
            self.list[at].more += 1;
            return &mut self.list[at];
        }
        let new = Finding {
            kind,
            volume,
            key: key.to_owned(),
            ranges: Ranges::default(),
            why: why.into(),
            more: 0,
            blocks_attach: false,
            wasted: 0,
            meaning: None,
        };
        if self.list.len() >= MAX_FINDINGS {
            *self.left_out.entry(kind.severity()).or_default() += 1;
            return self.spare.insert(Box::new(new));
        }
        self.by_object.insert((kind, key.to_owned()), self.list.len());
        self.list.push(new);
        let last = self.list.len() - 1;
        &mut self.list[last]
    }

    /// The finding of a kind about an object.
    pub(super) fn of(&mut self, kind: Kind, key: &str) -> Option<&mut Finding> {
        let at = *self.by_object.get(&(kind, key.to_owned()))?;
        Some(&mut self.list[at])
    }

    /// Drops those for which `keep` says no.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Finding) -> bool) {
        let list = std::mem::take(&mut self.list);
        self.list = list.into_iter().filter(|f| keep(f)).collect();
        self.by_object = self.list.iter().enumerate().map(|(at, f)| ((f.kind, f.key.clone()), at)).collect();
    }

    /// Takes in all of `other`, which is about other objects.
    pub(super) fn extend(&mut self, other: Findings) {
        for (severity, n) in other.left_out {
            *self.left_out.entry(severity).or_default() += n;
        }
        for finding in other.list {
            let more = finding.more;
            let kept = self.add(finding.kind, finding.volume, &finding.key, "");
            *kept = Finding { more, ..finding };
        }
    }

    /// All that are kept, in the order of severity, volume and key.
    pub fn sorted(&self) -> Vec<&Finding> {
        let mut all: Vec<&Finding> = self.list.iter().collect();
        all.sort_by_key(|f| (f.kind.severity(), f.volume, f.key.clone(), f.kind));
        all
    }

    /// Those that are kept, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.list.iter()
    }

    /// How many there are of a severity, those that are not kept included.
    pub fn count(&self, severity: Severity) -> u64 {
        let kept = self.list.iter().filter(|f| f.kind.severity() == severity).count() as u64;
        kept + self.left_out.get(&severity).copied().unwrap_or(0)
    }

    /// How many are not kept.
    pub fn left_out(&self) -> u64 {
        self.left_out.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_where_they_touch() {
        let mut r = Ranges::default();
        for (b, e) in [(10, 20), (40, 50), (20, 30), (5, 5), (0, 4), (45, 60), (29, 41)] {
            r.add(b, e);
        }
        let got: Vec<_> = r.iter().map(|r| (r.offset, r.length)).collect();
        assert_eq!(got, [(0, 4), (10, 50)]);
    }

    #[test]
    fn one_finding_for_each_kind_and_object_and_a_limit() {
        let mut f = Findings::default();
        f.add(Kind::DamagedRecord, Some(1), "a", "first").ranges.add(0, 1);
        f.add(Kind::DamagedRecord, Some(1), "a", "second").ranges.add(1, 2);
        f.add(Kind::MissingObject, Some(1), "a", "gone").blocking(true);
        let all = f.sorted();
        assert_eq!((all.len(), all[0].why.as_str(), all[0].more), (2, "first", 1));
        assert_eq!(all[0].effect(), "reads of these ranges fail with EIO");
        assert_eq!(all[1].effect(), "the volume cannot be attached");
        for n in 0..MAX_FINDINGS {
            f.add(Kind::LeakedObject, None, &n.to_string(), "");
        }
        assert_eq!((f.count(Severity::Leak), f.left_out()), (10_000, 2));
        assert_eq!(f.iter().count(), MAX_FINDINGS);
    }
}
