//! What goes over the wire, watched for what must never be sent, whether or not it arrives.
//!
//! A salt serves one body and its retries under one key (docs/format.md). A breach does not show in what the volume reads, so
//! the bucket itself looks.

use std::collections::BTreeMap;

use bytes::Bytes;

const SALT: std::ops::Range<usize> = 16..32;
const MAGICS: [&[u8]; 2] = [b"ESKERSEG", b"ESKEROBJ"];

/// See the module.
#[derive(Default)]
pub struct Watch {
    salts: BTreeMap<Vec<u8>, (String, Bytes)>,
    breach: Option<String>,
}

impl Watch {
    /// A PUT of `body` under `key` is sent.
    pub fn sent(&mut self, key: &str, body: &Bytes) {
        if body.len() < SALT.end || !MAGICS.iter().any(|magic| body.starts_with(magic)) {
            // Probes are noise; anything else that the engine PUTs begins with a magic.
            if !key.contains("probe/") && !key.contains("pool/") {
                self.note(format!("a body under {key} is no object of ours"));
            }
            return;
        }
        let salt = body[SALT].to_vec();
        match self.salts.get(&salt) {
            Some((k, b)) if k != key || b != body => {
                let why = format!("two bodies were sealed with one salt: one under {k}, one under {key}");
                self.note(why);
            }
            Some(_) => {}
            None => drop(self.salts.insert(salt, (key.to_string(), body.clone()))),
        }
    }

    fn note(&mut self, why: String) {
        self.breach.get_or_insert(why);
    }

    /// The first breach.
    pub fn breach(&self) -> Option<String> {
        self.breach.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(salt: u8, rest: u8) -> Bytes {
        let mut body = b"ESKERSEG\x01\0\0\0\0\0\0\0".to_vec();
        body.extend([salt; 16]);
        body.push(rest);
        body.into()
    }

    #[test]
    fn a_retry_is_fine_and_another_body_with_its_salt_is_not() {
        let mut watch = Watch::default();
        watch.sent("p/log/1", &body(1, 1));
        watch.sent("p/log/1", &body(1, 1));
        watch.sent("p/log/2", &body(2, 1));
        assert_eq!(watch.breach(), None);
        watch.sent("p/log/3", &body(2, 2));
        assert!(watch.breach().is_some());
    }
}
