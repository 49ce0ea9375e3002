//! The world's clock and tasks: one thread, made-up time, and a seed that decides who runs next.
//!
//! Tasks belong to processes. A process can be paused (its tasks do not run, its timers pass, what it has sent goes on its
//! way) and killed (its tasks are gone at once). The world's own tasks, [`WORLD`], are neither.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use esker::env::{Clock, Entropy, Env, Spawner};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::rng::Rng;
use crate::trace::Trace;

/// A process of the simulated world.
pub type Process = u32;
/// The process that is never paused or killed: store, operators, faults.
pub const WORLD: Process = 0;

/// What a task is, where it matters who may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Spawned by the engine. Takes no gate of the volume, so it may run while a writer is amid a copy.
    Engine,
    /// A user of the volume, or the world.
    Other,
}

struct Task {
    process: Process,
    role: Role,
    future: Option<BoxFuture<'static, ()>>,
    waker: Waker,
    queued: bool,
}

struct State {
    now: Duration,
    wall_offset_ms: i64,
    next: u64,
    timers: BTreeMap<(Duration, u64), Waker>,
    tasks: BTreeMap<u64, Task>,
    ready: Vec<u64>,
    paused: BTreeSet<Process>,
    rng: Rng,
    /// How likely a task that could run is put off a little: a descheduled thread.
    stall: f64,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Exec {
    state: Arc<Mutex<State>>,
    /// What happened, in order.
    pub trace: Trace,
    afterwards: Arc<Mutex<Vec<Afterwards>>>,
}

type Afterwards = Box<dyn FnOnce() + Send>;

struct Wakes {
    state: Arc<Mutex<State>>,
    task: u64,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        let mut state = self.state.lock();
        if let Some(task) = state.tasks.get_mut(&self.task)
            && !std::mem::replace(&mut task.queued, true)
        {
            state.ready.push(self.task);
        }
    }
}

/// Whether somebody was woken.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What one step did.
enum Step {
    Ran,
    /// Nothing can run, and no timer is set.
    Stuck,
}

impl Exec {
    /// A world at time zero.
    pub fn new(seed: u64, stall: f64, trace: Trace) -> Self {
        let state = State {
            now: Duration::ZERO,
            wall_offset_ms: 0,
            next: 0,
            timers: BTreeMap::new(),
            tasks: BTreeMap::new(),
            ready: Vec::new(),
            paused: BTreeSet::new(),
            rng: Rng::new(seed, "schedule"),
            stall,
        };
        Self { state: Arc::new(Mutex::new(state)), trace, afterwards: Arc::default() }
    }

    /// The time.
    pub fn now(&self) -> Duration {
        self.state.lock().now
    }

    /// The environment of a process: its own stream of random bytes.
    pub fn env(&self, seed: u64, process: Process) -> Env {
        let rng = Mutex::new(Rng::new(seed, &format!("process {process}")));
        let of = Arc::new(OfProcess { exec: self.clone(), process, rng });
        Env { clock: of.clone(), entropy: of.clone(), spawner: of }
    }

    /// Starts a task.
    pub fn spawn(&self, process: Process, role: Role, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(process, role, Box::pin(task));
    }

    fn spawn_boxed(&self, process: Process, role: Role, future: BoxFuture<'static, ()>) {
        let mut state = self.state.lock();
        state.next += 1;
        let id = state.next;
        let waker = Waker::from(Arc::new(Wakes { state: self.state.clone(), task: id }));
        state.tasks.insert(id, Task { process, role, future: Some(future), waker, queued: true });
        state.ready.push(id);
    }

    /// Completes after `d`.
    pub fn sleep(&self, d: Duration) -> Sleep {
        let mut state = self.state.lock();
        state.next += 1;
        Sleep { state: self.state.clone(), key: (state.now + d, state.next) }
    }

    /// Stops a process: none of its tasks runs until [`Exec::resume`].
    pub fn pause(&self, process: Process) {
        assert_ne!(process, WORLD, "the world goes on");
        self.state.lock().paused.insert(process);
    }

    /// Lets a stopped process run again.
    pub fn resume(&self, process: Process) {
        self.state.lock().paused.remove(&process);
    }

    /// Ends a process: its tasks are dropped where they stand.
    pub fn kill(&self, process: Process) {
        assert_ne!(process, WORLD, "the world goes on");
        self.end(process);
    }

    /// Ends the world itself, when the run is over: tasks and world hold each other.
    pub fn kill_world(&self) {
        self.end(WORLD);
        self.afterwards.lock().clear();
    }

    fn end(&self, process: Process) {
        let mut state = self.state.lock();
        state.paused.remove(&process);
        let dead: Vec<u64> = state.tasks.iter().filter(|(_, t)| t.process == process).map(|(id, _)| *id).collect();
        let tasks: Vec<Task> = dead.iter().filter_map(|id| state.tasks.remove(id)).collect();
        state.ready.retain(|id| !dead.contains(id));
        drop(state);
        // Outside the lock: what is dropped wakes others.
        drop(tasks);
    }

    /// Does `what` when the task that runs now comes to its next stop.
    pub fn afterwards(&self, what: impl FnOnce() + Send + 'static) {
        self.afterwards.lock().push(Box::new(what));
    }

    /// Moves the clocks on: the monotonic one by `by` (a machine that slept), the wall clock by `wall_ms` besides.
    pub fn jump(&self, by: Duration, wall_ms: i64) {
        let mut state = self.state.lock();
        state.now += by;
        state.wall_offset_ms += wall_ms;
    }

    /// Runs the world until `main` is done, which goes first whenever it can go on.
    ///
    /// # Errors
    /// If nothing can ever run again, or `limit` of made-up time has passed.
    pub fn run<T>(&self, limit: Duration, main: impl Future<Output = T>) -> Result<T, String> {
        let mut main = pin!(main);
        let awake = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(awake.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            if awake.0.swap(false, Ordering::SeqCst)
                && let Poll::Ready(answer) = main.as_mut().poll(&mut cx)
            {
                return Ok(answer);
            }
            let stuck = matches!(self.step(|_| true, true), Step::Stuck);
            let now: Vec<Afterwards> = std::mem::take(&mut *self.afterwards.lock());
            now.into_iter().for_each(|what| what());
            if stuck && !awake.0.load(Ordering::SeqCst) {
                return Err("nothing can run any more: the world hangs".into());
            }
            if self.now() > limit {
                return Err(format!("still not done after {limit:?} of made-up time"));
            }
        }
    }

    /// Runs up to `steps` polls of the engine's tasks of `process` amid whatever is running: another thread's progress.
    pub fn run_beside(&self, process: Process, steps: usize) {
        for _ in 0..steps {
            let ran = self.step(|task| task.process == process && task.role == Role::Engine, false);
            if matches!(ran, Step::Stuck) {
                return;
            }
        }
    }

    fn step(&self, may_run: impl Fn(&Task) -> bool, jump: bool) -> Step {
        match self.choose(may_run, jump) {
            Choice::Nothing => Step::Stuck,
            Choice::Time => Step::Ran,
            Choice::Task { id, mut future, waker } => {
                let mut cx = Context::from_waker(&waker);
                let done = future.as_mut().poll(&mut cx).is_ready();
                let mut state = self.state.lock();
                if !done && let Some(task) = state.tasks.get_mut(&id) {
                    task.future = Some(future);
                    return Step::Ran;
                }
                let task = state.tasks.remove(&id);
                state.ready.retain(|ready| *ready != id);
                drop(state);
                // Outside the lock: what is dropped wakes others.
                drop((task, future));
                Step::Ran
            }
        }
    }

    /// What to do next: time passes only where no task can run.
    fn choose(&self, may_run: impl Fn(&Task) -> bool, jump: bool) -> Choice {
        self.wake_due();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let runnable: Vec<usize> = (0..state.ready.len())
            .filter(|i| {
                let task = &state.tasks[&state.ready[*i]];
                task.future.is_some() && !state.paused.contains(&task.process) && may_run(task)
            })
            .collect();
        if runnable.is_empty() {
            let Some((&(at, _), _)) = state.timers.first_key_value().filter(|_| jump) else { return Choice::Nothing };
            state.now = state.now.max(at);
            return Choice::Time;
        }
        let place = runnable[state.rng.below(runnable.len())];
        let id = state.ready.swap_remove(place);
        let later = jump && state.stall > 0.0 && state.rng.chance(state.stall);
        let wait = state.rng.time(Duration::from_micros(10), Duration::from_millis(50));
        let task = state.tasks.get_mut(&id).expect("what is ready is a task");
        task.queued = false;
        let waker = task.waker.clone();
        if later {
            state.next += 1;
            state.timers.insert((state.now + wait, state.next), waker);
            return Choice::Time;
        }
        self.trace.note(u64::from(task.process) << 32 | id);
        let future = task.future.take().expect("only tasks that are not running were chosen from");
        Choice::Task { id, future, waker }
    }

    /// A little time passes; wakes those whose time has come.
    fn wake_due(&self) {
        let due = {
            let mut state = self.state.lock();
            let passes = state.rng.in_range(100..3000);
            state.now += Duration::from_nanos(passes);
            state.due()
        };
        due.into_iter().for_each(Waker::wake);
    }
}

/// See [`Exec::choose`].
enum Choice {
    Nothing,
    Time,
    Task { id: u64, future: BoxFuture<'static, ()>, waker: Waker },
}

impl State {
    /// Takes out the timers whose time has come.
    fn due(&mut self) -> Vec<Waker> {
        if self.timers.first_key_value().is_none_or(|((at, _), _)| *at > self.now) {
            return Vec::new();
        }
        let later = self.timers.split_off(&(self.now, u64::MAX));
        std::mem::replace(&mut self.timers, later).into_values().collect()
    }
}

/// See [`Exec::sleep`].
pub struct Sleep {
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
        let old = state.timers.insert(self.key, cx.waker().clone());
        drop(state);
        drop(old);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let old = self.state.lock().timers.remove(&self.key);
        drop(old);
    }
}

/// What a process sees of the world.
struct OfProcess {
    exec: Exec,
    process: Process,
    rng: Mutex<Rng>,
}

impl Clock for OfProcess {
    fn now(&self) -> Duration {
        self.exec.now()
    }

    fn wall_ms(&self) -> u64 {
        let state = self.exec.state.lock();
        (1_700_000_000_000 + state.now.as_millis() as i64 + state.wall_offset_ms).max(0) as u64
    }

    fn sleep(&self, d: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.exec.sleep(d))
    }
}

impl Entropy for OfProcess {
    fn fill(&self, buf: &mut [u8]) {
        self.rng.lock().fill(buf);
    }
}

impl Spawner for OfProcess {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.exec.spawn_boxed(self.process, Role::Engine, task);
    }

    fn spawn_heavy(&self, job: Box<dyn FnOnce() + Send>) {
        // A worker thread takes its time to come round to it.
        let wait = self.rng.lock().time(Duration::from_micros(1), Duration::from_millis(5));
        let nap = self.exec.sleep(wait);
        let work = async move {
            nap.await;
            job();
        };
        self.exec.spawn_boxed(self.process, Role::Engine, Box::pin(work));
    }
}
