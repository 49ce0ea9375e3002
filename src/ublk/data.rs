//! How the bytes of requests get in and out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use memmap2::MmapMut;

use super::features::CopyMode;
use super::params::MAX_IO;
use super::uapi::user_copy_position;

/// The buffers of one queue; its thread alone uses them.
#[derive(Debug)]
pub(super) enum Data {
    /// User copy: one buffer for the request at hand; the rest stays in the kernel's pages until it is asked for.
    User { char: Arc<File>, queue: u16, scratch: MmapMut },
    /// A buffer for each tag, which the kernel fills before a write comes and reads when a read is answered.
    Kernel { buffers: MmapMut },
}

impl Data {
    /// # Errors
    /// Where there is no memory.
    pub(super) fn new(copy: CopyMode, char: Arc<File>, queue: u16, depth: u16) -> io::Result<Self> {
        Ok(match copy {
            CopyMode::User => Self::User { char, queue, scratch: MmapMut::map_anon(MAX_IO)? },
            CopyMode::Kernel => Self::Kernel { buffers: MmapMut::map_anon(usize::from(depth) * MAX_IO)? },
        })
    }

    /// The address that commands about `tag` carry; user copy has none.
    pub(super) fn address(&self, tag: u16) -> u64 {
        match self {
            Self::User { .. } => 0,
            Self::Kernel { buffers } => buffers.as_ptr() as u64 + (usize::from(tag) * MAX_IO) as u64,
        }
    }

    /// Where a read of `len` bytes, at most [`MAX_IO`], is put together.
    pub(super) fn buffer(&mut self, tag: u16, len: usize) -> &mut [u8] {
        match self {
            Self::User { scratch, .. } => &mut scratch[..len],
            Self::Kernel { buffers } => {
                let start = usize::from(tag) * MAX_IO;
                &mut buffers[start..start + len]
            }
        }
    }

    /// Gives the request what [`Data::buffer`] holds. With a buffer for each tag the kernel takes it with the answer.
    ///
    /// # Errors
    /// Where the request is gone.
    pub(super) fn give(&self, tag: u16, len: usize) -> io::Result<()> {
        match self {
            Self::User { char, queue, scratch } => char.write_all_at(&scratch[..len], user_copy_position(*queue, tag)),
            Self::Kernel { .. } => Ok(()),
        }
    }

    /// Gives the request `bytes`, which came from elsewhere.
    ///
    /// # Errors
    /// Where the request is gone.
    pub(super) fn give_bytes(&mut self, tag: u16, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::User { char, queue, .. } => char.write_all_at(bytes, user_copy_position(*queue, tag)),
            Self::Kernel { .. } => {
                self.buffer(tag, bytes.len()).copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Reads the bytes of a write to where they belong, where the kernel still has them; `None` where they are in
    /// [`Data::buffer`] already.
    pub(super) fn source(&self, tag: u16) -> Option<impl Fn(&mut [u8]) -> io::Result<()> + '_> {
        let Self::User { char, queue, .. } = self else { return None };
        Some(move |place: &mut [u8]| char.read_exact_at(place, user_copy_position(*queue, tag)))
    }

    /// The `len` bytes, at most [`MAX_IO`], that a write brings.
    ///
    /// # Errors
    /// Where the request is gone.
    pub(super) fn take(&mut self, tag: u16, len: usize) -> io::Result<&[u8]> {
        if let Self::User { char, queue, scratch } = self {
            char.read_exact_at(&mut scratch[..len], user_copy_position(*queue, tag))?;
        }
        Ok(self.buffer(tag, len))
    }
}
