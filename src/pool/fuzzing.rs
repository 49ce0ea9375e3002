//! The decoders of this room, for the fuzz targets.

use bytes::Bytes;

use super::catalogue::Catalogue;
use super::keys::PoolKeys;
use super::record::Record;

/// Reads a pool record as number `n` under `key` and checks its MAC; true where it is whole and encodes to the same bytes.
pub fn pool_record(keys: &PoolKeys, key: &str, n: u64, bytes: &Bytes) -> bool {
    let read = Record::decode(key, n, bytes).and_then(|unverified| unverified.verify(keys));
    read.is_ok_and(|record| {
        assert_eq!(&record.encode(keys), bytes, "a record has one encoding");
        for slot in &record.slots {
            // Not derived: what the limits let through may take minutes.
            drop(slot.params.check());
        }
        true
    })
}

/// Reads the payload of a catalogue; true where it is one and encodes to the same bytes.
pub fn catalogue(n: u64, payload: &[u8]) -> bool {
    Catalogue::decode(n, payload).is_ok_and(|catalogue| {
        assert_eq!(catalogue.encode(), payload, "a catalogue has one encoding");
        true
    })
}
