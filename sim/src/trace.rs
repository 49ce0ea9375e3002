//! What happened in a run: a hash of all of it, and the last lines of it for people.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// Lines that are kept for a report.
const KEPT: usize = 400;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Trace {
    state: Arc<Mutex<State>>,
    aloud: bool,
}

struct State {
    hash: u64,
    events: u64,
    lines: VecDeque<String>,
}

impl Trace {
    /// An empty trace; `aloud` prints every line as it comes.
    pub fn new(aloud: bool) -> Self {
        let state = State { hash: 0xcbf2_9ce4_8422_2325, events: 0, lines: VecDeque::new() };
        Self { state: Arc::new(Mutex::new(state)), aloud }
    }

    /// Takes a number into the hash.
    pub fn note(&self, what: u64) {
        let mut state = self.state.lock();
        state.events += 1;
        state.hash = (state.hash ^ what).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }

    /// Takes bytes into the hash.
    pub fn note_bytes(&self, bytes: &[u8]) {
        let words = bytes.chunks(8).map(|c| c.iter().fold(0u64, |w, b| w << 8 | u64::from(*b)));
        words.for_each(|w| self.note(w));
        self.note(bytes.len() as u64);
    }

    /// Something that a person would want to read.
    pub fn say(&self, now: Duration, line: impl AsRef<str>) {
        let line = format!("{:>12.6} {}", now.as_secs_f64(), line.as_ref());
        self.note_bytes(line.as_bytes());
        if self.aloud {
            println!("{line}");
        }
        let mut state = self.state.lock();
        if state.lines.len() == KEPT {
            state.lines.pop_front();
        }
        state.lines.push_back(line);
    }

    /// The hash of everything so far, and how many things that was.
    pub fn hash(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.hash, state.events)
    }

    /// The last lines.
    pub fn tail(&self) -> Vec<String> {
        self.state.lock().lines.iter().cloned().collect()
    }
}
