//! `esker format`: makes a pool.

use clap::Args;
use serde_json::json;

use super::failure::{Doing, Outcome};
use super::output::{self, print_json};
use super::store_args::PoolArgs;
use crate::env::Env;
use crate::pool::{Argon2Params, Pool};

/// Make a pool in a bucket prefix or directory
///
/// Checks first that the store can hold one: creating an object that exists must fail, and reading a part of one must
/// be exact. A pool that is already there is left alone. Whoever loses the password loses the data: write it down.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker format s3://bucket/pool\n  \
    esker format file:///srv/pool --password-file /etc/esker/password\n  \
    esker format s3://bucket/pool --endpoint http://127.0.0.1:9000 --allow-http")]
pub struct FormatArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// Print the new pool as JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: FormatArgs, env: Env) -> Outcome {
    let store = args.pool.store.open_or_create(&args.pool.url, &env)?;
    let password = args.pool.password.first()?;
    let pool = Pool::format(store, &password, Argon2Params::default(), &env).await.doing(&args.pool.url)?;
    if args.json {
        return print_json(&json!({ "pool": pool.id_hex(), "url": pool.store().url() }));
    }
    output::line(format_args!("made pool {} at {}", pool.id_hex(), pool.store().url()))?;
    output::line(format_args!("next: esker volume create {} NAME --size 10G", args.pool.url))
}
