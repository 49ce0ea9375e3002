//! Damage to objects at rest, and its repair.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::plan::Damage;
use crate::tally::Fault;
use crate::world::World;

impl World {
    /// Damages an object, and puts the right bytes back after a while: errors are allowed meanwhile, wrong data never.
    pub(crate) async fn damage(self: &Arc<Self>, how: Damage, long: Duration) {
        let Some((key, other)) = self.victims(how) else { return };
        let (Some(right), Some(second)) = (self.bucket.peek(&key), self.bucket.peek(&other)) else { return };
        if key == other && matches!(how, Damage::Swap | Damage::Replay) {
            return;
        }
        // They are not at rest.
        if self.bucket.is_awaited(&key) || self.bucket.is_awaited(&other) {
            return;
        }
        let luck = {
            let mut state = self.state.lock();
            // What is damaged already would be repaired to that.
            if [&key, &other].iter().any(|k| state.broken.contains(*k)) {
                return;
            }
            state.broken.extend([key.clone(), other.clone()]);
            state.damaged = true;
            state.rng.next()
        };
        self.say(format!("damage: {how:?} {key} (and {other})"));
        let (fault, wrong) = match how {
            Damage::Flip => (Fault::ObjectFlipped, Some(flipped(&right, luck))),
            Damage::Truncate => (Fault::ObjectTruncated, Some(right.slice(..luck as usize % right.len()))),
            Damage::Swap => (Fault::ObjectsSwapped, Some(second.clone())),
            Damage::Replay => (Fault::ObjectReplayed, Some(second.clone())),
            Damage::Lose | Damage::LoseNewest => (Fault::ObjectLost, None),
        };
        self.tally.count(fault);
        self.bucket.tamper(&key, wrong);
        if how == Damage::Swap {
            self.bucket.tamper(&other, Some(right.clone()));
        }
        self.exec.sleep(long).await;
        self.bucket.tamper(&key, Some(right));
        self.bucket.tamper(&other, Some(second));
        self.state.lock().broken.retain(|k| *k != key && *k != other);
        self.say(format!("{key} and {other} are whole again"));
    }

    /// Whether a log without this segment is known to lack it: another epoch follows, or so much lies behind it that no writer's
    /// end looks so. Never a seal: a fenced writer must find it.
    fn is_missed(&self, keys: &[String], key: &str) -> bool {
        let Some((epoch, seq)) = key.rsplit_once('/').filter(|_| key.starts_with("p/log/")) else { return false };
        let is_segment = self.bucket.peek(key).is_some_and(|body| body.starts_with(b"ESKERSEG"));
        let newest = keys.iter().find(|k| k.starts_with("p/log/")).is_some_and(|k| k.starts_with(epoch));
        let behind = keys.iter().filter(|k| k.starts_with(epoch) && k.as_str() > key).count();
        is_segment && !seq.bytes().all(|b| b == b'0') && (!newest || behind > 80)
    }

    /// An object that may be damaged, and another one. Not the newest log's end: a store that shows an older state of itself
    /// can withhold it unnoticed (docs/semantics.md, promise 6).
    fn victims(&self, how: Damage) -> Option<(String, String)> {
        let keys: Vec<String> = self.bucket.objects().into_iter().map(|(key, _)| key).collect();
        let newest =
            keys.iter().find(|k| k.starts_with("p/log/")).and_then(|k| k.rsplit_once('/')).map(|(epoch, _)| epoch);
        let ours = |key: &&String| match how {
            Damage::LoseNewest => key.starts_with("p/data/"),
            Damage::Lose => key.starts_with("p/data/") || self.is_missed(&keys, key),
            _ => key.starts_with("p/data/") || key.starts_with("p/log/") && !newest.is_some_and(|n| key.starts_with(n)),
        };
        let mut some: Vec<&String> = keys.iter().filter(ours).collect();
        if how == Damage::LoseNewest {
            // The table of accounts, and the nodes of the last checkpoints.
            some.drain(..some.len().saturating_sub(3));
        }
        if some.is_empty() {
            return None;
        }
        let mut state = self.state.lock();
        let key = (*state.rng.pick(&some)).clone();
        let kin: Vec<&String> = some.into_iter().filter(|k| k[..5] == key[..5]).collect();
        let other = (*state.rng.pick(&kin)).clone();
        Some((key, other))
    }
}

fn flipped(bytes: &Bytes, luck: u64) -> Bytes {
    let mut bytes = bytes.to_vec();
    let at = (luck >> 8) as usize % bytes.len();
    bytes[at] ^= 1 << (luck % 8);
    bytes.into()
}
