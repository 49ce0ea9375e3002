//! The journal: a ring of acknowledged writes in a file on tmpfs.
//!
//! A write is copied here once, gets its operation number, and is acknowledged; it leaves when the segment that carries
//! it is durable. The file outlives the process, so a crash of the daemon loses nothing that was acknowledged. The file
//! is plaintext, which is why it must be on tmpfs.
//!
//! * [`Ring::reserve`] gives a number and a place under a short lock; the data is copied outside of it; then
//!   [`Slot::complete`].
//! * [`Ring::collect`] lists complete records in order, for segment builders and for replay; a [`Hold`] lends their data.
//! * [`Ring::try_read_at`] serves reads of what is not in a segment yet.
//! * [`Ring::free_through`] gives space back; it is reused when the last reader has left.
//!
//! What a crash may cut is a process, at any instruction; memory survives. So every change of the file is ordered such
//! that stopping after any store leaves a ring that replays to all complete records (see `replay.rs`).

mod core;
mod error;
mod file;
mod hold;
mod inspect;
mod layout;
mod memory;
mod pins;
mod record;
mod replay;
mod ring;
mod slot;
mod space;
#[cfg(test)]
mod tests;

pub use error::{Refused, RingError};
pub use hold::Hold;
pub use inspect::RingSummary;
pub use layout::{MAX_BYTES, MIN_BYTES, VERSION};
pub use record::{Body, HEADER, MAX_BLOCKS, MAX_PARTS, OpHeader, Part, PartHeader, Record, RecordKind};
pub use ring::{Collected, MAX_COLLECT, MlockPolicy, Ring, RingOptions, RingSpec, Stop};
pub use slot::Slot;
