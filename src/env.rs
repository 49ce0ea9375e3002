//! Clock, randomness and threads, handed in so that a simulator can own them.
//!
//! The engine takes time, random bytes and tasks from [`Env`] and from nowhere else.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

/// Time as the engine sees it.
pub trait Clock: Send + Sync {
    /// Time since an arbitrary start; never goes back.
    fn now(&self) -> Duration;
    /// Milliseconds since 1970, for people; nothing depends on it.
    fn wall_ms(&self) -> u64;
    /// Completes after `d`.
    fn sleep(&self, d: Duration) -> BoxFuture<'static, ()>;
}

/// Random bytes, fit for keys and salts.
pub trait Entropy: Send + Sync {
    /// Fills `buf`.
    fn fill(&self, buf: &mut [u8]);
}

/// Where work runs.
pub trait Spawner: Send + Sync {
    /// Runs a task on its own until it ends.
    fn spawn(&self, task: BoxFuture<'static, ()>);
    /// Runs a CPU-heavy or blocking job on a worker thread. At most as many run at once as the machine has cores;
    /// more wait their turn.
    fn spawn_heavy(&self, job: Box<dyn FnOnce() + Send>);
}

/// Everything the engine takes from outside besides the store and the journal.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// Tasks and workers.
    pub spawner: Arc<dyn Spawner>,
}

impl Env {
    /// 16 random bytes: an id or a salt.
    pub fn random16(&self) -> [u8; 16] {
        let mut b = [0; 16];
        self.entropy.fill(&mut b);
        b
    }

    /// Runs `job` on a worker thread and yields what it answers; `None` only where the job panicked.
    pub async fn heavy<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (tx, rx) = futures::channel::oneshot::channel();
        self.spawner.spawn_heavy(Box::new(move || {
            // The receiver may be gone: then nobody wants the answer.
            drop(tx.send(job()));
        }));
        rx.await.ok()
    }
}
