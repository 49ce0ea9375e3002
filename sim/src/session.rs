//! One attached volume and its users: each sends requests, tells the checker of them, and has answers checked.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use esker::volume::{OnOutage, Volume};
use esker_block::{BatchOp, BlockDevice, BlockError, BlockResult, MAX_OP_BYTES};
use parking_lot::Mutex;

use crate::copy;
use crate::exec::{Process, Role};
use crate::model::{Fill, Op};
use crate::request::{Request, Wish};
use crate::rng::Rng;
use crate::stamp::ZERO;
use crate::world::World;

/// A segment is cut, and waits, a while before its PUT is sent.
const BEFORE: Duration = Duration::from_secs(1);

/// See the module.
pub struct Session {
    /// Everything else.
    pub world: Arc<World>,
    /// The process that has the volume.
    pub process: Process,
    /// The volume.
    pub volume: Arc<Volume>,
    /// Itself, for what goes on beside a request.
    pub me: Weak<Session>,
    /// The process dies within this poll: nothing that it still does is seen by anybody.
    pub dying: AtomicBool,
    /// Its next copy into the journal is its last.
    pub die_in_copy: AtomicBool,
    /// It has failed, or gives the volume back: users go home.
    pub over: AtomicBool,
    /// It knows that somebody else has the volume.
    pub fenced: AtomicBool,
    /// Requests without an answer.
    pub under_way: AtomicUsize,
    /// Random choices of its users.
    pub rng: Mutex<Rng>,
}

/// A request that is under way: which operation numbers it was given.
struct Running<'a> {
    session: &'a Session,
    number: u64,
    /// What each of its operations fills, in order.
    pieces: Vec<Vec<Fill>>,
    given: Vec<Op>,
}

impl Running<'_> {
    /// The engine gave the numbers after `before` while this request was polled.
    fn note(&mut self, before: Op) {
        let after = self.session.volume.last_operation();
        for op in before + 1..=after {
            self.take(op);
        }
    }

    fn take(&mut self, op: Op) {
        if self.given.contains(&op) {
            return;
        }
        let world = &self.session.world;
        let Some(fills) = self.pieces.get(self.given.len()) else {
            return world.fail(format!("request {} became more operations than it has pieces", self.number));
        };
        self.given.push(op);
        let (process, number) = (self.session.process, self.number);
        world.say(format!("  process {process}: operation {op} is request {number}: {fills:?}"));
        world.check(world.model.lock().given(self.session.process, op, self.number, fills));
    }

    /// Drives the request, and notes the numbers it is given.
    async fn drive<T>(&mut self, request: impl Future<Output = T>) -> T {
        let mut request = pin!(request);
        poll_fn(|cx| {
            let before = self.session.volume.last_operation();
            let answer = request.as_mut().poll(cx);
            self.note(before);
            answer
        })
        .await
    }

    /// The client has its answer.
    fn acked(&self) {
        let mut model = self.session.world.model.lock();
        self.given.iter().for_each(|op| model.acked(self.session.process, *op));
        drop(model);
        self.session.world.say(format!("  process {}: request {} is answered", self.session.process, self.number));
    }
}

impl Session {
    /// Users that send requests until there are none left, or the session is over.
    pub fn start(self: &Arc<Self>) {
        for user in 0..self.world.plan.users {
            let session = self.clone();
            let task = async move {
                // Who is told that the volume is lost asks a few times more: it must stay so.
                let mut patience = 3;
                while patience > 0 && session.one(user).await {
                    patience -= u32::from(session.fenced.load(Ordering::SeqCst));
                }
            };
            self.world.exec.spawn(self.process, Role::Other, task);
        }
        if let Some(after) = self.world.plan.compact_after {
            let session = self.clone();
            let task = async move {
                for _ in 0..3 {
                    session.world.exec.sleep(after).await;
                    let told = session.volume.compact(&|_| ()).await;
                    session.world.say(format!("process {}: compaction asked for: {told:?}", session.process));
                }
            };
            self.world.exec.spawn(self.process, Role::Other, task);
        }
    }

    async fn one(&self, user: usize) -> bool {
        let think = self.world.plan.think;
        if !think.is_zero() {
            let pause = self.rng.lock().time(Duration::from_micros(50), think);
            self.world.exec.sleep(pause).await;
        }
        if self.over.load(Ordering::SeqCst) {
            return false;
        }
        let Some(number) = self.world.next_request() else {
            // More may be wanted later.
            let pause = self.rng.lock().time(Duration::from_millis(50), Duration::from_secs(1));
            self.world.exec.sleep(pause).await;
            return true;
        };
        let wish = Wish::draw(&self.world.plan, &mut self.rng.lock(), || self.world.stamp());
        let knew = self.fenced.load(Ordering::SeqCst);
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let answer = self.send(number, wish.clone()).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        // A batch of nothing asks for nothing.
        let asks = !matches!(&wish.request, Request::Batch(parts) if parts.is_empty());
        if knew && asks && answer.is_ok() {
            self.world.fail(format!("process {} knows that it is fenced, and serves {wish:?}", self.process));
        }
        if let Err(why) = answer {
            self.world.say(format!("user {user} of process {}: {wish:?}: {why}", self.process));
            self.judge(&why);
        }
        true
    }

    /// One request, from its beginning to its answer.
    ///
    /// # Errors
    /// What the volume answers; whether it may is for [`Session::judge`].
    pub async fn send(&self, number: u64, wish: Wish) -> BlockResult<()> {
        let unit = self.world.plan.unit as u64;
        let mut running = Running { session: self, number, pieces: wish.pieces(unit), given: Vec::new() };
        let fua = wish.fua;
        let answer = match &wish.request {
            Request::Read { first, units } => return self.read(*first, *units).await,
            Request::Flush => return self.flush().await,
            Request::Write { first, units } => {
                let data = wish.bytes(unit);
                let offset = first * unit;
                if fua || wish.slow || !self.write_at_once(&mut running, offset, &data).await? {
                    let _ = units;
                    running.drive(self.volume.write(offset, data, fua)).await
                } else {
                    Ok(())
                }
            }
            Request::Zero { first, units } => {
                running.drive(self.volume.write_zeroes(first * unit, units * unit, true, fua)).await
            }
            Request::Discard { first, units } => {
                running.drive(self.volume.discard(first * unit, units * unit, fua)).await
            }
            Request::Batch(parts) => {
                let ops = parts.iter().map(|fill| match fill.stamp {
                    ZERO => BatchOp::Zero { offset: fill.first * unit, len: fill.units * unit },
                    _ => BatchOp::Write { offset: fill.first * unit, data: crate::request::bytes_of(fill, unit) },
                });
                running.drive(self.volume.batch(ops.collect(), fua)).await
            }
        };
        self.still_alive().await;
        if answer.is_ok() {
            if running.given.len() != running.pieces.len() {
                let (taken, all) = (running.given.len(), running.pieces.len());
                self.world.fail(format!("request {number} is answered with {taken} of its {all} operations taken"));
            }
            running.acked();
            if fua && let Some(last) = running.given.last() {
                self.world.check(self.world.model.lock().flushed(self.process, *last));
            }
        }
        answer
    }

    /// Nothing that a process does in the poll in which it dies is seen.
    async fn still_alive(&self) {
        if self.dying.load(Ordering::SeqCst) {
            std::future::pending().await
        }
    }

    /// The form of a write that does not wait; false if it cannot be carried out so.
    async fn write_at_once(&self, running: &mut Running<'_>, offset: u64, data: &Bytes) -> BlockResult<bool> {
        if data.len() > MAX_OP_BYTES {
            return Ok(false);
        }
        let before = self.volume.last_operation();
        let mut beside = copy::Beside::new(self, offset, data);
        let mut fill = |buf: &mut [u8]| {
            // Of a request that is copied straight into the journal the number is taken by now.
            if self.volume.last_operation() == before + 1 {
                running.take(before + 1);
            }
            beside.copy(buf, running.given.first().copied())
        };
        let answer = self.volume.try_write_with(offset, data.len(), &mut fill);
        let others = beside.others();
        for op in before + 1..=self.volume.last_operation() {
            if !others.contains(&op) {
                running.take(op);
            }
        }
        self.still_alive().await;
        match answer {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(BlockError::Source(_))) => {
                let mut model = self.world.model.lock();
                running.pieces.clear();
                running.given.drain(..).for_each(|op| model.voided(self.process, op));
                Ok(true)
            }
            Some(Err(e)) => Err(e),
        }
    }

    async fn read(&self, first: u64, units: u64) -> BlockResult<()> {
        let unit = self.world.plan.unit as u64;
        let begun = self.world.model.lock().now();
        let mut buf = vec![0; (units * unit) as usize];
        let data = match self.volume.try_read(first * unit, &mut buf) {
            Some(answer) => answer.map(|()| buf),
            None => self.volume.read(first * unit, buf.len(), BytesMut::new()).await.map(|b| b.to_vec()),
        }?;
        if data.len() as u64 != units * unit {
            self.world.fail(format!("a read of {units} units was answered with {} bytes", data.len()));
        }
        let checked = self.world.model.lock().check_read(self.process, begun, first, &data);
        self.world.check(checked);
        Ok(())
    }

    /// A flush, checked.
    ///
    /// # Errors
    /// What the volume answers.
    pub async fn flush(&self) -> BlockResult<()> {
        let covers = self.world.model.lock().flush_begins(self.process);
        let begun = self.world.exec.now();
        let answer = self.volume.flush().await;
        self.still_alive().await;
        self.in_time(self.world.exec.now() - begun);
        answer?;
        self.world.check(self.world.model.lock().flushed(self.process, covers));
        Ok(())
    }

    /// Under `fail-after` nobody waits much longer than that.
    fn in_time(&self, waited: Duration) {
        if let OnOutage::FailAfter(limit) = self.world.plan.on_outage
            && !self.world.plan.stands_still()
            && waited > limit + Duration::from_secs(20)
        {
            self.world.fail(format!("a flush was answered after {waited:?}; errors are to come after {limit:?}"));
        }
    }

    /// Reads all that was ever written, and more, and has it checked.
    ///
    /// # Errors
    /// What the volume answers.
    pub async fn read_all(&self) -> BlockResult<()> {
        let unit = self.world.plan.unit as u64;
        let units = self.world.plan.size / unit;
        let step = (256 << 10) / unit;
        let touched = self.world.model.lock().touched();
        for (first, n) in touched.into_iter().chain([(0, 1), (units - 1, 1)]) {
            let (mut at, end) = (first.saturating_sub(3), (first + n + 3).min(units));
            while at < end {
                let n = step.min(end - at);
                self.read(at, n).await?;
                at += n;
            }
        }
        Ok(())
    }

    /// A request failed: may it? What the volume will not get over ends the session.
    pub fn judge(&self, why: &BlockError) {
        let (calm, damaged) = {
            let state = self.world.state.lock();
            let calm = state.calm && self.world.exec.now() > state.calm_since + Duration::from_secs(120);
            (calm, state.damaged)
        };
        let fine = match why {
            BlockError::ShuttingDown => true,
            BlockError::Fenced => self.world.rivals(self.process),
            BlockError::Store(_) => match self.world.plan.on_outage {
                // Whoever was stopped for so long has waited for so long.
                OnOutage::FailAfter(limit) => {
                    !calm
                        && (self.world.plan.stands_still()
                            || self.world.bucket.keeps_waiting(self.process, limit - BEFORE))
                }
                OnOutage::Wait => false,
            },
            BlockError::Corrupt { .. } => damaged && !calm,
            _ => false,
        };
        match why {
            BlockError::ShuttingDown => self.over.store(true, Ordering::SeqCst),
            BlockError::Fenced => self.fenced.store(true, Ordering::SeqCst),
            _ => {}
        }
        if !fine {
            self.world.fail(format!("process {} had no reason to answer: {why}", self.process));
        }
    }
}
