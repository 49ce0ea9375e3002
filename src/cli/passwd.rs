//! `esker passwd`: changes a pool's password.

use std::path::PathBuf;

use clap::Args;

use super::failure::{Doing, Outcome};
use super::store_args::PoolArgs;
use super::{output, password};
use crate::env::Env;

/// Change the password of a pool
///
/// The data is not touched: the password wraps the pool's key, and only the wrapping changes. Somebody who had the old
/// password and a copy of the bucket from that time can still read that copy.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker passwd s3://bucket/pool\n  \
    esker passwd file:///srv/pool --password-file old.txt --new-password-file new.txt")]
pub struct PasswdArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// File that holds the new password; otherwise it is taken from ESKER_NEW_PASSWORD or asked for
    #[arg(long, value_name = "FILE", help_heading = "Pool")]
    new_password_file: Option<PathBuf>,
}

pub async fn run(args: PasswdArgs, env: Env) -> Outcome {
    let pool = args.pool.open(&env).await?;
    let new = password::replacement(args.new_password_file.as_deref())?;
    pool.change_password(&new, &env).await.doing(&args.pool.url)?;
    output::line(format_args!("the password of pool {} is changed", pool.id_hex()))
}
