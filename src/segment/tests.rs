//! Round trips, refusals, hostile bytes.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::pool::keys::PoolKeys;

pub(super) fn keys() -> Arc<PoolKeys> {
    Arc::new(PoolKeys::new([0x11; 16], 1, &[0x22; 32]))
}

pub(super) fn tail() -> SegmentTail {
    SegmentTail {
        ops: OpRange { first: 7, last: 9 },
        predecessor_salt: [4; 16],
        checkpoint: None,
        deletable: Vec::new(),
    }
}

#[test]
fn a_segment_round_trips() {
    let keys = keys();
    let id = SegmentId::log(1, 2, 3);
    for how in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let mut b = SegmentBuilder::new(keys.clone(), id, [9; 16], how);
        assert!(b.is_empty());
        let text: Vec<u8> = (0..EXTENT).map(|i| (i / 100) as u8).collect();
        let whole = b.add_extent(5, 0xff, &text);
        let piece = b.add_extent(4, 0b101, &text[..2 * BLOCK]);
        let node = b.add_node(1, 77, &text[..1000]);
        b.add_trim(100, 1 << 40);
        let before = b.size();
        let built = b.finish(tail());
        assert!(built.bytes.len() <= before);
        let size = built.bytes.len() as u64;
        let read = read_index(&keys, id, size, &built.bytes).unwrap();
        assert_eq!(read, IndexRead::Index(built.index.clone()));
        let part = |r: &RecordRef| &built.bytes[r.offset as usize..][..r.len as usize];
        assert_eq!(open_extent(&keys, &whole, 5, 0xff, part(&whole)).unwrap(), &text[..]);
        assert_eq!(open_extent(&keys, &piece, 4, 0b101, part(&piece)).unwrap(), &text[..2 * BLOCK]);
        assert_eq!(open_node(&keys, &node, 1, 77, part(&node)).unwrap(), &text[..1000]);
        assert_eq!(log_object_kind(&built.bytes), LogObject::Segment);
    }
}
