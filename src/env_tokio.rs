//! The real [`Env`]: the system's monotonic clock, its random bytes, tokio for tasks, threads of our own for heavy jobs.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;

use crate::env::{Clock, Entropy, Env, Spawner};

impl Env {
    /// The environment of a daemon: tasks and timers run on `handle`'s runtime, heavy jobs on as many threads of their
    /// own as the machine has cores.
    ///
    /// # Errors
    /// A worker thread could not be started.
    pub fn system(handle: Handle) -> io::Result<Env> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Env {
            clock: Arc::new(SystemClock { start: Instant::now(), handle: handle.clone() }),
            entropy: Arc::new(SystemEntropy),
            spawner: Arc::new(TokioSpawner { handle, workers: Workers::start(cores)? }),
        })
    }
}

/// `CLOCK_MONOTONIC`, and tokio's timers.
struct SystemClock {
    start: Instant,
    handle: Handle,
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    fn sleep(&self, d: Duration) -> BoxFuture<'static, ()> {
        // Entered here, so that threads outside the runtime (a ublk queue) can sleep too.
        let _inside = self.handle.enter();
        Box::pin(tokio::time::sleep(d))
    }
}

/// `getrandom(2)`: the kernel's generator reseeds when a virtual machine is cloned or resumed from a snapshot, one in
/// our memory would repeat its salts.
struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buf: &mut [u8]) {
        getrandom::fill(buf).expect("getrandom(2) cannot fail once the kernel's pool is seeded, and waits until then");
    }
}

struct TokioSpawner {
    handle: Handle,
    workers: Workers,
}

impl Spawner for TokioSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(self.handle.spawn(task));
    }

    fn spawn_heavy(&self, job: Box<dyn FnOnce() + Send>) {
        self.workers.push(job);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads and one queue. Who pushes bounds how much waits: every job belongs to a segment, a
/// checkpoint or a request, and those are bounded.
struct Workers {
    queue: Arc<Queue>,
}

struct Queue {
    state: Mutex<QueueState>,
    ready: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Workers {
    fn start(threads: usize) -> io::Result<Workers> {
        let queue = Arc::new(Queue { state: Mutex::default(), ready: Condvar::new() });
        let workers = Workers { queue: queue.clone() };
        for n in 0..threads.max(1) {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("esker-work-{n}")).spawn(move || queue.work())?;
        }
        Ok(workers)
    }

    fn push(&self, job: Job) {
        self.queue.state.lock().jobs.push_back(job);
        self.queue.ready.notify_one();
    }
}

impl Drop for Workers {
    /// Lets the threads end once the queue is empty.
    fn drop(&mut self) {
        self.queue.state.lock().closed = true;
        self.queue.ready.notify_all();
    }
}

impl Queue {
    fn work(&self) {
        while let Some(job) = self.next() {
            // A job that panics loses its answer (`Env::heavy` yields `None`), not the thread.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a worker job panicked");
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            self.ready.wait(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn heavy_jobs_run_elsewhere_and_survive_a_panic() {
        let env = Env::system(Handle::current()).unwrap();
        let here = std::thread::current().id();
        for _ in 0..64 {
            let answer: Option<()> = env.heavy(|| panic!("on purpose")).await;
            assert!(answer.is_none());
        }
        let there = env.heavy(|| std::thread::current().id()).await.unwrap();
        assert_ne!(here, there);
    }

    #[test]
    fn jobs_queued_before_the_end_still_run_and_no_more_at_once_than_threads() {
        let done = Arc::new(AtomicUsize::new(0));
        let running = Arc::new(AtomicUsize::new(0));
        let workers = Workers::start(3).unwrap();
        for _ in 0..50 {
            let (done, running) = (done.clone(), running.clone());
            workers.push(Box::new(move || {
                assert!(running.fetch_add(1, Ordering::SeqCst) < 3);
                std::thread::sleep(Duration::from_millis(1));
                running.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
            }));
        }
        drop(workers);
        let start = Instant::now();
        while done.load(Ordering::SeqCst) < 50 {
            assert!(start.elapsed() < Duration::from_secs(30), "jobs were lost");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[tokio::test]
    async fn sleep_works_from_a_thread_outside_the_runtime() {
        let env = Env::system(Handle::current()).unwrap();
        let clock = env.clock.clone();
        let before = clock.now();
        let slept = std::thread::spawn(move || {
            futures::executor::block_on(clock.sleep(Duration::from_millis(20)));
            clock.now()
        });
        let after = tokio::task::spawn_blocking(|| slept.join().unwrap()).await.unwrap();
        assert!(after - before >= Duration::from_millis(20));
        assert_ne!(env.random16(), env.random16());
    }
}
