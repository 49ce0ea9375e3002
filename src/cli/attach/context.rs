//! What bringing up a device needs, whichever way.

use std::path::PathBuf;
use std::process;

use tokio::runtime::Handle;

use super::args::AttachCommand;
use super::links::label_of;
use crate::env::Env;
use crate::host::{DeviceRecord, Devices, Numbers, Stage, hex16};
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
        }
    }

    /// The options of one attach under the writer's id that is on record.
    pub fn options_of(&self, writer: [u8; 16], resume: Option<Vec<[u8; 16]>>) -> AttachOptions {
        AttachOptions { writer: Some(writer), resume, ..self.options.clone() }
    }

    /// A record for a device that has no number yet.
    pub fn record_of(&self, volume: &VolumeRecord, writer: &[u8; 16]) -> DeviceRecord {
        let url = self.pool.store().url().to_owned();
        DeviceRecord {
            format: self.devices.format(),
            id: 0,
            boot: self.devices.boot().to_owned(),
            instance: None,
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
            pid: process::id(),
            control: self.control.clone(),
            links: Vec::new(),
            arguments: std::env::args().collect(),
            writers: vec![hex16(writer)],
        }
    }
}
