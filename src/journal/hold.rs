//! Keeping records in place while a job works on them.

use std::sync::Arc;

use super::core::Core;
use super::record::Body;

/// Keeps all records from an operation on in place: their space is not reused while this lives, even if they are
/// freed meanwhile. Owned, so that a job on another thread can take it along.
#[must_use = "a hold ends when it is dropped"]
pub struct Hold {
    core: Arc<Core>,
    id: u64,
    op: u64,
    position: u64,
}

impl Hold {
    /// Holds the records from `op` on (the tail if that is later, the head if that is earlier).
    pub(super) fn new(core: &Arc<Core>, op: u64) -> Self {
        let (id, near, head) = {
            let mut space = core.space.lock();
            let near = space.near(op);
            (space.add_hold(near.position), near, space.head)
        };
        let mut hold = Self { core: Arc::clone(core), id, op: near.op, position: near.position };
        let mut walk = core.walk(near.position, head.position);
        while let Some((header, _)) = walk.peek() {
            hold.op = header.op;
            if header.op >= op {
                break;
            }
            walk.pass(&header);
            hold.op = header.op + 1;
        }
        if walk.position > near.position {
            hold.position = walk.position;
            core.space.lock().move_hold(id, hold.position);
            core.advance();
        }
        hold
    }

    /// The first operation held.
    pub fn op(&self) -> u64 {
        self.op
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The data of a complete write that [`super::Ring::collect`] gave out.
    ///
    /// # Panics
    /// If `body` comes from another ring, or from a record before the held ones.
    pub fn data(&self, body: &Body) -> &[u8] {
        assert!(body.ring == self.core.tag, "a body of another ring");
        assert!(body.at >= self.position, "a body before the held records");
        self.core.mem.shared(self.core.place(body.at), body.len())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.core.space.lock().drop_hold(self.id);
        self.core.advance();
    }
}
