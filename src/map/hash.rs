//! A hash for small integer keys: two multiplications, well mixed.

use std::hash::{BuildHasherDefault, Hasher};

/// For maps whose keys are node numbers.
pub type FastHash = BuildHasherDefault<Mixer>;

#[derive(Debug, Default, Clone, Copy)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(b.into());
        }
    }

    fn write_u8(&mut self, v: u8) {
        self.write_u64(v.into());
    }

    fn write_u64(&mut self, v: u64) {
        // The finalizer of splitmix64.
        let mut x = self.0.rotate_left(29) ^ v.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = x ^ (x >> 31);
    }
}
