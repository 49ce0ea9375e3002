//! Little-endian fields and varints: the one way every format of ours reads and writes bytes.

use thiserror::Error;

/// The bytes end early, or a field holds what it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

/// Reads fields from a byte slice. Never panics; never reads past the end.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (a, b) = self.rest.split_at_checked(n).ok_or(Malformed("ends early"))?;
        self.rest = b;
        Ok(a)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (a, b) = self.rest.split_first_chunk::<N>().ok_or(Malformed("ends early"))?;
        self.rest = b;
        Ok(*a)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// A 16-bit little-endian number.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// A 32-bit little-endian number.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// A 64-bit little-endian number.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// An unsigned LEB128 number of at most 64 bits; the shortest form only.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.u8()?;
            if shift == 63 && b > 1 {
                return Err(Malformed("varint over 64 bits"));
            }
            v |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                if b == 0 && shift > 0 {
                    return Err(Malformed("varint is not in shortest form"));
                }
                return Ok(v);
            }
        }
        Err(Malformed("varint over 64 bits"))
    }

    /// A varint that must not exceed `max`: every count is checked before anything is allocated for it.
    pub fn varint_max(&mut self, max: u64, what: &'static str) -> Result<u64, Malformed> {
        let v = self.varint()?;
        if v > max { Err(Malformed(what)) } else { Ok(v) }
    }

    /// A length-prefixed (varint) byte string of at most `max` bytes.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let n = self.varint_max(max as u64, "byte string too long")?;
        self.take(n as usize)
    }

    /// A length-prefixed UTF-8 string of at most `max` bytes.
    pub fn string(&mut self, max: usize) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes(max)?).map_err(|_| Malformed("not UTF-8"))
    }

    /// Asserts that all bytes were read.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("bytes left over")) }
    }
}

/// Writes fields to the end of a byte vector.
pub trait Put {
    /// One byte.
    fn put_u8(&mut self, v: u8);
    /// A 16-bit little-endian number.
    fn put_u16(&mut self, v: u16);
    /// A 32-bit little-endian number.
    fn put_u32(&mut self, v: u32);
    /// A 64-bit little-endian number.
    fn put_u64(&mut self, v: u64);
    /// An unsigned LEB128 number.
    fn put_varint(&mut self, v: u64);
    /// A length-prefixed byte string.
    fn put_bytes(&mut self, v: &[u8]);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, v: u8) {
        self.push(v);
    }

    fn put_u16(&mut self, v: u16) {
        self.extend_from_slice(&v.to_le_bytes());
    }

    fn put_u32(&mut self, v: u32) {
        self.extend_from_slice(&v.to_le_bytes());
    }

    fn put_u64(&mut self, v: u64) {
        self.extend_from_slice(&v.to_le_bytes());
    }

    fn put_varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.push((v as u8 & 0x7f) | 0x80);
            v >>= 7;
        }
        self.push(v as u8);
    }

    fn put_bytes(&mut self, v: &[u8]) {
        self.put_varint(v.len() as u64);
        self.extend_from_slice(v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varint_round_trips_and_refuses_long_forms() {
        for v in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut b = Vec::new();
            b.put_varint(v);
            let mut r = Reader::new(&b);
            assert_eq!(r.varint(), Ok(v));
            assert_eq!(r.end(), Ok(()));
        }
        assert!(Reader::new(&[0x80, 0]).varint().is_err());
        assert!(Reader::new(&[0xff; 10]).varint().is_err());
        assert!(Reader::new(&[0x80]).varint().is_err());
    }

    #[test]
    fn a_count_is_checked_before_use() {
        let mut b = Vec::new();
        b.put_bytes(b"abc");
        assert_eq!(Reader::new(&b).bytes(3), Ok(&b"abc"[..]));
        assert!(Reader::new(&b).bytes(2).is_err());
        assert!(Reader::new(&b[..3]).bytes(3).is_err());
    }
}
