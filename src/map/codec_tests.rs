#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::piece::Piece;
use super::*;
use crate::segment::RecordRef;

fn record(segment: SegmentId, number: u32, offset: u32, len: u32) -> RecordRef {
    RecordRef { segment, offset, len, number }
}

fn any_segment() -> impl Strategy<Value = SegmentId> {
    (0u32..3, prop_oneof![0u32..3, Just(u32::MAX)], prop_oneof![0u64..500, Just((1 << 63) - 1)], any::<bool>())
        .prop_map(|(v, e, n, log)| if log { SegmentId::log(v, e, n) } else { SegmentId::data(v, e, n) })
}

fn any_record() -> impl Strategy<Value = RecordRef> {
    (any_segment(), 0u32..=65_535, 0u32..1 << 31, 1u32..1 << 31).prop_map(|(s, n, o, l)| record(s, n, o, l))
}

/// Per extent: a split of the 8 blocks over records, and what the records held besides.
fn any_leaf() -> impl Strategy<Value = Leaf> {
    prop::collection::btree_map(0u16..512, prop::collection::vec((any::<u8>(), any::<u8>(), any_record()), 1..9), 1..40)
        .prop_filter_map("needs pieces", |extents| {
            let mut pieces = Vec::new();
            for (extent, candidates) in extents {
                let mut free = 0xffu8;
                for (visible, more, record) in candidates {
                    let visible = visible & free;
                    free &= !visible;
                    if visible != 0 {
                        pieces.push((extent, Piece { visible, original: visible | more, record }));
                    }
                }
            }
            (!pieces.is_empty()).then(|| Leaf::new(pieces).unwrap())
        })
}

fn any_inner() -> impl Strategy<Value = Inner> {
    prop::collection::btree_map(0u16..512, any_record(), 1..60)
        .prop_map(|c| Inner::new(&c.into_iter().collect::<Vec<_>>()).unwrap())
}

/// What a lookup relies on.
fn sound(leaf: &Leaf) -> bool {
    let mut seen = std::collections::HashMap::<u16, u8>::new();
    leaf.pieces.windows(2).all(|w| w[0].extent <= w[1].extent)
        && leaf.pieces.iter().all(|p| {
            let masks = seen.entry(p.extent).or_default();
            let ok = p.extent < 512 && p.visible != 0 && p.visible & !p.original == 0 && *masks & p.visible == 0;
            *masks |= p.visible;
            ok && usize::from(p.place.segment) < leaf.segments.len()
        })
}

proptest! {
    #[test]
    fn leaves_round_trip(leaf in any_leaf()) {
        prop_assert_eq!(decode_leaf(&encode_leaf(&leaf)).unwrap(), leaf);
    }

    #[test]
    fn inner_nodes_round_trip(inner in any_inner(), level in 1u8..6) {
        prop_assert_eq!(decode_inner(level, &encode_inner(level, &inner)).unwrap(), inner.clone());
        prop_assert!(decode_inner(level + 1, &encode_inner(level, &inner)).is_err());
    }

    #[test]
    fn a_damaged_leaf_is_an_error_or_sound(leaf in any_leaf(), hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
                                           cut in any::<prop::sample::Index>()) {
        let mut bytes = encode_leaf(&leaf);
        for n in [0, cut.index(bytes.len())] {
            prop_assert!(decode_leaf(&bytes[..n]).is_err());
        }
        bytes.push(0);
        prop_assert!(decode_leaf(&bytes).is_err(), "bytes left over");
        bytes.pop();
        for (at, v) in hits {
            let at = at.index(bytes.len());
            bytes[at] = v;
        }
        if let Ok(leaf) = decode_leaf(&bytes) {
            prop_assert!(sound(&leaf));
            prop_assert_eq!(encode_leaf(&leaf), bytes, "one form only");
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), level in 0u8..6) {
        let mut bytes = bytes;
        bytes.splice(0..0, [1, level]);
        if let Ok(leaf) = decode_leaf(&bytes) {
            prop_assert!(sound(&leaf));
        }
        decode_inner(level, &bytes).ok();
    }
}

/// A leaf written in one go: 512 extents, two segments.
fn sequential() -> Leaf {
    let mut at = 64;
    let pieces = (0..512u16).map(|e| {
        let len = 20_000 + u32::from(e) * 7919 % 3000;
        let segment = SegmentId::log(1, 1, 10 + u64::from(e / 256));
        at = if e % 256 == 0 { 64 } else { at };
        let r = record(segment, u32::from(e % 256), at, len);
        at += len;
        (e, Piece { visible: 0xff, original: 0xff, record: r })
    });
    Leaf::new(pieces.collect()).unwrap()
}

/// A leaf of random incompressible 4 KiB writes: each from a segment of its own, as on a volume of a terabyte.
fn scattered(count: u32, segments: u64) -> Leaf {
    let mut x = 12345u64;
    let mut random = move |n: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) % n
    };
    let mut blocks = std::collections::BTreeMap::new();
    while blocks.len() < count as usize {
        let number = random(2000) as u32;
        let segment = SegmentId::log(1, 1, 1 + random(segments));
        blocks.insert(random(4096), record(segment, number, 64 + number * 4133, 4133));
    }
    let piece = |(b, record): (u64, RecordRef)| {
        let bit = 1u8 << (b % 8);
        ((b / 8) as u16, Piece { visible: bit, original: bit, record })
    };
    Leaf::new(blocks.into_iter().map(piece).collect()).unwrap()
}

#[test]
fn nodes_are_small() {
    for (what, leaf, most) in [
        ("sequential", sequential(), 8.0),
        ("scattered, few", scattered(30, 30_000), 12.0),
        ("scattered, many", scattered(1500, 30_000), 12.0),
        ("scattered, one volume of 64 GiB", scattered(3000, 500), 12.0),
    ] {
        let bytes = encode_leaf(&leaf);
        let per_piece = bytes.len() as f64 / leaf.pieces.len() as f64;
        let packed = zstd::bulk::compress(&bytes, 3).unwrap().len() as f64 / leaf.pieces.len() as f64;
        let memory = leaf.bytes() as f64 / leaf.pieces.len() as f64;
        println!(
            "{what}: {} pieces, {per_piece:.1} B each, {packed:.1} with zstd, {memory:.1} in memory",
            leaf.pieces.len()
        );
        assert!(packed.min(per_piece) <= most, "{what}: {per_piece:.1} B a piece, {packed:.1} with zstd");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// These bytes are in buckets: if this test fails, the version must change and this form must still be read.
#[test]
fn golden_leaf() {
    let old = SegmentId::log(3, 1, 70);
    let new = SegmentId::log(3, 2, 5);
    let merged = SegmentId::data(3, 2, 9);
    let piece = |visible, original, record| Piece { visible, original, record };
    let leaf = Leaf::new(vec![
        (0, piece(0xff, 0xff, record(old, 0, 64, 20_000))),
        (1, piece(0x0f, 0xff, record(old, 1, 20_064, 21_000))),
        (1, piece(0x30, 0x30, record(new, 7, 29_000, 4133))),
        (300, piece(0x80, 0x80, record(new, 9, 37_266, 4133))),
        (511, piece(0x01, 0x11, record(merged, 65_535, 8_000_000, 5000))),
    ])
    .unwrap();
    let bytes = encode_leaf(&leaf);
    let golden = concat!(
        "01000305",               // version, level, 3 segments, 5 pieces
        "0003018c01",             // volume 3, epoch 1, tagged 140
        "0000020a",               // same volume, epoch 2, tagged 10
        "09",                     // the same, tagged 19
        "000300d604a703",         // extents: 0, 1 (partial), 1, 300, 511 (partial)
        "ff0f308001",             // visible
        "ff11",                   // original of the partial ones
        "0000020002",             // segments: 0, 0, 1, 1, 2
        "00000e02feff07",         // numbers: 0, next, 7, next but one, 65535
        "c0b802d00fc5870200c60d", // lengths
        "8001000a00f9eaeeb002",   // offsets
    );
    assert_eq!(hex(&bytes), golden);
    assert_eq!(decode_leaf(&bytes).unwrap(), leaf);
}

#[test]
fn golden_inner() {
    let a = SegmentId::data(3, 2, 9);
    let inner = Inner::new(&[(0, record(a, 0, 64, 700)), (1, record(a, 1, 764, 710)), (511, record(a, 5, 9000, 690))]);
    let inner = inner.unwrap();
    let bytes = encode_inner(2, &inner);
    assert_eq!(hex(&bytes), "01020103000302130000fd03000000000006f80a1427800100a055");
    assert_eq!(decode_inner(2, &bytes).unwrap(), inner);
}
