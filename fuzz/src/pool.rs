//! The pool record and the catalogue.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use esker::pool::fuzzing::{catalogue, pool_record};
use esker::pool::keys::Purpose;

use crate::KEYS;
use crate::input::Input;

/// What seeds are made for.
pub const N: u64 = 3;

/// The first byte says what the rest is.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 4 {
        0 => {
            pool_record(&KEYS, "pool/x", N, &Bytes::copy_from_slice(input.0));
        }
        // Somebody without the key: the checksum fits, the MAC is whatever it is.
        1 => {
            let mut record = input.0.to_vec();
            sum(&mut record);
            pool_record(&KEYS, "pool/x", N, &record.into());
        }
        // Somebody with the key.
        2 => {
            let mut record = input.0.to_vec();
            record.extend_from_slice(&KEYS.mac(Purpose::PoolRecord, &record));
            sum(&mut record);
            pool_record(&KEYS, "pool/x", N, &record.into());
        }
        _ => {
            catalogue(N, input.0);
        }
    }
}

fn sum(record: &mut Vec<u8>) {
    let crc = checksum(CrcAlgorithm::Crc32IsoHdlc, record) as u32;
    record.extend_from_slice(&crc.to_le_bytes());
}
