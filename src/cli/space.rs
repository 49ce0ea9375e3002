//! What volumes take in the store: from their running owner, or read from the newest checkpoint.

use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::failure::{Doing, Outcome};
use super::running::Running;
use super::scrub::Bar;
use super::size::show_size;
use crate::env::Env;
use crate::pool::Pool;
use crate::scrub::{ScrubOptions, VolumeReport, scrub};
use crate::segment::BLOCK;

/// Memory for what a check would compare the map with, in bytes: here nothing is compared.
const NO_COMPARISON: usize = 1 << 20;

/// What one volume takes. Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Blocks that hold something.
    pub written: u64,
    /// Stored bytes of records that the volume needs, its map included.
    pub live: u64,
    /// Stored bytes of all segments.
    pub stored: u64,
    /// Of those, what came after the newest checkpoint: how much of it is needed is not counted yet.
    pub new: u64,
    /// Of those, what segments take besides their records.
    pub overhead: u64,
    /// Of those, what nothing needs and waits to be deleted.
    pub dead: u64,
    /// Segments.
    pub objects: u64,
    /// Those of them that wait to be deleted.
    pub dead_objects: u64,
}

impl Space {
    /// As a running owner says; `None` where it has not read its accounts yet.
    pub fn of_status(status: &Value) -> Option<Self> {
        let space = &status["space"];
        let number = |name: &str| space[name].as_u64();
        Some(Self {
            written: number("written")?,
            live: number("live")?,
            stored: number("stored")?,
            new: number("new")?,
            overhead: number("overhead")?,
            dead: number("dead")?,
            objects: number("objects")?,
            dead_objects: number("dead_objects")?,
        })
    }

    /// By the accounts of the newest checkpoint; by a count where it has none.
    pub fn of_report(report: &VolumeReport) -> Self {
        match &report.accounts {
            Some(a) => Self {
                written: a.blocks * BLOCK as u64,
                live: a.live,
                // Those that are deleted stay in the accounts until the next checkpoint.
                stored: (a.bytes - a.dead_bytes) + report.dead_bytes,
                new: 0,
                overhead: a.overhead,
                dead: report.dead_bytes,
                objects: (a.objects - a.dead_objects) + report.dead_objects,
                dead_objects: report.dead_objects,
            },
            None => Self {
                written: report.live_blocks * BLOCK as u64,
                live: report.live_data_bytes + report.live_node_bytes,
                stored: report.stored_bytes,
                new: 0,
                overhead: 0,
                dead: report.leaked_bytes,
                objects: report.objects,
                dead_objects: 0,
            },
        }
    }

    /// What is stored beside what is needed, in segments that are needed.
    pub fn garbage(&self) -> u64 {
        self.stored.saturating_sub(self.live + self.new + self.overhead + self.dead)
    }

    /// Bytes written by bytes stored for them; `None` where nothing is.
    pub fn compression(&self) -> Option<f64> {
        ratio(self.written, self.live)
    }

    /// Bytes stored by bytes needed; `None` where nothing is. What is new counts as needed.
    pub fn amplification(&self) -> Option<f64> {
        ratio(self.stored, self.live + self.new)
    }

    /// For scripts.
    pub fn to_json(self) -> Value {
        json!({
            "written": self.written,
            "live": self.live,
            "stored": self.stored,
            "new": self.new,
            "overhead": self.overhead,
            "garbage": self.garbage(),
            "dead": self.dead,
            "objects": self.objects,
            "dead_objects": self.dead_objects,
            "compression_ratio": self.compression(),
            "space_amplification": self.amplification(),
        })
    }

    /// For people, in this order: written, live, new, overhead, garbage, dead, stored, objects, compression, amplification.
    pub fn cells(&self) -> [String; 10] {
        let sizes = [self.written, self.live, self.new, self.overhead, self.garbage(), self.dead, self.stored];
        let [written, live, new, overhead, garbage, dead, stored] = sizes.map(show_size);
        let objects = self.objects.to_string();
        [
            written,
            live,
            new,
            overhead,
            garbage,
            dead,
            stored,
            objects,
            show_ratio(self.compression()),
            show_ratio(self.amplification()),
        ]
    }
}

fn ratio(of: u64, by: u64) -> Option<f64> {
    (by > 0).then(|| (of as f64 / by as f64 * 1000.0).round() / 1000.0)
}

fn show_ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".into(), |r| format!("{r:.2}"))
}

/// What the volume called `name` takes: as `running` says if it is among those, else as a look into the store tells,
/// which reads all of its map.
pub async fn space_of(pool: &Pool, name: &str, running: &[Running], env: &Env) -> Outcome<Option<Space>> {
    let id = pool.id_hex();
    match running.iter().find(|r| r.pool == id && r.name == name) {
        Some(here) => Ok(Space::of_status(&here.status)),
        None => read(pool, name, env).await.map(Some),
    }
}

async fn read(pool: &Pool, name: &str, env: &Env) -> Outcome<Space> {
    let options = ScrubOptions { data: false, replay_bytes: NO_COMPARISON, ..ScrubOptions::default() };
    let bar = Bar(ProgressBar::new(0));
    let report = scrub(pool, Some(name), options, env, &bar).await;
    bar.0.finish_and_clear();
    let what = format!("volume {name}");
    let report = report.doing(&what)?;
    if report.is_damaged() {
        tracing::warn!("{what}: damage was found, so these figures may be wrong; `esker fsck` says more");
    }
    Ok(report.volumes.first().map(Space::of_report).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::map::UsageTotals;

    #[test]
    fn ratios_are_of_what_is_needed() {
        let parts = Space { new: 500, overhead: 30, dead: 100, ..Space::default() };
        let space = Space { written: 3000, live: 1000, stored: 2250, objects: 4, dead_objects: 1, ..parts };
        assert_eq!((space.garbage(), space.compression(), space.amplification()), (620, Some(3.0), Some(1.5)));
        let json = space.to_json();
        assert_eq!((&json["garbage"], &json["space_amplification"]), (&620.into(), &1.5.into()));
        let cells = space.cells();
        assert_eq!((cells[4].as_str(), cells[7].as_str(), cells[9].as_str()), ("620 B", "4", "1.50"));
        let empty = Space::default();
        assert_eq!((empty.compression(), empty.cells()[8].as_str(), empty.garbage()), (None, "-", 0));
        assert_eq!(empty.to_json()["space_amplification"], Value::Null);
    }

    #[test]
    fn owners_and_checkpoints_say_the_same() {
        let status = json!({ "space": { "written": 8192, "live": 5000, "stored": 7000, "new": 0, "overhead": 200,
            "objects": 3, "dead": 900, "dead_objects": 1, "compaction_read": 0 } });
        let dead = UsageTotals { dead_objects: 1, dead_bytes: 900, ..UsageTotals::default() };
        let totals = UsageTotals { objects: 3, bytes: 7000, live: 5000, blocks: 2, nodes: 1, overhead: 200, ..dead };
        let there = VolumeReport { dead_objects: 1, dead_bytes: 900, ..VolumeReport::default() };
        let report = VolumeReport { accounts: Some(totals), ..there };
        assert_eq!(Space::of_status(&status).unwrap(), Space::of_report(&report));
        assert_eq!(Space::of_status(&json!({ "space": null })), None);
        let deleted = VolumeReport { accounts: Some(totals), ..VolumeReport::default() };
        let space = Space { written: 8192, live: 5000, stored: 6100, overhead: 200, objects: 2, ..Space::default() };
        assert_eq!(Space::of_report(&deleted), space);
        let counted = VolumeReport {
            live_blocks: 1,
            live_data_bytes: 10,
            live_node_bytes: 5,
            stored_bytes: 20,
            objects: 2,
            ..VolumeReport::default()
        };
        let space = Space { written: 4096, live: 15, stored: 20, objects: 2, ..Space::default() };
        assert_eq!(Space::of_report(&counted), space);
    }
}
