//! A store, and hosts that share it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use esker_testkit::served::{Site, VOLUME, VOLUME_SIZE, program};
use esker_testkit::{S3d, S3dOptions};

pub use esker_testkit::served::{Daemon, Host};

/// A store with a pool in it.
pub struct World {
    pub dir: tempfile::TempDir,
    s3: Option<S3d>,
    address: Option<SocketAddr>,
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
        let size = VOLUME_SIZE.to_string();
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

    #[track_caller]
    fn ok(&self, args: &[&str]) {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    /// Looks for damage, beside whoever is at work.
    #[track_caller]
    pub fn scrub(&self) {
        self.ok(&["scrub", &self.url()]);
    }

    /// A machine that can reach the store.
    pub fn host(&self, name: &str) -> Host {
        Host::new(self.dir.path(), name)
    }

    /// The files of the volume's newest epoch in s3d's directory, in order.
    pub fn log_files(&self) -> Vec<PathBuf> {
        let log = self.store().object_path("esker", "pool/log/00000001").unwrap();
        sorted(&sorted(&log)[0])
    }
}

impl Site for World {
    fn url(&self) -> String {
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
        let mut command = program(Path::new(env!("CARGO_BIN_EXE_esker")), args);
        command.env("ESKER_PASSWORD", "secret");
        if let Some(s3) = &self.s3 {
            command.envs(s3.env());
        }
        if self.on_s3() {
            command.arg("--allow-http");
        }
        command
    }
}

fn sorted(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| !p.file_name().unwrap().to_string_lossy().starts_with('.'));
    all.sort();
    all
}
