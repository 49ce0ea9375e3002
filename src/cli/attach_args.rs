//! The flags of every command that takes hold of a volume.

use std::path::PathBuf;

use clap::Args;

use super::failure::{Doing, Outcome};
use crate::env::Env;
use crate::host::{Dirs, HostIdentity, make_private_dir};
use crate::volume::{AttachOptions, Host};

/// Where this host keeps its part of a volume, and what to do when something stands in the way of taking it.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Directory of the journal, on a tmpfs: acknowledged writes stay there until they are in the store
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    pub journal_dir: Option<PathBuf>,
    /// Directory of what is kept across boots
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    pub state_dir: Option<PathBuf>,
    /// Take the volume although its present writer may be alive; it is fenced off
    #[arg(long, help_heading = "Recovery")]
    pub takeover: bool,
    /// Go on although acknowledged writes in a journal are lost by it
    #[arg(long, help_heading = "Recovery")]
    pub lose_journal: bool,
}

impl AttachArgs {
    /// The directories of this user, or those named; journal and state are made where they are missing.
    pub fn dirs(&self) -> Outcome<Dirs> {
        let mut dirs = Dirs::of_this_user();
        if let Some(dir) = &self.journal_dir {
            dirs.journal.clone_from(dir);
        }
        if let Some(dir) = &self.state_dir {
            dirs.state.clone_from(dir);
        }
        make_private_dir(&dirs.journal).doing("journal directory")?;
        make_private_dir(&dirs.state).doing("state directory")?;
        Ok(dirs)
    }

    /// What the engine is told: who we are, where things lie, what may be done; the rest by default.
    pub fn options(&self, dirs: &Dirs, env: &Env) -> Outcome<AttachOptions> {
        // A host is the same whatever directory a command names, so its own id is kept in the usual place if it can be.
        let usual = Dirs::of_this_user().state;
        let identity = HostIdentity::of_this_host(&usual, env)
            .or_else(|_| HostIdentity::of_this_host(&dirs.state, env))
            .doing("identity of this host")?;
        let host = Host { id: identity.host, boot: identity.boot, name: identity.hostname };
        let mut options = AttachOptions::new(host, dirs.journal.clone(), dirs.state.clone());
        options.takeover = self.takeover;
        options.lose_journal = self.lose_journal;
        Ok(options)
    }
}
