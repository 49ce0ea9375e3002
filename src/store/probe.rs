//! Does the store do what correctness needs of it?

use std::time::Duration;

use bytes::Bytes;
use futures::future::{join, try_join_all};

use super::options::{Cause, Patience};
use super::{Put, Store, StoreError};

const PATIENCE: Patience = Patience::For(Duration::from_secs(60));
/// Keys for which two creates race.
const RACES: usize = 4;
/// Length of the probe's objects in bytes.
const LEN: usize = 4096;

/// What a probe found out about a store that is fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What the first small PUT took.
    pub put: Duration,
    /// What a small GET took.
    pub get: Duration,
    /// What a LIST took.
    pub list: Duration,
    /// Whether the probe's objects could be deleted; a pool works without, but never gets smaller.
    pub deletes: bool,
}

impl Store {
    /// Creates a few objects below `probe/` and looks whether the store keeps its word: a key is created once, also when
    /// two creates race; a GET of a range is exact; a LIST shows at once what was created, in order. Then deletes them.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] says what the store lacks.
    pub async fn probe(&self) -> Result<Probe, StoreError> {
        let base = format!("probe/{:032x}", u128::from_le_bytes(self.inner.env.random16()));
        let keys: Vec<String> = (0..=RACES).map(|n| format!("{base}-{n}")).collect();
        let found = self.probe_at(&base, &keys).await;
        let deletes = keys.iter().map(|key| self.delete(key, Cause::Probe, PATIENCE));
        let deletes = match try_join_all(deletes).await {
            Ok(_) => true,
            Err(e) => {
                tracing::warn!("the objects of a probe stay: {e}");
                false
            }
        };
        found.map(|probe| Probe { deletes, ..probe })
    }

    /// The same question in short, for every attach: a key is created once, and a GET of a range is exact. Three round
    /// trips; the object is deleted behind its back.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] says what the store lacks.
    pub async fn probe_quick(&self) -> Result<(), StoreError> {
        let key = format!("probe/{:032x}", u128::from_le_bytes(self.inner.env.random16()));
        let (one, other) = (self.noise(), self.noise());
        let found = async {
            expect_ours(self.put_new(&key, one.clone(), Cause::Probe, PATIENCE).await?)?;
            let again = self.put_new(&key, other, Cause::Probe, PATIENCE);
            let (again, part) = join(again, self.get_range(&key, 1000..1007, Cause::Probe, PATIENCE)).await;
            expect_taken(again?, &one)?;
            exact(&part?, &one)
        }
        .await;
        let store = self.clone();
        let clean = async move {
            if let Err(e) = store.delete(&key, Cause::Probe, PATIENCE).await {
                tracing::warn!("the object of a probe stays: {e}");
            }
        };
        self.inner.env.spawner.spawn(Box::pin(clean));
        found
    }

    async fn probe_at(&self, base: &str, keys: &[String]) -> Result<Probe, StoreError> {
        let clock = self.inner.env.clock.clone();
        let since = |begun: Duration| clock.now().saturating_sub(begun);
        let (one, other) = (self.noise(), self.noise());

        let begun = clock.now();
        expect_ours(self.put_new(&keys[0], one.clone(), Cause::Probe, PATIENCE).await?)?;
        let put = since(begun);
        expect_taken(self.put_new(&keys[0], other.clone(), Cause::Probe, PATIENCE).await?, &one)?;

        // The last key first, so that a LIST in the order of creation shows.
        let races = keys[1..].iter().rev().map(|key| self.race(key, &one, &other));
        try_join_all(races).await?;

        let begun = clock.now();
        let part = self.get_range(&keys[0], 1000..1007, Cause::Probe, PATIENCE).await?;
        let get = since(begun);
        exact(&part, &one)?;

        let begun = clock.now();
        // Probes of others lie around these keys, never among them.
        let first = self.list("probe/", Some(base), 1, Cause::Probe, PATIENCE).await?;
        let list = since(begun);
        let rest = self.list("probe/", Some(&keys[0]), RACES, Cause::Probe, PATIENCE).await?;
        let seen: Vec<&str> = first.iter().chain(&rest).map(|l| l.key.as_str()).collect();
        if seen != keys || first.iter().chain(&rest).any(|l| l.size != LEN as u64) {
            return Err(lacks("a LIST does not show, in order, what was just created"));
        }
        Ok(Probe { put, get, list, deletes: false })
    }

    /// Two creates of one key at once: exactly one may win.
    async fn race(&self, key: &str, one: &Bytes, other: &Bytes) -> Result<(), StoreError> {
        let put = |body: &Bytes| self.put_new(key, body.clone(), Cause::Probe, PATIENCE);
        match join(put(one), put(other)).await {
            (Err(e), _) | (_, Err(e)) => Err(e),
            (Ok(a), Ok(b)) if a.is_ours() && b == Put::Taken(one.clone()) => Ok(()),
            (Ok(a), Ok(b)) if b.is_ours() && a == Put::Taken(other.clone()) => Ok(()),
            _ => Err(lacks("of two creates of one key at once, both or none succeeded")),
        }
    }

    fn noise(&self) -> Bytes {
        let mut bytes = vec![0; LEN];
        self.inner.env.entropy.fill(&mut bytes);
        bytes.into()
    }
}

fn lacks(what: &str) -> StoreError {
    StoreError::Unsupported(format!(
        "{what}; a pool needs create-only PUT (If-None-Match: *), exact ranges and consistent LIST"
    ))
}

fn exact(part: &Bytes, of: &Bytes) -> Result<(), StoreError> {
    if *part == of[1000..1007] {
        Ok(())
    } else {
        Err(lacks("a GET of a range answered with other bytes than were put"))
    }
}

fn expect_ours(put: Put) -> Result<(), StoreError> {
    if put.is_ours() { Ok(()) } else { Err(lacks("a new key held an object already")) }
}

fn expect_taken(put: Put, there: &Bytes) -> Result<(), StoreError> {
    match put {
        Put::Taken(bytes) if bytes == *there => Ok(()),
        Put::Taken(_) => Err(lacks("a PUT that was refused changed the object")),
        Put::Created | Put::Ours => Err(lacks("it overwrote an object that a create-only PUT must leave alone")),
    }
}
