//! Processes that do for a daemon what may wait for the daemon itself: see [`crate::cli::device`].

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::cli::device::Job;
use crate::cli::devices::blocking;
use crate::cli::failure::{Doing, Exit, Failure, Outcome};

/// Most of what a helper says that is read, in bytes: a line.
const MAX_SAID: u64 = 4096;
/// How often a helper's end is looked for.
const OFTEN: Duration = Duration::from_millis(5);
const SELDOM: Duration = Duration::from_millis(200);

/// A helper at work. Dropping it does not end it: one that waits in the kernel cannot be ended.
pub struct Helper {
    work: JoinHandle<Outcome>,
}

impl Helper {
    /// Starts `job` on the disk called `name`.
    pub fn begin(job: Job, name: String) -> Self {
        Self { work: tokio::spawn(work(job, name)) }
    }

    /// Its outcome; `None` where there is none within `limit`. It can be asked again.
    pub async fn within(&mut self, limit: Duration) -> Option<Outcome> {
        timeout(limit, self.outcome()).await.ok()
    }

    /// Its outcome, however long it takes.
    pub async fn outcome(&mut self) -> Outcome {
        (&mut self.work).await.unwrap_or_else(|e| Err(Failure::plain("a helper", e)))
    }
}

async fn work(job: Job, name: String) -> Outcome {
    let (word, disk) = (word_of(job), name.clone());
    // Nothing of this process goes along: descriptors are closed by exec, and no secret is in the environment.
    let mut child = blocking("a helper", move || {
        let mut command = Command::new("/proc/self/exe");
        command.args(["device", &word, &disk]).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().doing("starting a helper")
    })
    .await?;
    let mut pause = OFTEN;
    loop {
        if let Some(status) = child.try_wait().doing("waiting for a helper")? {
            return if status.success() { Ok(()) } else { Err(failure(&name, status.code(), &mut child)) };
        }
        sleep(pause).await;
        pause = (pause * 2).min(SELDOM);
    }
}

fn word_of(job: Job) -> String {
    job.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

fn failure(name: &str, code: Option<i32>, child: &mut Child) -> Failure {
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take()
        && let Err(e) = stderr.take(MAX_SAID).read_to_string(&mut said)
    {
        said = e.to_string();
    }
    let said = said.trim().trim_start_matches("esker: ");
    let why = said.strip_prefix(&format!("{name}: ")).unwrap_or(said);
    let exit = code.and_then(|c| u8::try_from(c).ok()).map_or(Exit::Failure, Exit::of_code);
    Failure::new(exit, name, if why.is_empty() { "a helper process ended without a word" } else { why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_have_words() {
        let words: Vec<_> = Job::value_variants().iter().map(|j| word_of(*j)).collect();
        assert_eq!(words, ["look", "sync", "stop-unused", "stop", "delete"]);
    }
}
