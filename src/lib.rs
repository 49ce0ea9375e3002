//! esker: an S3-compatible bucket as a Linux block device.
//!
//! Which room is which, from the bottom up; arrows of `use` point down only (tests/tidy.rs checks it):
//!
//! | room | what it is about |
//! | --- | --- |
//! | [`cli`] | the command line, one file per subcommand |
//! | [`ublk`] | a volume as `/dev/ublkbN`: the ublk target |
//! | [`host`] | what a daemon asks of Linux: memory, reclaim, backing devices, control socket |
//! | [`scrub`] | looking for damage in a pool |
//! | [`volume`] | the engine: attach, write, flush, read; implements [`esker_block::BlockDevice`] |
//! | [`compact`] | what compaction does next: a choice, made from the accounts |
//! | [`map`] | extent to records: the radix tree, checkpoints |
//! | [`journal`] | the RAM ring of acknowledged writes |
//! | [`cache`] | decrypted pieces in memory |
//! | [`segment`] | the format of segments, records, openings and seals |
//! | [`pool`] | pool record, key slots, keys, sealing, the volume catalogue |
//! | [`store`] | object store access: URLs, probe, frozen puts, retries, accounting |
//! | [`mod@env`], [`env_tokio`], [`wire`] | clock, randomness, threads, and the real ones; fields of bytes |
//! | [`probe`] | bugs to plant and branches to count, for the simulator; empty in release builds |
//! | [`mod@sync`] | locks and atomics, as models of schedules replace them |

pub mod cache;
pub mod cli;
pub mod compact;
pub mod env;
pub mod env_tokio;
pub mod host;
pub mod journal;
pub mod map;
pub mod pool;
pub mod probe;
pub mod scrub;
pub mod segment;
pub mod store;
pub mod sync;
pub mod ublk;
pub mod volume;
pub mod wire;
