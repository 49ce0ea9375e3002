//! Going to the background: a child that does everything, and a parent that waits until it is ready.
//!
//! The fork comes before the first thread. Until it is ready the child stays in the session, so it can ask for a
//! password, and says what it has to say on the terminal; Ctrl-C reaches it, and if the parent is killed it ends too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process;

use rustix::process::{Pid, Signal, WaitOptions, getppid, set_parent_process_death_signal, setsid, waitpid};

use crate::cli::failure::{Doing, Failure, Outcome};
use crate::cli::process::Stderr;

/// A log that has grown beyond this is begun anew.
const MAX_LOG: u64 = 1 << 20;
/// What the child tells the parent once it serves.
const READY: u8 = b'r';

/// The child's way to say that it is ready.
pub struct Report {
    parent: PipeWriter,
    /// Nothing, and the log.
    files: Option<(File, File)>,
}

/// Forks. Returns in the child only; the parent waits for its report and ends with its exit code.
///
/// # Errors
/// Where there can be no child.
pub fn go() -> Outcome<Report> {
    let (reader, writer) = io::pipe().doing("going to the background")?;
    let parent = rustix::process::getpid();
    // Safety: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(Failure::plain("going to the background", io::Error::last_os_error())),
        0 => {
            drop(reader);
            set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from).doing("prctl")?;
            // It may have died before we asked to be told.
            if getppid() != Some(parent) {
                return Err(Failure::plain("attach", "the process that started this one is gone"));
            }
            Ok(Report { parent: writer, files: None })
        }
        child => {
            drop(writer);
            wait_for(child, reader)
        }
    }
}

/// Ends this process as the child says, or as it ended.
fn wait_for(child: i32, mut report: PipeReader) -> ! {
    // Ctrl-C is the child's to answer: what it says then is our exit code.
    // Safety: no handler is installed, the signal is ignored.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    let mut byte = [0];
    if matches!(report.read(&mut byte), Ok(1)) && byte[0] == READY {
        process::exit(0);
    }
    let status = Pid::from_raw(child).map(|pid| waitpid(Some(pid), WaitOptions::empty()));
    let code = match status {
        Some(Ok(Some((_, status)))) => {
            if let Some(signal) = status.terminating_signal() {
                let text = format!("attach: the process in the background was ended by signal {signal}");
                drop(writeln!(Stderr, "esker: {text}"));
            }
            status.exit_status().unwrap_or(1)
        }
        _ => 1,
    };
    process::exit(code);
}

impl Report {
    /// Opens what is needed once it serves: from then on nothing may fail any more.
    ///
    /// # Errors
    /// Where the log cannot be opened.
    pub fn log_to(&mut self, log: &Path) -> io::Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        self.files = Some((null, open_log(log)?));
        Ok(())
    }

    /// Lets go of the session and its terminal, logs to the log from now on, and tells the parent. A step that is refused
    /// is no reason not to serve.
    pub fn ready(mut self) {
        let steps = [
            ("prctl", set_parent_process_death_signal(None).map_err(io::Error::from)),
            ("a session of its own", setsid().map(drop).map_err(io::Error::from)),
            ("leaving the working directory", std::env::set_current_dir("/")),
        ];
        for (step, outcome) in steps {
            if let Err(e) = outcome {
                tracing::warn!("going to the background: {step}: {e}");
            }
        }
        if let Some((null, log)) = &self.files {
            replace(null, 0);
            // What systemd reads of us it goes on reading.
            if std::env::var_os("JOURNAL_STREAM").is_none() {
                replace(log, 2);
            }
            replace(null, 1);
        }
        if let Err(e) = self.parent.write_all(&[READY]) {
            tracing::warn!("the process that started this one is gone: {e}");
        }
    }
}

fn replace(with: &File, fd: i32) {
    // Safety: both are open descriptors.
    if unsafe { libc::dup2(with.as_raw_fd(), fd) } == -1 {
        tracing::warn!("going to the background: descriptor {fd}: {}", io::Error::last_os_error());
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    let long = fs::metadata(path).is_ok_and(|m| m.len() > MAX_LOG);
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    if long {
        log.set_len(0)?;
    }
    Ok(log)
}

/// Begins the log of a process in the background anew if it has grown too long; it is stderr. Lines are appended, so
/// nothing is torn.
pub fn bound_log() {
    // Safety: 2 stays open for the life of the process.
    let stderr = unsafe { BorrowedFd::borrow_raw(2) };
    let regular = |s: &rustix::fs::Stat| rustix::fs::FileType::from_raw_mode(s.st_mode).is_file();
    let long = rustix::fs::fstat(stderr)
        .is_ok_and(|s| regular(&s) && u64::try_from(s.st_size).is_ok_and(|n| n > 16 * MAX_LOG));
    if long && let Err(e) = rustix::fs::ftruncate(stderr, 0) {
        tracing::warn!("the log cannot be begun anew: {e}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_long_log_is_begun_anew_and_a_short_one_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.log");
        open_log(&path).unwrap().write_all(b"one\n").unwrap();
        open_log(&path).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        fs::write(&path, vec![b'x'; MAX_LOG as usize + 1]).unwrap();
        open_log(&path).unwrap().write_all(b"three\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three\n");
    }
}
