//! What a key says: which object of a pool has it, if any.

use crate::pool::{ChainKey, chain_key};
use crate::segment::SegmentId;

/// The object that a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// A pool record or a catalogue.
    Chain(ChainKey),
    /// An opening, a log segment, a seal, a data segment.
    Segment(SegmentId),
    /// What a test of the store wrote: `esker check`, an attach, `esker format`.
    Probe,
    /// None of a pool.
    Unknown,
}

/// What `key` (below the pool's prefix) names.
pub(super) fn name_of(key: &str) -> Name {
    if let Some(chain) = chain_key(key) {
        return Name::Chain(chain);
    }
    if key.starts_with("probe/") || key.starts_with("check/") {
        return Name::Probe;
    }
    SegmentId::from_key(key).map_or(Name::Unknown, Name::Segment)
}

/// The volume in `log/<v>/..` or `data/<v>/..`, whatever follows.
pub(super) fn volume_of(key: &str) -> Option<u32> {
    let rest = key.strip_prefix("log/").or_else(|| key.strip_prefix("data/"))?;
    let (digits, _) = rest.split_once('/')?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    (format!("{number:08x}") == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_exact_form() {
        for id in [SegmentId::log(7, 3, 0), SegmentId::log(u32::MAX, 1, 258), SegmentId::data(7, 3, 9)] {
            assert_eq!(name_of(&id.key()), Name::Segment(id));
            assert_eq!(volume_of(&id.key()), Some(id.volume()));
        }
        let record = ChainKey::Record(4);
        assert_eq!(name_of(&record.key()), Name::Chain(record));
        assert_eq!(name_of("probe/0123"), Name::Probe);
        for stranger in [
            "",
            "log",
            "log/00000007/x",
            "log/00000007/fffffffffffffffe/5",
            "log/00000007/FFFFFFFFFFFFFFFE/0000000000000005",
            "log/00000007/0000000000000001/0000000000000005",
            "log/00000007/fffffffffffffffe/8000000000000005",
            "data/00000007/0000000000000001/0000000000000005/x",
            "pool/1",
            "snapshots/1",
        ] {
            assert_eq!(name_of(stranger), Name::Unknown, "{stranger}");
        }
        assert_eq!(volume_of("log/00000007/x"), Some(7));
        assert_eq!(volume_of("log/7/x"), None);
    }
}
