//! Pool records and catalogues: each readable, none missing, none contradicting another.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::ScrubError;
use super::finding::{Finding, Kind};
use super::keys::{Name, name_of};
use super::report::Report;
use super::source::{Got, PAGE, Source};
use crate::pool::sealed::is_cut;
use crate::pool::{Catalogue, ChainKey, record_is_cut};
use crate::store::Listed;

/// Gaps of a chain that are told one by one.
const MAX_GAPS: usize = 100;

/// A volume, as the catalogues know it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub number: u32,
    pub name: Option<String>,
    /// Bytes; `None` where no catalogue tells.
    pub size: Option<u64>,
    /// Whether the newest catalogue that can be read has it.
    pub current: bool,
    /// Whether a catalogue that can be read has given its number away.
    pub given: bool,
    /// If not: the catalogue that must be missing if somebody opened it all the same; `None` where the newest cannot be
    /// read, which is told anyway.
    pub unnamed_by: Option<String>,
}

/// All that the catalogues say.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    by_number: BTreeMap<u32, Known>,
    /// The number of the next volume.
    next: u32,
    /// The key after the newest catalogue's, if that one can be read.
    after_newest: Option<String>,
}

impl Volumes {
    pub(super) fn find(&self, name: &str) -> Option<Known> {
        self.by_number.values().find(|v| v.current && v.name.as_deref() == Some(name)).cloned()
    }

    /// All, and those of which only the number is known, by objects.
    pub(super) fn all(&self, seen: impl Iterator<Item = u32>) -> Vec<Known> {
        let mut all = self.by_number.clone();
        for number in seen {
            let given = number < self.next;
            let unnamed_by = self.after_newest.clone().filter(|_| !given);
            let known = Known { number, name: None, size: None, current: false, given, unnamed_by };
            all.entry(number).or_insert(known);
        }
        all.into_values().collect()
    }

    fn take(&mut self, catalogue: &Catalogue) {
        self.by_number.values_mut().for_each(|v| v.current = false);
        for v in &catalogue.volumes {
            let (name, size) = (Some(v.name.clone()), Some(v.size));
            let known = Known { number: v.number, name, size, current: true, given: true, unnamed_by: None };
            self.by_number.insert(v.number, known);
        }
        self.next = self.next.max(catalogue.next);
    }
}

/// Checks both chains; answers which volumes there are and were.
pub(super) async fn check(source: &Source<'_>, report: &mut Report) -> Result<Volumes, ScrubError> {
    records(source, report).await?;
    catalogues(source, report).await
}

/// The objects of a chain by number. Keys that are none of it are told.
async fn chain(source: &Source<'_>, prefix: &str, report: &mut Report) -> Result<BTreeMap<u64, Listed>, ScrubError> {
    let mut objects = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = source.page(prefix, after.as_deref()).await?;
        let full = page.len() == PAGE;
        after = page.last().map(|l| l.key.clone());
        for listed in page {
            report.pool_objects += 1;
            report.pool_bytes += listed.size;
            match name_of(&listed.key) {
                Name::Chain(ChainKey::Record(n) | ChainKey::Catalogue(n)) => drop(objects.insert(n, listed)),
                _ => {
                    let why = "no object of this chain has such a key";
                    report.findings.add(Kind::UnknownObject, None, &listed.key, why).wasting(listed.size);
                }
            }
        }
        if !full {
            return Ok(objects);
        }
    }
}

/// Tells of the numbers from 1 to the newest that are not there.
async fn gaps(
    source: &Source<'_>,
    report: &mut Report,
    objects: &BTreeMap<u64, Listed>,
    key: impl Fn(u64) -> ChainKey,
) -> Result<(), ScrubError> {
    let mut expected = 1;
    let mut missing = Vec::new();
    for n in objects.keys() {
        missing.extend((expected..*n).take(MAX_GAPS.saturating_sub(missing.len())));
        expected = n + 1;
    }
    for n in missing {
        let key = key(n).key();
        if source.is_missing(&key).await? {
            let finding = report.findings.add(Kind::MissingObject, None, &key, "its chain goes on after it");
            finding.meaning("no data is affected; a host that stalled could put another object there");
        }
    }
    Ok(())
}

async fn records(source: &Source<'_>, report: &mut Report) -> Result<(), ScrubError> {
    let objects = chain(source, "pool/", report).await?;
    gaps(source, report, &objects, ChainKey::Record).await?;
    let newest = objects.keys().next_back().copied();
    let read = stream::iter(objects.iter().map(|(n, listed)| async move {
        let got = source.whole(&listed.key, listed.size, |bytes| source.pool.check_record(*n, bytes)).await?;
        Ok::<_, ScrubError>((*n, listed, got))
    }));
    let read: Vec<_> = read.buffered(source.parallel()).try_collect().await?;
    for (n, listed, got) in read {
        let Some(finding) = tell(report, Kind::DamagedPoolRecord, listed, got, record_is_cut).1 else { continue };
        if Some(n) == newest {
            finding.meaning("the pool cannot be opened, and no volume of it be attached");
        }
    }
    Ok(())
}

async fn catalogues(source: &Source<'_>, report: &mut Report) -> Result<Volumes, ScrubError> {
    let objects = chain(source, "volumes/", report).await?;
    gaps(source, report, &objects, ChainKey::Catalogue).await?;
    let newest = objects.keys().next_back().copied();
    let first = newest.is_none().then(|| ChainKey::Catalogue(1).key());
    let mut volumes = Volumes { next: 1, after_newest: first, ..Volumes::default() };
    let mut read = stream::iter(objects.iter().map(|(n, listed)| async move {
        let got = source.whole(&listed.key, listed.size, |bytes| source.pool.read_catalogue(*n, bytes)).await?;
        Ok::<_, ScrubError>((*n, listed, got))
    }))
    .buffered(source.parallel());
    while let Some((n, listed, got)) = read.try_next().await? {
        let (good, finding) = tell(report, Kind::DamagedCatalogue, listed, got, is_cut);
        if let Some(finding) = finding.filter(|_| Some(n) == newest) {
            finding.meaning("no volume of the pool can be found, made or deleted");
        }
        if Some(n) == newest && good.is_some() {
            volumes.after_newest = Some(ChainKey::Catalogue(n.saturating_add(1)).key());
        }
        let Some(catalogue) = good else { continue };
        if catalogue.next < volumes.next {
            let why =
                format!("it gives number {} to the next volume, an older one gave {}", catalogue.next, volumes.next);
            report.findings.add(Kind::InconsistentLog, None, &listed.key, why);
        }
        volumes.take(&catalogue);
    }
    Ok(volumes)
}

/// The good, or the finding that it is not: `is_cut` says of bytes whether they are the beginning of something.
fn tell<'r, T>(
    report: &'r mut Report,
    kind: Kind,
    listed: &Listed,
    got: Got<T>,
    is_cut: impl Fn(&[u8]) -> bool,
) -> (Option<T>, Option<&'r mut Finding>) {
    let (kind, why) = match got {
        Got::Good(good) => return (Some(good), None),
        Got::Missing => (Kind::MissingObject, "it was there a moment ago".into()),
        Got::Short => (Kind::TruncatedObject, "it was longer a moment ago".into()),
        Got::Bad(why, bytes) if is_cut(&bytes) => (Kind::TruncatedObject, why),
        Got::Bad(why, _) => (kind, why),
    };
    (None, Some(report.findings.add(kind, None, &listed.key, why)))
}
