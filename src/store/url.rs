//! What a store's URL names.

use std::fmt;
use std::path::PathBuf;

use ::url::Url;
use object_store::path::Path as ObjectPath;

use super::error::StoreError;

/// A parsed URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// A directory.
    Local(PathBuf),
    /// A bucket of some kind, or a named store in memory.
    Bucket {
        /// Which kind.
        service: Service,
        /// Its name.
        bucket: String,
        /// Prefix below it, without slashes at its ends.
        prefix: String,
    },
}

/// Services that keep buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    S3,
    Google,
    Azure,
    Memory,
}

impl Service {
    fn scheme(self) -> &'static str {
        match self {
            Service::S3 => "s3",
            Service::Google => "gs",
            Service::Azure => "az",
            Service::Memory => "memory",
        }
    }
}

impl Location {
    /// The prefix of all keys; empty for a directory, which is its own.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Location::Local(_) => "",
            Location::Bucket { prefix, .. } => prefix,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Local(path) => write!(f, "file://{}", path.display()),
            Location::Bucket { service, bucket, prefix } if prefix.is_empty() => {
                write!(f, "{}://{bucket}", service.scheme())
            }
            Location::Bucket { service, bucket, prefix } => write!(f, "{}://{bucket}/{prefix}", service.scheme()),
        }
    }
}

fn bad(why: impl fmt::Display) -> StoreError {
    StoreError::Config(format!("not a store URL: {why}"))
}

/// Parses a store URL. Messages never repeat credentials that somebody put into it.
pub(super) fn parse(text: &str) -> Result<Location, StoreError> {
    const SHAPES: &str =
        "write file:///path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or memory://name";
    let url = Url::parse(text).map_err(|e| bad(format_args!("{e}; {SHAPES}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("credentials do not belong in it; use the environment or the flags for them"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it has a ? or # part, which means nothing here"));
    }
    let service = match url.scheme() {
        "file" => return local(&url),
        "s3" | "s3a" => Service::S3,
        "gs" => Service::Google,
        "az" | "azure" | "abfs" | "abfss" => Service::Azure,
        "memory" => Service::Memory,
        other => return Err(bad(format_args!("{other}:// is unknown; {SHAPES}"))),
    };
    if url.port().is_some() {
        return Err(bad("a port belongs to the endpoint, not to the bucket"));
    }
    let bucket =
        url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| bad(format_args!("no bucket in it; {SHAPES}")))?;
    let prefix = ObjectPath::from_url_path(url.path()).map_err(|e| bad(format_args!("its prefix: {e}")))?;
    Ok(Location::Bucket { service, bucket: bucket.to_string(), prefix: prefix.as_ref().to_string() })
}

fn local(url: &Url) -> Result<Location, StoreError> {
    let path =
        url.to_file_path().map_err(|()| bad("a file:// URL has three slashes and an absolute path: file:///path"))?;
    Ok(Location::Local(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_name_what_they_say() {
        let shown = |t: &str| parse(t).unwrap().to_string();
        assert_eq!(parse("file:///srv/a%20b/").unwrap(), Location::Local(PathBuf::from("/srv/a b/")));
        assert_eq!(shown("s3://bucket"), "s3://bucket");
        assert_eq!(shown("s3://bucket/a/b/"), "s3://bucket/a/b");
        assert_eq!(shown("gs://b/p"), "gs://b/p");
        assert_eq!(shown("az://c/p"), "az://c/p");
        assert_eq!(shown("memory://Name"), "memory://Name");
    }

    #[test]
    fn urls_that_cannot_work_are_refused() {
        let bad =
            ["", "bucket", "/srv/pool", "http://x/y", "s3://", "s3:///p", "file://host/p", "s3://b/p?x=1", "s3://b//c"];
        for text in bad {
            assert!(matches!(parse(text), Err(StoreError::Config(_))), "{text}: {:?}", parse(text));
        }
        let e = parse("s3://id:verysecret@bucket/p").unwrap_err().to_string();
        assert!(e.contains("credentials") && !e.contains("verysecret"), "{e}");
    }
}
