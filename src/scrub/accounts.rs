//! What the newest checkpoint says of each segment: read, and held against the objects there are.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::ScrubError;
use super::finding::Kind;
use super::runs::{self, Bad};
use super::volume::Pass;
use crate::map::{USAGE_DIRECTORY_LEVEL, USAGE_PAGE_LEVEL, Usage, decode_usage_directory, decode_usage_pages};
use crate::segment::{RecordRef, SegmentId, SegmentKind, open_node};
use crate::store::Cause;

/// Missing segments that are told one by one.
const MAX_MISSING: usize = 10_000;

/// The accounts of a volume.
#[derive(Debug)]
pub(super) enum Accounts {
    /// Nobody ever kept any, so nobody ever deleted anything.
    None,
    /// There are some.
    Unreadable(String),
    Known {
        usage: Usage,
        /// The objects that hold them: they are not in them.
        own: HashSet<SegmentId>,
    },
}

impl Accounts {
    /// Whether segments may have been deleted.
    pub(super) fn exist(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether they say that something in a segment is needed.
    pub(super) fn needs(&self, id: &SegmentId) -> bool {
        matches!(self, Self::Known { usage, .. } if usage.segments.get(id).is_some_and(|a| !a.is_dead()))
    }

    /// Whether they have a segment, or lie in it.
    pub(super) fn know(&self, id: &SegmentId) -> bool {
        matches!(self, Self::Known { usage, own } if own.contains(id) || usage.segments.contains_key(id))
    }

    /// Why they cannot be had.
    pub(super) fn unreadable(&self) -> Option<String> {
        match self {
            Self::Unreadable(why) => Some(why.clone()),
            _ => None,
        }
    }
}

impl Pass<'_> {
    /// Reads the accounts that the newest checkpoint names, and looks whether what they need is there.
    pub(super) async fn read_accounts(&mut self) -> Result<(), ScrubError> {
        let Some(directory) = self.start.and_then(|c| c.usage) else { return Ok(()) };
        self.accounts = match self.accounts_at(directory).await? {
            Ok(known) => known,
            Err((record, bad)) => {
                self.blame_accounts(&record, bad);
                Accounts::Unreadable(format!("the accounts in {} cannot be read", record.segment.key()))
            }
        };
        self.missing_segments().await
    }

    async fn accounts_at(&self, directory: RecordRef) -> Result<Result<Accounts, (RecordRef, Bad)>, ScrubError> {
        let altered = |e: crate::map::MapError| Bad::Altered(e.to_string());
        let plain = match self.plain(vec![(USAGE_DIRECTORY_LEVEL, 0, directory)]).await? {
            Ok(plain) => plain,
            Err(bad) => return Ok(Err(bad)),
        };
        let read = plain.first().map_or(Ok(Vec::new()), |plain| decode_usage_directory(plain));
        let pages = match read {
            Ok(pages) => pages,
            Err(e) => return Ok(Err((directory, altered(e)))),
        };
        let wanted = (0..).zip(&pages).map(|(index, record)| (USAGE_PAGE_LEVEL, index, *record)).collect();
        let plain = match self.plain(wanted).await? {
            Ok(plain) => plain,
            Err(bad) => return Ok(Err(bad)),
        };
        let own = pages.iter().chain([&directory]).map(|record| record.segment).collect();
        let known = decode_usage_pages(plain).map(|usage| Accounts::Known { usage, own });
        Ok(known.map_err(|e| (directory, altered(e))))
    }

    /// The plaintext of node records, in their order; or the first that cannot be had, and why.
    async fn plain(
        &self,
        wanted: Vec<(u8, u64, RecordRef)>,
    ) -> Result<Result<Vec<Vec<u8>>, (RecordRef, Bad)>, ScrubError> {
        let records: Vec<RecordRef> = wanted.iter().map(|(.., record)| *record).collect();
        let keys = self.source.keys().clone();
        let open = move |at: usize, bytes: &[u8]| {
            let (level, index, record) = &wanted[at];
            open_node(&keys, record, *level, *index, bytes).map_err(|e| e.to_string())
        };
        let read = runs::read(self.source, &records, Cause::Map, Arc::new(open)).await?;
        let read = records.into_iter().zip(read).map(|(record, answer)| answer.map_err(|bad| (record, bad)));
        Ok(read.collect())
    }

    fn blame_accounts(&mut self, record: &RecordRef, bad: Bad) {
        let why = "the newest checkpoint has its accounts there";
        let (kind, why) = match bad {
            Bad::Missing => (Kind::MissingObject, why.to_owned()),
            Bad::Short => (Kind::TruncatedObject, why.to_owned()),
            Bad::Altered(why) => (Kind::DamagedNode, format!("accounts: {why}")),
        };
        self.blame((kind, why), record, std::iter::empty());
        if let Some(finding) = self.findings.of(kind, &record.segment.key()) {
            finding.meaning("it is not known which objects are needed");
        }
    }

    /// Enters the segments that are not there although the accounts say that something in them is needed.
    async fn missing_segments(&mut self) -> Result<(), ScrubError> {
        let Accounts::Known { usage, .. } = &self.accounts else { return Ok(()) };
        let unlisted = usage.segments.iter().filter(|(id, a)| !a.is_dead() && !self.sizes.contains_key(id));
        let unlisted: Vec<(SegmentId, u32, u32)> =
            unlisted.map(|(id, a)| (*id, a.blocks, a.nodes)).take(MAX_MISSING).collect();
        let source = self.source;
        let mut looked = stream::iter(unlisted.into_iter().map(|(id, blocks, nodes)| async move {
            Ok::<_, ScrubError>((source.is_missing(&id.key()).await?, id, blocks, nodes))
        }))
        .buffered(source.parallel());
        while let Some((missing, id, blocks, nodes)) = looked.try_next().await? {
            if missing {
                self.bad.insert(id, Kind::MissingObject);
                let why = format!("by the accounts {blocks} blocks and {nodes} nodes of the map are in it");
                self.find(Kind::MissingObject, &id.key(), why);
            }
        }
        Ok(())
    }

    /// Whether a segment may be missing: the newest checkpoint contains it, and its accounts do not say that anything in it
    /// is needed.
    pub(super) fn may_be_gone(&self, id: SegmentId) -> bool {
        let log = id.kind() == SegmentKind::Log;
        let replayed = log && self.start.is_none_or(|c| (id.epoch(), id.number()) > (c.covers_epoch, c.covers_seq));
        self.accounts.exist() && !replayed && !self.introduced.contains(&id) && !self.accounts.needs(&id)
    }
}
