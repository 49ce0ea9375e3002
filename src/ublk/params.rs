//! What the block device says of itself: sizes, limits, the write cache.

use esker_block::DeviceInfo;

use super::error::UblkError;
use super::uapi::{ATTR_FUA, ATTR_READ_ONLY, ATTR_VOLATILE_CACHE, PARAM_TYPE_BASIC, PARAM_TYPE_DISCARD, Params};

/// Bytes of a sector, as the kernel counts in all its interfaces.
pub(super) const SECTOR: u64 = 512;
/// The largest read or write, in bytes: 1 MiB, which a crash never tears.
pub(super) const MAX_IO: usize = esker_block::MAX_OP_BYTES;
/// The largest discard or zeroing of one request, in sectors: a request's length is counted in 32 bits of bytes by the
/// kernel, and stays a multiple of the block.
const MAX_DISCARD_SECTORS: u32 = (u32::MAX / 4096) * 8;

/// The parameters for a device of this kind. The write cache is volatile, so the kernel sends flushes; FUA is said with
/// it, as the kernel ignores it alone. Limits of write-zeroes need those of discards beside them.
///
/// # Errors
/// [`UblkError::Unfit`] where the kernel knows no such device.
pub(super) fn params(info: &DeviceInfo) -> Result<Params, UblkError> {
    let shift = |what: &str, bytes: u32, range: std::ops::RangeInclusive<u32>| {
        if bytes.is_power_of_two() && range.contains(&bytes) {
            return Ok(bytes.trailing_zeros() as u8);
        }
        Err(UblkError::Unfit(format!("a {what} of {bytes} bytes cannot be a block device's")))
    };
    if info.size == 0 || !info.size.is_multiple_of(u64::from(info.logical_block)) {
        return Err(UblkError::Unfit(format!("{} bytes are not a whole number of blocks", info.size)));
    }
    let writable = ATTR_VOLATILE_CACHE | ATTR_FUA;
    Ok(Params {
        len: size_of::<Params>() as u32,
        types: PARAM_TYPE_BASIC | PARAM_TYPE_DISCARD,
        attrs: if info.read_only { ATTR_READ_ONLY } else { writable },
        logical_bs_shift: shift("logical block", info.logical_block, 512..=4096)?,
        physical_bs_shift: shift("physical block", info.physical_block, 512..=1 << 20)?,
        io_opt_shift: shift("preferred request", info.optimal_io, 512..=1 << 20)?,
        io_min_shift: shift("physical block", info.physical_block, 512..=1 << 20)?,
        max_sectors: (MAX_IO as u64 / SECTOR) as u32,
        dev_sectors: info.size / SECTOR,
        discard_granularity: info.physical_block,
        max_discard_sectors: MAX_DISCARD_SECTORS,
        max_write_zeroes_sectors: MAX_DISCARD_SECTORS,
        max_discard_segments: 1,
        ..Params::default()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn info() -> DeviceInfo {
        DeviceInfo {
            name: "v".into(),
            size: 1 << 30,
            logical_block: 512,
            physical_block: 4096,
            optimal_io: 32 << 10,
            read_only: false,
        }
    }

    #[test]
    fn a_volume_shows_its_sizes_and_a_cache_that_wants_flushes() {
        let p = params(&info()).unwrap();
        assert_eq!((p.logical_bs_shift, p.physical_bs_shift, p.io_min_shift, p.io_opt_shift), (9, 12, 12, 15));
        assert_eq!((p.dev_sectors, p.max_sectors, p.discard_granularity), (1 << 21, 2048, 4096));
        assert_eq!(p.attrs, ATTR_VOLATILE_CACHE | ATTR_FUA);
        assert_eq!(p.max_discard_sectors % 8, 0);
        let p = params(&DeviceInfo { read_only: true, logical_block: 4096, ..info() }).unwrap();
        assert_eq!((p.attrs, p.logical_bs_shift), (ATTR_READ_ONLY, 12));
    }

    #[test]
    fn what_no_kernel_takes_is_refused() {
        for bad in [
            DeviceInfo { size: 0, ..info() },
            DeviceInfo { size: 1000, ..info() },
            DeviceInfo { logical_block: 1000, size: 1000, ..info() },
            DeviceInfo { logical_block: 8192, ..info() },
        ] {
            assert!(matches!(params(&bad), Err(UblkError::Unfit(_))), "{bad:?}");
        }
    }
}
