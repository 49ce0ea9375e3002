//! The flags that say how to reach a store, shared by every command that does.

use clap::Args;

use super::failure::{Doing, Outcome};
use super::password::PasswordArgs;
use crate::env::Env;
use crate::pool::Pool;
use crate::store::{Store, StoreOptions};

/// How to reach the store. Credentials come from the usual variables: AWS_ACCESS_KEY_ID and so on.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The S3 (or Azure) endpoint, for stores other than AWS; by default AWS_ENDPOINT_URL
    #[arg(long, value_name = "URL", help_heading = "Store")]
    pub endpoint: Option<String>,
    /// The S3 region; by default AWS_REGION
    #[arg(long, help_heading = "Store")]
    pub region: Option<String>,
    /// Allow an http:// endpoint: data stays encrypted, but requests can be read and replayed on the way
    #[arg(long, help_heading = "Store")]
    pub allow_http: bool,
}

impl StoreArgs {
    /// Opens the store at `url`; no request is sent.
    pub fn open(&self, url: &str, env: &Env) -> Outcome<Store> {
        self.open_with(url, false, env)
    }

    /// Opens the store at `url`; the directory of a `file://` store is made where it is missing.
    pub fn open_or_create(&self, url: &str, env: &Env) -> Outcome<Store> {
        self.open_with(url, true, env)
    }

    fn open_with(&self, url: &str, create: bool, env: &Env) -> Outcome<Store> {
        let options = StoreOptions {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            allow_http: self.allow_http,
            create,
            ..StoreOptions::default()
        };
        Store::open(url, &options, env.clone()).doing(url)
    }
}

/// A pool, how to reach it, and its password.
#[derive(Debug, Args)]
pub struct PoolArgs {
    /// The pool: file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
    #[arg(value_name = "URL")]
    pub url: String,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub password: PasswordArgs,
}

impl PoolArgs {
    /// Opens the pool with its password.
    pub async fn open(&self, env: &Env) -> Outcome<Pool> {
        open_pool(&self.url, &self.store, &self.password, env).await
    }
}

/// Opens the pool at `url` with its password.
pub async fn open_pool(url: &str, store: &StoreArgs, password: &PasswordArgs, env: &Env) -> Outcome<Pool> {
    let store = store.open(url, env)?;
    let password = password.current()?;
    Pool::open(store, &password, env).await.doing(url)
}
