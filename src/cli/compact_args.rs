//! The flags of every daemon that say how space is given back.

use clap::{Args, ValueEnum};

use super::size::parse_size;
use crate::pool::Compression;
use crate::volume::CompactOptions;

/// How volumes give space back in the background.
#[derive(Debug, Args)]
pub struct CompactArgs {
    /// Delete what nothing needs any more, and rewrite what holds much garbage, in the background
    #[arg(long, value_name = "on|off", value_enum, default_value = "on", help_heading = "Space")]
    pub compact: Switch,
    /// Rewrite once the store holds more than so many times the bytes that are needed; from 1.02 to 100
    #[arg(long, value_name = "RATIO", default_value = "1.2", value_parser = parse_ratio, help_heading = "Space")]
    pub compact_target: f64,
    /// Leave garbage of fewer bytes than this alone: 32M is 32 MiB
    #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = parse_size, help_heading = "Space")]
    pub compact_slack: u64,
    /// How what is rewritten is compressed: none, lz4 or zstd [default: as the volume]
    #[arg(long, value_name = "HOW", value_parser = parse_compression, help_heading = "Space")]
    pub compact_compression: Option<Compression>,
    /// Rewriting reads and writes at most this much a second, over some minutes [default: by the load]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate, help_heading = "Space")]
    pub compact_bandwidth: Option<u64>,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is
    On,
    /// It is not
    Off,
}

impl CompactArgs {
    /// What the engine is told.
    pub fn options(&self) -> CompactOptions {
        CompactOptions {
            enabled: self.compact == Switch::On,
            target: self.compact_target,
            slack: self.compact_slack,
            compression: self.compact_compression,
            max_bandwidth: self.compact_bandwidth,
            ..CompactOptions::default()
        }
    }
}

/// Below this a volume would be rewritten without end, above nothing would ever be.
fn parse_ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (1.02..=100.0).contains(&ratio) => Ok(ratio),
        Ok(_) => Err("it must be from 1.02 to 100".into()),
        Err(_) => Err("it must be a number such as 1.2".into()),
    }
}

fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("nothing at all is said with --compact off".into()),
        rate => Ok(rate),
    }
}

fn parse_compression(text: &str) -> Result<Compression, String> {
    text.parse().map_err(|_| "say none, lz4 or zstd".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        compact: CompactArgs,
    }

    #[test]
    fn unless_told_otherwise_the_engine_does_as_it_likes() {
        let options = |args: &[&str]| Line::try_parse_from([&["x"], args].concat()).map(|l| l.compact.options());
        assert_eq!(options(&[]).unwrap(), CompactOptions::default());
        let all = [
            "--compact=off",
            "--compact-target=1.5",
            "--compact-slack=1G",
            "--compact-compression=zstd",
            "--compact-bandwidth=20M",
        ];
        let told = CompactOptions {
            enabled: false,
            target: 1.5,
            slack: 1 << 30,
            compression: Some(Compression::Zstd),
            max_bandwidth: Some(20 << 20),
            ..CompactOptions::default()
        };
        assert_eq!(options(&all).unwrap(), told);
        for bad in [
            "--compact=maybe",
            "--compact-target=1",
            "--compact-target=NaN",
            "--compact-target=x",
            "--compact-compression=gzip",
            "--compact-slack=-1",
            "--compact-bandwidth=0",
        ] {
            assert!(options(&[bad]).is_err(), "{bad}");
        }
    }
}
