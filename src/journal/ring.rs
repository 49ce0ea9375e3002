//! The ring as the engine sees it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;

use super::core::Core;
use super::error::{Refused, RingError};
use super::file;
use super::hold::Hold;
use super::layout::{DATA_AT, Fixed, MAX_BYTES, MIN_BYTES, note_next_op};
use super::memory::Memory;
use super::pins::Pins;
use super::record::{OpHeader, Record, RecordKind, State, clear, set_state, state};
use super::replay::{Damage, replay};
use super::slot::Slot;
use super::space::{Mark, Marks, Space};
use crate::probe::{Mutant, planted};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Whether the ring's pages are locked in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MlockPolicy {
    /// They are not.
    Off,
    /// They are if the system allows it; else a warning is logged.
    #[default]
    Try,
    /// They are, or the ring is refused.
    Require,
}

/// How a ring is made or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingOptions {
    /// Locking in memory.
    pub mlock: MlockPolicy,
    /// Refuse any file system but tmpfs: the ring holds plaintext.
    pub require_tmpfs: bool,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self { mlock: MlockPolicy::Try, require_tmpfs: true }
    }
}

/// What a new ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSpec {
    /// The pool's id.
    pub pool: [u8; 16],
    /// The volume's number.
    pub volume: u32,
    /// A random id; openings name it.
    pub ring: [u8; 16],
    /// Bytes for records, 4 MiB to 1 TiB, rounded up to whole pages; the file is a page longer.
    pub bytes: u64,
    /// The number of the first operation.
    pub first_op: u64,
}

/// The most records of one [`Ring::collect`]: trims have no data, and yet each takes room where they go.
pub const MAX_COLLECT: usize = 65_536;

/// Why [`Ring::collect`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The last operation asked for was collected.
    Through,
    /// The next record would exceed the body bytes asked for, or [`MAX_COLLECT`].
    Limit,
    /// The next record is still being filled.
    Incomplete,
    /// There is no further record.
    Head,
}

/// What [`Ring::collect`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// The first operation that was not collected.
    pub next_op: u64,
    /// Bytes of the bodies collected, the tables of batches included.
    pub body_bytes: usize,
    /// Why it ended there.
    pub stop: Stop,
}

/// The journal: acknowledged writes in a file on tmpfs, which outlives the process.
///
/// Operations are numbered in the order in which they reserve. All methods may be called from any thread; none waits
/// for anything but a short lock.
pub struct Ring {
    core: Arc<Core>,
}

impl Ring {
    /// Makes a new, empty ring and takes it. The file appears under its name complete or not at all.
    pub fn create(path: &Path, spec: &RingSpec, opts: &RingOptions) -> Result<Self, RingError> {
        let bytes = spec.bytes.checked_next_multiple_of(DATA_AT).unwrap_or(u64::MAX);
        if !(MIN_BYTES..=MAX_BYTES).contains(&bytes) {
            return Err(RingError::Size { bytes: spec.bytes, min: MIN_BYTES, max: MAX_BYTES });
        }
        let RingSpec { pool, volume, ring, first_op, .. } = *spec;
        let fixed = Fixed { pool, volume, ring, bytes, first_op };
        let file = file::create(path, &fixed, opts.require_tmpfs)?;
        Self::start(path, file, fixed, opts).inspect_err(|_| {
            // It is ours and empty: nothing is lost with it.
            drop(std::fs::remove_file(path));
        })
    }

    /// Takes the ring that a process before this one left. Operations that were not complete are void from here on.
    pub fn open(path: &Path, opts: &RingOptions) -> Result<Self, RingError> {
        let (file, fixed) = file::open(path, opts.require_tmpfs)?;
        Self::start(path, file, fixed, opts)
    }

    fn start(path: &Path, file: std::fs::File, fixed: Fixed, opts: &RingOptions) -> Result<Self, RingError> {
        static TAGS: AtomicU32 = AtomicU32::new(1);
        let mem = map(path, &file, &fixed, opts.mlock)?;
        let mut marks = Marks::new(fixed.bytes);
        let mut dead = Vec::new();
        let ends = replay(&mem, fixed.bytes, &fixed.ring, |found| {
            if found.state == State::Incomplete {
                dead.push(found.place);
            }
            marks.add(found.mark);
        });
        let ends = ends.map_err(|Damage { op, why }| RingError::Damaged { path: path.to_owned(), op, why })?;
        for place in dead {
            set_state(&mem, place, State::Void);
        }
        note_next_op(&mem, ends.head.op);
        let tail = Mark { op: ends.tail.op, position: ends.tail.position };
        let space = Space::new(fixed.bytes, tail, ends.head, ends.tail.sequence, marks);
        let core = Core {
            mem,
            fixed,
            path: path.to_owned(),
            file,
            tag: TAGS.fetch_add(1, Ordering::Relaxed),
            space: Mutex::new(space),
            pins: Pins::default(),
            tail: AtomicU64::new(tail.position),
            head: AtomicU64::new(ends.head.position),
            next_op: AtomicU64::new(ends.head.op),
            freeing: Mutex::new(()),
            notifier: OnceLock::new(),
        };
        clear(&core.mem, core.place(ends.head.position));
        Ok(Self { core: Arc::new(core) })
    }

    /// Takes the next operation number and room for its data.
    pub fn reserve(&self, op: &OpHeader<'_>) -> Result<Slot<'_>, Refused> {
        self.core.reserve(op)
    }

    /// Copies data out, from a position that [`Slot::body_at`] or a [`super::Body`] named (or a later byte of the
    /// same data). False if the record was freed meanwhile: then a newer place holds its blocks, look them up again.
    ///
    /// # Panics
    /// If the range lies beyond the head, which no such position does.
    #[must_use]
    pub fn try_read_at(&self, position: u64, buf: &mut [u8]) -> bool {
        self.core.try_read_at(position, buf)
    }

    /// [`Ring::try_read_at`] for callers that know that the record is not freed yet.
    ///
    /// # Panics
    /// If it was.
    pub fn read_at(&self, position: u64, buf: &mut [u8]) {
        assert!(self.core.try_read_at(position, buf), "read of a freed record");
    }

    /// Keeps the records from `op` on in place until the hold is dropped, and lends their data.
    pub fn hold(&self, op: u64) -> Hold {
        Hold::new(&self.core, op)
    }

    /// Appends to `out` the records from `from_op` (or the oldest left, if that is later) to `through_op`, in order:
    /// up to the first that is still being filled, and at most `max_body` bytes of bodies, but always one record.
    pub fn collect(&self, from_op: u64, through_op: u64, max_body: usize, out: &mut Vec<Record>) -> Collected {
        let hold = self.hold(from_op);
        let mut collected = Collected { next_op: hold.op(), body_bytes: 0, stop: Stop::Head };
        let mut walk = self.core.walk(hold.position(), self.core.head.load(Ordering::Acquire));
        let first = out.len();
        while let Some((header, at)) = walk.peek() {
            if header.op > through_op {
                collected.stop = Stop::Through;
                break;
            }
            let kind = match state(&self.core.mem, at) {
                Some(State::Incomplete) if planted(Mutant::CutOverIncomplete) => Ok(RecordKind::Void),
                Some(State::Complete) => header.kind(&self.core.mem, at, self.core.tag),
                Some(State::Void) => Ok(RecordKind::Void),
                Some(State::Incomplete) | None => {
                    collected.stop = Stop::Incomplete;
                    break;
                }
            };
            let body = if kind == Ok(RecordKind::Void) { 0 } else { header.body as usize };
            let taken = out.len() - first;
            if taken > 0 && (collected.body_bytes + body > max_body || taken == MAX_COLLECT) {
                collected.stop = Stop::Limit;
                break;
            }
            let kind = kind.expect("the record was checked when it was reserved or opened");
            out.push(Record { op: header.op, kind, bytes: header.size() });
            collected.body_bytes += body;
            collected.next_op = header.op + 1;
            walk.pass(&header);
        }
        if collected.stop == Stop::Head && collected.next_op > through_op {
            collected.stop = Stop::Through;
        }
        collected
    }

    /// The records up to `op` are not needed any more: replay starts after them, and their space is reused as soon as
    /// readers and holds have left. Stops before a record that is still being filled. Answers the oldest operation left.
    pub fn free_through(&self, op: u64) -> u64 {
        self.core.free_through(op)
    }

    /// `notify` is called whenever more space has become reusable, on whatever thread made it so, perhaps inside a
    /// read: it must only wake somebody, and take no lock under which the ring is used. Only the first one set counts.
    pub fn on_space(&self, notify: impl Fn() + Send + Sync + 'static) {
        drop(self.core.notifier.set(Box::new(notify)));
    }

    /// The number that the next operation gets.
    pub fn next_op(&self) -> u64 {
        self.core.next_op.load(Ordering::Acquire)
    }

    /// The oldest operation left; equals [`Ring::next_op`] if none is.
    pub fn first_op(&self) -> u64 {
        self.core.space.lock().tail.op
    }

    /// Bytes that cannot be reserved now: records not freed, and freed ones that are still being read.
    pub fn used(&self) -> u64 {
        let space = self.core.space.lock();
        space.head.position - space.reuse
    }

    /// Bytes for records in all.
    pub fn capacity(&self) -> u64 {
        self.core.fixed.bytes
    }

    /// The ring's id.
    pub fn id(&self) -> [u8; 16] {
        self.core.fixed.ring
    }

    /// The pool's id.
    pub fn pool(&self) -> [u8; 16] {
        self.core.fixed.pool
    }

    /// The volume's number.
    pub fn volume(&self) -> u32 {
        self.core.fixed.volume
    }

    /// The ring file.
    pub fn path(&self) -> &Path {
        &self.core.path
    }

    /// Unlinks the file, still under the lock. The ring goes on in memory until it is dropped.
    pub fn remove(&self) -> io::Result<()> {
        file::remove(&self.core.path, &self.core.file)
    }
}

fn map(path: &Path, file: &std::fs::File, fixed: &Fixed, mlock: MlockPolicy) -> Result<Memory, RingError> {
    let bytes = DATA_AT + fixed.bytes;
    let too_big = RingError::NotARing { path: path.to_owned(), why: "it is larger than the address space" };
    let len = usize::try_from(bytes).map_err(|_| too_big)?;
    let mem = Memory::map(file, len).map_err(|e| file::io_error("mapping the journal", path, e))?;
    match (mlock, if mlock == MlockPolicy::Off { Ok(()) } else { mem.lock() }) {
        (MlockPolicy::Require, Err(source)) => return Err(RingError::Mlock { bytes, source }),
        (_, Err(e)) => {
            tracing::warn!(path = %path.display(), bytes, error = %e, "the journal could not be locked in memory");
            mem.populate();
        }
        _ => {}
    }
    Ok(mem)
}
