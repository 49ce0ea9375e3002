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
            Location::Local(path) => write!(f, "file://{}", escaped(&path.to_string_lossy())),
            Location::Bucket { service, bucket, prefix } if prefix.is_empty() => {
                write!(f, "{}://{bucket}", service.scheme())
            }
            Location::Bucket { service, bucket, prefix } => {
                write!(f, "{}://{bucket}/{}", service.scheme(), escaped(prefix))
            }
        }
    }
}

/// A path as it stands in a URL: what would end it or be undone in it is escaped, the rest is left for people to read.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        match c {
            '%' | '?' | '#' | '\\' | ' ' | '\0'..='\x1f' | '\x7f' => out.push_str(&format!("%{:02X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
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
    let prefix = ObjectPath::from_url_path(url.path()).map_err(|e| {
        // What stands before an @ may be a password, as those of some services have slashes in them.
        if text.contains('@') {
            bad("its prefix has characters or parts that no key may have")
        } else {
            bad(format_args!("its prefix: {e}"))
        }
    })?;
    Ok(Location::Bucket { service, bucket: bucket.to_string(), prefix: prefix.as_ref().to_string() })
}

fn local(url: &Url) -> Result<Location, StoreError> {
    let path =
        url.to_file_path().map_err(|()| bad("a file:// URL has three slashes and an absolute path: file:///path"))?;
    // One spelling for each directory: doubled slashes and one at the end are taken out, escaped ones too.
    Ok(Location::Local(path.components().collect()))
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

    /// A device's record keeps the URL as it is shown, and whoever brings the device back opens it.
    #[test]
    fn what_is_shown_names_the_same_place() {
        let names =
            ["s3://b/p%3Fx%23y", "gs://b/a%2541", "file:///srv/a%20b%3F", "file:///srv/100%25", "file:///srv/a%2541"];
        for text in names {
            let location = parse(text).unwrap();
            assert_eq!(parse(&location.to_string()).unwrap(), location, "{text} is shown as {location}");
        }
    }

    #[test]
    fn a_directory_is_shown_in_one_way() {
        for text in ["file:////srv//a/%2F/", "file:///srv/a/", "file:///srv/./a", "file:///%2Fsrv/a//"] {
            assert_eq!(parse(text).unwrap().to_string(), "file:///srv/a", "{text}");
        }
        assert_eq!(parse("file:///").unwrap().to_string(), "file:///");
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
        let e = parse("s3://bucket/id:verysecret@bucket/%00").unwrap_err().to_string();
        assert!(e.contains("prefix") && !e.contains("verysecret"), "{e}");
    }
}
