//! Why an object is not what its key says: cut short, another object in its place, or altered.

use bytes::Bytes;

use super::ScrubError;
use super::finding::Kind;
use super::source::{Got, InLog, Parsed, Source, parse_tail};
use crate::pool::keys::PoolKeys;
use crate::pool::sealed;
use crate::segment::{LogObject, Opening, SegmentId, SegmentKind, has_trailer, is_cut, log_object_kind};
use crate::store::Cause;

/// Bytes of a segment's beginning that tell one.
const HEAD: u64 = 32;
/// Objects of one volume for which it is tried what else they are.
const MAX_TRIED: usize = 32;
/// Names that are tried for one of them.
const MAX_NAMES: usize = 10_000;

/// What should be under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Opening,
    Segment,
    Seal,
}

/// Finds out what objects are that are not what they should be.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// The names that objects of the volume have, and those of missing ones.
    pub names: Vec<SegmentId>,
    tried: usize,
}

impl Suspects {
    /// The kind of damage of the object `id`, of `size` bytes, and what to say of it. `bytes` are its last ones.
    pub(super) async fn judge(
        &mut self,
        source: &Source<'_>,
        (id, size): (SegmentId, u64),
        expected: Expected,
        (why, bytes): (String, Bytes),
    ) -> Result<(Kind, String), ScrubError> {
        let kind = log_object_kind(&bytes);
        let foreign = |what: &str| Ok((Kind::ForeignObject, format!("{what} stands in its place")));
        match (kind, expected) {
            (LogObject::Opening | LogObject::Seal, _) if sealed::is_cut(&bytes) => {
                return Ok((Kind::TruncatedObject, why));
            }
            (LogObject::Opening, Expected::Segment | Expected::Seal) => return foreign("an opening"),
            (LogObject::Seal, Expected::Opening) => return foreign("a seal"),
            (LogObject::Seal, Expected::Segment) if id.kind() == SegmentKind::Data => return foreign("a seal"),
            (LogObject::Segment, Expected::Opening | Expected::Seal) => return foreign("a segment"),
            (LogObject::Opening | LogObject::Seal, _) => {}
            _ if expected == Expected::Segment => {
                let head = head(source, id, size, &bytes).await?;
                if is_cut(&head, &bytes) {
                    return Ok((Kind::TruncatedObject, "it ends without a trailer".into()));
                }
                if !has_trailer(&bytes) {
                    return Ok((Kind::ForeignObject, "it is no segment at all".into()));
                }
            }
            _ if sealed::is_cut(&bytes) => return Ok((Kind::TruncatedObject, why)),
            _ => {}
        }
        if let Some(name) = self.name_of(source.keys(), id, size, &bytes) {
            return Ok((Kind::ForeignObject, format!("it is the object that was written as {}", name.key())));
        }
        let kind = match (kind, expected) {
            (_, Expected::Opening) => Kind::DamagedOpening,
            (LogObject::Seal, _) | (_, Expected::Seal) => Kind::DamagedSeal,
            _ => Kind::DamagedIndex,
        };
        Ok((kind, why))
    }

    /// Another name under which the bytes authenticate.
    fn name_of(&mut self, keys: &PoolKeys, id: SegmentId, size: u64, bytes: &[u8]) -> Option<SegmentId> {
        if self.tried >= MAX_TRIED {
            return None;
        }
        self.tried += 1;
        let others = self.names.iter().filter(|n| **n != id).take(MAX_NAMES);
        others.copied().find(|name| opens_as(keys, *name, size, bytes))
    }
}

fn opens_as(keys: &PoolKeys, name: SegmentId, size: u64, bytes: &[u8]) -> bool {
    if name.kind() == SegmentKind::Log && name.number() == 0 {
        return Opening::open(keys, name.volume(), name.epoch(), bytes).is_ok();
    }
    matches!(parse_tail(keys, name, size, bytes), Ok(Parsed::Whole(InLog::Segment(_) | InLog::Seal(_))))
}

/// The first bytes of an object whose last are `bytes`.
async fn head(source: &Source<'_>, id: SegmentId, size: u64, bytes: &Bytes) -> Result<Bytes, ScrubError> {
    if bytes.len() as u64 == size {
        return Ok(bytes.clone());
    }
    match source.bytes(&id.key(), 0..size.min(HEAD), Cause::Recovery).await? {
        Got::Good(head) => Ok(head),
        _ => Ok(Bytes::new()),
    }
}
