//! The mapped file as words and bytes: the one place of the ring with `unsafe` code.
//!
//! The mapping is shared with a file that lives on after the process. What its users rely on:
//!
//! * **Words** (headers, the file's first page) are only ever touched as atomics, so reading one while another thread
//!   writes it is no data race, whatever value comes out.
//! * **Bodies** are plain bytes and follow a protocol that `ring.rs`, `slot.rs`, `space.rs` and `hold.rs` keep: a byte
//!   range belongs to exactly one [`super::Slot`] from `reserve` (under the lock; positions only grow) until it is
//!   completed or dropped; after that it is only read, by readers that a pin or a hold protects; and `reserve` gives the
//!   place out again only after its record was freed, which needs the slot to be gone, and after those readers left.
//! * The file never shrinks: only a process that holds its flock changes it, and none truncates. (A file that somebody
//!   else truncates is a SIGBUS, as with any mapping.)

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;

use memmap2::{Advice, MmapOptions, MmapRaw};

/// A mapped ring file.
pub(super) struct Memory {
    map: MmapRaw,
}

impl Memory {
    /// Maps the first `len` bytes for reading and writing.
    pub fn map(file: &File, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw(file)?;
        // Plaintext must not end in a core dump. Kernels without the advice lose nothing else by it.
        drop(map.advise(Advice::DontDump));
        Ok(Self { map })
    }

    /// Maps the first `len` bytes for reading. Writing to it afterwards is a fault.
    pub fn map_read_only(file: &File, len: usize) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(len).map_raw_read_only(file)? })
    }

    /// Locks all pages in memory, which brings them in.
    pub fn lock(&self) -> io::Result<()> {
        self.map.lock()
    }

    /// Brings all pages in, where the kernel can (5.14 on); only a matter of speed.
    pub fn populate(&self) {
        drop(self.map.advise(Advice::PopulateWrite));
    }

    fn check(&self, at: usize, len: usize) {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.map.len()), "outside the ring: {at}+{len}");
    }

    /// The 8-byte word at byte `at`, little-endian in the file.
    pub fn word(&self, at: usize) -> &AtomicU64 {
        self.check(at, 8);
        assert!(at.is_multiple_of(8), "misaligned word");
        // SAFETY: in bounds and aligned (mappings start at a page). The mapping lives as long as `self`, and the
        // reference no longer. Words are accessed as atomics only (see the top of this file); all bit patterns are
        // valid. On a read-only mapping only loads are done, and an 8-byte atomic load is a plain load.
        unsafe { &*self.map.as_ptr().add(at).cast::<AtomicU64>() }
    }

    /// Copies bytes out.
    pub fn copy_out(&self, at: usize, buf: &mut [u8]) {
        self.check(at, buf.len());
        crate::sync::step();
        // SAFETY: in bounds; `buf` is ordinary memory of the caller and so does not overlap the mapping. By the
        // protocol above nobody writes these bytes now: callers pinned them and know the position from a filled slot.
        unsafe { std::ptr::copy_nonoverlapping(self.map.as_ptr().add(at), buf.as_mut_ptr(), buf.len()) }
    }

    /// Bytes of a complete record that a hold keeps from being reused.
    pub fn shared(&self, at: usize, len: usize) -> &[u8] {
        self.check(at, len);
        // SAFETY: in bounds, initialised (a file's bytes). By the protocol the record is complete, so no slot can
        // write it, and the caller's hold, which outlives the reference, keeps the place from being given out again.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(at), len) }
    }

    /// The body of a record that is being filled.
    #[allow(clippy::mut_from_ref)]
    pub fn exclusive(&self, at: usize, len: usize) -> &mut [u8] {
        self.check(at, len);
        // SAFETY: in bounds, initialised. By the protocol the range belongs to the one slot that calls this, which
        // lends it out under its own `&mut self`; readers learn of the position only after the slot was filled.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(at), len) }
    }
}
