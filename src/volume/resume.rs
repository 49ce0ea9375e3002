//! Resuming a device that outlived its server: only as the continuation of what that device has shown
//! (docs/decisions/0012-resuming-a-device.md).

use std::time::{Duration, UNIX_EPOCH};

use super::attach::Attach;
use super::error::AttachError;
use super::replay::Log;
use super::rings::{Named, unusable};
use crate::journal::{Ring, RingError};
use crate::probe::{Branch, Mutant, planted, reached};
use crate::segment::{Opening, SegmentIndex};

impl Attach<'_> {
    /// The verdict that ends a device.
    pub(super) fn not_resumable(&self, why: impl Into<String>) -> AttachError {
        AttachError::NotResumable { volume: self.volume.name.clone(), why: why.into() }
    }

    /// The journal with which the newest epoch goes on, if one of `writers` opened it; `None` where that writer sealed
    /// its log with nothing left in its journal.
    ///
    /// The writer's id stands for host and boot too: nobody has it but who wrote it down before the opening was made.
    pub(super) fn may_resume(&self, log: &Log, writers: &[[u8; 16]]) -> Result<Option<Ring>, AttachError> {
        let owner = &log.opening;
        if !writers.contains(&owner.writer) {
            let why = format!("{} since, so its content may no longer be what the device has shown", opened(owner));
            reached(Branch::ResumeRefusedOther);
            return Err(self.not_resumable(why));
        }
        let clean = log.seal.is_some_and(|s| s.clean && s.writer == owner.writer);
        match self.rings().named(&owner.ring) {
            Ok(Named::Held(ring)) => {
                reached(Branch::ResumedWithRing);
                Ok(Some(*ring))
            }
            Ok(Named::Missing(_) | Named::Busy) if clean => {
                reached(Branch::ResumedClean);
                Ok(None)
            }
            Ok(Named::Missing(_)) if planted(Mutant::ResumeWithoutRing) => Ok(None),
            // Its holder may be on its way out: that is for who tries again, not a verdict.
            Ok(Named::Busy) => Err(RingError::Busy { path: self.rings().path(&owner.ring) }.into()),
            Ok(Named::Missing(path)) => {
                reached(Branch::ResumeRefusedRing);
                let path = path.display();
                Err(self.not_resumable(format!("its journal {path} is missing, and with it acknowledged writes")))
            }
            Ok(Named::GivenUp) => Err(self.not_resumable("its journal has been given up")),
            Err(AttachError::JournalMismatch { path, why, .. }) => {
                Err(self.not_resumable(format!("its journal {} is not its own: {why}", path.display())))
            }
            // A newer version of esker can read such a journal: that one may resume.
            Err(AttachError::Ring(e)) if unusable(&e) && !matches!(e, RingError::Version { .. }) => {
                Err(self.not_resumable(e.to_string()))
            }
            Err(e) => Err(e),
        }
    }

    /// Refuses a journal that does not go on where the log, as far as it is known before it is sealed, ends. Segments of
    /// the same journal may still land; they only move the end towards the journal's.
    pub(super) fn continues(
        &self,
        ring: Option<&Ring>,
        start_op: u64,
        indexes: &[SegmentIndex],
    ) -> Result<(), AttachError> {
        let last_op = indexes.iter().rfind(|i| !i.ops.is_empty()).map_or(start_op, |i| i.ops.last);
        match ring {
            Some(ring) if ring.first_op() > last_op + 1 || ring.next_op() <= last_op => {
                Err(self.does_not_continue(ring, last_op))
            }
            _ => Ok(()),
        }
    }

    /// The error for a journal that begins after or ends before the log's end.
    pub(super) fn does_not_continue(&self, ring: &Ring, last_op: u64) -> AttachError {
        let (path, first, next) = (ring.path().display(), ring.first_op(), ring.next_op());
        self.not_resumable(format!(
            "its journal {path} holds operations {first} to {next} (excluded), but its log ends at operation {last_op}"
        ))
    }
}

/// Who opened an epoch and when, for people.
fn opened(by: &Opening) -> String {
    let (host, epoch) = (&by.hostname, by.epoch);
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(by.wall_ms));
    // humantime formats up to the year 9999 and fails beyond; the time comes from another host's clock.
    match at.filter(|_| by.wall_ms < 253_402_300_800_000) {
        Some(at) => format!("host {host} opened it (epoch {epoch}, {})", humantime::format_rfc3339_seconds(at)),
        None => format!("host {host} opened it (epoch {epoch})"),
    }
}
