//! What the tests of s3d share: a server, and object_store's client for it.

#![allow(dead_code, clippy::unwrap_used)]

use esker_testkit::{S3d, S3dOptions};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use std::time::Duration;

pub fn start() -> S3d {
    S3d::start(S3dOptions::default()).unwrap()
}

pub fn builder(s3d: &S3d) -> AmazonS3Builder {
    let (access_key, secret_key) = s3d.credentials();
    let retry =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::from_secs(30) };
    AmazonS3Builder::new()
        .with_endpoint(s3d.endpoint())
        .with_bucket_name(s3d.bucket())
        .with_region("us-east-1")
        .with_access_key_id(access_key)
        .with_secret_access_key(secret_key)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_retry(retry)
}

pub fn client(s3d: &S3d) -> AmazonS3 {
    builder(s3d).build().unwrap()
}
