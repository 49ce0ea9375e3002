//! What may happen while a write is copied into the journal: other threads get on, the source fails, the process dies.

use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use esker_block::BlockDevice;

use crate::exec::Role;
use crate::model::{Fill, Op};
use crate::request;
use crate::session::Session;
use crate::tally::Fault;

/// See the module.
pub struct Beside<'a> {
    session: &'a Session,
    offset: u64,
    data: &'a Bytes,
    others: Vec<Op>,
}

impl<'a> Beside<'a> {
    /// For a write of `data` at byte `offset`.
    pub fn new(session: &'a Session, offset: u64, data: &'a Bytes) -> Self {
        Self { session, offset, data, others: Vec::new() }
    }

    /// Operations of other requests that were given their numbers amid the copy.
    pub fn others(self) -> Vec<Op> {
        self.others
    }

    /// Copies the data to `buf`; `op` is the write's number, if it has one by now.
    ///
    /// # Errors
    /// The source of the data fails.
    pub fn copy(&mut self, buf: &mut [u8], op: Option<Op>) -> io::Result<()> {
        let half = buf.len() / 2;
        buf[..half].copy_from_slice(&self.data[..half]);
        let (others, flush, steps, fails) = {
            let mut rng = self.session.rng.lock();
            let steps = if rng.chance(0.2) { rng.below(12) } else { 0 };
            (op.is_some() && rng.chance(0.1), rng.chance(0.2), steps, rng.chance(0.01))
        };
        let world = &self.session.world;
        if others {
            self.another_write();
        }
        if steps > 0 && op.is_some() {
            if flush {
                self.a_flush();
            }
            world.tally.count(Fault::WriterPreempted);
            world.exec.run_beside(self.session.process, steps);
        }
        if let Some(op) = op
            && self.session.die_in_copy.swap(false, Ordering::SeqCst)
        {
            self.die(op);
        }
        if fails {
            world.tally.count(Fault::FillFailed);
            return Err(io::Error::other("the page is gone"));
        }
        buf[half..].copy_from_slice(&self.data[half..]);
        Ok(())
    }

    /// Another user's flush begins meanwhile.
    fn a_flush(&self) {
        let Some(session) = self.session.me.upgrade() else { return };
        let exec = session.world.exec.clone();
        // It takes no gate, so it may run amid the copy like the engine's own.
        exec.spawn(session.process, Role::Engine, async move {
            if let Err(why) = session.flush().await {
                session.judge(&why);
            }
        });
    }

    /// Another user's write of whole blocks elsewhere is taken, carried out and acknowledged meanwhile.
    fn another_write(&mut self) {
        let world = &self.session.world;
        let unit = world.plan.unit as u64;
        let (block, units) = (4096, 4096 / unit);
        let (first, last) = (self.offset / block, (self.offset + self.data.len() as u64).div_ceil(block));
        let lba = if first > 0 { first - 1 } else { last };
        if (lba + 1) * block > world.plan.size {
            return;
        }
        let fill = Fill { first: lba * units, units, stamp: world.stamp() };
        let bytes = request::bytes_of(&fill, unit);
        let before = self.session.volume.last_operation();
        let answer = self.session.volume.try_write(lba * block, &bytes);
        let mut model = world.model.lock();
        for op in before + 1..=self.session.volume.last_operation() {
            self.others.push(op);
            world.check(model.given(self.session.process, op, u64::MAX - fill.stamp, &[fill]));
            if matches!(answer, Some(Ok(()))) {
                model.acked(self.session.process, op);
            }
        }
    }

    /// `kill -9` in this very moment: operation `op` is not whole.
    fn die(&self, op: Op) {
        let (world, process) = (self.session.world.clone(), self.session.process);
        self.session.dying.store(true, Ordering::SeqCst);
        world.tally.count(Fault::KillInCopy);
        world.say(format!("process {process} dies amid the copy of operation {op}"));
        let host = world.state.lock().processes[&process].host;
        let journals = world.journals(host).snapshot();
        world.model.lock().voided(process, op);
        let exec = world.exec.clone();
        exec.afterwards(move || world.kill(process, Some(journals)));
    }
}
