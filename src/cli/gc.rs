//! `esker gc`: which objects of a volume go, which stay, and why.

use std::collections::BTreeMap;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::failure::{Doing, Outcome};
use super::output::{self, print_json, table};
use super::scrub::Bar;
use super::size::show_size;
use super::store_args::PoolArgs;
use crate::env::Env;
use crate::scrub::{Explained, Explanation, Reason, ScrubOptions, explain};

const REASONS: &str = "REASONS:\n  \
    opening, seal, stray-seal  kept for ever: they say who had the volume when\n  \
    replayed     a log segment after the newest checkpoint\n  \
    holds        the map needs something in it; the rest of it goes by compaction\n  \
    accounts     the newest checkpoint has its accounts there\n  \
    introduced   written by compaction after the newest checkpoint\n  \
    in-flight    of the epoch that goes on, not in the accounts yet\n  \
    unaccounted  the volume has no accounts, or they cannot be read: nothing is deleted\n  \
    freed        only what a trim dropped from the map refers to it: goes once that was read\n  \
    superseded   overwritten or trimmed since: goes with the next checkpoint\n  \
    dead         needed by nothing: its owner deletes it, or the next one\n  \
    orphan       left behind by a finished epoch: found and deleted after the next attach\n  \
    volume-deleted  its volume was deleted\n  \
    unknown      no key of ours; esker does not touch it";

/// Memory for comparing map and log, in bytes: they are not compared here.
const NO_COMPARISON: usize = 1 << 20;

/// Say which objects of a volume will be deleted, and why the others stay
///
/// Deletes nothing: that is the owner's, who does so in the background. Lists the volume and reads its log, map and
/// accounts, so it may take a while. If the volume is written to meanwhile, some reasons may be a moment old.
#[derive(Debug, Args)]
#[command(after_help = format!("EXAMPLES:\n  \
    esker gc s3://bucket/pool data\n  \
    esker gc s3://bucket/pool data --explain\n  \
    esker gc s3://bucket/pool data --explain --json | jq -r '.objects[] | select(.goes) | .key'\n\n{REASONS}"))]
pub struct GcArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// The volume
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Tell it of each object
    #[arg(long)]
    explain: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub async fn run(args: GcArgs, env: Env) -> Outcome {
    let pool = args.pool.open(&env).await?;
    let options = ScrubOptions { data: false, replay_bytes: NO_COMPARISON, ..ScrubOptions::default() };
    let bar = Bar(ProgressBar::new(0));
    let explained = explain(&pool, &args.volume, options, &env, &bar).await;
    bar.0.finish_and_clear();
    let what = format!("volume {}", args.volume);
    let all = explained.doing(&what)?;
    if args.json {
        print_json(&document(&all, &args))?;
    } else {
        output::bytes(text(&all, args.explain).as_bytes())?;
    }
    if all.damaged {
        eprintln!("esker: {what}: something is damaged, so reasons may be wrong; `esker fsck` says more");
    }
    Ok(())
}

/// Objects and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    objects: u64,
    bytes: u64,
    live: u64,
}

fn sums<'a>(objects: impl Iterator<Item = &'a Explained>) -> BTreeMap<Reason, Sum> {
    let mut sums: BTreeMap<Reason, Sum> = BTreeMap::new();
    for object in objects {
        let sum = sums.entry(object.reason).or_default();
        sum.objects += 1;
        sum.bytes += object.size;
        sum.live += object.live;
    }
    sums
}

/// What goes without anything being rewritten.
fn going(sums: &BTreeMap<Reason, Sum>) -> Sum {
    let all = sums.iter().filter(|(reason, _)| reason.goes());
    all.fold(Sum::default(), |a, (_, b)| Sum { objects: a.objects + b.objects, bytes: a.bytes + b.bytes, live: 0 })
}

fn text(all: &Explanation, each: bool) -> String {
    let mut out = String::new();
    if each {
        let heading = ["KEY", "SIZE", "REASON", "WHY"].map(str::to_owned);
        let row = |o: &Explained| [o.key.clone(), show_size(o.size), o.reason.word().to_owned(), o.why.clone()];
        let rows: Vec<_> = [heading].into_iter().chain(all.objects.iter().map(row)).collect();
        out.push_str(&table(&rows));
        out.push('\n');
    }
    let sums = sums(all.objects.iter());
    let heading = ["REASON", "OBJECTS", "BYTES", "NEEDED", "THEN"].map(str::to_owned);
    let row = |(reason, sum): (&Reason, &Sum)| {
        let then = if reason.goes() { "goes" } else { "stays" };
        let (bytes, live) = (show_size(sum.bytes), show_size(sum.live));
        [reason.word().to_owned(), sum.objects.to_string(), bytes, live, then.to_owned()]
    };
    let rows: Vec<_> = [heading].into_iter().chain(sums.iter().map(row)).collect();
    out.push_str(&table(&rows));
    let goes = going(&sums);
    out.push_str(&match goes.objects {
        0 => "nothing to delete\n".to_owned(),
        n => format!("{n} objects ({}) go; its owner deletes them, or the next one\n", show_size(goes.bytes)),
    });
    out
}

fn document(all: &Explanation, args: &GcArgs) -> Value {
    let sums = sums(all.objects.iter());
    let goes = going(&sums);
    let summary: serde_json::Map<String, Value> = sums
        .iter()
        .map(|(reason, s)| {
            let sum = json!({ "objects": s.objects, "bytes": s.bytes, "live": s.live, "goes": reason.goes() });
            (reason.word().to_owned(), sum)
        })
        .collect();
    let each = |o: &Explained| {
        json!({ "key": o.key, "bytes": o.size, "reason": o.reason.word(), "goes": o.reason.goes(), "live": o.live,
            "why": o.why })
    };
    let mut document = json!({
        "volume": args.volume,
        "number": all.number,
        "epoch": all.epoch,
        "state": all.state.word(),
        "checkpoint": all.covers.map(|(epoch, seq)| json!({ "epoch": epoch, "seq": seq })),
        "damaged": all.damaged,
        "reasons": summary,
        "going": { "objects": goes.objects, "bytes": goes.bytes },
    });
    if let Some(fields) = document.as_object_mut().filter(|_| args.explain) {
        fields.insert("objects".into(), all.objects.iter().map(each).collect());
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrub::State;

    #[test]
    fn what_goes_is_summed_up() {
        let object =
            |key: &str, size, reason, live| Explained { key: key.into(), size, reason, live, why: "so".into() };
        let all = Explanation {
            number: 1,
            epoch: 2,
            state: State::Open,
            covers: Some((1, 7)),
            objects: vec![
                object("data/a", 1024, Reason::Dead, 0),
                object("data/b", 2048, Reason::Orphan, 0),
                object("log/a", 4096, Reason::Holds, 100),
            ],
            damaged: false,
        };
        let short = text(&all, false);
        assert!(short.starts_with("REASON") && !short.contains("data/a"), "{short}");
        assert!(short.ends_with("2 objects (3 KiB) go; its owner deletes them, or the next one\n"), "{short}");
        let long = text(&all, true);
        assert!(long.starts_with("KEY") && long.contains("data/b  2 KiB  orphan  so"), "{long}");
        let nothing = Explanation { objects: Vec::new(), ..all };
        assert!(text(&nothing, true).ends_with("nothing to delete\n"));
    }
}
