//! Waiting for what will pass: a store that is away, a process that is ending.

use std::time::Duration;

use crate::cli::failure::{Exit, Failure, Outcome};
use crate::env::Env;
use crate::store::Store;
use crate::volume::OnOutage;

/// Pause between tries while the store is away.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause between tries while the journal is still held by a process that is ending; after [`SOON`] it is [`PAUSE`].
const MOMENT: Duration = Duration::from_millis(10);
const SOON: Duration = Duration::from_secs(1);
/// How often an attempt under way is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often it is said that the store is away, and how long a moment may last.
const SAY: Duration = Duration::from_secs(30);

/// Patience while a device waits for its volume, as `--on-outage` says.
pub struct Outage {
    policy: OnOutage,
    env: Env,
    /// On the clock of `env`, as `said` is.
    since: Duration,
    said: Option<Duration>,
}

impl Outage {
    /// From now on.
    pub fn new(policy: OnOutage, env: &Env) -> Self {
        Self { policy, env: env.clone(), since: env.clock.now(), said: None }
    }

    fn elapsed_since(&self, then: Duration) -> Duration {
        self.env.clock.now().saturating_sub(then)
    }

    /// Runs one attempt, which may have patience of its own; it is broken off once `store` has not answered for as long as
    /// the policy allows. An attempt that takes long while the store answers is not.
    ///
    /// # Errors
    /// Where it was broken off.
    pub async fn attempt<T>(&self, store: &Store, attempt: impl Future<Output = T>) -> Outcome<T> {
        let OnOutage::FailAfter(limit) = self.policy else { return Ok(attempt.await) };
        let mut attempt = std::pin::pin!(attempt);
        loop {
            tokio::select! {
                done = &mut attempt => return Ok(done),
                () = self.env.clock.sleep(LOOK) => {}
            }
            let health = store.health();
            let since =
                health.outage.map(|o| Duration::from_millis(self.env.clock.wall_ms().saturating_sub(o.since_wall_ms)));
            if since.is_some_and(|lasted| lasted >= limit) {
                let last = health.last_error.map_or_else(|| "it does not answer".into(), |e| e.message);
                return Err(self.over(Failure::new(Exit::Store, store.url(), last), limit));
            }
        }
    }

    fn over(&self, why: Failure, limit: Duration) -> Failure {
        let policy = format!("{why}; --on-outage says to fail after {}", humantime::format_duration(limit));
        Failure::new(why.exit(), "recovery", policy)
    }

    /// Waits for the next try after `why`.
    ///
    /// # Errors
    /// Where the policy says that requests fail now.
    pub async fn wait(&mut self, why: Failure) -> Outcome {
        if let OnOutage::FailAfter(limit) = self.policy
            && self.elapsed_since(self.since) >= limit
        {
            return Err(self.over(why, limit));
        }
        if self.said.is_none_or(|at| self.elapsed_since(at) >= SAY) {
            self.said = Some(self.env.clock.now());
            tracing::warn!("{why}; the device waits until the store answers");
        }
        self.env.clock.sleep(PAUSE).await;
        Ok(())
    }

    /// Waits for a process that is about to end, or for an opening that landed late.
    ///
    /// # Errors
    /// `why`, after half a minute.
    pub async fn moment(&mut self, why: Failure) -> Outcome {
        let elapsed = self.elapsed_since(self.since);
        if elapsed >= SAY {
            return Err(why);
        }
        self.env.clock.sleep(if elapsed < SOON { MOMENT } else { PAUSE }).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::timeline::Timeline;

    #[test]
    fn patience_is_as_long_as_the_policy() {
        let time = Timeline::default();
        let env = time.env();
        let why = || Failure::new(Exit::Store, "volume v", "no answer");
        time.run(async {
            let mut forever = Outage::new(OnOutage::Wait, &env);
            for _ in 0..1000 {
                forever.wait(why()).await.unwrap();
            }
            let mut short = Outage::new(OnOutage::FailAfter(Duration::from_secs(5)), &env);
            let mut tries = 0;
            let failure = loop {
                match short.wait(why()).await {
                    Ok(()) => tries += 1,
                    Err(failure) => break failure,
                }
            };
            assert_eq!((tries, failure.exit()), (5, Exit::Store));
            assert!(failure.to_string().contains("fail after 5s"), "{failure}");
            let mut moment = Outage::new(OnOutage::Wait, &env);
            let started = env.clock.now();
            let mut tries = 0;
            while moment.moment(why()).await.is_ok() {
                tries += 1;
            }
            assert_eq!(tries, 129);
            assert_eq!((env.clock.now() - started).as_secs(), 30);
        });
    }
}
