//! A machine: its identity, its journal and its state.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;

use super::Site;
use super::daemon::{Daemon, Ran};
use super::load::VOLUME;

/// A machine that can reach the store.
pub struct Host {
    /// Its files: identity, state, and a directory for each server that ran.
    pub dir: PathBuf,
    journal: PathBuf,
    /// Kept for as long as the host is.
    #[allow(dead_code)]
    temporary: Option<TempDir>,
}

impl Host {
    /// A machine below `dir`, with a journal of its own in memory.
    pub fn new(dir: &Path, name: &str) -> Self {
        let temporary = tempfile::Builder::new().prefix("esker-host").tempdir_in("/dev/shm").unwrap();
        let mut host = Self::with_journal(dir, name, temporary.path());
        host.temporary = Some(temporary);
        host
    }

    /// A machine below `dir`, whose journal lies in `journal`, a directory on a tmpfs.
    pub fn with_journal(dir: &Path, name: &str, journal: &Path) -> Self {
        let host = Self { dir: dir.join(name), journal: journal.join("rings"), temporary: None };
        fs::create_dir_all(host.root().join("etc")).unwrap();
        let digits = name.bytes().map(|b| format!("{b:02x}")).collect::<String>();
        fs::write(host.root().join("etc/machine-id"), format!("{digits:0>32}\n")).unwrap();
        host.boot(1);
        host
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Boot number `n`; the journal stays unless it is lost too.
    pub fn boot(&self, n: u64) {
        let random = self.root().join("proc/sys/kernel/random");
        fs::create_dir_all(&random).unwrap();
        fs::write(random.join("boot_id"), format!("0d1d5a0e-1f7b-4d2b-9c55-{n:012x}\n")).unwrap();
    }

    /// Where its journals are.
    pub fn journal_dir(&self) -> &Path {
        &self.journal
    }

    /// Files in the journal's directory with this extension, in order.
    pub fn journals(&self, extension: &str) -> Vec<PathBuf> {
        let Ok(all) = fs::read_dir(&self.journal) else { return Vec::new() };
        let mut all: Vec<_> = all.map(|e| e.unwrap().path()).collect();
        all.retain(|p| p.extension().is_some_and(|e| e == extension));
        all.sort();
        all
    }

    /// The journals are gone.
    ///
    /// # Panics
    /// There is none.
    pub fn lose_journals(&self) {
        let rings = self.journals("ring");
        assert!(!rings.is_empty(), "there is nothing to lose");
        rings.iter().for_each(|r| fs::remove_file(r).unwrap());
    }

    /// Starts a server, and does not wait for it. `more` are volumes and flags; without a volume it is [`VOLUME`].
    pub fn start(&self, site: &impl Site, more: &[&str]) -> Daemon {
        let n = fs::read_dir(&self.dir).unwrap().count();
        let run = self.dir.join(format!("run{n}"));
        fs::create_dir_all(&run).unwrap();
        let path = |name: &str| run.join(name).display().to_string();
        let (journal, state) = (self.journal.display().to_string(), self.dir.join("state").display().to_string());
        let (unix, control, url) = (path("nbd"), path("control"), site.url());
        let dirs = ["--journal-dir", &journal, "--state-dir", &state, "--unix", &unix, "--control", &control];
        let mut args = [&["serve", &url], &dirs[..], more].concat();
        if !more.contains(&"--journal-size") {
            args.extend(["--journal-size", "32M"]);
        }
        if more.iter().all(|m| m.starts_with('-')) || more.first().is_some_and(|m| m.starts_with('-')) {
            args.push(VOLUME);
        }
        let mut command = site.command(&args);
        command.env("ESKER_HOST_ROOT", self.root());
        let log = run.join("stderr");
        command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        Daemon::new(command.spawn().unwrap(), run.join("nbd"), log)
    }

    /// Starts a server and waits until it is ready.
    ///
    /// # Panics
    /// It does not get ready.
    #[track_caller]
    pub fn serve(&self, site: &impl Site, more: &[&str]) -> Daemon {
        let mut daemon = self.start(site, more);
        assert!(daemon.is_ready(), "the server does not get ready: {}", daemon.stderr());
        daemon
    }

    /// A server that is expected to fail.
    ///
    /// # Panics
    /// It gets ready.
    #[track_caller]
    pub fn refused(&self, site: &impl Site, more: &[&str]) -> Ran {
        let mut daemon = self.start(site, more);
        assert!(!daemon.is_ready(), "the server gets ready: {}", daemon.stderr());
        daemon.wait()
    }
}
