//! Writers that wait for ring space, first come first served.

use tokio::sync::{Mutex, Notify};

use crate::sync;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// See the module.
#[derive(Default)]
pub(super) struct Space {
    turn: Mutex<()>,
    freed: Notify,
    waiting: AtomicUsize,
}

/// Counts a waiter, also one whose future is dropped.
struct Counted<'a>(&'a Space);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Space {
    /// Whether anybody waits: then a newcomer must not overtake.
    pub(super) fn contended(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Wakes the first in the queue: space was freed, or the volume failed.
    pub(super) fn wake(&self) {
        self.freed.notify_waiters();
    }

    /// Queues up, then calls `attempt` now and after every [`Self::wake`], until it answers.
    pub(super) async fn wait<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _counted = Counted(self);
        let _turn = self.turn.lock().await;
        loop {
            let early = sync::weak("an attempt before the registration").then(&mut attempt);
            sync::step();
            let mut freed = std::pin::pin!(self.freed.notified());
            // Registered before the attempt: a wake in between is not lost.
            freed.as_mut().enable();
            if let Some(answer) = early.unwrap_or_else(&mut attempt) {
                return answer;
            }
            freed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn served_in_order_and_never_missed() {
        let space = Arc::new(Space::default());
        let room = Arc::new(AtomicUsize::new(0));
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for n in 0..4 {
            let (space, room, order) = (space.clone(), room.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let take = || room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |r| r.checked_sub(1)).ok();
                space.wait(take).await;
                order.lock().push(n);
            }));
            tokio::task::yield_now().await;
        }
        assert!(space.contended());
        for _ in 0..4 {
            room.fetch_add(1, Ordering::SeqCst);
            space.wake();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        for task in tasks {
            task.await.expect("ran");
        }
        assert_eq!(*order.lock(), [0, 1, 2, 3]);
        assert!(!space.contended());
    }
}
