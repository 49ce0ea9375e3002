//! `esker status`: what running servers say of themselves.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::failure::{Doing, Exit, Failure, Outcome};
use super::output::{self, print_json, show_time};
use super::size::show_size;
use crate::host::{ControlError, Dirs, ask_status, find_sockets};

/// Show what running servers are doing: volumes, durability, unflushed data, caches, the last error
///
/// Without an argument it asks every server of this user on this machine.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker status\n  \
    esker status /run/esker/3f2a90b1c4d5e6f7.sock\n  \
    esker status --json | jq '.[].volumes[].name'")]
pub struct StatusArgs {
    /// Control socket of one server
    #[arg(value_name = "SOCKET")]
    socket: Option<PathBuf>,
    /// Print a JSON array with one element per server
    #[arg(long)]
    json: bool,
}

pub async fn run(args: StatusArgs) -> Outcome {
    let (sockets, named) = match args.socket {
        Some(socket) => (vec![socket], true),
        None => {
            let dir = Dirs::of_this_user().runtime;
            (find_sockets(&dir).doing(dir.display())?, false)
        }
    };
    let mut answers = Vec::new();
    for socket in sockets {
        match ask_status(&socket).await {
            Ok(status) => answers.push((socket, Ok(status))),
            Err(e) if named => return Err(e).doing("status"),
            Err(e) => answers.push((socket, Err(e))),
        }
    }
    if args.json {
        return print_json(&answers.iter().map(to_json).collect());
    }
    for (socket, answer) in &answers {
        output::line(format_args!("{}", socket.display()))?;
        match answer {
            Ok(status) => output::bytes(render(status).as_bytes())?,
            Err(ControlError::Stale(_)) => {
                output::line("  its server is gone without a trace (killed?); the next one clears this away")?;
            }
            Err(e) => output::line(format_args!("  cannot be asked: {e}"))?,
        }
    }
    if answers.iter().any(|(_, a)| a.is_ok()) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::NotFound,
        "status",
        "no server of this user runs here; name its socket if it lies elsewhere",
    ))
}

fn to_json((socket, answer): &(PathBuf, Result<Value, ControlError>)) -> Value {
    let mut object = match answer {
        Ok(Value::Object(status)) => status.clone(),
        Ok(other) => Map::from_iter([("status".into(), other.clone())]),
        Err(e) => Map::from_iter([("error".into(), json!(e.to_string()))]),
    };
    object.insert("socket".into(), json!(socket));
    Value::Object(object)
}

/// Indented `name: value` lines. Names that end in `_bytes`, `_ms`, `wall_ms` and such are shown in units people read, so
/// that the engine can add to its status without this command knowing.
fn render(status: &Value) -> String {
    let mut out = String::new();
    render_into(&mut out, status, 1);
    out
}

fn render_into(out: &mut String, value: &Value, depth: usize) {
    let Value::Object(fields) = value else { return };
    let indent = "  ".repeat(depth);
    for (name, value) in fields {
        let label = label(name);
        match value {
            Value::Null => {}
            Value::Object(o) if o.is_empty() => {}
            Value::Object(o) if name == "space" => out.push_str(&format!("{indent}space: {}\n", in_a_line(o))),
            Value::Object(_) => {
                out.push_str(&format!("{indent}{label}:\n"));
                render_into(out, value, depth + 1);
            }
            Value::Array(items) if items.iter().all(Value::is_object) => {
                items.iter().for_each(|item| render_item(out, label.trim_end_matches('s'), item, depth));
            }
            Value::Array(items) => {
                out.push_str(&format!("{indent}{label}:\n"));
                items.iter().for_each(|item| out.push_str(&format!("{indent}  {}\n", scalar(name, item))));
            }
            _ => out.push_str(&format!("{indent}{label}: {}\n", scalar(name, value))),
        }
    }
}

/// What a volume takes, on one line.
fn in_a_line(space: &Map<String, Value>) -> String {
    let number = |name: &str| space.get(name).and_then(Value::as_u64).unwrap_or(0);
    let size = |name: &str| show_size(number(name));
    let (stored, live) = (number("stored"), number("live"));
    // As `df` has it: what no checkpoint has counted yet is needed, too.
    let new = number("new");
    let unaccounted = if new > 0 { format!(", {} new", show_size(new)) } else { String::new() };
    let amplification = match live + new {
        0 => String::new(),
        needed => format!(" (amplification {:.2})", stored as f64 / needed as f64),
    };
    format!(
        "{} stored, {} live{unaccounted}{amplification}, {} dead; compaction wrote {}; {} objects deleted ({})",
        size("stored"),
        size("live"),
        size("dead"),
        size("compaction_written"),
        number("deleted_objects"),
        size("deleted"),
    )
}

/// One of several: on a line if it says little.
fn render_item(out: &mut String, label: &str, item: &Value, depth: usize) {
    let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
    let heading = format!("{}{label} {name}", "  ".repeat(depth));
    out.push_str(heading.trim_end());
    let rest = without_name(item);
    match &rest {
        Value::Object(fields) if fields.len() <= 3 && !fields.values().any(|v| v.is_object() || v.is_array()) => {
            let facts: Vec<_> = fields.iter().map(|(n, v)| format!("{} {}", self::label(n), scalar(n, v))).collect();
            out.push_str(&format!(": {}\n", facts.join(", ")));
        }
        _ => {
            out.push('\n');
            render_into(out, &rest, depth + 1);
        }
    }
}

fn without_name(item: &Value) -> Value {
    let mut item = item.clone();
    if let Some(fields) = item.as_object_mut() {
        fields.remove("name");
    }
    item
}

fn label(name: &str) -> String {
    let stem = ["_wall_ms", "_bytes", "_ms"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
    stem.replace('_', " ")
}

fn is_size(name: &str) -> bool {
    let whole = ["bytes", "size", "map_dirty", "map_leaves"];
    whole.contains(&name) || ["_bytes", "_size", "_used"].iter().any(|s| name.ends_with(s))
}

fn scalar(name: &str, value: &Value) -> String {
    match value {
        Value::Number(n) => match n.as_u64() {
            Some(v) if is_size(name) => show_size(v),
            Some(v) if name.ends_with("wall_ms") => show_time(v),
            Some(v) if name.ends_with("_ms") => {
                humantime::format_duration(std::time::Duration::from_millis(v)).to_string()
            }
            _ => n.to_string(),
        },
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_reads_like_a_list_of_facts() {
        let status = json!({
            "pool": "abc",
            "started_wall_ms": 0,
            "volumes": [
                {"name": "data", "size": 10u64 << 30, "unflushed_bytes": 4096, "unflushed_age_ms": 1500,
                 "read_only": false, "last_error": null,
                 "space": {"written": 8192, "live": 3072, "new": 1024, "stored": 6144, "dead": 1024, "compaction_written": 2048,
                           "deleted_objects": 3, "deleted": 5120}},
                {"name": "idle", "attached": false, "size": 4096},
            ],
            "listen": ["a", "b"],
            "store": {},
        });
        let expected = [
            "  listen:",
            "    a",
            "    b",
            "  pool: abc",
            "  started: 1970-01-01T00:00:00Z",
            "  volume data",
            "    read only: no",
            "    size: 10 GiB",
            "    space: 6 KiB stored, 3 KiB live, 1 KiB new (amplification 1.50), 1 KiB dead; compaction wrote 2 KiB; \
             3 objects deleted (5 KiB)",
            "    unflushed age: 1s 500ms",
            "    unflushed: 4 KiB",
            "  volume idle: attached no, size 4 KiB",
        ];
        assert_eq!(render(&status).lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_answer_that_is_no_object_renders_as_nothing() {
        assert_eq!(render(&json!([1, 2])), "");
        let (socket, answer) = (PathBuf::from("/s"), Ok(json!(1)));
        assert_eq!(to_json(&(socket, answer)), json!({"socket": "/s", "status": 1}));
    }
}
