//! Which faults a run has met, for the coverage report.

use std::sync::Arc;

use parking_lot::Mutex;

macro_rules! faults {
    ($($variant:ident = $name:literal,)*) => {
        /// A fault that simulations inject.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $(#[doc = $name] $variant,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Fault] = &[$(Fault::$variant,)*];

            /// What people call it.
            pub const fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)* }
            }
        }
    };
}

faults! {
    RequestLost = "a request never arrives",
    ReplyLost = "a request is carried out, its reply is lost",
    ErrorBefore = "a 5xx, and nothing was done",
    ErrorAfter = "a 5xx, and it was done",
    Throttled = "a 503 SlowDown",
    Conflict = "a 409 with nothing there",
    Late = "a request lands long after it was sent",
    ShortBody = "a body ends early",
    FlippedBody = "a bit flips on the way",
    Outage = "the store is away for a while",
    Partition = "a host is cut off from the store",
    Kill = "a daemon is killed",
    KillInRecovery = "a daemon is killed while it attaches",
    KillInCopy = "a daemon is killed amid the copy of a write",
    KillInDetach = "a daemon is killed while it detaches",
    HostCrash = "a host loses its memory and its journals",
    JournalLost = "a journal file disappears",
    JournalCut = "a journal file is cut short",
    Pause = "a process is stopped and goes on later",
    PausedThroughTakeover = "a process is stopped, and another host takes its volume",
    ClockJump = "clocks jump",
    TakeoverStalled = "another host is stopped amid its takeover of a living owner",
    Takeover = "another host takes the volume from a living owner",
    Move = "another host asks for the volume without force",
    Race = "several hosts attach at once",
    Resume = "a device is resumed",
    Detach = "a volume is given back",
    WriterPreempted = "other threads run amid the copy of a write",
    FillFailed = "the source of a write fails amid the copy",
    ObjectFlipped = "an object has a flipped bit",
    ObjectTruncated = "an object is cut short",
    ObjectsSwapped = "two objects change places",
    ObjectReplayed = "an old body stands under another name",
    ObjectLost = "an object disappears",
}

/// Counts of faults met. Cheap to clone.
#[derive(Clone)]
pub struct Tally(Arc<Mutex<Vec<u64>>>);

impl Default for Tally {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(vec![0; Fault::ALL.len()])))
    }
}

impl Tally {
    /// Counts one.
    pub fn count(&self, fault: Fault) {
        self.0.lock()[fault as usize] += 1;
    }

    /// All counts, in the order of [`Fault::ALL`].
    pub fn counts(&self) -> Vec<u64> {
        self.0.lock().clone()
    }
}
