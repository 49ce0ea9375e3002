//! From a location to something that takes requests.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::PaginatedListStore;
use object_store::memory::InMemory;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use std::time::Duration;

use super::bulk::Bulk;
use super::error::StoreError;
use super::local::LocalDir;
use super::options::StoreOptions;
use super::url::{Location, Service};

/// Keys in one DeleteObjects: what S3 takes at most.
const S3_BULK: usize = 1000;
/// Deletions in one batch: what Azure takes at most.
const AZURE_BULK: usize = 256;

/// An opened store of some kind.
pub(super) struct Backend {
    /// Takes PUT, GET and DELETE.
    pub objects: Arc<dyn ObjectStore>,
    /// Takes LIST.
    pub lister: Lister,
    /// Takes many DELETEs in one request.
    pub bulk: Option<Bulk>,
    /// For `file://`: what `object_store` leaves undone.
    pub local: Option<LocalDir>,
    /// A network lies between: slow requests are worth a second one.
    pub remote: bool,
}

/// How the first keys of a prefix are found.
pub(super) enum Lister {
    /// Pages of as many keys as asked for, in order.
    Paged(Arc<dyn PaginatedListStore>),
    /// The directory itself, in order.
    Local,
    /// A stream of all keys in any order; the least are picked.
    Scan,
}

/// Opens `location`.
pub(super) fn open(location: &Location, opts: &StoreOptions) -> Result<Backend, StoreError> {
    match location {
        Location::Local(path) => local(path, opts),
        Location::Bucket { service, bucket, .. } => match service {
            Service::Memory => Ok(memory(bucket)),
            Service::S3 => s3(bucket, opts),
            Service::Google => google(bucket),
            Service::Azure => azure(bucket, opts),
        },
    }
}

fn local(path: &Path, opts: &StoreOptions) -> Result<Backend, StoreError> {
    let dir = LocalDir::open(path, opts.create)?;
    Ok(Backend { objects: dir.objects()?, lister: Lister::Local, bulk: None, local: Some(dir), remote: false })
}

/// Stores in memory live as long as the process: a pool can be closed and opened again.
fn memory(name: &str) -> Backend {
    static STORES: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);
    let objects = STORES.lock().entry(name.to_string()).or_default().clone();
    Backend { objects, lister: Lister::Scan, bulk: None, local: None, remote: false }
}

fn remote<S: ObjectStore + PaginatedListStore>(built: object_store::Result<S>) -> Result<Backend, StoreError> {
    let store = Arc::new(built.map_err(|e| StoreError::Config(e.to_string()))?);
    Ok(Backend { objects: store.clone(), lister: Lister::Paged(store), bulk: None, local: None, remote: true })
}

/// No retries and no time limits below us: both are ours, on the clock of `Env`.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

fn client(allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(allow_http)
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(5))
        .with_pool_idle_timeout(Duration::from_secs(60))
}

/// Refuses plain http unless it was asked for.
fn check_endpoint(endpoint: Option<&str>, opts: &StoreOptions) -> Result<(), StoreError> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    match endpoint.split_once("://") {
        Some(("https", rest)) if !rest.is_empty() => Ok(()),
        Some(("http", rest)) if !rest.is_empty() && opts.allow_http => Ok(()),
        Some(("http", _)) if !opts.allow_http => Err(StoreError::Config(format!(
            "the endpoint {endpoint} is plain http: requests could be read and forged on the way; allow http in so many words, or use https"
        ))),
        _ => Err(StoreError::Config(format!("the endpoint {endpoint} is not a URL; write https://host[:port]"))),
    }
}

fn s3(bucket: &str, opts: &StoreOptions) -> Result<Backend, StoreError> {
    use object_store::aws::AmazonS3ConfigKey as Key;
    let mut b = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(no_retries())
        .with_client_options(client(opts.allow_http))
        .with_conditional_put(S3ConditionalPut::ETagMatch);
    if let Some(v) = &opts.endpoint {
        b = b.with_endpoint(v);
    }
    if let Some(v) = &opts.region {
        b = b.with_region(v);
    }
    if let Some(v) = &opts.access_key {
        b = b.with_access_key_id(v);
    }
    if let Some(v) = &opts.secret_key {
        b = b.with_secret_access_key(v.expose_secret());
    }
    if let Some(v) = &opts.session_token {
        b = b.with_token(v.expose_secret());
    }
    for key in [Key::Endpoint, Key::S3Endpoint] {
        check_endpoint(b.get_config_value(&key).as_deref(), opts)?;
    }
    if b.get_config_value(&Key::AccessKeyId).is_some() != b.get_config_value(&Key::SecretAccessKey).is_some() {
        return Err(StoreError::Config(
            "the S3 access key and secret key belong together: only one of them is set".into(),
        ));
    }
    let bulk_allowed = b.get_config_value(&Key::DisableBulkDelete).as_deref() != Some("true");
    // The bulk call is the one that other servers lack most often: single DELETEs go without it.
    let one = b.clone().with_disable_bulk_delete(true).build().map_err(|e| StoreError::Config(e.to_string()))?;
    let many = b.with_disable_bulk_delete(false).with_credentials(one.credentials().clone()).build();
    let mut backend = remote(Ok(one))?;
    if bulk_allowed {
        let many = many.map_err(|e| StoreError::Config(e.to_string()))?;
        backend.bulk = Some(Bulk::new(Arc::new(many), S3_BULK));
    }
    Ok(backend)
}

fn google(bucket: &str) -> Result<Backend, StoreError> {
    let b = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(no_retries());
    remote(b.with_client_options(client(false)).build())
}

fn azure(container: &str, opts: &StoreOptions) -> Result<Backend, StoreError> {
    let mut b = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_retry(no_retries())
        .with_client_options(client(opts.allow_http));
    check_endpoint(opts.endpoint.as_deref(), opts)?;
    if let Some(v) = &opts.endpoint {
        b = b.with_endpoint(v.clone());
    }
    let mut backend = remote(b.build())?;
    backend.bulk = Some(Bulk::new(backend.objects.clone(), AZURE_BULK));
    Ok(backend)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn plain_http_must_be_asked_for() {
        let mut opts = StoreOptions { endpoint: Some("http://127.0.0.1:9000".into()), ..StoreOptions::default() };
        let e = s3("b", &opts).err().unwrap().to_string();
        assert!(e.contains("plain http"), "{e}");
        opts.allow_http = true;
        assert!(s3("b", &opts).is_ok());
        opts.endpoint = Some("127.0.0.1:9000".into());
        assert!(matches!(s3("b", &opts), Err(StoreError::Config(_))));
    }

    #[test]
    fn half_a_pair_of_keys_is_refused() {
        let opts = StoreOptions { access_key: Some("id".into()), ..StoreOptions::default() };
        // Only where the environment does not complete the pair.
        if std::env::var_os("AWS_SECRET_ACCESS_KEY").is_none() {
            assert!(s3("b", &opts).err().unwrap().to_string().contains("belong together"));
        }
    }
}
