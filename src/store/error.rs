//! Why a request failed, and whether trying again can help.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use object_store::Error as Raw;
use thiserror::Error;

/// Why the store did not do what it was asked. Messages say what happened to which key, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// No object has this key.
    #[error("there is no object {key}")]
    NotFound {
        /// The key, below the pool's prefix.
        key: String,
    },
    /// The bucket, container or directory is not there.
    #[error("{url} does not exist: {why}; create it, or check its name")]
    NoSuchBucket {
        /// The store's URL.
        url: String,
        /// What the store said.
        why: String,
    },
    /// The store refused the credentials, or they do not allow this.
    #[error("the store refused access to {key}: {why}; check the credentials and what they allow")]
    Denied {
        /// The key, below the pool's prefix.
        key: String,
        /// What the store said.
        why: String,
    },
    /// The object is shorter than the range that must be in it.
    #[error("object {key} is damaged: {want} bytes were asked for, {got} are there")]
    Short {
        /// The key, below the pool's prefix.
        key: String,
        /// Bytes asked for.
        want: u64,
        /// Bytes that came.
        got: u64,
    },
    /// The store (a disk under `file://`, a quota) is full.
    #[error("no space left to write {key}: {why}; free some space")]
    NoSpace {
        /// The key, below the pool's prefix.
        key: String,
        /// What the store said.
        why: String,
    },
    /// The store lacks something that esker cannot do without.
    #[error("this store cannot hold a pool: {0}")]
    Unsupported(String),
    /// The URL or the settings cannot work.
    #[error("{0}")]
    Config(String),
    /// Not decided within the time allowed. A create-only PUT may have landed all the same.
    #[error("{op} {key} was not done within {after:?}; the last trouble was: {last}")]
    Timeout {
        /// PUT, GET, LIST or DELETE.
        op: &'static str,
        /// The key or prefix, below the pool's prefix.
        key: String,
        /// The time it was given.
        after: Duration,
        /// The last failure.
        last: String,
    },
    /// The store said something else.
    #[error("{op} {key} failed: {why}")]
    Other {
        /// PUT, GET, LIST or DELETE.
        op: &'static str,
        /// The key or prefix, below the pool's prefix.
        key: String,
        /// What the store said.
        why: String,
    },
}

/// How one attempt failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Something has that key already, or a conflicting write is under way (409).
    Exists,
    /// An answer: asking again changes nothing (not found, damaged).
    Final(StoreError),
    /// An operator must mend it.
    Permanent(StoreError),
    /// May pass by itself. True: the attempt ran out of time.
    Transient(StoreError, bool),
}

impl Fault {
    /// What happened, for the log.
    pub(super) fn said(&self) -> String {
        match self {
            Fault::Exists => "a conflict".to_string(),
            Fault::Final(e) | Fault::Permanent(e) | Fault::Transient(e, _) => e.to_string(),
        }
    }
}

/// What the attempt was about, for messages.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub op: &'static str,
    pub key: &'a str,
    pub url: &'a str,
}

impl About<'_> {
    pub(super) fn other(&self, why: impl ToString) -> StoreError {
        StoreError::Other { op: self.op, key: self.key.to_string(), why: why.to_string() }
    }

    fn denied(&self, why: String) -> Fault {
        Fault::Permanent(StoreError::Denied { key: self.key.to_string(), why })
    }

    fn no_space(&self, why: String) -> Fault {
        Fault::Permanent(StoreError::NoSpace { key: self.key.to_string(), why })
    }

    fn no_bucket(&self, why: String) -> Fault {
        Fault::Permanent(StoreError::NoSuchBucket { url: self.url.to_string(), why })
    }

    /// Sorts an I/O error of a `file://` store.
    pub(super) fn io_fault(&self, e: &io::Error) -> Fault {
        match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => self.no_space(e.to_string()),
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => self.denied(e.to_string()),
            _ => Fault::Transient(self.other(e), false),
        }
    }

    /// Sorts what `object_store` said.
    pub(super) fn fault(&self, e: Raw) -> Fault {
        let text = said(&e);
        match e {
            Raw::AlreadyExists { .. } | Raw::Precondition { .. } | Raw::NotModified { .. } => Fault::Exists,
            Raw::NotFound { .. } if names_bucket(&text) || self.op == "PUT" || self.op == "LIST" => {
                self.no_bucket(text)
            }
            Raw::NotFound { .. } => Fault::Final(StoreError::NotFound { key: self.key.to_string() }),
            Raw::PermissionDenied { .. } if text.contains("QuotaExceeded") => self.no_space(text),
            Raw::PermissionDenied { .. } | Raw::Unauthenticated { .. } => self.denied(text),
            Raw::NotImplemented { .. } | Raw::NotSupported { .. } => Fault::Permanent(StoreError::Unsupported(text)),
            e => self.generic(&e, text),
        }
    }

    fn generic(&self, e: &Raw, text: String) -> Fault {
        // Over a network an I/O error is the network's: only a directory's says something about the store.
        if let Raw::Generic { store: "LocalFileSystem", .. } = e
            && let Some(e) = find::<io::Error>(e)
        {
            return self.io_fault(e);
        }
        if text.contains("169.254.169.254") {
            let why = format!("no credentials were given, and the machine's metadata service has none: {text}");
            return self.denied(why);
        }
        match status(&text) {
            // LIST has errors of its own, which come without a kind.
            Some(404) => self.no_bucket(text),
            Some(401 | 403) => self.denied(text),
            Some(416) => Fault::Final(StoreError::Short { key: self.key.to_string(), want: 0, got: 0 }),
            Some(507) => self.no_space(text),
            Some(501) => Fault::Permanent(StoreError::Unsupported(text)),
            Some(400) if text.contains("ExpiredToken") || text.contains("InvalidToken") => self.denied(text),
            Some(408 | 425 | 429) => Fault::Transient(self.other(text), false),
            Some(400..=499) if !passes_by_itself(&text) => Fault::Permanent(self.other(text)),
            Some(300..=399) => Fault::Permanent(self.other(format!("{text}; is the region right?"))),
            _ => Fault::Transient(self.other(text), false),
        }
    }
}

/// Whether the cause is that the object ends before the range that was asked for begins.
pub(super) fn ends_before_range(e: &Raw) -> bool {
    let mut at: Option<&dyn StdError> = Some(e);
    while let Some(e) = at {
        if e.to_string().contains("Wanted range starting at") {
            return true;
        }
        at = e.source();
    }
    false
}

/// The first error of type `T` in the chain of causes.
fn find<'a, T: StdError + 'static>(e: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut at = Some(e);
    while let Some(e) = at {
        if let Some(found) = e.downcast_ref::<T>() {
            return Some(found);
        }
        at = e.source();
    }
    None
}

/// The HTTP status in the text of an error: `object_store` keeps the type that holds it to itself.
fn status(text: &str) -> Option<u16> {
    if text.contains("Received redirect without LOCATION") {
        return Some(301);
    }
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn names_bucket(text: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"].iter().any(|s| text.contains(s))
}

/// Refusals (4xx) of a body that was late or damaged on its way.
fn passes_by_itself(text: &str) -> bool {
    ["RequestTimeout", "BadDigest", "IncompleteBody", "SlowDown", "XAmzContentSHA256Mismatch", "InternalError"]
        .iter()
        .any(|s| text.contains(s))
}

/// What the store or the network said, with the innermost cause: "error sending request" alone helps nobody.
fn said(e: &Raw) -> String {
    let whole = e.to_string();
    let mut innermost: &dyn StdError = e;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    let cause = innermost.to_string();
    if whole.contains(&cause) { brief(&whole) } else { format!("{}: {}", brief(&whole), cut(&cause, 200)) }
}

/// What a store said, for logs and status: code and message of an S3 error, else at most 500 bytes of it.
fn brief(text: &str) -> String {
    if let (Some(status), Some(code)) = (status(text), element(text, "Code")) {
        let message = cut(element(text, "Message").unwrap_or_default(), 200);
        return format!("{} (status code: {status}) {message}", cut(code, 100)).trim_end().to_string();
    }
    cut(text, 500).replace(['\n', '\r'], " ")
}

/// The text of an XML element that has no others in it.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(inner, _)| inner)
}

/// At most `max` bytes, cut between characters.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'static> = About { op: "GET", key: "k", url: "s3://b" };

    fn after(text: &str) -> Fault {
        ABOUT.fault(Raw::Generic { store: "S3", source: text.to_string().into() })
    }

    #[test]
    fn statuses_are_sorted() {
        let http = |code: &str| after(&format!("Server returned non-2xx status code: {code}"));
        assert!(matches!(http("503 Service Unavailable: SlowDown"), Fault::Transient(_, false)));
        assert!(matches!(http("500 Internal Server Error: "), Fault::Transient(..)));
        assert!(matches!(http("429 Too Many Requests: "), Fault::Transient(..)));
        assert!(matches!(http("400 Bad Request: <Code>RequestTimeout</Code>"), Fault::Transient(..)));
        assert!(matches!(http("400 Bad Request: <Code>InvalidBucketName</Code>"), Fault::Permanent(_)));
        assert!(matches!(
            http("400 Bad Request: <Code>ExpiredToken</Code>"),
            Fault::Permanent(StoreError::Denied { .. })
        ));
        assert!(matches!(http("507 Insufficient Storage: "), Fault::Permanent(StoreError::NoSpace { .. })));
        assert!(matches!(http("501 Not Implemented: "), Fault::Permanent(StoreError::Unsupported(_))));
        assert!(matches!(http("416 Range Not Satisfiable: "), Fault::Final(StoreError::Short { .. })));
        assert!(matches!(after("connection reset by peer"), Fault::Transient(..)));
        assert!(matches!(after("Received redirect without LOCATION, this"), Fault::Permanent(_)));
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_object() {
        let not_found = |text: &str| Raw::NotFound { path: "k".into(), source: text.to_string().into() };
        assert!(matches!(ABOUT.fault(not_found("<Code>NoSuchKey</Code>")), Fault::Final(StoreError::NotFound { .. })));
        let fault = ABOUT.fault(not_found("<Code>NoSuchBucket</Code>"));
        assert!(matches!(fault, Fault::Permanent(StoreError::NoSuchBucket { .. })));
        let put = About { op: "PUT", ..ABOUT };
        assert!(matches!(put.fault(not_found("")), Fault::Permanent(StoreError::NoSuchBucket { .. })));
    }

    #[test]
    fn a_full_disk_is_found_in_the_chain() {
        let raw =
            Raw::Generic { store: "LocalFileSystem", source: Box::new(io::Error::from_raw_os_error(libc::ENOSPC)) };
        assert!(matches!(ABOUT.fault(raw), Fault::Permanent(StoreError::NoSpace { .. })));
    }

    #[test]
    fn an_s3_error_is_told_in_short() {
        let xml = "Error performing GET http://h/b in 8ms - Server returned non-2xx status code: 404 Not Found: <?xml \
            version=\"1.0\"?> <Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>";
        let Fault::Permanent(StoreError::NoSuchBucket { why, .. }) = after(xml) else { panic!("{:?}", after(xml)) };
        assert_eq!(why, "NoSuchBucket (status code: 404) The specified bucket does not exist");
        let denied = after("status code: 403 Forbidden: <Code>SignatureDoesNotMatch</Code>");
        assert!(matches!(denied, Fault::Permanent(StoreError::Denied { .. })), "{denied:?}");
    }

    #[test]
    fn a_refused_connection_is_transient() {
        let refused = io::Error::from_raw_os_error(libc::EACCES);
        let raw = Raw::Generic { store: "S3", source: Box::new(refused) };
        assert!(matches!(ABOUT.fault(raw), Fault::Transient(..)), "a firewall is no refused credential");
    }

    #[test]
    fn long_answers_are_cut_at_a_character() {
        assert_eq!(brief(&"ä".repeat(400)).len(), 500);
        assert!(brief(&format!("x{}", "ä".repeat(400))).len() <= 500);
    }
}
