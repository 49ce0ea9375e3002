//! Options and their replies on the wire, and a reader of option data that checks every length.

use super::{Handshake, HandshakeError, Result};
use crate::proto::{self, rep};

/// How many times the limit of option data is skipped before the connection is given up.
const SKIP_FACTOR: u32 = 16;

/// The head of an option.
#[derive(Debug, Clone, Copy)]
pub(super) struct OptionHeader {
    pub(super) code: u32,
    len: u32,
}

impl Handshake<'_> {
    pub(super) fn option_header(&mut self) -> Result<OptionHeader> {
        let mut head = [0; 16];
        self.stream.recv_exact(&mut head)?;
        let mut fields = Fields::new(&head);
        if fields.u64() != Some(proto::OPTION_MAGIC) {
            return Err(HandshakeError::Protocol("bad option magic"));
        }
        match (fields.u32(), fields.u32()) {
            (Some(code), Some(len)) => Ok(OptionHeader { code, len }),
            _ => Err(HandshakeError::Protocol("short option header")),
        }
    }

    /// The data of an option. Too long: it is skipped and refused (`None`), or the connection is given up.
    pub(super) fn option_data(&mut self, header: OptionHeader) -> Result<Option<Vec<u8>>> {
        let limit = self.options.max_option;
        if header.len <= limit {
            let mut data = vec![0; header.len as usize];
            self.stream.recv_exact(&mut data)?;
            return Ok(Some(data));
        }
        if header.code == proto::opt::EXPORT_NAME || header.len > limit.saturating_mul(SKIP_FACTOR) {
            return Err(HandshakeError::Protocol("an option far too long"));
        }
        let mut left = header.len as usize;
        let mut scratch = [0; 4096];
        while left > 0 {
            let piece = left.min(scratch.len());
            self.stream.recv_exact(&mut scratch[..piece])?;
            left -= piece;
        }
        self.refuse(header.code, rep::ERR_TOO_BIG, "the option's data is too long")?;
        Ok(None)
    }

    /// Sends one reply to option `code`.
    pub(super) fn reply(&mut self, code: u32, kind: u32, payload: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(20 + payload.len());
        message.extend_from_slice(&proto::OPTION_REPLY_MAGIC.to_be_bytes());
        message.extend_from_slice(&code.to_be_bytes());
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        message.extend_from_slice(payload);
        Ok(self.stream.send_all(&message)?)
    }

    /// Sends an error reply with a line for people.
    pub(super) fn refuse(&mut self, code: u32, kind: u32, why: &str) -> Result<()> {
        let mut end = why.len().min(proto::MAX_STRING);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        self.reply(code, kind, &why.as_bytes()[..end])
    }
}

/// Takes fields off option data; `None` wherever the data is too short.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string after its 32-bit length: UTF-8, no longer than the protocol allows.
    pub(super) fn string(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        if len > proto::MAX_STRING {
            return None;
        }
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }

    /// Whether all was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Fields;

    #[test]
    fn a_string_longer_than_its_data_is_none() {
        assert_eq!(Fields::new(&[0, 0, 0, 2, b'a', b'b']).string(), Some("ab"));
        assert_eq!(Fields::new(&[0, 0, 0, 3, b'a', b'b']).string(), None);
        assert_eq!(Fields::new(&[0xff, 0xff, 0xff, 0xff, b'a']).string(), None);
        assert_eq!(Fields::new(&[0, 0, 0, 1, 0xff]).string(), None);
        assert_eq!(Fields::new(&[0, 0]).string(), None);
    }
}
