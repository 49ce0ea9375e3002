//! A report for people, and as JSON (docs/scrub.md describes the document).

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cli::output::table;
use crate::cli::size::show_size;
use crate::scrub::{ByteRange, Finding, Report, Severity, VolumeReport};
use crate::segment::BLOCK;

/// Ranges of one finding that people see.
const RANGES: usize = 8;

pub fn document(command: &str, url: &str, pool: Option<&str>, report: &Report) -> Value {
    let all = &report.findings;
    json!({
        "command": command,
        "url": url,
        "pool": pool,
        "summary": {
            "damage": all.count(Severity::Damage),
            "leaks": all.count(Severity::Leak),
            "notes": all.count(Severity::Note),
            "findings_left_out": all.left_out(),
            "objects": report.pool_objects + report.volumes.iter().map(|v| v.objects).sum::<u64>(),
            "stored_bytes": report.pool_bytes + report.volumes.iter().map(|v| v.stored_bytes).sum::<u64>(),
        },
        "volumes": report.volumes.iter().map(volume).collect::<Vec<_>>(),
        "findings": all.sorted().into_iter().map(|f| finding(f, report)).collect::<Vec<_>>(),
    })
}

fn volume(v: &VolumeReport) -> Value {
    json!({
        "number": v.number,
        "name": v.name,
        "state": v.state.word(),
        "epoch": v.epoch,
        "objects": v.objects,
        "stored_bytes": v.stored_bytes,
        "live_blocks": v.live_blocks,
        "live_data_bytes": v.live_data_bytes,
        "live_node_bytes": v.live_node_bytes,
        "garbage_bytes": v.garbage_bytes(),
        "leaked_bytes": v.leaked_bytes,
        "dead_objects": v.dead_objects,
        "dead_bytes": v.dead_bytes,
        "accounts": v.accounts.map(|a| json!({
            "objects": a.objects,
            "bytes": a.bytes,
            "live_bytes": a.live,
            "live_blocks": a.blocks,
            "live_nodes": a.nodes,
            "dead_objects": a.dead_objects,
            "dead_bytes": a.dead_bytes,
        })),
        "accounts_unchecked": v.accounts_unchecked,
        "records_read": v.records_read,
        "bytes_read": v.bytes_read,
        "not_compared": v.not_compared,
        "leaks_unknown": v.leaks_unknown,
    })
}

fn finding(f: &Finding, report: &Report) -> Value {
    json!({
        "kind": f.kind.word(),
        "severity": f.kind.severity().word(),
        "volume": name(f, report),
        "number": f.volume,
        "key": f.key,
        "ranges": f.ranges.iter().map(|r| json!({ "offset": r.offset, "length": r.length })).collect::<Vec<_>>(),
        "ranges_left_out": f.ranges.left_out(),
        "why": f.why,
        "more": f.more,
        "blocks_attach": f.blocks_attach,
        "wasted_bytes": f.wasted,
        "effect": f.effect(),
    })
}

/// The name of the volume that a finding is about.
fn name<'r>(f: &Finding, report: &'r Report) -> Option<&'r str> {
    let of = report.volumes.iter().find(|v| Some(v.number) == f.volume)?;
    of.name.as_deref()
}

pub fn text(report: &Report) -> String {
    let mut out = String::new();
    if !report.volumes.is_empty() {
        let heading =
            ["VOLUME", "STATE", "EPOCH", "OBJECTS", "STORED", "DATA", "LIVE", "MAP", "GARBAGE", "LEAKED", "READ"];
        let rows: Vec<_> = [heading.map(str::to_owned)].into_iter().chain(report.volumes.iter().map(row)).collect();
        out.push_str(&table(&rows));
    }
    for v in &report.volumes {
        let name = called(v);
        if let Some(why) = &v.not_compared {
            line(
                &mut out,
                format_args!("volume {name}: its map was not compared with its log from the beginning: {why}"),
            );
        }
        if let Some(why) = &v.leaks_unknown {
            line(&mut out, format_args!("volume {name}: leaked segments were not looked for: {why}"));
        }
        if let Some(a) = &v.accounts {
            let (live, bytes) = (show_size(a.live), show_size(a.bytes));
            line(
                &mut out,
                format_args!("volume {name}: by its accounts {live} of {bytes} in {} segments are live", a.objects),
            );
        }
        if let Some(why) = &v.accounts_unchecked {
            line(&mut out, format_args!("volume {name}: its accounts were not compared with its map: {why}"));
        }
        if v.dead_objects > 0 {
            let (count, bytes) = (v.dead_objects, show_size(v.dead_bytes));
            line(&mut out, format_args!("volume {name}: {count} dead objects ({bytes}) wait to be deleted"));
        }
    }
    for f in report.findings.sorted() {
        describe(&mut out, f, report);
    }
    let all = &report.findings;
    if all.left_out() > 0 {
        line(&mut out, format_args!("{} more findings are left out", all.left_out()));
    }
    let [damage, leaks, notes] = [Severity::Damage, Severity::Leak, Severity::Note].map(|s| all.count(s));
    match damage + leaks + notes {
        0 => line(&mut out, format_args!("nothing found")),
        _ => line(&mut out, format_args!("found: {damage} damage, {leaks} leaks, {notes} notes")),
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a String takes all that is written");
}

fn called(v: &VolumeReport) -> String {
    v.name.clone().unwrap_or_else(|| format!("number {}", v.number))
}

/// DATA is what blocks of the volume hold, LIVE what that takes in the bucket.
fn row(v: &VolumeReport) -> [String; 11] {
    [
        called(v),
        v.state.word().to_owned(),
        v.epoch.to_string(),
        v.objects.to_string(),
        show_size(v.stored_bytes),
        show_size(v.live_blocks.saturating_mul(BLOCK as u64)),
        show_size(v.live_data_bytes),
        show_size(v.live_node_bytes),
        show_size(v.garbage_bytes()),
        show_size(v.leaked_bytes),
        show_size(v.bytes_read),
    ]
}

fn describe(out: &mut String, f: &Finding, report: &Report) {
    let of = match (f.volume, name(f, report)) {
        (Some(number), Some(name)) => format!(" (volume {name}, number {number})"),
        (Some(number), None) => format!(" (volume number {number})"),
        (None, _) => String::new(),
    };
    line(out, format_args!("{}: {} {}{of}", f.kind.severity().word(), f.kind.word(), f.key));
    let more = if f.more > 0 { format!(", and {} more like it", f.more) } else { String::new() };
    line(out, format_args!("  seen: {}{more}", f.why));
    if !f.ranges.is_empty() {
        let shown: Vec<String> = f.ranges.iter().take(RANGES).map(|r| show_range(&r)).collect();
        let left = f.ranges.iter().count().saturating_sub(RANGES);
        let left = if left > 0 { format!(", and {left} more ranges") } else { String::new() };
        line(out, format_args!("  bytes: {}{left}", shown.join(", ")));
    }
    line(out, format_args!("  so: {}", f.effect()));
}

/// First and last byte, and the length.
fn show_range(r: &ByteRange) -> String {
    format!("{} to {} ({})", r.offset, r.offset + (r.length - 1), show_size(r.length))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pool::PoolError;
    use crate::scrub::unopenable;

    #[test]
    fn a_report_says_what_and_what_it_means() {
        let error = PoolError::Damaged { key: "pool/f".into(), why: "its checksum does not fit".into() };
        let report = unopenable(&error).unwrap();
        let text = text(&report);
        assert!(text.starts_with("damage: damaged-pool-record pool/f\n  seen: its checksum does not fit\n"), "{text}");
        assert!(text.ends_with("found: 1 damage, 0 leaks, 0 notes\n"), "{text}");
        let json = document("fsck", "file:///p", None, &report);
        assert_eq!(json["summary"]["damage"], 1);
        assert_eq!((&json["findings"][0]["kind"], &json["pool"]), (&"damaged-pool-record".into(), &Value::Null));
        assert_eq!(super::text(&Report::default()), "nothing found\n");
        assert_eq!(show_range(&ByteRange { offset: 4096, length: 8192 }), "4096 to 12287 (8 KiB)");
    }
}
