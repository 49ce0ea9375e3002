//! XChaCha20-Poly1305, split so that the slow half runs once per body.
//!
//! The 24-byte nonce is `salt (16) || number (8, little-endian)`. HChaCha20 of key and salt gives the body's key once;
//! each number is then a plain ChaCha20-Poly1305 (RFC 8439) with nonce `00000000 || number`. The bytes are exactly
//! those of XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) with the whole nonce.

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use chacha20::{R20, hchacha};
use thiserror::Error;
use zeroize::Zeroize;

/// Bytes that sealing adds: the Poly1305 tag.
pub const TAG: usize = 16;

/// The bytes were not sealed under this key, number and associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the bytes do not authenticate")]
pub struct AuthFailed;

/// The key of one body (one salt). Share it by reference: it is `Sync`, and making one costs an HChaCha20.
pub struct BodyKey {
    key: LessSafeKey,
}

impl fmt::Debug for BodyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyKey")
    }
}

impl BodyKey {
    /// The body key of `key` and `salt`. One salt must serve one body only, and each number in it once.
    pub fn new(key: &[u8; 32], salt: &[u8; 16]) -> Self {
        let mut sub = hchacha::<R20>(key.into(), salt.into());
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, sub.as_slice()).expect("32 bytes are a ChaCha20 key");
        sub.as_mut_slice().zeroize();
        Self { key: LessSafeKey::new(unbound) }
    }

    /// Encrypts `buf[from..]` in place and appends the tag.
    pub fn seal(&self, number: u64, aad: &[u8], buf: &mut Vec<u8>, from: usize) {
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(number), Aad::from(aad), &mut buf[from..])
            .expect("a body is far below the cipher's 256 GiB");
        buf.extend_from_slice(tag.as_ref());
    }

    /// Appends the ciphertext of `plaintext` and its tag to `out`, without another copy of the plaintext.
    pub fn seal_into(&self, number: u64, aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + plaintext.len() + TAG, 0);
        let (text, tag) = out[start..].split_at_mut(plaintext.len());
        self.key
            .seal_out_of_place_scatter(nonce(number), Aad::from(aad), plaintext, text, &[], tag)
            .expect("lengths match, and a body is far below the cipher's 256 GiB");
    }

    /// Decrypts ciphertext and tag in place; answers the plaintext. After a failure the bytes are of no use.
    pub fn open<'a>(&self, number: u64, aad: &[u8], bytes: &'a mut [u8]) -> Result<&'a mut [u8], AuthFailed> {
        self.key.open_in_place(nonce(number), Aad::from(aad), bytes).map_err(|_| AuthFailed)
    }

    /// Decrypts `sealed` (ciphertext and tag) into a new vector.
    pub fn open_copy(&self, number: u64, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, AuthFailed> {
        let at = sealed.len().checked_sub(TAG).ok_or(AuthFailed)?;
        let (text, tag) = sealed.split_at(at);
        let mut out = vec![0; text.len()];
        self.key.open_separate_gather(nonce(number), Aad::from(aad), text, tag, &mut out).map_err(|_| AuthFailed)?;
        Ok(out)
    }
}

fn nonce(number: u64) -> Nonce {
    let mut n = [0; NONCE_LEN];
    n[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(n)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chacha20poly1305::aead::{Aead, KeyInit, Payload};
    use chacha20poly1305::{XChaCha20Poly1305, XNonce};
    use proptest::prelude::*;

    use super::*;

    fn reference(key: &[u8; 32], salt: &[u8; 16], number: u64, aad: &[u8], msg: &[u8]) -> Vec<u8> {
        let mut n = [0; 24];
        n[..16].copy_from_slice(salt);
        n[16..].copy_from_slice(&number.to_le_bytes());
        XChaCha20Poly1305::new(key.into()).encrypt(&XNonce::from(n), Payload { msg, aad }).unwrap()
    }

    proptest! {
        #[test]
        fn equals_the_reference_cipher(
            key: [u8; 32], salt: [u8; 16], number: u64,
            aad in prop::collection::vec(any::<u8>(), 0..80),
            msg in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            let want = reference(&key, &salt, number, &aad, &msg);
            let body = BodyKey::new(&key, &salt);
            let mut buf = [b"head", &msg[..]].concat();
            body.seal(number, &aad, &mut buf, 4);
            prop_assert_eq!(&buf[4..], &want[..]);
            let mut out = b"head".to_vec();
            body.seal_into(number, &aad, &msg, &mut out);
            prop_assert_eq!(&out, &buf);
            prop_assert_eq!(body.open_copy(number, &aad, &want), Ok(msg.clone()));
            prop_assert_eq!(&*body.open(number, &aad, &mut buf[4..]).unwrap(), &msg[..]);
        }

        #[test]
        fn anything_changed_fails(number: u64, at in 0usize..64, bit in 0u8..8) {
            let body = BodyKey::new(&[7; 32], &[8; 16]);
            let mut sealed = Vec::new();
            body.seal_into(number, b"aad", &[1; 48], &mut sealed);
            prop_assert!(body.open_copy(number ^ 1, b"aad", &sealed).is_err());
            prop_assert!(body.open_copy(number, b"aae", &sealed).is_err());
            prop_assert!(body.open_copy(number, b"aad", &sealed[..63]).is_err());
            prop_assert!(BodyKey::new(&[7; 32], &[9; 16]).open_copy(number, b"aad", &sealed).is_err());
            sealed[at] ^= 1 << bit;
            prop_assert!(body.open_copy(number, b"aad", &sealed).is_err());
            prop_assert!(body.open(number, b"aad", &mut sealed).is_err());
        }
    }

    #[test]
    fn short_input_is_refused() {
        let body = BodyKey::new(&[7; 32], &[8; 16]);
        for n in 0..TAG {
            assert_eq!(body.open_copy(0, &[], &[0; TAG][..n]), Err(AuthFailed));
            assert!(body.open(0, &[], &mut [0; TAG][..n]).is_err());
        }
    }
}
