//! A chain: numbered objects, each created once, of which the newest counts. The number in the key is inverted, so the
//! first key of a LIST is the newest. Chain objects are never deleted.

use std::time::Duration;

use bytes::Bytes;

use super::error::PoolError;
use crate::store::{Cause, Patience, Put, Store};

/// How long administrative requests are retried.
pub(super) const PATIENCE: Patience = Patience::For(Duration::from_secs(60));
/// How often a lost race for the next number is run again.
pub(super) const TRIES: usize = 32;
/// Keys looked at to find the newest: strangers' objects among them are passed over.
const LOOKED_AT: usize = 8;

/// A chain by its prefix, without the slash.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain(pub &'static str);

impl Chain {
    /// The key of object `n`.
    pub(super) fn key(self, n: u64) -> String {
        format!("{}/{:016x}", self.0, !n)
    }

    pub(super) fn number(self, key: &str) -> Option<u64> {
        let digits = key.strip_prefix(self.0)?.strip_prefix('/')?;
        let n = !u64::from_str_radix(digits, 16).ok()?;
        (self.key(n) == key).then_some(n)
    }

    /// Number and bytes of the newest object, if there is any.
    pub(super) async fn newest(self, store: &Store) -> Result<Option<(u64, Bytes)>, PoolError> {
        let prefix = format!("{}/", self.0);
        let listed = store.list(&prefix, None, LOOKED_AT, Cause::Admin, PATIENCE).await?;
        let Some(n) = listed.iter().find_map(|l| self.number(&l.key)) else { return Ok(None) };
        let bytes = store.get(&self.key(n), Cause::Admin, PATIENCE).await?;
        Ok(Some((n, bytes)))
    }

    /// Creates object `n`; false if somebody else did.
    pub(super) async fn create(self, store: &Store, n: u64, bytes: Bytes) -> Result<bool, PoolError> {
        let put = store.put_new(&self.key(n), bytes, Cause::Admin, PATIENCE).await?;
        Ok(matches!(put, Put::Created | Put::Ours))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_newest_first_and_only_well_formed_ones_count() {
        let chain = Chain("pool");
        assert_eq!(chain.key(1), "pool/fffffffffffffffe");
        assert!(chain.key(2) < chain.key(1));
        assert_eq!(chain.number(&chain.key(77)), Some(77));
        for bad in ["pool/1", "pool/FFFFFFFFFFFFFFFE", "pool/+ffffffffffffffe", "volumes/fffffffffffffffe", "pool/"] {
            assert_eq!(chain.number(bad), None, "{bad}");
        }
    }
}
