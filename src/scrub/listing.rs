//! Which objects there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::ScrubError;
use super::finding::Kind;
use super::keys::{Name, name_of, volume_of};
use super::report::Report;
use super::source::{PAGE, Source};
use crate::segment::{SegmentId, SegmentKind};
use crate::store::Listed;

/// Strangers' objects that are remembered; more are left out.
const MAX_STRANGERS: usize = 20_000;
/// An attach has deleted its probe by then.
const PROBED: Duration = Duration::from_secs(5);

/// What lies in the bucket beside chains and volumes.
#[derive(Debug, Default)]
pub(super) struct Top {
    /// Numbers of volumes that have objects.
    pub volumes: BTreeSet<u32>,
    strangers: Vec<(Kind, Listed)>,
}

/// Lists the pool, passing over what is below a volume's prefixes.
pub(super) async fn top(source: &Source<'_>) -> Result<Top, ScrubError> {
    let mut top = Top::default();
    let mut after: Option<String> = None;
    loop {
        let page = source.page("", after.as_deref()).await?;
        let full = page.len() == PAGE;
        let mut jumped = false;
        after = page.last().map(|l| l.key.clone());
        for listed in page {
            if let Some(volume) = volume_of(&listed.key) {
                top.volumes.insert(volume);
                // No key of a volume sorts behind this one.
                let room = if listed.key.starts_with("log/") { "log" } else { "data" };
                after = Some(format!("{room}/{volume:08x}/~"));
                jumped = true;
                break;
            }
            let kind = match name_of(&listed.key) {
                Name::Probe => Kind::LeftoverProbe,
                Name::Unknown if !listed.key.starts_with("pool/") && !listed.key.starts_with("volumes/") => {
                    Kind::UnknownObject
                }
                // The chains are looked at by themselves.
                _ => continue,
            };
            if top.strangers.len() < MAX_STRANGERS {
                top.strangers.push((kind, listed));
            }
        }
        if !full && !jumped {
            return Ok(top);
        }
    }
}

impl Top {
    /// Enters the strangers that are still there: an attach's probe lives for a moment only.
    pub(super) async fn tell(self, source: &Source<'_>, report: &mut Report) -> Result<(), ScrubError> {
        if self.strangers.iter().any(|(kind, _)| *kind == Kind::LeftoverProbe) {
            source.env.clock.sleep(PROBED).await;
        }
        for (kind, listed) in self.strangers {
            if source.is_missing(&listed.key).await? {
                continue;
            }
            report.pool_objects += 1;
            report.pool_bytes += listed.size;
            let why = match kind {
                Kind::LeftoverProbe => "a test of the store left it behind",
                _ => "no object of a pool has such a key",
            };
            let finding = report.findings.add(kind, None, &listed.key, why);
            finding.wasting(listed.size);
        }
        Ok(())
    }
}

/// The objects of one volume.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By epoch: sizes of the log's objects by seq, the opening's (0) included.
    pub log: BTreeMap<u32, BTreeMap<u64, u64>>,
    /// Sizes of data segments.
    pub data: BTreeMap<SegmentId, u64>,
    /// Keys below the volume's prefixes that name nothing.
    pub strangers: Vec<Listed>,
    pub objects: u64,
    pub bytes: u64,
}

impl Listing {
    /// The log first: the data that it names is there by then.
    pub(super) async fn of(source: &Source<'_>, volume: u32) -> Result<Self, ScrubError> {
        let mut all = Self::default();
        for prefix in [format!("log/{volume:08x}/"), format!("data/{volume:08x}/")] {
            all.below(source, &prefix, None).await?;
        }
        Ok(all)
    }

    /// Adds what lies below `prefix` after `after`.
    pub(super) async fn below(
        &mut self,
        source: &Source<'_>,
        prefix: &str,
        after: Option<String>,
    ) -> Result<(), ScrubError> {
        let mut after = after;
        loop {
            let page = source.page(prefix, after.as_deref()).await?;
            let full = page.len() == PAGE;
            after = page.last().map(|l| l.key.clone());
            for listed in page {
                self.add(listed);
            }
            if !full {
                return Ok(());
            }
        }
    }

    fn add(&mut self, listed: Listed) {
        let size = listed.size;
        let new = match name_of(&listed.key) {
            Name::Segment(id) if id.kind() == SegmentKind::Log => {
                self.log.entry(id.epoch()).or_default().insert(id.number(), size).is_none()
            }
            Name::Segment(id) => self.data.insert(id, size).is_none(),
            _ if self.strangers.len() < MAX_STRANGERS => {
                self.strangers.push(listed);
                true
            }
            _ => true,
        };
        if new {
            self.objects += 1;
            self.bytes += size;
        }
    }

    /// The sizes of all segments, openings and seals of the log included.
    pub(super) fn sizes(&self, volume: u32) -> HashMap<SegmentId, u64> {
        let log = self.log.iter().flat_map(|(epoch, objects)| {
            objects.iter().map(move |(seq, size)| (SegmentId::log(volume, *epoch, *seq), *size))
        });
        log.chain(self.data.iter().map(|(id, size)| (*id, *size))).collect()
    }
}
