//! The real clock, randomness and threads.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;

use crate::env::{Clock, Entropy, Env, Spawner};

/// The environment of a real process: its clocks, the system's randomness, tasks on `runtime` and one worker thread
/// per core for heavy jobs. The workers end when the last clone of the environment is dropped.
pub fn system_env(runtime: Handle) -> Env {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Env {
        clock: Arc::new(SystemClock { start: Instant::now() }),
        entropy: Arc::new(SystemEntropy),
        spawner: Arc::new(RuntimeSpawner { runtime, workers: Workers::start(cores) }),
    }
}

struct SystemClock {
    start: Instant,
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, d: Duration) -> BoxFuture<'static, ()> {
        // A timer belongs to a runtime: made inside the future, so that the caller need not stand in one.
        Box::pin(async move { tokio::time::sleep(d).await })
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buf: &mut [u8]) {
        aws_lc_rs::rand::fill(buf).expect("getrandom(2) does not fail once the system has booted");
    }
}

struct RuntimeSpawner {
    runtime: Handle,
    workers: Workers,
}

impl Spawner for RuntimeSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(self.runtime.spawn(task));
    }

    fn spawn_heavy(&self, job: Box<dyn FnOnce() + Send>) {
        self.workers.push(job);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that exist from the start: none has to be created when memory is short.
struct Workers {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    wake: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Workers {
    fn start(threads: usize) -> Self {
        let queue = Arc::new(Queue::default());
        for n in 0..threads {
            let queue = queue.clone();
            thread::Builder::new()
                .name(format!("esker-work-{n}"))
                .spawn(move || work(&queue))
                .expect("a process that cannot start its first threads cannot serve");
        }
        Self { queue }
    }

    fn push(&self, job: Job) {
        self.queue.state.lock().jobs.push_back(job);
        self.queue.wake.notify_one();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.state.lock().closed = true;
        self.queue.wake.notify_all();
    }
}

/// Runs jobs until the queue is closed and empty.
fn work(queue: &Queue) {
    loop {
        let job = {
            let mut state = queue.state.lock();
            loop {
                if let Some(job) = state.jobs.pop_front() {
                    break job;
                }
                if state.closed {
                    return;
                }
                queue.wake.wait(&mut state);
            }
        };
        // Whoever waits for the job's answer learns of a panic by the answer's absence; the worker lives on.
        drop(catch_unwind(AssertUnwindSafe(job)));
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct NoTasks;

    impl Spawner for NoTasks {
        fn spawn(&self, _task: BoxFuture<'static, ()>) {
            panic!("this test spawns nothing");
        }

        fn spawn_heavy(&self, job: Box<dyn FnOnce() + Send>) {
            job();
        }
    }

    /// Real randomness and clock without a runtime.
    pub(crate) fn test_env() -> Env {
        Env {
            clock: Arc::new(SystemClock { start: Instant::now() }),
            entropy: Arc::new(SystemEntropy),
            spawner: Arc::new(NoTasks),
        }
    }

    #[tokio::test]
    async fn heavy_jobs_run_and_a_panic_harms_only_its_own() {
        let env = system_env(Handle::current());
        for _ in 0..64 {
            assert_eq!(env.heavy(|| -> u32 { panic!("on purpose") }).await, None);
        }
        assert_eq!(env.heavy(|| 7).await, Some(7));
        assert_ne!(env.random16(), env.random16());
    }

    #[tokio::test]
    async fn no_more_jobs_run_at_once_than_there_are_workers() {
        let workers = Workers::start(2);
        let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..10 {
            let (running, most, tx) = (running.clone(), most.clone(), tx.clone());
            workers.push(Box::new(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(2));
                running.fetch_sub(1, Ordering::SeqCst);
                tx.send(()).unwrap();
            }));
        }
        for _ in 0..10 {
            rx.recv().await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn jobs_queued_before_the_end_still_run() {
        let done = Arc::new(AtomicU32::new(0));
        let workers = Workers::start(1);
        for _ in 0..5 {
            let done = done.clone();
            workers.push(Box::new(move || {
                done.fetch_add(1, Ordering::SeqCst);
            }));
        }
        drop(workers);
        while done.load(Ordering::SeqCst) < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
