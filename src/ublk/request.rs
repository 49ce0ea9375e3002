//! One request of the kernel.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use esker_block::{BlockDevice, BlockError, BlockResult};

use super::params::{MAX_IO, SECTOR};
use super::uapi::{IO_F_FUA, IO_F_NOUNMAP, IoDesc, OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, OP_WRITE_ZEROES};

/// How long a read may take while the kernel starts the device: it looks for partitions then, and holds a lock that
/// removing the device needs.
const START_LIMIT: Duration = Duration::from_secs(20);

/// What the kernel asks for; offsets and lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Read { offset: u64, len: usize },
    Write { offset: u64, len: usize, fua: bool },
    Flush,
    Discard { offset: u64, len: u64, fua: bool },
    WriteZeroes { offset: u64, len: u64, may_unmap: bool, fua: bool },
}

impl Request {
    /// Reads a descriptor; `None` for what was not offered, or is larger than what was.
    pub(super) fn parse(desc: &IoDesc) -> Option<Self> {
        // A flush has no place; the kernel writes -1 there.
        if desc.op_flags as u8 == OP_FLUSH {
            return Some(Self::Flush);
        }
        let offset = desc.start_sector.checked_mul(SECTOR)?;
        let len = u64::from(desc.nr_sectors) * SECTOR;
        let fua = desc.op_flags & IO_F_FUA != 0;
        let short = || usize::try_from(len).ok().filter(|len| *len <= MAX_IO);
        Some(match desc.op_flags as u8 {
            OP_READ => Self::Read { offset, len: short()? },
            OP_WRITE => Self::Write { offset, len: short()?, fua },
            OP_DISCARD => Self::Discard { offset, len, fua },
            OP_WRITE_ZEROES => Self::WriteZeroes { offset, len, may_unmap: desc.op_flags & IO_F_NOUNMAP == 0, fua },
            _ => return None,
        })
    }

    /// What the kernel is told when all went well: the bytes of a read or write.
    pub(super) fn success(self) -> i32 {
        match self {
            Self::Read { len, .. } | Self::Write { len, .. } => len as i32,
            _ => 0,
        }
    }
}

/// Asks the device what it did not answer at once. `data` is what a write brings; `starting` bounds reads.
pub(super) async fn ask(
    device: Arc<dyn BlockDevice>,
    request: Request,
    data: Bytes,
    starting: bool,
) -> BlockResult<Option<BytesMut>> {
    match request {
        Request::Read { offset, len } => {
            let read = device.read(offset, len, BytesMut::with_capacity(len));
            if !starting {
                return read.await.map(Some);
            }
            match tokio::time::timeout(START_LIMIT, read).await {
                Ok(result) => result.map(Some),
                Err(_) => Err(BlockError::Store("no answer while the device starts".into())),
            }
        }
        Request::Write { offset, fua, .. } => device.write(offset, data, fua).await.map(|()| None),
        Request::Flush => device.flush().await.map(|()| None),
        Request::Discard { offset, len, fua } => device.discard(offset, len, fua).await.map(|()| None),
        Request::WriteZeroes { offset, len, may_unmap, fua } => {
            device.write_zeroes(offset, len, may_unmap, fua).await.map(|()| None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(op_flags: u32, nr_sectors: u32, start_sector: u64) -> Option<Request> {
        Request::parse(&IoDesc { op_flags, nr_sectors, start_sector, addr: 0 })
    }

    #[test]
    fn requests_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse(0, 8, 16), Some(Request::Read { offset: 8192, len: 4096 }));
        assert_eq!(parse(1 | 1 << 13, 1, 0), Some(Request::Write { offset: 0, len: 512, fua: true }));
        // The failfast and swap flags mean nothing to us.
        assert_eq!(parse(1 | 7 << 8 | 1 << 16, 1, 0), Some(Request::Write { offset: 0, len: 512, fua: false }));
        assert_eq!(parse(2, 0, u64::MAX), Some(Request::Flush));
        let len = 8_388_600 * 512;
        assert_eq!(parse(3, 8_388_600, 0), Some(Request::Discard { offset: 0, len, fua: false }));
        let zero = |may_unmap| Some(Request::WriteZeroes { offset: 0, len: 512, may_unmap, fua: false });
        assert_eq!((parse(5, 1, 0), parse(5 | 1 << 15, 1, 0)), (zero(true), zero(false)));
    }

    #[test]
    fn what_was_not_offered_is_no_request() {
        for op in [4, 10, 13, 18, 255] {
            assert_eq!(parse(op, 8, 0), None);
        }
        assert_eq!(parse(0, 2048, 0).map(Request::success), Some(1 << 20));
        assert_eq!(parse(0, 2049, 0), None, "longer than the longest");
        assert_eq!(parse(1, u32::MAX, 0), None);
        assert_eq!(parse(3, 1, u64::MAX / 2), None, "beyond all addresses");
    }
}
