//! A store, hosts that share it, and servers on them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use esker_testkit::{NbdClient, S3d, S3dOptions};
use rustix::process::{Pid, Signal, kill_process};

/// The volume of most tests.
pub const VOLUME: &str = "v";
/// Its size: small, so that writes meet each other.
pub const SIZE: u64 = 16 << 20;
/// Longer than anything here takes, on a machine that is busy with something else.
const LIMIT: Duration = Duration::from_secs(90);

/// A store with a pool in it.
pub struct World {
    pub dir: tempfile::TempDir,
    s3: Option<S3d>,
    address: Option<SocketAddr>,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stderr: String,
}

impl Ran {
    #[track_caller]
    pub fn failed(&self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(words), "{words:?} is not said: {self:?}");
    }
}

impl World {
    /// On s3d, with the volume [`VOLUME`].
    pub fn s3() -> Self {
        let mut world = Self { dir: tempfile::tempdir().unwrap(), s3: None, address: None };
        world.start_store();
        world.with_pool()
    }

    /// On a directory.
    pub fn file() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), s3: None, address: None }.with_pool()
    }

    fn with_pool(self) -> Self {
        self.ok(&["format", &self.url()]);
        self.create_volume(VOLUME, &[]);
        self
    }

    pub fn create_volume(&self, name: &str, more: &[&str]) {
        let size = SIZE.to_string();
        self.ok(&[&["volume", "create", &self.url(), name, "--size", &size], more].concat());
    }

    /// Starts the store, again at its address.
    pub fn start_store(&mut self) {
        let listen = self.address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let dir = Some(self.dir.path().join("store"));
        fs::create_dir_all(self.dir.path().join("store")).unwrap();
        let s3 = S3d::start(S3dOptions { dir, listen, ..S3dOptions::default() }).unwrap();
        self.address = Some(s3.address());
        self.s3 = Some(s3);
    }

    /// The store is gone, with all that was under way.
    pub fn stop_store(&mut self) {
        self.s3.take().unwrap().stop();
    }

    pub fn store(&self) -> &S3d {
        self.s3.as_ref().unwrap()
    }

    pub fn on_s3(&self) -> bool {
        self.address.is_some()
    }

    pub fn url(&self) -> String {
        match self.address {
            Some(_) => "s3://esker/pool".into(),
            None => {
                let dir = self.dir.path().join("pool");
                fs::create_dir_all(&dir).unwrap();
                format!("file://{}", dir.display())
            }
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esker"));
        command.args(args).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["AWS_", "ESKER_", "XDG_", "CREDENTIALS_"].iter().any(|p| text.starts_with(p)) {
                command.env_remove(&name);
            }
        }
        command.env("ESKER_PASSWORD", "secret");
        if let Some(s3) = &self.s3 {
            command.envs(s3.env());
        }
        command
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    /// A machine that can reach the store.
    pub fn host(&self, name: &str) -> Host {
        let host = Host {
            dir: self.dir.path().join(name),
            journal: tempfile::Builder::new().prefix("esker-crash").tempdir_in("/dev/shm").unwrap(),
        };
        fs::create_dir_all(host.root().join("etc")).unwrap();
        let digits = name.bytes().map(|b| format!("{b:02x}")).collect::<String>();
        fs::write(host.root().join("etc/machine-id"), format!("{digits:0>32}\n")).unwrap();
        host.boot(1);
        host
    }

    /// The files of the volume's newest epoch in s3d's directory, in order.
    pub fn log_files(&self) -> Vec<PathBuf> {
        let log = self.store().object_path("esker", "pool/log/00000001").unwrap();
        sorted(&sorted(&log)[0])
    }
}

fn sorted(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| !p.file_name().unwrap().to_string_lossy().starts_with('.'));
    all.sort();
    all
}

/// A machine: its identity, its journal and its state.
pub struct Host {
    pub dir: PathBuf,
    journal: tempfile::TempDir,
}

impl Host {
    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Boot number `n`; the journal stays unless it is lost too.
    pub fn boot(&self, n: u64) {
        let random = self.root().join("proc/sys/kernel/random");
        fs::create_dir_all(&random).unwrap();
        fs::write(random.join("boot_id"), format!("0d1d5a0e-1f7b-4d2b-9c55-{n:012x}\n")).unwrap();
    }

    pub fn journal_dir(&self) -> PathBuf {
        self.journal.path().join("rings")
    }

    /// Files in the journal's directory with this extension.
    pub fn journals(&self, extension: &str) -> Vec<PathBuf> {
        let mut all = sorted(&self.journal_dir());
        all.retain(|p| p.extension().is_some_and(|e| e == extension));
        all
    }

    /// The journals are gone.
    pub fn lose_journals(&self) {
        let rings = self.journals("ring");
        assert!(!rings.is_empty(), "there is nothing to lose");
        rings.iter().for_each(|r| fs::remove_file(r).unwrap());
    }

    /// Starts a server, and does not wait for it. `more` are volumes and flags.
    pub fn start(&self, world: &World, more: &[&str]) -> Daemon {
        let n = fs::read_dir(&self.dir).unwrap().count();
        let run = self.dir.join(format!("run{n}"));
        fs::create_dir_all(&run).unwrap();
        let path = |name: &str| run.join(name).display().to_string();
        let (journal, state) = (self.journal_dir().display().to_string(), self.dir.join("state").display().to_string());
        let (unix, control, url) = (path("nbd"), path("control"), world.url());
        let dirs = ["--journal-dir", &journal, "--state-dir", &state, "--unix", &unix, "--control", &control];
        let mut args = [&["serve", &url], &dirs[..], more].concat();
        if !more.contains(&"--journal-size") {
            args.extend(["--journal-size", "32M"]);
        }
        if more.iter().all(|m| m.starts_with('-')) || more.first().is_some_and(|m| m.starts_with('-')) {
            args.push(VOLUME);
        }
        let mut command = world.command(&args);
        command.env("ESKER_HOST_ROOT", self.root());
        let log = run.join("stderr");
        command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take();
        Daemon { child, out, socket: run.join("nbd"), log }
    }

    /// Starts a server and waits until it is ready.
    #[track_caller]
    pub fn serve(&self, world: &World, more: &[&str]) -> Daemon {
        let mut daemon = self.start(world, more);
        assert!(daemon.is_ready(), "the server does not get ready: {}", daemon.stderr());
        daemon
    }

    /// A server that is expected to fail.
    #[track_caller]
    pub fn refused(&self, world: &World, more: &[&str]) -> Ran {
        let mut daemon = self.start(world, more);
        assert!(!daemon.is_ready(), "the server gets ready: {}", daemon.stderr());
        daemon.wait()
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
    /// Waits until it is ready, or has ended instead.
    pub fn is_ready(&mut self) -> bool {
        let Some(out) = self.out.take() else { return true };
        let (told, ready) = channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(out).lines().map_while(Result::ok);
            let first = lines.next();
            drop(told.send(first.is_some_and(|line| line.starts_with("ready: "))));
            // Nobody may be left waiting for the pipe.
            lines.for_each(drop);
        });
        ready.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("neither ready nor ended: {}", self.stderr()))
    }

    #[track_caller]
    pub fn connect(&self) -> NbdClient {
        self.connect_to(VOLUME)
    }

    #[track_caller]
    pub fn connect_to(&self, export: &str) -> NbdClient {
        NbdClient::connect(&self.socket, export).unwrap_or_else(|e| panic!("{e}: {}", self.stderr()))
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// SIGSTOP, and until it has taken hold of every thread.
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

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// kill -9, and until it is gone.
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
    #[track_caller]
    pub fn stop(self) {
        let ran = self.terminate();
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }

    /// How it ends.
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
