//! One rule: which requests, how often, and what happens to them.

use serde::{Deserialize, Deserializer, Serialize};

use crate::delay::Delay;
use crate::log::Kind;

/// What happens to a request. "Before" means that it is not applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Answers with an error before.
    Reply {
        /// HTTP status, 400 to 599.
        #[serde(deserialize_with = "error_status")]
        status: u16,
        /// The error's code, such as `SlowDown`.
        code: String,
    },
    /// Applies it, then answers with an error all the same.
    ApplyThenReply {
        /// HTTP status, 400 to 599.
        #[serde(deserialize_with = "error_status")]
        status: u16,
        /// The error's code, such as `InternalError`.
        code: String,
    },
    /// Drops the connection before.
    Drop,
    /// Applies it, then drops the connection without an answer.
    ApplyThenDrop,
    /// Waits, then goes on as usual. Delays of several rules add up.
    Delay(Delay),
    /// Does not answer until the rule is released or removed, then applies it, whether or not the client still waits.
    Stall,
    /// Applies it, but does not answer until the rule is released or removed.
    ApplyThenStall,
    /// Sends the first bytes of the body under the true `Content-Length`, then drops the connection.
    CutBody {
        /// Bytes that are sent.
        keep: u64,
    },
    /// Sends the first bytes of the body as if that were all: `Content-Length` agrees, `Content-Range` does not.
    ShortBody {
        /// Bytes that are sent.
        keep: u64,
    },
    /// Inverts one byte of the reply's body.
    FlipByte {
        /// Which byte; beyond the end, or absent: the middle one.
        #[serde(default)]
        at: Option<u64>,
    },
    /// Applies a PUT as if `If-None-Match` were not there, as garage does.
    IgnoreIfNoneMatch,
    /// Answers a PUT with success, and forgets it: a store that lies.
    Pretend,
}

impl Action {
    fn reply(status: u16, code: &str) -> Self {
        Self::Reply { status, code: code.into() }
    }

    /// 503 SlowDown before.
    pub fn slow_down() -> Self {
        Self::reply(503, "SlowDown")
    }

    /// 500 InternalError before.
    pub fn internal_error() -> Self {
        Self::reply(500, "InternalError")
    }

    /// 409 ConditionalRequestConflict before: S3's way to say "try again".
    pub fn conflict() -> Self {
        Self::reply(409, "ConditionalRequestConflict")
    }

    /// 403 AccessDenied before.
    pub fn forbidden() -> Self {
        Self::reply(403, "AccessDenied")
    }

    /// 404 NoSuchBucket before: the bucket is gone.
    pub fn no_such_bucket() -> Self {
        Self::reply(404, "NoSuchBucket")
    }

    /// 404 NoSuchKey before, although the object is there.
    pub fn no_such_key() -> Self {
        Self::reply(404, "NoSuchKey")
    }

    /// 507 InsufficientStorage before: the store is full.
    pub fn no_space() -> Self {
        Self::reply(507, "InsufficientStorage")
    }

    /// A word for the log.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Reply { code, .. } => format!("reply {code}"),
            Self::ApplyThenReply { code, .. } => format!("apply, reply {code}"),
            Self::Drop => "drop".into(),
            Self::ApplyThenDrop => "apply, drop".into(),
            Self::Delay(d) => format!("delay {d}"),
            Self::Stall => "stall".into(),
            Self::ApplyThenStall => "apply, stall".into(),
            Self::CutBody { keep } => format!("cut body at {keep}"),
            Self::ShortBody { keep } => format!("short body of {keep}"),
            Self::FlipByte { .. } => "flip byte".into(),
            Self::IgnoreIfNoneMatch => "ignore If-None-Match".into(),
            Self::Pretend => "pretend".into(),
        }
    }
}

fn error_status<'de, D: Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
    let status = u16::deserialize(d)?;
    if (400..600).contains(&status) {
        Ok(status)
    } else {
        Err(serde::de::Error::custom("status is not from 400 to 599"))
    }
}

/// Which requests an action happens to. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Kinds of request; empty: all.
    #[serde(default)]
    pub kinds: Vec<Kind>,
    /// The bucket, as a pattern: `*` is any run of characters, `?` any one.
    #[serde(default = "anything")]
    pub bucket: String,
    /// The key (a LIST's prefix), as a pattern: `*` is any run of characters, slashes too, `?` any one.
    #[serde(default = "anything")]
    pub key: String,
    /// The first so many requests that match are spared.
    #[serde(default)]
    pub skip: u64,
    /// After those, every so many-th is meant, beginning with the first.
    #[serde(default = "one")]
    pub every: u64,
    /// Of those, this share, by chance.
    #[serde(default = "always")]
    pub probability: f64,
    /// The rule acts at most so many times.
    #[serde(default)]
    pub times: Option<u64>,
    /// What happens.
    pub action: Action,
}

fn anything() -> String {
    "*".into()
}

fn one() -> u64 {
    1
}

fn always() -> f64 {
    1.0
}

impl Rule {
    /// A rule for requests of these kinds. Say what happens with [`then`](Self::then).
    pub fn on(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self {
            kinds: kinds.into_iter().collect(),
            bucket: anything(),
            key: anything(),
            skip: 0,
            every: 1,
            probability: 1.0,
            times: None,
            action: Action::Drop,
        }
    }

    /// A rule for requests of any kind.
    pub fn any() -> Self {
        Self::on([])
    }

    /// Only keys that match this pattern.
    #[must_use]
    pub fn key(mut self, pattern: impl Into<String>) -> Self {
        self.key = pattern.into();
        self
    }

    /// Only buckets that match this pattern.
    #[must_use]
    pub fn bucket(mut self, pattern: impl Into<String>) -> Self {
        self.bucket = pattern.into();
        self
    }

    /// Spares the first `n`.
    #[must_use]
    pub fn skip(mut self, n: u64) -> Self {
        self.skip = n;
        self
    }

    /// Acts on every `n`-th only.
    #[must_use]
    pub fn every(mut self, n: u64) -> Self {
        self.every = n;
        self
    }

    /// Acts with this probability, 0 to 1.
    #[must_use]
    pub fn probability(mut self, p: f64) -> Self {
        self.probability = p;
        self
    }

    /// Acts `n` times at most.
    #[must_use]
    pub fn times(mut self, n: u64) -> Self {
        self.times = Some(n);
        self
    }

    /// What happens.
    #[must_use]
    pub fn then(mut self, action: Action) -> Self {
        self.action = action;
        self
    }

    pub(crate) fn matches(&self, kind: Kind, bucket: &str, key: &str) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && glob(self.bucket.as_bytes(), bucket.as_bytes())
            && glob(self.key.as_bytes(), key.as_bytes())
    }
}

/// `*` and `?` patterns, in time linear in pattern times text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                // The last star takes one character more.
                Some((after, from)) => {
                    retry = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "a/b"),
            ("log/*", "log/1/2"),
            ("*/0", "log/0/00/0"),
            ("a?c", "abc"),
            ("*ab*b", "aabab"),
            ("", ""),
        ] {
            assert!(glob(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("log/*", "data/log/1"), ("a?c", "ac"), ("*/0", "log/00"), ("ab", "abc"), ("*x", "xy")]
        {
            assert!(!glob(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }
}
