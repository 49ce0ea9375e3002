//! What is done about a volume's device that is already there: one table.

use crate::cli::devices::Kernel;

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A new device.
    Attach,
    /// Bring back a device that waits; a new one where none does.
    Recover,
    /// Take over the device from a living process.
    Handover,
}

/// What stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// A living process serves the device.
    Served,
    /// A living process is making, recovering or removing it.
    Busy,
    /// It waits for its recovery, which was not asked for.
    Waiting,
    /// There is no living process to take it from.
    NobodyServes,
    /// The kernel does not say how it stands.
    Unclear,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Make a new device.
    Anew,
    /// Only the record is left: remove that, make a new device.
    ForgetAndAnew,
    /// It was never started, or was stopped: remove it, make a new one.
    DeleteAndAnew,
    /// Serve it from here on.
    Resume,
    /// Its daemon died a moment ago; wait until the kernel has noticed, then look again.
    AwaitPause,
    /// Ask the process that serves it for it.
    TakeOver,
    /// Leave everything as it is.
    Refuse(Obstacle),
}

/// Decides. `found` is the volume's recorded device, if there is one: whether a process holds its lock, and what the
/// kernel says.
pub fn judge(wish: Wish, found: Option<(bool, Kernel)>) -> Verdict {
    use Verdict::{Anew, AwaitPause, DeleteAndAnew, ForgetAndAnew, Refuse, Resume, TakeOver};
    match (found, wish) {
        (None | Some((false, Kernel::Gone | Kernel::Dead)), Wish::Handover) => Refuse(Obstacle::NobodyServes),
        (None, _) => Anew,
        (Some((false, Kernel::Gone)), _) => ForgetAndAnew,
        (Some((false, Kernel::Dead)), _) => DeleteAndAnew,
        (Some((false, Kernel::Present)), _) => Refuse(Obstacle::Unclear),
        (Some((false, Kernel::Live | Kernel::Paused)), Wish::Attach) => Refuse(Obstacle::Waiting),
        // A handover from a process that is dead is a recovery.
        (Some((false, Kernel::Live)), _) => AwaitPause,
        (Some((false, Kernel::Paused)), _) => Resume,
        (Some((true, Kernel::Live)), Wish::Handover) => TakeOver,
        (Some((true, Kernel::Live | Kernel::Present)), _) => Refuse(Obstacle::Served),
        (Some((true, Kernel::Gone | Kernel::Dead | Kernel::Paused)), _) => Refuse(Obstacle::Busy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        use Kernel::{Dead, Gone, Live, Paused, Present};
        use Verdict::{Anew, AwaitPause, DeleteAndAnew, ForgetAndAnew, Refuse, Resume, TakeOver};
        let nobody = Refuse(Obstacle::NobodyServes);
        let (busy, served) = (Refuse(Obstacle::Busy), Refuse(Obstacle::Served));
        let (waiting, unclear) = (Refuse(Obstacle::Waiting), Refuse(Obstacle::Unclear));
        let table = [
            (None, [Anew, Anew, nobody]),
            (Some((false, Gone)), [ForgetAndAnew, ForgetAndAnew, nobody]),
            (Some((false, Dead)), [DeleteAndAnew, DeleteAndAnew, nobody]),
            (Some((false, Live)), [waiting, AwaitPause, AwaitPause]),
            (Some((false, Paused)), [waiting, Resume, Resume]),
            (Some((false, Present)), [unclear, unclear, unclear]),
            (Some((true, Gone)), [busy, busy, busy]),
            (Some((true, Dead)), [busy, busy, busy]),
            (Some((true, Live)), [served, served, TakeOver]),
            (Some((true, Paused)), [busy, busy, busy]),
            (Some((true, Present)), [served, served, served]),
        ];
        for (found, verdicts) in table {
            let judged = [Wish::Attach, Wish::Recover, Wish::Handover].map(|wish| judge(wish, found));
            assert_eq!(judged, verdicts, "{found:?}");
        }
    }

    #[test]
    fn a_device_that_somebody_may_wait_for_is_never_replaced() {
        for kernel in [Kernel::Live, Kernel::Paused, Kernel::Present] {
            for owned in [false, true] {
                for wish in [Wish::Attach, Wish::Recover, Wish::Handover] {
                    let verdict = judge(wish, Some((owned, kernel)));
                    let replaced = matches!(verdict, Verdict::Anew | Verdict::ForgetAndAnew | Verdict::DeleteAndAnew);
                    assert!(!replaced, "{owned} {kernel:?} {wish:?}: {verdict:?}");
                }
            }
        }
    }
}
