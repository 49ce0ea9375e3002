//! Compression of records: choosing, giving up early, undoing.

use std::cell::RefCell;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use zstd::bulk::{Compressor, Decompressor};

use super::id::BLOCK;
use crate::pool::Compression;
use crate::wire::Malformed;

/// How the bytes of one record are coded. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Stored = 0,
    /// One LZ4 block, without a length in front.
    Lz4 = 1,
    /// One Zstandard frame.
    Zstd = 2,
}

impl Codec {
    /// The codec of an on-disk number.
    pub fn from_u8(v: u8) -> Option<Self> {
        [Self::Stored, Self::Lz4, Self::Zstd].into_iter().find(|c| *c as u8 == v)
    }
}

/// Zstandard's level for data and map nodes.
const LEVEL: i32 = 1;

/// Reused tables and buffers of one thread. Their size is bounded by the largest map node.
struct Scratch {
    table: CompressTable,
    compressor: Option<Compressor<'static>>,
    decompressor: Option<Decompressor<'static>>,
    out: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        table: CompressTable::default(),
        compressor: None,
        decompressor: None,
        out: Vec::new(),
    });
}

impl Scratch {
    fn lz4(&mut self, input: &[u8]) -> Option<usize> {
        self.out.resize(self.out.len().max(get_maximum_output_size(input.len())), 0);
        compress_into_with_table(input, &mut self.out, &mut self.table).ok()
    }

    /// `None` as well where the result would not be shorter than `input`.
    fn zstd(&mut self, input: &[u8]) -> Option<usize> {
        if self.compressor.is_none() {
            self.compressor = Compressor::new(LEVEL).ok();
        }
        self.out.resize(self.out.len().max(input.len()), 0);
        self.compressor.as_mut()?.compress_to_buffer(input, &mut self.out[..input.len()]).ok()
    }

    fn run(&mut self, how: Compression, input: &[u8]) -> Option<usize> {
        match how {
            Compression::None => None,
            Compression::Lz4 => self.lz4(input),
            Compression::Zstd => self.zstd(input),
        }
        .filter(|n| worth(*n, input.len()))
    }
}

/// Below 1/32 saved, decompressing on every read is not worth it.
fn worth(compressed: usize, plain: usize) -> bool {
    compressed <= plain - plain / 32
}

/// Hands `then` the codec and the coded bytes of `plaintext`. Where the first block does not shrink, nothing else is tried.
pub(super) fn encode<T>(how: Compression, plaintext: &[u8], then: impl FnOnce(Codec, &[u8]) -> T) -> T {
    let codec = match how {
        Compression::None => return then(Codec::Stored, plaintext),
        Compression::Lz4 => Codec::Lz4,
        Compression::Zstd => Codec::Zstd,
    };
    SCRATCH.with_borrow_mut(|s| {
        let sample = plaintext.len() > BLOCK && s.run(how, &plaintext[..BLOCK]).is_none();
        match if sample { None } else { s.run(how, plaintext) } {
            Some(n) => then(codec, &s.out[..n]),
            None => then(Codec::Stored, plaintext),
        }
    })
}

/// Undoes [`encode`]: exactly `len` bytes must come out.
pub(super) fn decode(codec: Codec, coded: Vec<u8>, len: usize) -> Result<Vec<u8>, Malformed> {
    let wrong = Malformed("of another length when decompressed");
    let (out, n) = match codec {
        Codec::Stored => {
            let n = coded.len();
            (coded, n)
        }
        Codec::Lz4 => {
            let mut out = vec![0; len];
            let n = decompress_into(&coded, &mut out).map_err(|_| Malformed("not an LZ4 block"))?;
            (out, n)
        }
        Codec::Zstd => {
            let mut out = vec![0; len];
            let n = SCRATCH
                .with_borrow_mut(|s| {
                    if s.decompressor.is_none() {
                        s.decompressor = Decompressor::new().ok();
                    }
                    s.decompressor.as_mut()?.decompress_to_buffer(&coded, &mut out[..]).ok()
                })
                .ok_or(Malformed("not a Zstandard frame"))?;
            (out, n)
        }
    };
    if n == len { Ok(out) } else { Err(wrong) }
}

/// The length that a Zstandard frame says it decompresses to; `None` if it says none, or more than `max`.
pub(super) fn zstd_length(coded: &[u8], max: usize) -> Option<usize> {
    let n = zstd::zstd_safe::get_frame_content_size(coded).ok()??;
    usize::try_from(n).ok().filter(|n| *n <= max)
}
