//! Keys as paths. A component that a file system cannot hold as it is gets `%` escapes; all others are themselves.

use std::borrow::Cow;
use std::path::PathBuf;

use super::DiskError;

/// The path of a key below its bucket.
pub(crate) fn encode_key(key: &str) -> Result<PathBuf, DiskError> {
    key.split('/').map(encode).collect()
}

fn encode(name: &str) -> Result<String, DiskError> {
    let encoded = match name {
        // An empty component, as in `a//b` or `a/`.
        "" => "%".into(),
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        _ => name.replace('%', "%25").replace('\0', "%00"),
    };
    if encoded.len() > 255 { Err(DiskError::Key("a part of it is longer than 255 bytes")) } else { Ok(encoded) }
}

/// The component that a file name stands for; `None` if it stands for none.
pub(crate) fn decode(name: &str) -> Option<Cow<'_, str>> {
    if !name.contains('%') {
        return Some(Cow::Borrowed(name));
    }
    if name == "%" {
        return Some(Cow::Borrowed(""));
    }
    let mut parts = name.split('%');
    let mut out = String::from(parts.next()?);
    for part in parts {
        out.push(match part.get(..2)? {
            "25" => '%',
            "2E" => '.',
            "00" => '\0',
            _ => return None,
        });
        out.push_str(&part[2..]);
    }
    Some(Cow::Owned(out))
}
