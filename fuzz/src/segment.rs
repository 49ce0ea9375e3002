//! Segments and records: as they lie in a bucket, and with a key behind them.

use esker::map::Map;
use esker::map::MapOptions;
use esker::pool::keys::Purpose;
use esker::segment::{
    IndexRead, MAX_EXTENT, MAX_LBA, MAX_SEGMENT, RecordRef, SegmentId, SegmentIndex, log_object_kind, open_extent,
    open_node, read_index, tail_range,
};

use crate::KEYS;
use crate::input::Input;

const SALT: [u8; 16] = [3; 16];
const HEADER: usize = 32;
const TRAILER: usize = 40;
const TAG: usize = 16;

fn id() -> SegmentId {
    SegmentId::log(5, 2, 9)
}

/// The first byte says what the rest is.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 6 {
        0 => raw(&mut input),
        1 | 2 => index(&mut input),
        3 | 4 => record(&mut input),
        _ => changed(&mut input),
    }
}

/// Anybody's bytes as the end of an object.
fn raw(input: &mut Input<'_>) {
    let size = u64::from(input.u32());
    log_object_kind(input.0);
    if let Ok(IndexRead::Index(_)) = read_index(&KEYS, id(), size, input.0) {
        panic!("bytes without the key are no index");
    }
}

/// Seals `payload` as the index behind `records` bytes. `total` is what the trailer says of the object's length.
pub fn sealed_index(payload: &[u8], records: usize, total: Option<u32>) -> Vec<u8> {
    let frame = |magic: &[u8; 8]| {
        let mut out = magic.to_vec();
        out.extend_from_slice(&1u16.to_le_bytes());
        out.extend_from_slice(&0u16.to_le_bytes());
        out.extend_from_slice(&KEYS.generation().to_le_bytes());
        out.extend_from_slice(&SALT);
        out
    };
    let mut object = frame(b"ESKERSEG");
    object.resize(HEADER + records, 0x55);
    let len = object.len() + payload.len() + TAG + TRAILER;
    let mut trailer = frame(b"ESKERIDX");
    trailer.extend_from_slice(&((payload.len() + TAG) as u32).to_le_bytes());
    trailer.extend_from_slice(&total.unwrap_or(len as u32).to_le_bytes());
    let aad = [&trailer[..], KEYS.pool_id(), id().key().as_bytes()].concat();
    KEYS.body(Purpose::Index, &SALT).seal_into(0, &aad, payload, &mut object);
    object.extend_from_slice(&trailer);
    object
}

/// A writer's index of whatever it likes, over records of whatever length.
fn index(input: &mut Input<'_>) {
    let records = usize::from(input.u16());
    let object = sealed_index(input.0, records, None);
    let size = object.len() as u64;
    let tail = tail_range(size);
    let read = match read_index(&KEYS, id(), size, &object[tail.start as usize..]) {
        Ok(IndexRead::NeedTail(n)) => {
            assert!(n > size - tail.start && n <= size, "more bytes are asked for, and no more than there are");
            read_index(&KEYS, id(), size, &object[(size - n) as usize..])
        }
        other => other,
    };
    match read {
        Ok(IndexRead::Index(index)) => check(&index, records),
        Ok(IndexRead::NeedTail(_)) => panic!("it asks twice"),
        Err(_) => {}
    }
}

/// What the engine relies on of an index that was read.
fn check(index: &SegmentIndex, records: usize) {
    let mut all: Vec<RecordRef> = index.records.iter().map(|d| d.record).collect();
    all.extend(index.nodes.iter().map(|n| n.record));
    all.sort_by_key(|r| r.number);
    let mut at = HEADER as u32;
    for (number, record) in all.iter().enumerate() {
        assert_eq!((record.number, record.offset, record.segment), (number as u32, at, id()));
        at += record.len;
    }
    assert_eq!(at as usize, HEADER + records, "records fill their segment");
    for r in &index.relocations {
        assert!(r.extent < MAX_EXTENT && r.mask != 0 && r.mask & !r.original == 0);
        for record in [r.from, r.to] {
            assert!(u64::from(record.offset) + u64::from(record.len) <= MAX_SEGMENT);
        }
    }
    let map = Map::new(MapOptions { size: 1 << 40, leaf_cache_bytes: 1 << 16 }, None).expect("a map without a root");
    for trim in &index.trims {
        assert!(trim.first_lba + trim.blocks <= MAX_LBA);
        map.apply_trim(trim.first_lba, trim.blocks);
    }
    for data in &index.records {
        assert!(data.extent < MAX_EXTENT && data.mask != 0);
        map.apply_data(data.extent, data.mask, data.record);
        map.lookup(data.extent, 0xff);
    }
}

/// A writer's record of whatever it likes: codec, mask, and the bytes that the codec gets.
fn record(input: &mut Input<'_>) {
    let (mask, codec, node) = (input.u8(), input.u8(), input.u8());
    let (level, index) = (input.u8(), input.u32());
    let mask = if node & 1 == 1 { 0 } else { mask };
    let place = if mask == 0 { u64::from(level) << 56 | u64::from(index) } else { u64::from(index) };
    let mut aad = KEYS.pool_id().to_vec();
    aad.extend_from_slice(&7u32.to_le_bytes());
    aad.extend_from_slice(&place.to_le_bytes());
    aad.extend_from_slice(&[mask, codec]);
    aad.extend_from_slice(id().key().as_bytes());
    let mut bytes = SALT.to_vec();
    bytes.extend_from_slice(&7u16.to_le_bytes());
    bytes.extend_from_slice(&(KEYS.generation() as u16).to_le_bytes());
    bytes.extend_from_slice(&[mask, codec]);
    KEYS.body(Purpose::Record, &SALT).seal_into(7, &aad, input.0, &mut bytes);
    let at = RecordRef { segment: id(), offset: HEADER as u32, len: bytes.len() as u32, number: 7 };
    if mask == 0 {
        if let Ok(plain) = open_node(&KEYS, &at, level, u64::from(index), &bytes) {
            assert!(plain.len() <= 1 << 20);
        }
    } else if let Ok(plain) = open_extent(&KEYS, &at, u64::from(index), mask, &bytes) {
        assert_eq!(plain.len(), mask.count_ones() as usize * 4096);
    }
}

/// A sound segment with one change: never an index.
fn changed(input: &mut Input<'_>) {
    let (at, flip) = (usize::from(input.u16()), input.u8());
    let payload = [1, 0].iter().chain(&[0; 16]).chain(&[0, 0, 0, 0, 0, 0]).copied().collect::<Vec<u8>>();
    let mut object = sealed_index(&payload, 0, None);
    assert!(matches!(read_index(&KEYS, id(), object.len() as u64, &object), Ok(IndexRead::Index(_))));
    let at = HEADER + at % (object.len() - HEADER);
    object[at] ^= flip;
    let read = read_index(&KEYS, id(), object.len() as u64, &object);
    assert!(flip == 0 || !matches!(read, Ok(IndexRead::Index(_))), "byte {at} is not authenticated");
}
