//! Openings and seals: as they lie in a bucket, and with a key behind them.

use esker::pool::sealed::{ObjectKind, object_kind, open_object, seal_object};
use esker::segment::{LogObject, Opening, Seal, SegmentId, log_object_kind};

use crate::KEYS;
use crate::input::Input;

const SALT: [u8; 16] = [3; 16];
/// What seeds are made for.
pub const VOLUME: u32 = 5;
/// What seeds are made for.
pub const EPOCH: u32 = 2;
/// What seeds are made for.
pub const SEQ: u64 = 9;

/// The first byte says what the rest is.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 4 {
        0 => raw(input.0),
        1 => opening(input.0),
        2 => seal(input.0),
        _ => changed(&mut input),
    }
}

/// Anybody's bytes.
fn raw(bytes: &[u8]) {
    log_object_kind(bytes);
    object_kind(bytes);
    assert!(Opening::open(&KEYS, VOLUME, EPOCH, bytes).is_err());
    assert!(Seal::open(&KEYS, VOLUME, EPOCH, SEQ, bytes).is_err());
    assert!(open_object(&KEYS, ObjectKind::Catalogue, "volumes/x", bytes).is_err());
}

fn opening(payload: &[u8]) {
    let key = SegmentId::log(VOLUME, EPOCH, 0).key();
    let object = seal_object(&KEYS, ObjectKind::Opening, &key, SALT, payload);
    assert_eq!(log_object_kind(&object), LogObject::Opening);
    if let Ok(opening) = Opening::open(&KEYS, VOLUME, EPOCH, &object) {
        assert_eq!((opening.volume, opening.epoch), (VOLUME, EPOCH));
        assert!(opening.replay.iter().all(|r| r.first_seq <= r.end_seq));
        assert_eq!(opening.seal(&KEYS, SALT), object, "an opening has one encoding");
    }
}

fn seal(payload: &[u8]) {
    let key = SegmentId::log(VOLUME, EPOCH, SEQ).key();
    let object = seal_object(&KEYS, ObjectKind::Seal, &key, SALT, payload);
    assert_eq!(log_object_kind(&object), LogObject::Seal);
    if let Ok(seal) = Seal::open(&KEYS, VOLUME, EPOCH, SEQ, &object) {
        assert_eq!((seal.volume, seal.epoch, seal.seq), (VOLUME, EPOCH, SEQ));
        assert_eq!(seal.seal(&KEYS, SALT), object, "a seal has one encoding");
    }
}

/// A sound seal with one change: never a seal.
fn changed(input: &mut Input<'_>) {
    let (at, flip) = (usize::from(input.u16()), input.u8());
    let seal = Seal {
        volume: VOLUME,
        epoch: EPOCH,
        seq: SEQ,
        writer: [1; 16],
        clean: true,
        predecessor_salt: [2; 16],
        wall_ms: 5,
    };
    let mut object = seal.seal(&KEYS, SALT).to_vec();
    let at = at % object.len();
    object[at] ^= flip;
    let read = Seal::open(&KEYS, VOLUME, EPOCH, SEQ, &object);
    assert_eq!(read.is_ok(), flip == 0, "byte {at} is not authenticated");
}
