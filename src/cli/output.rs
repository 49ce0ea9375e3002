//! What goes to stdout: lines, tables, JSON. A reader that went away (`| head`) ends the command quietly.

use std::fmt;
use std::io::{self, Write};
use std::process;

use serde_json::Value;

use super::failure::{Failure, Outcome};

/// Prints one line.
pub fn line(text: impl fmt::Display) -> Outcome {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints `value`, indented.
pub fn print_json(value: &Value) -> Outcome {
    line(format_args!("{value:#}"))
}

/// Writes to stdout and flushes it.
pub fn bytes(bytes: &[u8]) -> Outcome {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => process::exit(0),
        other => other.map_err(|e| Failure::plain("standard output", e)),
    }
}

/// Columns as wide as they need to be, two spaces apart; the first row is the heading.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A time in milliseconds since 1970, in UTC to the second.
pub fn show_time(wall_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(wall_ms));
    // humantime formats up to the year 9999 and fails beyond.
    let latest = std::time::Duration::from_secs(253_402_300_799);
    match time.filter(|t| t.duration_since(std::time::UNIX_EPOCH).is_ok_and(|d| d <= latest)) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["NAME".into(), "SIZE".into()], ["a".into(), "10 GiB".into()], ["longer".into(), String::new()]];
        assert_eq!(table(&rows), "NAME    SIZE\na       10 GiB\nlonger\n");
    }

    #[test]
    fn times_never_panic() {
        assert_eq!(show_time(0), "1970-01-01T00:00:00Z");
        assert_eq!(show_time(u64::MAX), "unknown");
        assert_eq!(show_time(253_402_300_800_000), "unknown");
    }
}
