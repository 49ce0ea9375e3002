//! A device is written back and goes; or goes by force.
//!
//! What may wait for the device's own requests is done by helpers: this process must be able to end at any time.

use std::time::Duration;

use super::helper::Helper;
use super::served::{Phase, Progress, Served, blocking};
use crate::cli::device::Job;
use crate::cli::devices::{Kernel, unlink_all};
use crate::cli::failure::{Doing, Exit, Failure, HasExit, Outcome};
use crate::host::{Stage, describe_users};

/// How long what is buffered may take to reach the store where a device goes by force.
const FORCED: Duration = Duration::from_secs(30);
/// How long the kernel may then take to stop the device, first with and then without the store's help.
const FORCED_STOP: Duration = Duration::from_secs(10);
/// How long the volume's log may then take to be closed.
const FORCED_BACK: Duration = Duration::from_secs(10);
/// How long the number of a stopped device may take to become free; beyond it the helper waits alone.
const DELETE: Duration = Duration::from_secs(5);

impl Served {
    /// Writes everything back and removes the device: kernel, links, record; the volume is given back. To be called in
    /// phase `Removing`. By force (see also [`Served::force`]) it is removed whoever uses it, and what the store does not
    /// take within a while stays in the journal.
    ///
    /// # Errors
    /// `InUse` where somebody uses it and it is not by force: then it is served on. Others where writing back failed.
    pub async fn remove(&self, force: bool, progress: Progress<'_>) -> Outcome {
        if force {
            self.force();
        }
        self.note_stage(Stage::Removing);
        if let Err(failure) = self.take_away(progress).await {
            if !matches!(self.kernel(), Kernel::Gone | Kernel::Dead) {
                self.note_stage(Stage::Live);
                self.forced.send_replace(false);
                self.step(Phase::Removing, Phase::Live);
                return Err(failure);
            }
            // Nobody can write to it any more, so the volume is given back all the same.
            tracing::warn!("{failure}");
        }
        self.finish().await;
        let detached = self.give_back(progress).await;
        self.forget()?;
        detached
    }

    /// From now on a removal, also one that is under way, is by force.
    pub fn force(&self) {
        self.forced.send_replace(true);
    }

    /// Whether it was forced.
    pub fn is_forced(&self) -> bool {
        *self.forced.borrow()
    }

    async fn forced(&self) {
        let mut forced = self.forced.subscribe();
        // The sender is ours.
        drop(forced.wait_for(|f| *f).await);
    }

    /// The word for others. A device that cannot be put on record is removed all the same.
    fn note_stage(&self, stage: Stage) {
        if let Err(failure) = self.set_stage(stage) {
            tracing::warn!("{failure}");
        }
    }

    /// The device goes from the kernel.
    async fn take_away(&self, progress: Progress<'_>) -> Outcome {
        tokio::select! {
            biased;
            () = self.forced() => {}
            outcome = self.take_away_unused(progress) => return outcome,
        }
        self.take_away_by_force(progress).await
    }

    async fn take_away_unused(&self, progress: Progress<'_>) -> Outcome {
        self.refuse_used().await?;
        let synced = self.reporting(self.begin(Job::Sync).outcome(), progress).await;
        synced
            .map_err(|f| Failure::new(f.exit(), self.name(), format_args!("{f}; --force removes it all the same")))?;
        // Writing back may have taken a while.
        self.refuse_used().await?;
        let stopped = self.reporting(self.begin(Job::StopUnused).outcome(), progress).await;
        stopped.map_err(|f| match f.exit() {
            Exit::InUse => self.in_use(&f.to_string()),
            exit => Failure::new(exit, self.name(), f),
        })
    }

    async fn refuse_used(&self) -> Outcome {
        let users = self.users().await;
        if users.is_empty() { Ok(()) } else { Err(self.in_use(&format!("it is {}", describe_users(&users)))) }
    }

    fn in_use(&self, why: &str) -> Failure {
        Failure::new(Exit::InUse, self.name(), format_args!("{why}; --force removes it all the same"))
    }

    /// What is not written back in time fails, and whatever waits for the device with it.
    async fn take_away_by_force(&self, progress: Progress<'_>) -> Outcome {
        match self.reporting(self.begin(Job::Sync).within(FORCED), progress).await {
            Some(Ok(())) => {}
            Some(Err(failure)) => progress(failure.to_string()),
            None => {
                progress(format!("{}: the store does not take it; requests that wait fail", self.name()));
                self.target.fail();
            }
        }
        let mut stop = self.begin(Job::Stop);
        if let Some(stopped) = self.reporting(stop.within(FORCED_STOP), progress).await {
            return stopped;
        }
        self.target.fail();
        let stopped = self.reporting(stop.within(FORCED_STOP), progress).await;
        stopped.unwrap_or_else(|| Err(Failure::plain(self.name(), "the kernel does not stop it")))
    }

    /// A stopped device is gone for its users, so nothing here is a reason to keep the volume.
    async fn finish(&self) {
        let target = self.target.clone();
        if let Err(failure) = blocking(move || target.finish()).await.doing(self.name()) {
            tracing::warn!("{failure}");
        }
        match self.begin(Job::Delete).within(DELETE).await {
            Some(Ok(())) => {}
            Some(Err(failure)) => tracing::warn!("{}: {failure}", self.name()),
            None => tracing::info!("{}: somebody still has it open; its number is free after that", self.name()),
        }
    }

    fn begin(&self, job: Job) -> Helper {
        Helper::begin(job, self.record.lock().name())
    }

    /// The volume is given back.
    async fn give_back(&self, progress: Progress<'_>) -> Outcome {
        let Some(volume) = self.volume.lock().clone() else { return Ok(()) };
        let hurry = async {
            self.forced().await;
            tokio::time::sleep(FORCED_BACK).await;
        };
        let outcome = tokio::select! {
            outcome = self.reporting(volume.detach(), progress) => outcome,
            () = hurry => {
                let why = "the store does not answer; what it lacks stays in the journal, and the next attach sends it";
                progress(format!("{}: {why}", self.name()));
                Ok(())
            }
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
        self.requests.end();
        drop(self.volume.lock().take());
        unlink_all(&record);
        self.held.forget().doing("device records")
    }

    /// After somebody else took the device away: what is left of it goes, what was written to it is written back.
    pub async fn clear_up(&self, progress: Progress<'_>) -> Outcome {
        self.finish().await;
        let detached = self.give_back(progress).await;
        self.forget()?;
        detached
    }
}
