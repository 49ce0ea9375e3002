//! Why each object of a volume is there, and which of them go: the rules of deletion, applied to what one look shows.

use super::accounts::Accounts;
use super::report::{Report, State};
use super::source::Source;
use super::volume::Pass;
use super::{Progress, ScrubError, ScrubOptions, chains};
use crate::env::Env;
use crate::pool::Pool;
use crate::segment::{SegmentId, SegmentKind};

/// Why an object is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It opens an epoch; never deleted.
    Opening,
    /// It ends an epoch's log; never deleted.
    Seal,
    /// A seal that somebody put where segments had been deleted; never deleted.
    StraySeal,
    /// A log segment after the newest checkpoint: attaching replays it.
    Replayed,
    /// The map needs something in it.
    Holds,
    /// The newest checkpoint has its accounts there.
    Accounts,
    /// Written by compaction after the newest checkpoint.
    Introduced,
    /// Of the newest epoch, and not in the accounts: on its way into them, or left for the next owner to find.
    InFlight,
    /// There are no accounts, so nothing is ever deleted.
    Unaccounted,
    /// Nothing needs it but what a trim dropped from the map: it goes once that has been read and a checkpoint knows.
    Freed,
    /// What it held was overwritten or trimmed after the newest checkpoint: it goes once the next one knows.
    Superseded,
    /// By the accounts nothing needs it: its owner deletes it, or whoever is the next.
    Dead,
    /// Of a finished epoch and unknown to the accounts, or behind the seal of its log: its owner deletes it.
    Orphan,
    /// Its volume has been deleted.
    VolumeDeleted,
    /// No object of a volume has such a key; nobody here deletes it.
    Unknown,
}

impl Reason {
    /// A lower-case word that stays the same from version to version.
    pub fn word(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Seal => "seal",
            Self::StraySeal => "stray-seal",
            Self::Replayed => "replayed",
            Self::Holds => "holds",
            Self::Accounts => "accounts",
            Self::Introduced => "introduced",
            Self::InFlight => "in-flight",
            Self::Unaccounted => "unaccounted",
            Self::Freed => "freed",
            Self::Superseded => "superseded",
            Self::Dead => "dead",
            Self::Orphan => "orphan",
            Self::VolumeDeleted => "volume-deleted",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it goes without anything being rewritten: at once, or once a checkpoint is written.
    pub fn goes(self) -> bool {
        matches!(self, Self::Freed | Self::Superseded | Self::Dead | Self::Orphan | Self::VolumeDeleted)
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Its key below the pool's prefix.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// Why it is there.
    pub reason: Reason,
    /// Bytes of it that are needed.
    pub live: u64,
    /// The same, in a sentence.
    pub why: String,
}

/// All objects of a volume.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The volume's number.
    pub number: u32,
    /// The newest epoch; 0: none.
    pub epoch: u32,
    /// Whether it is attached, sealed, deleted.
    pub state: State,
    /// The last log segment that the newest checkpoint contains: epoch and seq. `None`: there is no checkpoint.
    pub covers: Option<(u32, u64)>,
    /// By key.
    pub objects: Vec<Explained>,
    /// Something is damaged, so the reasons may be wrong.
    pub damaged: bool,
}

/// Says of each object of a volume why it is there. Reads what `fsck` reads, once: an owner may write meanwhile.
///
/// # Errors
/// [`ScrubError`].
pub async fn explain(
    pool: &Pool,
    volume: &str,
    options: ScrubOptions,
    env: &Env,
    progress: &dyn Progress,
) -> Result<Explanation, ScrubError> {
    let source = Source::new(pool, env, options, progress);
    let mut report = Report::default();
    let known = chains::check(&source, &mut report).await?.find(volume);
    let known = known.ok_or_else(|| ScrubError::NoSuchVolume(volume.to_owned()))?;
    let mut pass = Pass::new(&source, &known, false).await?;
    let strangers = pass.listing.strangers.clone();
    pass.run().await?;
    let mut objects: Vec<Explained> = pass.sizes.iter().map(|(id, size)| one(&pass, *id, *size)).collect();
    objects.extend(strangers.into_iter().map(|listed| Explained {
        key: listed.key,
        size: listed.size,
        reason: Reason::Unknown,
        live: 0,
        why: "no object of a volume has such a key".into(),
    }));
    objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    let damaged = report.is_damaged() || pass.findings.count(super::Severity::Damage) > 0;
    let covers = pass.start.filter(|c| c.covers_epoch > 0).map(|c| (c.covers_epoch, c.covers_seq));
    let (number, epoch, state) = (known.number, pass.newest(), pass.report.state);
    Ok(Explanation { number, epoch, state, covers, objects, damaged })
}

fn one(pass: &Pass<'_>, id: SegmentId, size: u64) -> Explained {
    let (reason, why) = reason(pass, id, size);
    let live = match reason {
        Reason::Holds | Reason::Replayed | Reason::Introduced | Reason::Unaccounted | Reason::InFlight => {
            pass.report.usage.get(&id).map_or(0, |u| u.bytes)
        }
        Reason::Opening | Reason::Seal | Reason::StraySeal | Reason::Accounts => size,
        _ => 0,
    };
    Explained { key: id.key(), size, reason, live, why }
}

fn reason(pass: &Pass<'_>, id: SegmentId, size: u64) -> (Reason, String) {
    if let Some(found) = of_log(pass, id) {
        return found;
    }
    let holds = pass.report.usage.get(&id).map(|_| holding(pass, &id, size));
    let account = match &pass.accounts {
        _ if pass.report.state == State::Deleted => {
            return (
                Reason::VolumeDeleted,
                "its volume has been deleted; whoever deleted it goes on, if asked to".into(),
            );
        }
        Accounts::None => {
            let held = holds.map_or(String::new(), |h| format!("; it {h}"));
            return (Reason::Unaccounted, format!("the volume has no accounts yet, so nothing is deleted{held}"));
        }
        Accounts::Unreadable(why) => return (Reason::Unaccounted, format!("{why}, so nothing is known of it")),
        Accounts::Known { own, .. } if own.contains(&id) => {
            return (Reason::Accounts, "the newest checkpoint has its accounts there".into());
        }
        Accounts::Known { usage, .. } => usage.segments.get(&id),
    };
    if let Some(holds) = holds {
        return (Reason::Holds, format!("it {holds}"));
    }
    let newest = pass.newest();
    match account {
        Some(a) if a.is_dead() => {
            (Reason::Dead, "by the accounts of the newest checkpoint nothing needs it; it waits to be deleted".into())
        }
        Some(_) if pass.freed.contains_key(&id) => {
            let why = "only what was trimmed from the map refers to it; it goes once that has been walked through";
            (Reason::Freed, why.into())
        }
        Some(_) => (
            Reason::Superseded,
            "what it held was overwritten or trimmed since; it goes with the next checkpoint".into(),
        ),
        None if pass.introduced.contains(&id) => {
            (Reason::Introduced, "compaction wrote it after the newest checkpoint; the next one knows it".into())
        }
        None if id.epoch() >= newest => {
            let why =
                format!("epoch {newest} goes on, and it is not in the accounts: on its way, or left by a failed try");
            (Reason::InFlight, why)
        }
        None => (Reason::Orphan, format!("epoch {} is over, and the accounts do not know it", id.epoch())),
    }
}

/// What the place in the log alone tells.
fn of_log(pass: &Pass<'_>, id: SegmentId) -> Option<(Reason, String)> {
    if id.kind() != SegmentKind::Log {
        return None;
    }
    let (epoch, seq) = (id.epoch(), id.number());
    if seq == 0 {
        return Some((Reason::Opening, format!("it opens epoch {epoch}; openings stay")));
    }
    let sealed_now = epoch == pass.newest() && pass.report.state == State::Sealed && seq == pass.run_end;
    if pass.finish(epoch).is_some_and(|p| p.end_seq == seq) || sealed_now {
        return Some((Reason::Seal, format!("it ends the log of epoch {epoch}; seals stay")));
    }
    if pass.stray_seals.contains(&id) {
        let why = "a seal of somebody who did not get the volume; seals stay";
        return Some((Reason::StraySeal, why.into()));
    }
    if pass.report.state == State::Deleted {
        return None;
    }
    if pass.ends.get(&epoch).is_some_and(|end| seq > *end) {
        return Some((Reason::Orphan, format!("it lies behind the seal that ends epoch {epoch}")));
    }
    if epoch == pass.newest() && seq > pass.run_end {
        let why = "it lies behind a gap in the log: on its way, or left by an owner that died";
        return Some((Reason::InFlight, why.into()));
    }
    let covered = pass.start.is_some_and(|c| (epoch, seq) <= (c.covers_epoch, c.covers_seq));
    (!covered).then(|| (Reason::Replayed, "it comes after the newest checkpoint: attaching replays it".into()))
}

/// What the map needs of it.
fn holding(pass: &Pass<'_>, id: &SegmentId, size: u64) -> String {
    let usage = pass.report.usage.get(id).copied().unwrap_or_default();
    let nodes = match &pass.accounts {
        Accounts::Known { usage, .. } => usage.segments.get(id).map_or(0, |a| a.nodes),
        _ => 0,
    };
    let nodes = if nodes > 0 { format!(" and {nodes} nodes of the map") } else { String::new() };
    format!("holds {} blocks{nodes}: {} of its {size} bytes are needed", usage.blocks, usage.bytes)
}
