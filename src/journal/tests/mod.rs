//! Tests of the ring through its public face.
#![allow(clippy::unwrap_used)]

mod basics;
mod crash;
mod files;
mod golden;
mod hostile;
mod kill;
mod model;
mod speed;
pub(super) mod stores;
mod threads;

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

/// A directory on tmpfs where there is one.
fn dir() -> TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { TempDir::with_prefix_in("esker-ring-", shm).unwrap() } else { TempDir::new().unwrap() }
}

fn options() -> RingOptions {
    RingOptions { mlock: MlockPolicy::Off, require_tmpfs: false }
}

fn spec() -> RingSpec {
    RingSpec { pool: [1; 16], volume: 7, ring: [9; 16], bytes: MIN_BYTES, first_op: 100 }
}

fn new_ring(dir: &TempDir) -> (PathBuf, Ring) {
    let path = dir.path().join("ring");
    let ring = Ring::create(&path, &spec(), &options()).unwrap();
    (path, ring)
}

/// The block of data that operation-independent tests write: tells where it belongs.
fn fill(body: &mut [u8], seed: u64) {
    for (i, word) in body.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64).to_le_bytes());
    }
}

fn filled(len: usize, seed: u64) -> Vec<u8> {
    let mut v = vec![0; len];
    fill(&mut v, seed);
    v
}

/// Writes `blocks` blocks, with data made from the operation's number, and completes it.
fn put(ring: &Ring, lba: u64, blocks: u32) -> Result<(u64, u64), Refused> {
    let mut slot = ring.reserve(&OpHeader::write(lba, blocks))?;
    let (op, at) = (slot.op(), slot.body_at());
    if !stores::was_killed() {
        fill(slot.body(), op);
    }
    slot.complete();
    Ok((op, at))
}

fn all(ring: &Ring) -> Vec<Record> {
    let mut out = Vec::new();
    ring.collect(0, u64::MAX, usize::MAX, &mut out);
    out
}
