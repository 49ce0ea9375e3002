//! The kernel's interface: numbers and structures of `include/uapi/linux/ublk_cmd.h` (Linux 6.5 to 7.2).

use std::mem::size_of;

/// `_IOC_READ` of `asm-generic/ioctl.h`, shifted into place.
const IOC_READ: u32 = 2 << 30;
/// `_IOC_READ | _IOC_WRITE`, shifted into place.
const IOC_READ_WRITE: u32 = 3 << 30;

const fn command(direction: u32, number: u32, size: usize) -> u32 {
    direction | (size as u32) << 16 | (b'u' as u32) << 8 | number
}

const fn control(direction: u32, number: u32) -> u32 {
    command(direction, number, size_of::<CtrlCmd>())
}

pub(super) const GET_QUEUE_AFFINITY: u32 = control(IOC_READ, 0x01);
pub(super) const GET_DEV_INFO: u32 = control(IOC_READ, 0x02);
pub(super) const ADD_DEV: u32 = control(IOC_READ_WRITE, 0x04);
pub(super) const DEL_DEV: u32 = control(IOC_READ_WRITE, 0x05);
pub(super) const START_DEV: u32 = control(IOC_READ_WRITE, 0x06);
pub(super) const STOP_DEV: u32 = control(IOC_READ_WRITE, 0x07);
pub(super) const SET_PARAMS: u32 = control(IOC_READ_WRITE, 0x08);
pub(super) const START_USER_RECOVERY: u32 = control(IOC_READ_WRITE, 0x10);
pub(super) const END_USER_RECOVERY: u32 = control(IOC_READ_WRITE, 0x11);
pub(super) const GET_FEATURES: u32 = control(IOC_READ, 0x13);
/// As DEL_DEV, without waiting for those who have the device open; Linux 6.9.
pub(super) const DEL_DEV_ASYNC: u32 = control(IOC_READ, 0x14);
pub(super) const QUIESCE_DEV: u32 = control(IOC_READ_WRITE, 0x16);
/// As STOP_DEV, refused with EBUSY while somebody has the device open; Linux 7.0, for devices with SAFE_STOP_DEV.
pub(super) const TRY_STOP_DEV: u32 = control(IOC_READ_WRITE, 0x17);

pub(super) const IO_FETCH: u32 = command(IOC_READ_WRITE, 0x20, size_of::<IoCmd>());
pub(super) const IO_COMMIT_AND_FETCH: u32 = command(IOC_READ_WRITE, 0x21, size_of::<IoCmd>());

/// A fetch command came back with a request.
pub(super) const IO_RES_OK: i32 = 0;
/// A fetch command came back because the device is stopped or quiesced: nothing more comes for this tag.
pub(super) const IO_RES_ABORT: i32 = -libc::ENODEV;

/// Most requests of one queue: the size of the area in which their descriptors are mapped.
pub(super) const MAX_QUEUE_DEPTH: usize = 4096;
/// Where requests' bytes begin in the character device, for user copy.
const IO_BUF_OFFSET: u64 = 0x8000_0000;
/// Bits of an offset within a request.
const IO_BUF_BITS: u32 = 25;
/// Bits of a tag.
const TAG_BITS: u32 = 16;

/// Where in the character device the bytes of request (`queue`, `tag`) are read and written, for user copy.
pub(super) const fn user_copy_position(queue: u16, tag: u16) -> u64 {
    IO_BUF_OFFSET + ((queue as u64) << (IO_BUF_BITS + TAG_BITS) | (tag as u64) << IO_BUF_BITS)
}

/// Where in the character device the descriptors of `queue` are mapped.
pub(super) const fn descriptors_offset(queue: u16) -> u64 {
    queue as u64 * (MAX_QUEUE_DEPTH * size_of::<IoDesc>()) as u64
}

pub(super) const OP_READ: u8 = 0;
pub(super) const OP_WRITE: u8 = 1;
pub(super) const OP_FLUSH: u8 = 2;
pub(super) const OP_DISCARD: u8 = 3;
pub(super) const OP_WRITE_ZEROES: u8 = 5;
/// Flag of a request: durable when it completes.
pub(super) const IO_F_FUA: u32 = 1 << 13;
/// Flag of a request: zeroes must not free the space.
pub(super) const IO_F_NOUNMAP: u32 = 1 << 15;

pub(super) const S_DEV_DEAD: u16 = 0;
pub(super) const S_DEV_LIVE: u16 = 1;
pub(super) const S_DEV_QUIESCED: u16 = 2;
pub(super) const S_DEV_FAIL_IO: u16 = 3;

pub(super) const ATTR_READ_ONLY: u32 = 1 << 0;
pub(super) const ATTR_VOLATILE_CACHE: u32 = 1 << 2;
pub(super) const ATTR_FUA: u32 = 1 << 3;
pub(super) const PARAM_TYPE_BASIC: u32 = 1 << 0;
pub(super) const PARAM_TYPE_DISCARD: u32 = 1 << 1;

/// `struct ublksrv_ctrl_cmd`, carried in the 80 bytes of a big submission entry.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CtrlCmd {
    pub dev_id: u32,
    pub queue_id: u16,
    pub len: u16,
    pub addr: u64,
    pub data: u64,
    pub dev_path_len: u16,
    pub pad: u16,
    pub reserved: u32,
}

impl CtrlCmd {
    /// As the submission entry carries it.
    pub(super) fn bytes(&self) -> [u8; 80] {
        let mut out = [0; 80];
        out[0..4].copy_from_slice(&self.dev_id.to_ne_bytes());
        out[4..6].copy_from_slice(&self.queue_id.to_ne_bytes());
        out[6..8].copy_from_slice(&self.len.to_ne_bytes());
        out[8..16].copy_from_slice(&self.addr.to_ne_bytes());
        out[16..24].copy_from_slice(&self.data.to_ne_bytes());
        out
    }
}

/// `struct ublksrv_ctrl_dev_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DevInfo {
    pub nr_hw_queues: u16,
    pub queue_depth: u16,
    pub state: u16,
    pub pad0: u16,
    pub max_io_buf_bytes: u32,
    pub dev_id: u32,
    pub ublksrv_pid: i32,
    pub pad1: u32,
    pub flags: u64,
    pub ublksrv_flags: u64,
    pub owner_uid: u32,
    pub owner_gid: u32,
    pub reserved: [u64; 2],
}

/// `struct ublksrv_io_desc`: one request.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct IoDesc {
    pub op_flags: u32,
    pub nr_sectors: u32,
    pub start_sector: u64,
    pub addr: u64,
}

/// `struct ublksrv_io_cmd`: fetches a request, or answers one and fetches the next.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct IoCmd {
    pub q_id: u16,
    pub tag: u16,
    pub result: i32,
    pub addr: u64,
}

impl IoCmd {
    /// As the submission entry carries it.
    pub(super) fn bytes(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[0..2].copy_from_slice(&self.q_id.to_ne_bytes());
        out[2..4].copy_from_slice(&self.tag.to_ne_bytes());
        out[4..8].copy_from_slice(&self.result.to_ne_bytes());
        out[8..16].copy_from_slice(&self.addr.to_ne_bytes());
        out
    }
}

/// The head of `struct ublk_params`, up to the discard limits; the kernel takes any prefix.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Params {
    pub len: u32,
    pub types: u32,
    // struct ublk_param_basic
    pub attrs: u32,
    pub logical_bs_shift: u8,
    pub physical_bs_shift: u8,
    pub io_opt_shift: u8,
    pub io_min_shift: u8,
    pub max_sectors: u32,
    pub chunk_sectors: u32,
    pub dev_sectors: u64,
    pub virt_boundary_mask: u64,
    // struct ublk_param_discard
    pub discard_alignment: u32,
    pub discard_granularity: u32,
    pub max_discard_sectors: u32,
    pub max_write_zeroes_sectors: u32,
    pub max_discard_segments: u16,
    pub reserved: u16,
    /// Fills the structure up to its alignment; lies where the next part begins, which `types` does not announce.
    pub tail: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_numbers_are_the_headers() {
        assert_eq!(size_of::<CtrlCmd>(), 32);
        assert_eq!(size_of::<DevInfo>(), 64);
        assert_eq!(size_of::<IoDesc>(), 24);
        assert_eq!(size_of::<IoCmd>(), 16);
        assert_eq!(size_of::<Params>(), 64);
        // As a C compiler prints UBLK_U_CMD_ADD_DEV, UBLK_U_CMD_GET_FEATURES and UBLK_U_IO_FETCH_REQ.
        assert_eq!(ADD_DEV, 0xc020_7504);
        assert_eq!(GET_FEATURES, 0x8020_7513);
        assert_eq!(IO_FETCH, 0xc010_7520);
        assert_eq!(user_copy_position(0, 0), 0x8000_0000);
        assert_eq!(user_copy_position(2, 5), 0x8000_0000 + (2 << 41) + (5 << 25));
        assert_eq!(descriptors_offset(3), 3 * 4096 * 24);
    }

    #[test]
    fn commands_are_laid_out_as_the_structures() {
        let cmd = CtrlCmd {
            dev_id: 7,
            queue_id: u16::MAX,
            len: 64,
            addr: 0x1122_3344_5566_7788,
            data: 9,
            ..CtrlCmd::default()
        };
        let bytes = cmd.bytes();
        // Safety: a plain structure without padding, read for its own length.
        let raw = unsafe { std::slice::from_raw_parts((&raw const cmd).cast::<u8>(), size_of::<CtrlCmd>()) };
        assert_eq!(&bytes[..32], raw);
        let cmd = IoCmd { q_id: 1, tag: 2, result: -5, addr: 77 };
        // Safety: as above.
        let raw = unsafe { std::slice::from_raw_parts((&raw const cmd).cast::<u8>(), size_of::<IoCmd>()) };
        assert_eq!(&cmd.bytes()[..], raw);
    }
}
