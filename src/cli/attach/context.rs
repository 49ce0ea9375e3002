//! What bringing up a device needs, whichever way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use tokio::runtime::Handle;

use super::args::AttachCommand;
use super::links::label_of;
use super::policy::Asked;
use crate::env::Env;
use crate::host::{DeviceRecord, Devices, Numbers, Stage, hex16, process_start};
use crate::pool::{Pool, VolumeRecord};
use crate::ublk::TargetOptions;
use crate::volume::AttachOptions;

/// The surroundings of all devices of this process.
pub struct Context {
    pub pool: Pool,
    pub options: AttachOptions,
    pub target: TargetOptions,
    pub devices: Devices,
    pub numbers: Numbers,
    pub control: PathBuf,
    /// The journal's directory, where the command line names one.
    pub journal: Option<PathBuf>,
    pub env: Env,
    pub runtime: Handle,
}

impl Context {
    /// What `args` ask for, of devices.
    pub fn target_options(args: &AttachCommand) -> TargetOptions {
        TargetOptions {
            id: args.id,
            queues: args.queues(),
            depth: args.depth,
            copy: args.copy,
            allow_unrecoverable: args.allow_unrecoverable,
            mark: 0,
        }
    }

    /// The options of one attach under the writer's id that is on record: of `resumed`'s record, if a device goes on.
    pub fn options_of(&self, writer: [u8; 16], resumed: Option<&DeviceRecord>) -> AttachOptions {
        let mut options = AttachOptions { writer: Some(writer), ..self.options.clone() };
        if let Some(record) = resumed {
            options.resume = Some(record.writer_ids());
            // Its journal is where it always was; in another directory it would only seem to be lost.
            if let Some(dir) = &record.journal_dir {
                options.journal_dir.clone_from(dir);
            }
        }
        options
    }

    /// Where journals of this process lie.
    pub fn journal_dir(&self) -> PathBuf {
        real_path(&self.options.journal_dir)
    }

    /// What the command line and the catalogue say of the device of `volume`.
    pub fn asked(&self, volume: &VolumeRecord) -> Asked {
        let journal = self.journal.as_deref().map(real_path);
        Asked { read_only: self.options.read_only, size: volume.size, journal }
    }

    /// A record for a device that has no number yet.
    pub fn record_of(&self, volume: &VolumeRecord, writer: &[u8; 16]) -> DeviceRecord {
        let url = self.pool.store().url().to_owned();
        DeviceRecord {
            format: self.devices.format(),
            id: 0,
            boot: self.devices.boot().to_owned(),
            instance: None,
            mark: u64::from_le_bytes(half(self.env.random16())),
            stage: Stage::Starting,
            pool: self.pool.id_hex(),
            label: label_of(&url),
            url,
            volume: volume.name.clone(),
            number: volume.number,
            size: volume.size,
            read_only: self.options.read_only,
            queues: self.target.queues,
            depth: self.target.depth,
            durability: "object".into(),
            journal_dir: Some(self.journal_dir()),
            pid: process::id(),
            started: process_start(process::id()),
            control: self.control.clone(),
            links: Vec::new(),
            arguments: arguments(),
            writers: vec![hex16(writer)],
        }
    }
}

fn half(id: [u8; 16]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = id;
    [a, b, c, d, e, f, g, h]
}

/// This process's command line, for people.
pub fn arguments() -> Vec<String> {
    std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect()
}

/// The same for every way to name a directory that is there.
fn real_path(dir: &Path) -> PathBuf {
    fs::canonicalize(dir).or_else(|_| std::path::absolute(dir)).unwrap_or_else(|_| dir.into())
}
