//! Whatever several ask for at once is fetched once.

use std::collections::HashMap;
use std::hash::Hash;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;

use crate::sync::{self, Mutex};

/// Waits for a result that somebody is fetching; `Canceled` where the fetcher is gone.
pub(super) type Waiting<V> = Shared<oneshot::Receiver<V>>;

/// See the module.
pub(super) struct SingleFlight<K, V> {
    under_way: Mutex<HashMap<K, Waiting<V>>>,
}

/// The duty to fetch one key and to hand the result to [`SingleFlight::finish`].
pub(super) struct Lead<K, V> {
    key: K,
    sender: oneshot::Sender<V>,
}

impl<K: Eq + Hash + Clone, V: Clone> SingleFlight<K, V> {
    pub(super) fn new() -> Self {
        Self { under_way: Mutex::new(HashMap::new()) }
    }

    /// Joins the fetch of `key`; with a [`Lead`] when nobody was at it.
    pub(super) fn join(&self, key: K) -> (Waiting<V>, Option<Lead<K, V>>) {
        let mut table = self.under_way.lock();
        if let Some(waiting) = table.get(&key) {
            return (waiting.clone(), None);
        }
        if sync::weak("a join in two steps") {
            drop(table);
            table = self.under_way.lock();
        }
        let (sender, receiver) = oneshot::channel();
        let waiting = receiver.shared();
        table.insert(key.clone(), waiting.clone());
        (waiting, Some(Lead { key, sender }))
    }

    /// Ends a fetch: all who joined get `value`; who comes later starts anew.
    pub(super) fn finish(&self, lead: Lead<K, V>, value: V) {
        self.under_way.lock().remove(&lead.key);
        // Everybody who waited may have given up.
        drop(lead.sender.send(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_for_the_first() {
        let flight = SingleFlight::<u8, u8>::new();
        let (first, lead) = flight.join(1);
        let (second, none) = flight.join(1);
        assert!(none.is_none());
        flight.finish(lead.expect("first leads"), 9);
        assert_eq!(futures::executor::block_on(first), Ok(9));
        assert_eq!(futures::executor::block_on(second), Ok(9));
        assert!(flight.join(1).1.is_some());
    }
}
