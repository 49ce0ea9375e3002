//! A device is written back and goes; or goes by force.

use std::time::Duration;

use tokio::time::timeout;

use super::served::{Phase, Progress, Served, blocking};
use crate::cli::devices::{Kernel, unlink_all};
use crate::cli::failure::{Doing, Exit, Failure, HasExit, Outcome};
use crate::host::{Stage, describe_users};
use crate::ublk::{Control, UblkError};

/// How long what is buffered may take to reach the store where a device goes by force.
const FORCED: Duration = Duration::from_secs(30);
/// How long the volume's log may then take to be closed.
const FORCED_BACK: Duration = Duration::from_secs(10);

impl Served {
    /// Writes everything back and removes the device: kernel, links, record; the volume is given back. To be called in
    /// phase `Removing`. By force it is removed whoever uses it, and what the store does not take within a while stays in
    /// the journal.
    ///
    /// # Errors
    /// `InUse` where somebody uses it and it is not by force: then it is served on. Others where writing back failed.
    pub async fn remove(&self, force: bool, progress: Progress<'_>) -> Outcome {
        if let Err(failure) = self.take_away(force, progress).await {
            if !matches!(self.kernel(), Kernel::Gone | Kernel::Dead) {
                self.set_stage(Stage::Live)?;
                self.step(Phase::Removing, Phase::Live);
                return Err(failure);
            }
            // Nobody can write to it any more, so the volume is given back all the same.
            tracing::warn!("{failure}");
        }
        let detached = self.give_back(force, progress).await;
        self.forget()?;
        detached
    }

    /// The device goes from the kernel.
    async fn take_away(&self, force: bool, progress: Progress<'_>) -> Outcome {
        if !force {
            let users = self.users().await;
            if !users.is_empty() {
                let why = format!("it is {}; --force removes it all the same", describe_users(&users));
                return Err(Failure::new(Exit::InUse, self.name(), why));
            }
        }
        self.set_stage(Stage::Removing)?;
        if force {
            return self.take_away_by_force(progress).await;
        }
        let target = self.target.clone();
        let synced = self.reporting(blocking(move || target.sync()), progress).await;
        synced.doing(format_args!("{}; --force removes it all the same", self.name()))?;
        loop {
            let target = self.target.clone();
            match self.reporting(blocking(move || target.stop()), progress).await {
                Ok(()) => return Ok(()),
                // Requests wait for the store; the device is served on meanwhile.
                Err(e @ UblkError::TimedOut { .. }) => progress(e.to_string()),
                Err(e) => return Err(e).doing(self.name()),
            }
        }
    }

    /// As after a flush and a stop, if the store takes them in time. Otherwise nobody serves the device any more, and what
    /// waits for it fails.
    async fn take_away_by_force(&self, progress: Progress<'_>) -> Outcome {
        let target = self.target.clone();
        match timeout(FORCED, self.reporting(blocking(move || target.sync()), progress)).await {
            Ok(synced) => {
                if let Err(e) = synced {
                    progress(e.to_string());
                }
                let target = self.target.clone();
                match self.reporting(blocking(move || target.stop()), progress).await {
                    Ok(()) => return Ok(()),
                    Err(e) => progress(e.to_string()),
                }
            }
            Err(_) => progress(format!("{}: the store does not take it; requests that wait fail", self.name())),
        }
        if let Err(failure) = self.let_go().await {
            tracing::warn!("{failure}");
        }
        let id = self.id();
        let removed = blocking(move || {
            let control = Control::open()?;
            control.stop(id)?;
            control.delete(id)
        });
        match removed.await {
            Err(UblkError::NoDevice(_)) => Ok(()),
            other => other.doing(self.name()),
        }
    }

    /// The volume is given back.
    async fn give_back(&self, force: bool, progress: Progress<'_>) -> Outcome {
        let Some(volume) = self.volume.lock().clone() else { return Ok(()) };
        let detaching = self.reporting(volume.detach(), progress);
        let outcome = if force {
            match timeout(FORCED_BACK, detaching).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let why =
                        "the store does not answer; what it lacks stays in the journal, and the next attach sends it";
                    progress(format!("{}: {why}", self.name()));
                    Ok(())
                }
            }
        } else {
            detaching.await
        };
        outcome.map_err(|e| {
            let why = format!("{e}; what the store lacks stays in the journal");
            Failure::new(e.exit(), format_args!("{}: removed, but not written back", self.name()), why)
        })
    }

    /// Links and record go; there is nothing left to find.
    fn forget(&self) -> Outcome {
        let record = self.record();
        self.step(Phase::Removing, Phase::Gone);
        // The journal is let go of, whether it is empty or not.
        drop(self.volume.lock().take());
        unlink_all(&record);
        self.held.forget().doing("device records")
    }

    /// After somebody else took the device away: what is left of it goes, what was written to it is written back.
    pub async fn clear_up(&self, progress: Progress<'_>) -> Outcome {
        let target = self.target.clone();
        if let Err(e) = blocking(move || target.stop()).await {
            tracing::warn!("{}: {e}", self.name());
        }
        let detached = self.give_back(false, progress).await;
        self.forget()?;
        detached
    }
}
