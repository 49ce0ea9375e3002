//! What every daemon of ours does about its own process: how it breaks, what it tells the service manager, which of
//! the pool's volumes it was told to hold.

use std::io::{self, Write};

use sd_notify::NotifyState;

use super::failure::{Doing, Exit, Failure, Outcome};
use crate::pool::{Pool, VolumeRecord};

/// A broken invariant ends the process at once: the journal holds whatever was acknowledged, and the next start recovers
/// it, while a server that limps on could go on to answer wrongly.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |what| {
        report(what);
        std::process::abort();
    }));
}

/// Stderr for a process that must go on without it: what cannot be written, to a full disk or a reader that is gone, is
/// lost.
#[derive(Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        Ok(io::stderr().write(line).unwrap_or(line.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells systemd, where it listens.
pub fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("cannot notify systemd: {e}");
    }
}

/// The volumes called `names`, each once.
///
/// # Errors
/// `NotFound` for a name that the pool does not have.
pub async fn named_volumes(pool: &Pool, names: &[String]) -> Outcome<Vec<VolumeRecord>> {
    let all = pool.volumes().await.doing(pool.store().url())?;
    let mut chosen: Vec<VolumeRecord> = Vec::new();
    for name in names {
        let Some(record) = all.iter().find(|r| r.name == *name) else {
            let why = "the pool has none of that name; see `esker volume list`";
            return Err(Failure::new(Exit::NotFound, format_args!("volume {name}"), why));
        };
        if !chosen.iter().any(|r| r.number == record.number) {
            chosen.push(record.clone());
        }
    }
    Ok(chosen)
}
