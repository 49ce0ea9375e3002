//! The flags of `esker attach`.

use clap::Args;

use super::policy::Wish;
use crate::cli::engine_args::EngineArgs;
use crate::cli::store_args::PoolArgs;
use crate::ublk::{CopyMode, MAX_DEPTH, MAX_QUEUES};

/// Queues where nobody says: more bring nothing.
const MOST_QUEUES: u16 = 4;

/// Attach volumes as block devices, /dev/ublkbN
///
/// Prints the path of each device, a line per volume, once it is ready for I/O. A process in the background serves it from
/// then on; with --foreground this one does.
///
/// If that process dies, the device stays, and whoever uses it waits, without an error: run the same command with
/// --recover. Everything that was acknowledged is there. Where that is not certain, because the journal is gone or the
/// volume was taken over, the device is failed instead (EIO) and removed, with exit code 5.
///
/// SIGTERM and SIGINT write everything back and remove the device. A device that is in use (mounted, swapped to, under
/// another device, open) stays, and waits for --recover. A second signal ends the process at once; the devices wait for
/// --recover.
///
/// --handover replaces the process that serves a device, for an upgrade: requests wait meanwhile. It must name all volumes
/// of that process. If it fails once the old process has let go, the devices wait for --recover.
///
/// /dev/esker/POOL/VOLUME leads to the device; POOL is made from the pool's URL.
///
/// With --nbd the device is /dev/nbdN, through the kernel's NBD client and the program nbd-client; without these the
/// server's address is printed. SIGTERM disconnects it once nobody uses it; if the process dies, its users get EIO.
/// `esker doctor` tells which way this host can go.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker attach s3://bucket/pool data\n  \
    mkfs.ext4 $(esker attach s3://bucket/pool data)\n  \
    esker attach s3://bucket/pool data --recover\n  \
    esker attach s3://bucket/pool data --handover\n  \
    esker attach file:///srv/pool vm1 vm2 --foreground --queues 2\n  \
    esker attach s3://bucket/pool data --nbd")]
pub struct AttachCommand {
    #[command(flatten)]
    pub pool: PoolArgs,
    /// Volumes to attach
    #[arg(value_name = "VOLUME", required = true)]
    pub volumes: Vec<String>,

    /// Hardware queues of each device, a thread each [default: the number of CPUs, 4 at most]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_QUEUES)), help_heading = "Device")]
    pub queues: Option<u16>,
    /// Requests that each queue holds
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_DEPTH)), help_heading = "Device")]
    pub depth: u16,
    /// The N of /dev/ublkbN [default: the one that the volume had last, or any]
    #[arg(long, value_name = "N", help_heading = "Device")]
    pub id: Option<u32>,
    /// How bytes get to and from the kernel: user (UBLK_F_USER_COPY) or kernel [default: user where the kernel can]
    #[arg(long, value_name = "MODE", help_heading = "Device")]
    pub copy: Option<CopyMode>,
    /// Refuse writes
    #[arg(long, help_heading = "Device")]
    pub read_only: bool,
    /// Go on although the kernel lets the device die with this process (without CAP_SYS_ADMIN)
    #[arg(long, help_heading = "Device")]
    pub allow_unrecoverable: bool,

    /// For kernels without ublk: serve over NBD, and make /dev/nbdN of it where the kernel has a client for that. Such a
    /// device ends with its server
    #[arg(long, conflicts_with_all = ["queues", "depth", "id", "copy", "allow_unrecoverable", "handover"], help_heading = "Device")]
    pub nbd: bool,

    /// Serve from this process
    #[arg(long)]
    pub foreground: bool,
    /// Bring back a device whose process died; attach anew where there is none
    #[arg(long, conflicts_with = "handover", help_heading = "Recovery")]
    pub recover: bool,
    /// Take the devices over from the process that serves them
    #[arg(long, help_heading = "Recovery")]
    pub handover: bool,

    #[command(flatten)]
    pub engine: EngineArgs,
}

impl AttachCommand {
    /// What is asked for.
    pub fn wish(&self) -> Wish {
        match (self.recover, self.handover) {
            (_, true) => Wish::Handover,
            (true, false) => Wish::Recover,
            (false, false) => Wish::Attach,
        }
    }

    /// How many queues a device gets.
    pub fn queues(&self) -> u16 {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        self.queues.unwrap_or_else(|| u16::try_from(cpus).unwrap_or(MOST_QUEUES).min(MOST_QUEUES))
    }
}
