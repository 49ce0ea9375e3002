//! Runs the built binary in surroundings of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A directory for a pool and everything else, and one on tmpfs for the journal.
pub struct World {
    pub dir: tempfile::TempDir,
    journal: tempfile::TempDir,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

impl World {
    pub fn new() -> Self {
        let journal = tempfile::Builder::new().prefix("esker-test").tempdir_in("/dev/shm").unwrap();
        Self { dir: tempfile::tempdir().unwrap(), journal }
    }

    /// With a pool whose password is `secret`.
    pub fn with_pool() -> Self {
        let w = Self::new();
        let made = w.ok(&["format", &w.url(), "--json"]).json();
        assert_eq!(made["pool"].as_str().unwrap().len(), 32);
        w
    }

    pub fn url(&self) -> String {
        format!("file://{}/pool", self.dir.path().display())
    }

    pub fn subdir(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd.sock")
    }

    pub fn control(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        self.prepare(Command::new(env!("CARGO_BIN_EXE_esker")), args)
    }

    /// In a session of its own, so that there is no terminal to ask for a password on.
    pub fn command_without_terminal(&self, args: &[&str]) -> Command {
        let mut command = Command::new("setsid");
        command.args(["--wait", env!("CARGO_BIN_EXE_esker")]);
        self.prepare(command, args)
    }

    fn prepare(&self, mut command: Command, args: &[&str]) -> Command {
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["AWS_", "ESKER_", "XDG_", "CREDENTIALS_"].iter().any(|p| text.starts_with(p)) {
                command.env_remove(&name);
            }
        }
        command.env("ESKER_PASSWORD", "secret");
        command
    }

    pub fn run(&self, command: &mut Command) -> Ran {
        Ran::of(command.output().unwrap())
    }

    pub fn esker(&self, args: &[impl AsRef<str>]) -> Ran {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        self.run(&mut self.command(&args))
    }

    #[track_caller]
    pub fn ok(&self, args: &[impl AsRef<str>]) -> Ran {
        self.esker(args).succeeded()
    }

    /// The arguments, with journal and state directories of this world.
    pub fn with_dirs(&self, args: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = args.iter().map(|a| (*a).to_string()).collect();
        let (journal, state) = (self.journal.path().join("ring"), self.dir.path().join("state"));
        all.extend(["--journal-dir".into(), journal.display().to_string()]);
        all.extend(["--state-dir".into(), state.display().to_string()]);
        all
    }

    /// A `serve` command line that touches nothing outside this world.
    pub fn serve_args(&self, args: &[&str]) -> Vec<String> {
        let mut all = self.with_dirs(&[&["serve"], args].concat());
        let mut add = |flag: &str, value: String| {
            if !args.contains(&flag) {
                all.extend([flag.to_string(), value]);
            }
        };
        add("--unix", self.socket().display().to_string());
        add("--control", self.control().display().to_string());
        add("--journal-size", "16M".into());
        all
    }

    /// A second server of the same host with the same journal directory and sockets in `dir`; it is expected to fail.
    pub fn serve_elsewhere(&self, dir: &Path, args: &[&str]) -> Ran {
        let (unix, control) = (dir.join("nbd").display().to_string(), dir.join("control").display().to_string());
        let more = ["--unix", &unix, "--control", &control];
        self.esker(&self.serve_args(&[args, &more].concat()))
    }

    /// Starts a server and waits until it is ready.
    pub fn serve(&self, args: &[&str]) -> Served {
        let args = self.serve_args(args);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut child = self.command(&args).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().map(Result::unwrap);
        let mut served = Served { child: Some(child), ready: Vec::new() };
        match first {
            Some(line) => served.ready.push(line),
            None => panic!("the server did not become ready: {}", served.stderr()),
        }
        // All are written before it answers on the control socket; what follows must come at once.
        let (tx, rx) = std::sync::mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).for_each(|l| drop(tx.send(l))));
        while let Ok(line) = rx.recv_timeout(Duration::from_millis(300)) {
            served.ready.push(line);
        }
        served
    }
}

/// A running server; killed when dropped.
pub struct Served {
    child: Option<Child>,
    pub ready: Vec<String>,
}

impl Served {
    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = self.child.as_mut().and_then(|c| c.stderr.as_mut()) {
            stderr.read_to_string(&mut text).unwrap();
        }
        text
    }

    /// kill -9.
    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let id = self.child.as_ref().unwrap().id();
        let pid = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Whether it ended by now.
    pub fn ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Its exit code and what it logged; it must end within a minute.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        while !self.ended() {
            assert!(start.elapsed() < Duration::from_secs(60), "the server does not stop");
            thread::sleep(Duration::from_millis(10));
        }
        let stderr = self.stderr();
        let code = self.child.take().unwrap().wait().unwrap().code();
        (code, stderr)
    }

    /// SIGTERM, and a clean end.
    #[track_caller]
    pub fn stop(self) {
        self.terminate();
        let (code, stderr) = self.wait();
        assert_eq!(code, Some(0), "{stderr}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
