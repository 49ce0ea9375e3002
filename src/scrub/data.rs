//! Live data: each record that the map resolves a block to is read, authenticated and decompressed.

use std::sync::Arc;

use super::ScrubError;
use super::finding::Kind;
use super::runs::{self, Bad};
use super::tree::spans;
use super::volume::Pass;
use crate::segment::{RecordRef, open_extent};
use crate::store::Cause;

/// Records that are gathered before they are read, so that neighbours in one object come with one request: some 14 MiB
/// of memory.
pub(super) const WINDOW: usize = 1 << 18;

/// A record that is to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub extent: u64,
    /// The blocks that resolve to it.
    pub visible: u8,
    /// The blocks that it holds.
    pub original: u8,
    pub record: RecordRef,
}

impl Pass<'_> {
    /// Reads what was gathered.
    pub(super) async fn read_data(&mut self, wants: Vec<Want>) -> Result<(), ScrubError> {
        let records: Vec<RecordRef> = wants.iter().map(|w| w.record).collect();
        let wants = Arc::new(wants);
        let (keys, all) = (self.source.keys().clone(), wants.clone());
        let open = move |at: usize, bytes: &[u8]| {
            let w = &all[at];
            open_extent(&keys, &w.record, w.extent, w.original, bytes).map(drop).map_err(|e| e.to_string())
        };
        let read = runs::read(self.source, &records, Cause::Read, Arc::new(open)).await?;
        for (want, answer) in wants.iter().zip(read) {
            let what = match answer {
                Ok(()) => {
                    self.report.records_read += 1;
                    self.report.bytes_read += u64::from(want.record.len);
                    continue;
                }
                Err(Bad::Missing) => (Kind::MissingObject, "the map refers to it".into()),
                Err(Bad::Short) => (Kind::TruncatedObject, "the map refers to what lies behind its end".into()),
                Err(Bad::Altered(why)) => (Kind::DamagedRecord, why),
            };
            self.blame(what, &want.record, spans(want.extent, want.visible));
        }
        Ok(())
    }
}
