//! `esker volume`: create, list, show, delete.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::attach_args::AttachArgs;
use super::devices::{devices_below, refuse_attached};
use super::failure::{Doing, Exit, Failure, Outcome};
use super::output::{self, print_json, show_time, table};
use super::running::running;
use super::size::{parse_size, show_size};
use super::space::{Space, space_of};
use super::store_args::PoolArgs;
use crate::env::Env;
use crate::host::hex16;
use crate::pool::{NewVolume, PoolError, VolumeRecord};
use crate::volume;

/// What [`Space::cells`] are.
const SPACE: [&str; 10] = [
    "written",
    "live",
    "new",
    "overhead",
    "garbage",
    "dead",
    "stored",
    "objects",
    "compression ratio",
    "space amplification",
];

/// Create, list, show and delete volumes
#[derive(Debug, Args)]
pub struct VolumeArgs {
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    Create(CreateArgs),
    List(ListArgs),
    Show(ShowArgs),
    Delete(DeleteArgs),
}

/// Create a volume
///
/// It takes no space until something is written to it, so its size may exceed what the bucket holds today.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker volume create s3://bucket/pool data --size 100G\n  \
    esker volume create file:///srv/pool vm1 --size 20G --block-size 512 --compression zstd")]
struct CreateArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// Name: letters, digits, `.`, `_` and `-`, at most 64, the first a letter or digit
    name: String,
    /// Size, a multiple of 4 KiB: 10G is 10 GiB; K, M, G, T, P, E or plain bytes
    #[arg(long, value_parser = parse_size)]
    size: u64,
    /// The sector size that the device shows, in bytes; 512 is for systems that cannot boot from 4096
    #[arg(long, value_name = "BYTES", default_value = "4096", value_parser = ["512", "4096"])]
    block_size: String,
    /// How data is compressed before it is encrypted
    #[arg(long, default_value = "lz4", value_parser = ["lz4", "zstd", "none"])]
    compression: String,
    /// Print the new volume as JSON
    #[arg(long)]
    json: bool,
}

/// List the volumes of a pool
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker volume list s3://bucket/pool\n  \
    esker volume list s3://bucket/pool --json | jq -r '.[].name'")]
struct ListArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Show one volume, and what it takes in the store
///
/// WRITTEN and so on are as `esker df` explains them. Where nobody holds the volume on this host they are looked up in the
/// store, which reads its map and may take a while; --quick leaves them out.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker volume show s3://bucket/pool data\n  \
    esker volume show s3://bucket/pool data --json | jq .size")]
struct ShowArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// The volume
    name: String,
    /// Only what the catalogue says
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Delete a volume
///
/// Takes the volume first, as serving it would, so one that is in use is refused. Its name is free afterwards; its data
/// cannot be had back. A delete that was interrupted is finished by running it again.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker volume delete s3://bucket/pool data\n  \
    esker volume delete s3://bucket/pool data --yes")]
struct DeleteArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// The volume
    name: String,
    #[command(flatten)]
    attach: AttachArgs,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub async fn run(args: VolumeArgs, env: Env) -> Outcome {
    match args.command {
        VolumeCommand::Create(args) => create(args, env).await,
        VolumeCommand::List(args) => list(args, env).await,
        VolumeCommand::Show(args) => show(args, env).await,
        VolumeCommand::Delete(args) => delete(args, env).await,
    }
}

async fn create(args: CreateArgs, env: Env) -> Outcome {
    let new = NewVolume {
        name: args.name.clone(),
        size: args.size,
        block_size: if args.block_size == "512" { 512 } else { 4096 },
        compression: args.compression.parse().map_err(|e| Failure::new(Exit::Usage, "--compression", e))?,
    };
    let pool = args.pool.open(&env).await?;
    let record = pool.create_volume(new, &env).await.doing(format_args!("volume {}", args.name))?;
    if args.json {
        return print_json(&describe(&record));
    }
    output::line(format_args!("made volume {} of {}", record.name, show_size(record.size)))?;
    output::line(format_args!("next: esker attach {} {}", args.pool.url, record.name))
}

async fn list(args: ListArgs, env: Env) -> Outcome {
    let records = args.pool.open(&env).await?.volumes().await.doing(&args.pool.url)?;
    if args.json {
        return print_json(&records.iter().map(describe).collect());
    }
    let heading = ["NAME", "SIZE", "BLOCK", "COMPRESSION", "CREATED"].map(str::to_owned);
    let row = |r: &VolumeRecord| {
        let (block, created) = (r.block_size.to_string(), show_time(r.created_ms));
        [r.name.clone(), show_size(r.size), block, r.compression.to_string(), created]
    };
    output::bytes(table(&[heading].into_iter().chain(records.iter().map(row)).collect::<Vec<_>>()).as_bytes())
}

async fn show(args: ShowArgs, env: Env) -> Outcome {
    let pool = args.pool.open(&env).await?;
    let record = pool.volume(&args.name).await.doing(format_args!("volume {}", args.name))?;
    let space = match args.quick {
        true => None,
        false => space_of(&pool, &record.name, &running(None).await?, &env).await?,
    };
    if args.json {
        let mut shown = describe(&record);
        if let Some(fields) = shown.as_object_mut().filter(|_| !args.quick) {
            fields.insert("space".into(), space.map_or(Value::Null, Space::to_json));
        }
        return print_json(&shown);
    }
    let mut rows = vec![
        ["name".into(), record.name.clone()],
        ["size".into(), format!("{} ({} bytes)", show_size(record.size), record.size)],
        ["block size".into(), record.block_size.to_string()],
        ["compression".into(), record.compression.to_string()],
        ["created".into(), show_time(record.created_ms)],
        ["number".into(), record.number.to_string()],
        ["uuid".into(), hex16(&record.uuid)],
    ];
    if let Some(space) = space {
        rows.extend(SPACE.into_iter().zip(space.cells()).map(|(name, cell)| [name.to_owned(), cell]));
    }
    output::bytes(table(&rows).as_bytes())
}

async fn delete(args: DeleteArgs, env: Env) -> Outcome {
    let what = format!("volume {}", args.name);
    let pool = args.pool.open(&env).await?;
    let record = pool.volume(&args.name).await.doing(&what)?;
    if !args.yes {
        confirm(&record)?;
    }
    let dirs = args.attach.dirs()?;
    refuse_attached(devices_below(&dirs.runtime)?, pool.id_hex(), record.number, &record.name).await?;
    let options = args.attach.options(&dirs, &env)?;
    let progress = ProgressBar::new_spinner();
    let tell = |objects: u64| progress.set_message(format!("{objects} objects deleted"));
    let deleted = volume::delete(&pool, &record, &options, &env, tell).await.doing(&what)?;
    progress.finish_and_clear();
    match pool.delete_volume_record(&record, &env).await {
        // Somebody else deleted the same volume at the same time: it is gone all the same.
        Ok(()) | Err(PoolError::NoSuchVolume(_)) => {}
        other => other.doing(&what)?,
    }
    let (objects, bytes) = (deleted.objects, show_size(deleted.bytes));
    output::line(format_args!("deleted volume {}: {objects} objects, {bytes}", args.name))
}

fn confirm(record: &VolumeRecord) -> Outcome {
    let what = format!("volume {}", record.name);
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, what, "nobody can be asked whether to delete it; pass --yes"));
    }
    eprint!("Delete volume {} of {} and all its data? Type its name: ", record.name, show_size(record.size));
    let mut answer = String::new();
    io::stderr().flush().and_then(|()| io::stdin().lock().read_line(&mut answer)).doing(&what)?;
    if answer.trim() == record.name {
        Ok(())
    } else {
        Err(Failure::plain(what, "that is not its name; nothing was deleted"))
    }
}

fn describe(record: &VolumeRecord) -> Value {
    json!({
        "name": record.name,
        "size": record.size,
        "block_size": record.block_size,
        "compression": record.compression.to_string(),
        "created_ms": record.created_ms,
        "number": record.number,
        "uuid": hex16(&record.uuid),
    })
}
