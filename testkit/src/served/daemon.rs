//! A server process, and how it ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::LIMIT;
use super::load::VOLUME;
use crate::nbd::NbdClient;

/// How a process ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it said.
    pub stderr: String,
}

impl Ran {
    /// It ended with this code, and said these words.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(words), "{words:?} is not said: {self:?}");
    }
}

/// A server; killed when dropped.
pub struct Daemon {
    child: Child,
    out: Option<ChildStdout>,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    pub(super) fn new(mut child: Child, socket: PathBuf, log: PathBuf) -> Self {
        let out = child.stdout.take();
        Self { child, out, socket, log }
    }

    /// Waits until it is ready, or has ended instead.
    ///
    /// # Panics
    /// It does neither.
    pub fn is_ready(&mut self) -> bool {
        let Some(out) = self.out.take() else { return true };
        let (told, ready) = channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(out).lines().map_while(Result::ok);
            let first = lines.next();
            let is_ready = first.is_some_and(|line| line.starts_with("ready: "));
            told.send(is_ready).unwrap_or_default(); // nobody waits any more: the test has failed
            // Nobody may be left waiting for the pipe.
            lines.for_each(drop);
        });
        ready.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("neither ready nor ended: {}", self.stderr()))
    }

    /// A client of [`VOLUME`].
    ///
    /// # Panics
    /// There is no connection to be had.
    #[track_caller]
    pub fn connect(&self) -> NbdClient {
        self.connect_to(VOLUME)
    }

    /// A client of this volume.
    ///
    /// # Panics
    /// There is no connection to be had.
    #[track_caller]
    pub fn connect_to(&self, export: &str) -> NbdClient {
        NbdClient::connect(&self.socket, export).unwrap_or_else(|e| panic!("{e}: {}", self.stderr()))
    }

    /// What it has said so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// SIGSTOP, and until it has taken hold of every thread.
    ///
    /// # Panics
    /// It does not stop.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.child.id());
        let start = Instant::now();
        while !fs::read_to_string(&stat).unwrap().contains(") T ") {
            assert!(start.elapsed() < LIMIT, "it does not stop");
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20));
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// kill -9, and until it is gone.
    ///
    /// # Panics
    /// It had ended before.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it had ended before: {status}: {}", self.stderr());
    }

    /// SIGTERM, and how it ends.
    pub fn terminate(self) -> Ran {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// SIGTERM, and a good end.
    ///
    /// # Panics
    /// The end is no good one.
    #[track_caller]
    pub fn stop(self) {
        let ran = self.terminate();
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }

    /// How it ends.
    ///
    /// # Panics
    /// It does not.
    pub fn wait(mut self) -> Ran {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < LIMIT, "the server does not end: {}", self.stderr());
            thread::sleep(Duration::from_millis(5));
        };
        Ran { code: status.code(), stderr: self.stderr() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
