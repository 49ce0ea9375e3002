//! The atomics and the queue of the product's module of this name, over loom's: loads may be stale wherever the memory
//! model lets them.

use std::cell::RefCell;

pub use crate::weak::weak;

use loom::sync::atomic::{AtomicUsize, Ordering};

/// Loom's atomics, but for the flag.
pub mod atomic {
    pub use loom::sync::atomic::{AtomicUsize, Ordering, fence};

    /// Whether stores to flags are swaps.
    pub static SWAPS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

    /// A flag whose stores can be made swaps. Loom leaves a store and a swap of two threads without an order in the
    /// flag's history, and so lets a later swap read what the earlier one wrote although the store came in between: no
    /// machine does that, a swap reads what stands directly before what it writes. Among swaps alone loom keeps an
    /// order; but a swap also reads, which with the fence after it hides that the other side has none.
    #[derive(Debug)]
    pub struct AtomicBool(loom::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub fn new(on: bool) -> Self {
            Self(loom::sync::atomic::AtomicBool::new(on))
        }

        pub fn store(&self, on: bool, order: Ordering) {
            match SWAPS.load(std::sync::atomic::Ordering::Relaxed) {
                true => drop(self.0.swap(on, order)),
                false => self.0.store(on, order),
            }
        }

        pub fn swap(&self, on: bool, order: Ordering) -> bool {
            self.0.swap(on, order)
        }
    }
}

/// A queue with the orderings of crossbeam's: a push moves the tail and then marks its place as filled, and who asks
/// whether it is empty compares tail and head. Of one consumer, and pushed to as often as it has places.
pub struct ArrayQueue<T> {
    head: AtomicUsize,
    tail: AtomicUsize,
    filled: Vec<AtomicUsize>,
    values: Vec<RefCell<Option<T>>>,
}

// SAFETY: a value is written by who moved the tail to its place and taken by the one consumer once its place is marked;
// loom runs one thread at a time.
unsafe impl<T: Send> Sync for ArrayQueue<T> {}

impl<T> std::fmt::Debug for ArrayQueue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ArrayQueue")
    }
}

impl<T> ArrayQueue<T> {
    pub fn new(places: usize) -> Self {
        Self {
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            filled: (0..places).map(|_| AtomicUsize::new(0)).collect(),
            values: (0..places).map(|_| RefCell::new(None)).collect(),
        }
    }

    pub fn push(&self, value: T) -> Result<(), T> {
        let at = self.tail.fetch_add(1, Ordering::SeqCst);
        if at >= self.values.len() {
            return Err(value);
        }
        *self.values[at].borrow_mut() = Some(value);
        self.filled[at].store(1, Ordering::Release);
        Ok(())
    }

    pub fn pop(&self) -> Option<T> {
        let at = self.head.load(Ordering::Relaxed);
        if at >= self.values.len() {
            return None;
        }
        while self.filled[at].load(Ordering::Acquire) == 0 {
            if self.tail.load(Ordering::Relaxed) == at {
                return None;
            }
            loom::thread::yield_now();
        }
        self.head.store(at + 1, Ordering::SeqCst);
        self.values[at].borrow_mut().take()
    }

    pub fn is_empty(&self) -> bool {
        let head = self.head.load(Ordering::SeqCst);
        self.tail.load(Ordering::SeqCst) == head
    }
}
