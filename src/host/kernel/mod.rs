//! What the running kernel offers for serving block devices, and what to do about what it lacks.
//!
//! Facts are gathered from files below a root, and judged by pure functions: `esker doctor` shows them, `esker attach`
//! says why there is no ublk.

mod driver;
mod journal;
mod release;
mod rights;
mod rings;

use std::path::Path;

pub use driver::{ControlDevice, Driver, NbdFacts, UblkFacts};
pub use journal::{JournalFacts, usual_journal_bytes};
pub use release::Release;
pub use rights::{Capability, Rights};
pub use rings::IoUring;

/// Why no ublk device can be served here, and how that is mended; `None` where nothing is known against it.
pub fn why_no_ublk() -> Option<String> {
    UblkFacts::gather(Path::new("/")).why_not()
}
