//! A transmission request: its header, and what is allowed.

use crate::proto::{REQUEST_LEN, REQUEST_MAGIC, cmd, cmd_flag, errno};

/// The header of a request, as the client sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

/// What the requests of one connection may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Size of the device in bytes.
    pub(crate) size: u64,
    pub(crate) read_only: bool,
    pub(crate) structured: bool,
    pub(crate) block_status: bool,
    pub(crate) max_request: u32,
}

/// An allowed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Read { split: bool },
    Write { fua: bool },
    Disconnect,
    Flush,
    Trim { fua: bool },
    Cache,
    WriteZeroes { may_unmap: bool, fua: bool },
    BlockStatus { one: bool },
}

impl Request {
    /// Reads a header; `None` where the magic is wrong.
    pub(crate) fn parse(head: &[u8; REQUEST_LEN]) -> Option<Self> {
        let (magic, rest) = head.split_first_chunk::<4>()?;
        let (flags, rest) = rest.split_first_chunk::<2>()?;
        let (kind, rest) = rest.split_first_chunk::<2>()?;
        let (cookie, rest) = rest.split_first_chunk::<8>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (len, _) = rest.split_first_chunk::<4>()?;
        (u32::from_be_bytes(*magic) == REQUEST_MAGIC).then_some(Self {
            flags: u16::from_be_bytes(*flags),
            kind: u16::from_be_bytes(*kind),
            cookie: u64::from_be_bytes(*cookie),
            offset: u64::from_be_bytes(*offset),
            len: u32::from_be_bytes(*len),
        })
    }

    /// What the request asks for, or the protocol's error number where it may not.
    pub(crate) fn check(&self, rules: &Rules) -> Result<Op, u32> {
        // FUA is good with every command, as clients are known to set it on many.
        let allowed = match self.kind {
            cmd::READ if rules.structured => cmd_flag::DF,
            cmd::WRITE_ZEROES => cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO,
            cmd::BLOCK_STATUS => cmd_flag::REQ_ONE,
            _ => 0,
        };
        if self.flags & !(allowed | cmd_flag::FUA) != 0 {
            return Err(errno::EINVAL);
        }
        let fua = self.flags & cmd_flag::FUA != 0;
        let op = match self.kind {
            cmd::READ => Op::Read { split: rules.structured && self.flags & cmd_flag::DF == 0 },
            cmd::WRITE => Op::Write { fua },
            cmd::DISC => return Ok(Op::Disconnect),
            cmd::FLUSH if self.offset == 0 && self.len == 0 => return Ok(Op::Flush),
            cmd::TRIM => Op::Trim { fua },
            cmd::CACHE => Op::Cache,
            // A map operation at any size: every zeroing is a fast one.
            cmd::WRITE_ZEROES => Op::WriteZeroes { may_unmap: self.flags & cmd_flag::NO_HOLE == 0, fua },
            cmd::BLOCK_STATUS if rules.block_status && self.len > 0 => {
                Op::BlockStatus { one: self.flags & cmd_flag::REQ_ONE != 0 }
            }
            _ => return Err(errno::EINVAL),
        };
        let writes = matches!(op, Op::Write { .. } | Op::Trim { .. } | Op::WriteZeroes { .. });
        if writes && rules.read_only {
            return Err(errno::EPERM);
        }
        if self.offset.checked_add(u64::from(self.len)).is_none_or(|end| end > rules.size) {
            return Err(out_of_range(self.kind));
        }
        match op {
            Op::Read { .. } if self.len > rules.max_request && rules.structured => Err(errno::EOVERFLOW),
            Op::Read { .. } | Op::Write { .. } if self.len > rules.max_request => Err(errno::EINVAL),
            op => Ok(op),
        }
    }
}

/// The error for a range beyond the end: ENOSPC for what would grow the device, EINVAL otherwise.
pub(crate) fn out_of_range(kind: u16) -> u32 {
    if matches!(kind, cmd::WRITE | cmd::WRITE_ZEROES) { errno::ENOSPC } else { errno::EINVAL }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules =
        Rules { size: 1 << 20, read_only: false, structured: true, block_status: true, max_request: 1 << 16 };

    fn ask(kind: u16, flags: u16, offset: u64, len: u32) -> Result<Op, u32> {
        Request { flags, kind, cookie: 7, offset, len }.check(&RULES)
    }

    #[test]
    fn ranges_end_with_the_device_and_do_not_wrap() {
        assert_eq!(ask(cmd::READ, 0, (1 << 20) - 1, 1), Ok(Op::Read { split: true }));
        assert_eq!(ask(cmd::READ, 0, 1 << 20, 1), Err(errno::EINVAL));
        assert_eq!(ask(cmd::READ, 0, u64::MAX, 2), Err(errno::EINVAL));
        assert_eq!(ask(cmd::WRITE, 0, u64::MAX, 2), Err(errno::ENOSPC));
        assert_eq!(ask(cmd::WRITE_ZEROES, 0, (1 << 20) - 1, 2), Err(errno::ENOSPC));
        assert_eq!(ask(cmd::TRIM, 0, (1 << 20) - 1, 2), Err(errno::EINVAL));
    }

    #[test]
    fn flags_belong_to_their_commands() {
        assert_eq!(ask(cmd::READ, cmd_flag::DF, 0, 1), Ok(Op::Read { split: false }));
        assert_eq!(ask(cmd::WRITE, cmd_flag::DF, 0, 1), Err(errno::EINVAL));
        assert_eq!(ask(cmd::READ, cmd_flag::NO_HOLE, 0, 1), Err(errno::EINVAL));
        assert_eq!(ask(cmd::READ, 1 << 9, 0, 1), Err(errno::EINVAL));
        assert_eq!(ask(cmd::READ, cmd_flag::FUA, 0, 1), Ok(Op::Read { split: true }));
        let plain = Rules { structured: false, ..RULES };
        let df = Request { flags: cmd_flag::DF, kind: cmd::READ, cookie: 0, offset: 0, len: 1 };
        assert_eq!(df.check(&plain), Err(errno::EINVAL));
    }

    #[test]
    fn what_was_not_negotiated_is_refused() {
        let status = Request { flags: 0, kind: cmd::BLOCK_STATUS, cookie: 0, offset: 0, len: 1 };
        assert_eq!(status.check(&RULES), Ok(Op::BlockStatus { one: false }));
        assert_eq!(status.check(&Rules { block_status: false, ..RULES }), Err(errno::EINVAL));
        assert_eq!(ask(99, 0, 0, 0), Err(errno::EINVAL));
        assert_eq!(ask(cmd::FLUSH, 0, 1, 0), Err(errno::EINVAL));
        assert_eq!(ask(cmd::READ, 0, 0, (1 << 16) + 1), Err(errno::EOVERFLOW));
        let read_only = Rules { read_only: true, ..RULES };
        let trim = Request { flags: 0, kind: cmd::TRIM, cookie: 0, offset: 0, len: 1 };
        assert_eq!(trim.check(&read_only), Err(errno::EPERM));
    }
}
