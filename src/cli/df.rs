//! `esker df`: what volumes take in the store.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::failure::{Doing, Exit, Failure, Outcome};
use super::output::{self, print_json, table};
use super::password::PasswordArgs;
use super::process::named_volumes;
use super::running::{Running, running};
use super::size::show_size;
use super::space::{Space, space_of};
use super::store_args::{StoreArgs, open_pool};
use crate::env::Env;

/// Show what volumes take in the store, and what of it they need
///
/// Without a URL: the volumes that processes of this user hold on this host, as these say. With one: the volumes of that
/// pool; those that nobody holds here are looked up in the store, which reads their maps and may take a while.
///
/// WRITTEN is what blocks of the volume hold; LIVE what that takes in the store, with the map; NEW what came after the newest
/// checkpoint, which everything else is as of: how much of it is needed is counted then; OVERHEAD what segments take besides;
/// GARBAGE what lies between the live and goes by compaction; DEAD whole objects that wait to be deleted; STORED all of these.
/// COMPR is written by live, AMP (space amplification) stored by live and new. Openings and seals are not counted.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker df\n  \
    esker df s3://bucket/pool\n  \
    esker df s3://bucket/pool data --json | jq '.[0].space_amplification'")]
pub struct DfArgs {
    /// The pool; by default what is attached here
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// One volume of it; by default all
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    password: PasswordArgs,
    /// Control socket of the server to ask, where it does not lie in the usual directory
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

const HEADING: [&str; 12] =
    ["VOLUME", "SIZE", "WRITTEN", "LIVE", "NEW", "OVERHEAD", "GARBAGE", "DEAD", "STORED", "OBJECTS", "COMPR", "AMP"];

/// A line of the answer.
struct Row {
    url: String,
    name: String,
    size: u64,
    here: bool,
    /// `None` where its owner has not read the accounts yet.
    space: Option<Space>,
}

impl Row {
    fn of_running(r: &Running) -> Self {
        let size = r.status["size"].as_u64().unwrap_or(0);
        Self { url: r.url.clone(), name: r.name.clone(), size, here: true, space: Space::of_status(&r.status) }
    }

    fn to_json(&self) -> Value {
        let mut row = json!({ "volume": self.name, "url": self.url, "size": self.size, "attached_here": self.here });
        let space = self.space.map_or(Value::Null, Space::to_json);
        if let (Some(fields), Value::Object(space)) = (row.as_object_mut(), space) {
            fields.extend(space);
        }
        row
    }

    fn cells(&self) -> [String; 12] {
        let unknown = || std::array::from_fn(|_| "-".to_owned());
        let [a, b, c, d, e, f, g, h, i, j] = self.space.map_or_else(unknown, |s| s.cells());
        [self.name.clone(), show_size(self.size), a, b, c, d, e, f, g, h, i, j]
    }
}

pub async fn run(args: DfArgs, env: Env) -> Outcome {
    let here = running(args.control.as_deref()).await?;
    let rows = match &args.url {
        None => here.iter().map(Row::of_running).collect(),
        Some(url) => of_pool(url, &args, &here, &env).await?,
    };
    if args.json {
        return print_json(&rows.iter().map(Row::to_json).collect());
    }
    if rows.is_empty() && args.url.is_none() {
        let why = "no volume is attached by this user here; name a pool to look into the store";
        return Err(Failure::new(Exit::NotFound, "df", why));
    }
    let heading = HEADING.map(str::to_owned);
    let rows: Vec<_> = [heading].into_iter().chain(rows.iter().map(Row::cells)).collect();
    output::bytes(table(&rows).as_bytes())
}

async fn of_pool(url: &str, args: &DfArgs, here: &[Running], env: &Env) -> Outcome<Vec<Row>> {
    let pool = open_pool(url, &args.store, &args.password, env).await?;
    let records = match &args.volume {
        Some(name) => named_volumes(&pool, std::slice::from_ref(name)).await?,
        None => pool.volumes().await.doing(url)?,
    };
    let id = pool.id_hex();
    let mut rows = Vec::with_capacity(records.len());
    for record in records {
        let space = space_of(&pool, &record.name, here, env).await?;
        let attached = here.iter().any(|r| r.pool == id && r.name == record.name);
        rows.push(Row { url: url.to_owned(), name: record.name, size: record.size, here: attached, space });
    }
    Ok(rows)
}
