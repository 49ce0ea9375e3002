//! Death of the process after any one store, without a process: from then on this thread's stores do nothing.

use std::cell::Cell;

thread_local! {
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Called before each store to a word of the ring; true if the process is dead already.
pub(in crate::journal) fn is_dead() -> bool {
    match LEFT.get() {
        None => false,
        Some(0) => true,
        Some(n) => {
            LEFT.set(Some(n - 1));
            false
        }
    }
}

/// Whether the process is dead now: a test that writes bodies itself asks.
pub(super) fn was_killed() -> bool {
    LEFT.get() == Some(0)
}

/// Runs `work`, of which only the first `stores` stores reach the ring. Answers whether the limit was reached.
pub(super) fn dying_after(stores: u64, work: impl FnOnce()) -> bool {
    LEFT.set(Some(stores));
    work();
    LEFT.take() == Some(0)
}
