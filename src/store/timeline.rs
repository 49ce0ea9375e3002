//! Time and randomness for tests: time stands still while anything can run, then jumps to the next timer.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::env::{Clock, Entropy, Env, Spawner};

/// A made-up world with its own time.
#[derive(Clone, Default)]
pub struct Timeline {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    now: Duration,
    next: u64,
    timers: BTreeMap<(Duration, u64), Waker>,
    tasks: Vec<BoxFuture<'static, ()>>,
    random: u64,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Timeline {
    /// Everything that the engine takes from outside, in this world.
    pub fn env(&self) -> Env {
        let this = Arc::new(self.clone());
        Env { clock: this.clone(), entropy: this.clone(), spawner: this }
    }

    /// Time since the world began.
    pub fn now(&self) -> Duration {
        self.state.lock().now
    }

    /// Runs `main` and whatever was spawned until `main` is done; what was spawned and is not done is dropped.
    ///
    /// # Panics
    /// Where nothing can run and no timer is set: that would hang for ever.
    pub fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let mut tasks: Vec<BoxFuture<'static, ()>> = Vec::new();
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(flag.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            flag.0.store(false, Ordering::SeqCst);
            if let Poll::Ready(answer) = main.as_mut().poll(&mut cx) {
                return answer;
            }
            tasks.append(&mut self.state.lock().tasks);
            tasks.retain_mut(|task| task.as_mut().poll(&mut cx).is_pending());
            let idle = !flag.0.load(Ordering::SeqCst) && self.state.lock().tasks.is_empty();
            if idle {
                self.jump();
            }
        }
    }

    fn jump(&self) {
        let mut state = self.state.lock();
        let ((at, _), waker) = state.timers.pop_first().expect("nothing can run and no timer is set: the test hangs");
        state.now = state.now.max(at);
        waker.wake();
    }
}

struct Sleep {
    state: Arc<Mutex<State>>,
    key: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.now >= self.key.0 {
            return Poll::Ready(());
        }
        state.timers.insert(self.key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.state.lock().timers.remove(&self.key);
    }
}

impl Clock for Timeline {
    fn now(&self) -> Duration {
        self.state.lock().now
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.state.lock().now.as_millis() as u64
    }

    fn sleep(&self, d: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.state.lock();
        state.next += 1;
        let key = (state.now + d, state.next);
        Box::pin(Sleep { state: self.state.clone(), key })
    }
}

impl Entropy for Timeline {
    fn fill(&self, buf: &mut [u8]) {
        let mut state = self.state.lock();
        for chunk in buf.chunks_mut(8) {
            // splitmix64
            state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state.random;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

impl Spawner for Timeline {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.state.lock().tasks.push(task);
    }

    fn spawn_heavy(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}
