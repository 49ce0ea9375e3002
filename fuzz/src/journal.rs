//! Opening a journal that any bytes may be in: a sound ring with fields changed behind right checksums, bytes flipped, the
//! file cut. Whatever opens is used: read out, appended to, freed, opened again.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use esker::journal::{MIN_BYTES, MlockPolicy, OpHeader, Part, Record, RecordKind, Ring, RingError, RingOptions, Stop};

const RING: [u8; 16] = [9; 16];
const PAGE: u64 = 4096;
const HEADER: u64 = 64;
const VALID: u64 = 0x6b6f_4b45;
/// Records of one input.
const MAX_RECORDS: usize = 64;

/// A ring file.
#[derive(Debug, Arbitrary)]
pub struct Image {
    fixed: Fixed,
    tails: [Tail; 2],
    start: Start,
    first_op: Number,
    records: Vec<Rec>,
    noted: Number,
    flips: Vec<Flip>,
    file: Length,
}

#[derive(Debug, Arbitrary)]
enum Fixed {
    Sound,
    Field { at: u8, value: u64 },
    Broken { at: u8, byte: u8 },
}

#[derive(Debug, Arbitrary)]
enum Tail {
    /// The one that counts.
    Right,
    /// The other one, older and valid.
    Older,
    Void,
    Any {
        sequence: u64,
        position: u64,
        op: u64,
        valid: bool,
    },
}

#[derive(Debug, Arbitrary)]
enum Start {
    Zero,
    /// So many units of 64 bytes before the end of the ring: the records wrap.
    BeforeEnd(u16),
    Lap {
        laps: u8,
        at: u16,
    },
    Any(u64),
}

#[derive(Debug, Arbitrary, Clone, Copy)]
enum Number {
    Right,
    Near(i8),
    Any(u64),
}

impl Number {
    fn of(self, right: u64) -> u64 {
        match self {
            Self::Right => right,
            Self::Near(d) => right.wrapping_add_signed(d.into()),
            Self::Any(n) => n,
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Rec {
    what: What,
    state: u8,
    op: Number,
    position: Number,
    spare: u8,
    bad_sum: bool,
}

#[derive(Debug, Arbitrary)]
enum What {
    Write {
        lba: u32,
        blocks: u8,
    },
    Trim {
        lba: u64,
        blocks: u64,
    },
    Batch {
        parts: Vec<(bool, u32, u8)>,
        count: Number,
        body: Number,
    },
    /// To the end of the ring.
    Pad(Number),
    Any {
        kind: u8,
        lba: u64,
        blocks: u64,
        body: u32,
        parts: u16,
    },
}

#[derive(Debug, Arbitrary)]
struct Flip {
    /// In the first page, or in the bytes that records were written to.
    page: bool,
    at: u16,
    byte: u8,
}

#[derive(Debug, Arbitrary)]
enum Length {
    Right,
    Near(i16),
    Short(u32),
}

static PATH: LazyLock<PathBuf> = LazyLock::new(|| crate::scratch("journal").join("fuzz.ring"));
const OPTIONS: RingOptions = RingOptions { mlock: MlockPolicy::Off, require_tmpfs: true };

/// Writes the image to a file and takes it for a journal.
pub fn run(image: &Image) {
    image.write().expect("there is room in /dev/shm");
    let seen = Ring::inspect(&PATH);
    match (Ring::open(&PATH, &OPTIONS), seen) {
        (Ok(ring), seen) => {
            let seen = seen.expect("what opens can be looked at");
            assert_eq!((ring.first_op(), ring.next_op()), (seen.first_op, seen.next_op));
            assert!(!seen.busy && seen.records <= seen.next_op - seen.first_op);
            let happened = read_out(&ring);
            assert_eq!(happened, seen.records);
            go_on(ring);
        }
        (
            Err(RingError::Busy { .. } | RingError::NotTmpfs { .. } | RingError::Io { .. } | RingError::NoSpace { .. }),
            _,
        ) => {
            panic!("nobody else has the file")
        }
        (Err(_), Err(_)) => {}
        (Err(why), Ok(seen)) => panic!("{seen:?} cannot be opened: {why}"),
    }
}

fn body_of(kind: &RecordKind) -> Vec<esker::journal::Body> {
    match kind {
        RecordKind::Write { body, .. } => vec![*body],
        RecordKind::Batch(parts) => parts
            .iter()
            .filter_map(|p| match p {
                Part::Write { body, .. } => Some(*body),
                Part::Trim { .. } => None,
            })
            .collect(),
        RecordKind::Trim { .. } | RecordKind::Void => Vec::new(),
    }
}

/// Collects everything in small helpings and reads every body; how many operations happened.
fn read_out(ring: &Ring) -> u64 {
    let (mut from, end, mut happened) = (ring.first_op(), ring.next_op(), 0);
    let hold = ring.hold(from);
    while from < end {
        let mut records: Vec<Record> = Vec::new();
        let collected = ring.collect(from, end - 1, 64 << 10, &mut records);
        assert!(!records.is_empty() && collected.stop != Stop::Incomplete, "an opened ring has no unfinished records");
        for record in &records {
            assert_eq!(record.op, from, "operation numbers are consecutive");
            from += 1;
            happened += u64::from(record.kind != RecordKind::Void);
            for body in body_of(&record.kind) {
                let mut copy = vec![0; body.len()];
                assert!(ring.try_read_at(body.at(), &mut copy), "it was not freed");
                assert_eq!(hold.data(&body), copy);
            }
        }
        assert_eq!(collected.next_op, from);
    }
    happened
}

/// Appends, frees and opens again.
fn go_on(ring: Ring) {
    let next = ring.next_op();
    let mut added = 0;
    if let Ok(mut slot) = ring.reserve(&OpHeader::write(5, 1)) {
        assert_eq!(slot.op(), next);
        slot.body().fill(0xa5);
        slot.complete();
        added += 1;
    }
    // Dropped: it never happened.
    added += u64::from(ring.reserve(&OpHeader::trim(5, 1)).is_ok());
    assert_eq!(ring.next_op(), next + added);
    drop(ring);
    let ring = Ring::open(&PATH, &OPTIONS).expect("it was sound and was closed");
    assert_eq!(ring.next_op(), next + added);
    read_out(&ring);
    assert_eq!(ring.free_through(u64::MAX), next + added);
    assert_eq!((ring.first_op(), ring.used()), (next + added, 0));
    assert!(ring.reserve(&OpHeader::write(0, 256)).is_ok(), "an empty ring takes the longest write");
}

fn sum<const N: usize>(words: &[u64; N]) -> u64 {
    let bytes: Vec<u8> = RING.into_iter().chain(words.iter().flat_map(|w| w.to_le_bytes())).collect();
    u64::from(crc_fast::crc32_iscsi(&bytes)) << 32 | VALID
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

impl Image {
    fn write(&self) -> std::io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&*PATH)?;
        let right = PAGE + MIN_BYTES;
        file.set_len(match self.file {
            Length::Right => right,
            Length::Near(d) => right.saturating_add_signed(d.into()),
            Length::Short(n) => u64::from(n) % right,
        })?;
        let start = match self.start {
            Start::Zero => 0,
            Start::BeforeEnd(n) => MIN_BYTES - u64::from(n) % (MIN_BYTES / HEADER) * HEADER,
            Start::Lap { laps, at } => u64::from(laps) * MIN_BYTES + u64::from(at) * HEADER,
            Start::Any(n) => n,
        };
        let op = self.first_op.of(1);
        let mut page = self.page(start, op);
        let end = self.records(&file, start, op)?;
        page[3072..3080].copy_from_slice(&self.noted.of(end).to_le_bytes());
        for flip in self.flips.iter().filter(|f| f.page) {
            page[usize::from(flip.at) % PAGE as usize] ^= flip.byte;
        }
        put(&file, 0, &page)
    }

    fn page(&self, start: u64, op: u64) -> Vec<u8> {
        let mut page = b"ESKERRNG".to_vec();
        page.extend_from_slice(&[1, 0, 0, 0, 6, 0, 0, 0]);
        page.extend_from_slice(&[4; 16]);
        page.extend_from_slice(&RING);
        page.extend_from_slice(&words(&[MIN_BYTES, PAGE, 1]));
        if let Fixed::Field { at, value } = self.fixed {
            let at = 8 + usize::from(at % 7) * 8;
            page[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        page.extend_from_slice(&crc_fast::crc32_iscsi(&page).to_le_bytes());
        if let Fixed::Broken { at, byte } = self.fixed {
            page[usize::from(at) % 76] ^= byte;
        }
        page.resize(PAGE as usize, 0);
        for (i, tail) in self.tails.iter().enumerate() {
            // The first copy takes odd sequence numbers, the second even ones.
            let newest = 8 + 1 - i as u64;
            let (sequence, position, op, valid) = match *tail {
                Tail::Right => (newest, start, op, true),
                Tail::Older => (newest - 4, start.wrapping_sub(HEADER), op.wrapping_sub(1), true),
                Tail::Void => continue,
                Tail::Any { sequence, position, op, valid } => (sequence, position, op, valid),
            };
            let fields = [sequence, position, op];
            let mark = if valid { sum(&fields) } else { sum(&fields) ^ 1 << 40 };
            let at = 1024 * (i + 1);
            page[at..at + 32].copy_from_slice(&words(&[sequence, position, op, mark]));
        }
        page
    }

    /// Writes the records one after another; the number after the last one's.
    fn records(&self, file: &File, start: u64, first: u64) -> std::io::Result<u64> {
        let (mut position, mut op) = (start, first);
        for (i, rec) in self.records.iter().take(MAX_RECORDS).enumerate() {
            let (pad, bytes, size) = rec.bytes(position, op);
            put(file, PAGE + position % MIN_BYTES, &bytes)?;
            for flip in self.flips.iter().filter(|f| !f.page && usize::from(f.at) % MAX_RECORDS == i) {
                let at = PAGE + (position.wrapping_add(u64::from(flip.at) / MAX_RECORDS as u64)) % MIN_BYTES;
                put(file, at, &[flip.byte])?;
            }
            position = position.wrapping_add(size);
            op = op.wrapping_add(u64::from(!pad));
        }
        Ok(op)
    }
}

/// Writes as much as lies inside the file.
fn put(file: &File, at: u64, bytes: &[u8]) -> std::io::Result<()> {
    let room = file.metadata()?.len().saturating_sub(at).min(bytes.len() as u64);
    file.write_all_at(&bytes[..room as usize], at)
}

impl Rec {
    /// Whether it is a pad, its header and what matters of its body, and its size in the ring.
    fn bytes(&self, position: u64, op: u64) -> (bool, Vec<u8>, u64) {
        let to_end = MIN_BYTES - position % MIN_BYTES;
        let mut body = Vec::new();
        let (kind, lba, blocks, len, parts) = match &self.what {
            What::Write { lba, blocks } => (1, u64::from(*lba), u64::from(*blocks), u64::from(*blocks) * 4096, 0),
            What::Trim { lba, blocks } => (2, *lba, *blocks, 0, 0),
            What::Batch { parts, count, body: len } => {
                let mut data = 0;
                for (write, lba, blocks) in parts.iter().take(64) {
                    body.extend_from_slice(&words(&[2 - u64::from(*write), u64::from(*lba), u64::from(*blocks)]));
                    data += if *write { u64::from(*blocks) * 4096 } else { 0 };
                }
                body.resize(body.len().next_multiple_of(HEADER as usize), 0);
                let right = body.len() as u64 + data;
                (3, 0, 0, len.of(right), count.of(parts.len().min(64) as u64))
            }
            What::Pad(len) => (4, 0, 0, len.of(to_end.saturating_sub(HEADER)), 0),
            What::Any { kind, lba, blocks, body, parts } => {
                (u64::from(*kind), *lba, *blocks, u64::from(*body), u64::from(*parts))
            }
        };
        let len = u64::from(len as u32);
        let shape = len | (parts & 0xffff) << 32 | kind << 48 | u64::from(self.spare & 0xf0) << 56;
        let fields = [self.op.of(op), self.position.of(position), lba, blocks, shape, 0];
        let state = match self.state % 8 {
            0 => u64::from_le_bytes(*b"unfinish"),
            1 => u64::from_le_bytes(*b"--void--"),
            2 => u64::from(self.spare),
            _ => u64::from_le_bytes(*b"COMPLETE"),
        };
        let mark = sum(&fields) ^ u64::from(self.bad_sum) << 50;
        let mut out = words(&fields);
        out.extend_from_slice(&words(&[mark, state]));
        out.extend_from_slice(&body);
        (kind == 4, out, (HEADER + len).next_multiple_of(HEADER))
    }
}
