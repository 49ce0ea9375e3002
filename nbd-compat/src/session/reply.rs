//! Replies on the wire.

use bytes::Bytes;
use esker_block::{BlockError, Extent};

use super::request::{Request, out_of_range};
use crate::proto::{self, CHUNK_LEN, MAX_STRING, SIMPLE_REPLY_LEN, chunk, cmd, errno};

/// Holes within a read are told apart at this granularity, in bytes: an extent.
const HOLE_UNIT: u64 = 32 << 10;
/// The longest run one block-status descriptor tells of: 32 bits, down to a multiple of a block.
const MAX_RUN: u64 = (u32::MAX as u64) & !0xfff;

/// What the device answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    Data(Bytes),
    Extents(Vec<Extent>),
}

/// How replies look on one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    pub(crate) structured: bool,
    pub(crate) max_extents: usize,
}

/// Length of the head before a read's data.
pub(crate) fn read_head_len(structured: bool) -> usize {
    if structured { CHUNK_LEN + 8 } else { SIMPLE_REPLY_LEN }
}

/// Writes the head of a successful read of `len` bytes, whose data follows, into `head`, exactly.
pub(crate) fn read_head(head: &mut [u8], structured: bool, request: &Request) {
    if structured {
        let mut bytes = [0; CHUNK_LEN + 8];
        bytes[..CHUNK_LEN].copy_from_slice(&chunk_head(
            chunk::DONE,
            chunk::OFFSET_DATA,
            request.cookie,
            8 + request.len,
        ));
        bytes[CHUNK_LEN..].copy_from_slice(&request.offset.to_be_bytes());
        head.copy_from_slice(&bytes);
    } else {
        head.copy_from_slice(&simple(request.cookie, 0));
    }
}

/// A simple reply's header.
pub(crate) fn simple(cookie: u64, error: u32) -> [u8; SIMPLE_REPLY_LEN] {
    let mut head = [0; SIMPLE_REPLY_LEN];
    head[..4].copy_from_slice(&proto::SIMPLE_REPLY_MAGIC.to_be_bytes());
    head[4..8].copy_from_slice(&error.to_be_bytes());
    head[8..].copy_from_slice(&cookie.to_be_bytes());
    head
}

fn chunk_head(flags: u16, kind: u16, cookie: u64, len: u32) -> [u8; CHUNK_LEN] {
    let mut head = [0; CHUNK_LEN];
    head[..4].copy_from_slice(&proto::STRUCTURED_REPLY_MAGIC.to_be_bytes());
    head[4..6].copy_from_slice(&flags.to_be_bytes());
    head[6..8].copy_from_slice(&kind.to_be_bytes());
    head[8..16].copy_from_slice(&cookie.to_be_bytes());
    head[16..].copy_from_slice(&len.to_be_bytes());
    head
}

/// The chunk that says: all of this reads as zeroes. 32 bytes instead of the data.
pub(crate) fn hole(flags: u16, cookie: u64, offset: u64, len: u32) -> [u8; CHUNK_LEN + 12] {
    let mut bytes = [0; CHUNK_LEN + 12];
    bytes[..CHUNK_LEN].copy_from_slice(&chunk_head(flags, chunk::OFFSET_HOLE, cookie, 12));
    bytes[CHUNK_LEN..CHUNK_LEN + 8].copy_from_slice(&offset.to_be_bytes());
    bytes[CHUNK_LEN + 8..].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// An error reply; `message` is shown to people where the format has room for it.
pub(crate) fn error(format: Format, request: &Request, error: u32, message: &str) -> Vec<u8> {
    if !format.structured {
        return simple(request.cookie, error).to_vec();
    }
    let mut end = message.len().min(MAX_STRING);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = Vec::with_capacity(CHUNK_LEN + 6 + end);
    bytes.extend_from_slice(&chunk_head(chunk::DONE, chunk::ERROR, request.cookie, 6 + end as u32));
    bytes.extend_from_slice(&error.to_be_bytes());
    bytes.extend_from_slice(&(end as u16).to_be_bytes());
    bytes.extend_from_slice(&message.as_bytes()[..end]);
    bytes
}

/// The protocol's error number for a device's error.
pub(crate) fn error_number(kind: u16, error: &BlockError) -> u32 {
    match error {
        BlockError::OutOfRange { .. } => out_of_range(kind),
        BlockError::Invalid(_) => errno::EINVAL,
        BlockError::ReadOnly => errno::EPERM,
        BlockError::ShuttingDown => errno::ESHUTDOWN,
        BlockError::Fenced | BlockError::Corrupt { .. } | BlockError::Store(_) | BlockError::Source(_) => errno::EIO,
    }
}

/// The whole reply to `request`, in pieces that are sent one after the other.
pub(crate) fn encode(format: Format, request: &Request, split: bool, result: Result<Answer, BlockError>) -> Vec<Bytes> {
    match result {
        Ok(Answer::Done) if request.kind == cmd::READ && format.structured => {
            vec![chunk_head(chunk::DONE, chunk::NONE, request.cookie, 0).to_vec().into()]
        }
        Ok(Answer::Done) => vec![simple(request.cookie, 0).to_vec().into()],
        Ok(Answer::Data(data)) if data.len() != request.len as usize => {
            vec![error(format, request, errno::EIO, "the device answered with another length").into()]
        }
        Ok(Answer::Data(data)) if !format.structured => vec![simple(request.cookie, 0).to_vec().into(), data],
        Ok(Answer::Data(data)) => data_chunks(request, split, data),
        Ok(Answer::Extents(extents)) => vec![status_chunk(format, request, &extents).into()],
        Err(e) => vec![error(format, request, error_number(request.kind, &e), &e.to_string()).into()],
    }
}

fn data_chunks(request: &Request, split: bool, data: Bytes) -> Vec<Bytes> {
    if is_zero(&data) {
        return vec![hole(chunk::DONE, request.cookie, request.offset, request.len).to_vec().into()];
    }
    let runs = if split { runs(request.offset, &data) } else { vec![(0, data.len(), false)] };
    let last = runs.len() - 1;
    let mut parts = Vec::with_capacity(runs.len() * 2);
    for (i, (start, end, zero)) in runs.into_iter().enumerate() {
        let flags = if i == last { chunk::DONE } else { 0 };
        let offset = request.offset + start as u64;
        let len = (end - start) as u32;
        if zero {
            parts.push(Bytes::from(hole(flags, request.cookie, offset, len).to_vec()));
        } else {
            let mut head = chunk_head(flags, chunk::OFFSET_DATA, request.cookie, 8 + len).to_vec();
            head.extend_from_slice(&offset.to_be_bytes());
            parts.push(head.into());
            parts.push(data.slice(start..end));
        }
    }
    parts
}

/// Runs of zeroes and of data in a read at `offset`, (start, end, zero), cut where the device's extents begin.
fn runs(offset: u64, data: &[u8]) -> Vec<(usize, usize, bool)> {
    let mut runs: Vec<(usize, usize, bool)> = Vec::new();
    let mut start = 0;
    while start < data.len() {
        let into = (offset + start as u64) % HOLE_UNIT;
        let end = (start + (HOLE_UNIT - into) as usize).min(data.len());
        let zero = is_zero(&data[start..end]);
        match runs.last_mut() {
            Some(last) if last.2 == zero => last.1 = end,
            _ => runs.push((start, end, zero)),
        }
        start = end;
    }
    runs
}

fn status_chunk(format: Format, request: &Request, extents: &[Extent]) -> Vec<u8> {
    // A whole-device hole can be longer than one descriptor tells; what is cut off the client asks for again.
    let mut left = u64::from(request.len);
    let mut found: Vec<(u64, bool)> = Vec::new();
    for extent in extents {
        let len = extent.len.min(left);
        left -= len;
        match found.last_mut() {
            Some(last) if last.1 == extent.hole => last.0 += len,
            _ if len == 0 => {}
            _ => found.push((len, extent.hole)),
        }
    }
    if found.is_empty() {
        // "Data" is always a safe thing to say.
        found.push((u64::from(request.len), false));
    }
    found.truncate(format.max_extents.max(1));
    let mut bytes = chunk_head(chunk::DONE, chunk::BLOCK_STATUS, request.cookie, 4 + 8 * found.len() as u32).to_vec();
    bytes.extend_from_slice(&proto::BASE_ALLOCATION_ID.to_be_bytes());
    for (len, hole) in found {
        let state = if hole { proto::STATE_HOLE | proto::STATE_ZERO } else { 0 };
        bytes.extend_from_slice(&(len.min(MAX_RUN) as u32).to_be_bytes());
        bytes.extend_from_slice(&state.to_be_bytes());
        if len > MAX_RUN {
            break;
        }
    }
    let count = (bytes.len() - CHUNK_LEN) as u32;
    bytes[16..CHUNK_LEN].copy_from_slice(&count.to_be_bytes());
    bytes
}

/// Whether all of `data` is zero. Ends at the first 64 bytes that are not.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    let (chunks, rest) = data.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_byte_makes_data_of_zeroes() {
        for len in [0, 1, 63, 64, 65, 4096, 4099] {
            let mut data = vec![0u8; len];
            assert!(is_zero(&data));
            for at in [0, len / 2, len.saturating_sub(1)] {
                if at < len {
                    data[at] = 1;
                    assert!(!is_zero(&data), "{at} of {len}");
                    data[at] = 0;
                }
            }
        }
    }

    #[test]
    fn runs_cover_a_read_and_break_at_extents() {
        let mut data = vec![0u8; 3 * 32768];
        data[40_000] = 1;
        assert_eq!(runs(0, &data), vec![(0, 32768, true), (32768, 65536, false), (65536, 98304, true)]);
        // From byte 100 on, the extents begin 100 bytes earlier in the data.
        assert_eq!(runs(100, &data), vec![(0, 32668, true), (32668, 65436, false), (65436, 98304, true)]);
    }

    #[test]
    fn block_status_stays_within_the_request_and_the_limit() {
        let format = Format { structured: true, max_extents: 2 };
        let request = Request { flags: 0, kind: cmd::BLOCK_STATUS, cookie: 1, offset: 0, len: u32::MAX };
        let lens = |extents: &[Extent]| {
            let bytes = status_chunk(format, &request, extents);
            assert_eq!(bytes.len() - CHUNK_LEN, u32::from_be_bytes(*bytes[16..].first_chunk().unwrap()) as usize);
            bytes[CHUNK_LEN + 4..]
                .chunks(8)
                .map(|d| (u32::from_be_bytes(*d.first_chunk().unwrap()), d[7]))
                .collect::<Vec<_>>()
        };
        assert_eq!(lens(&[Extent { len: 1 << 40, hole: true }]), vec![(MAX_RUN as u32, 3)]);
        let three = [(4096, true), (4096, true), (4096, false), (4096, true)];
        let three: Vec<_> = three.map(|(len, hole)| Extent { len, hole }).into();
        assert_eq!(lens(&three), vec![(8192, 3), (4096, 0)]);
        assert_eq!(lens(&[]), vec![(MAX_RUN as u32, 0)]);
    }
}
