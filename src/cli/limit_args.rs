//! The flags that say how much the store may be asked.

use clap::Args;

use super::size::parse_size;
use crate::store::Limits;

/// Ceilings of one process; all of them infinite unless given.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Send the store at most this many requests a second; more wait their turn, what programs wait for first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Store")]
    pub max_requests_per_second: Option<u32>,
    /// Send the store, and receive from it, at most this many bytes a second each
    #[arg(long, value_name = "SIZE", value_parser = parse_bandwidth, help_heading = "Store")]
    pub max_bandwidth: Option<u64>,
}

impl LimitArgs {
    /// What the store is told.
    pub fn limits(&self) -> Limits {
        Limits { requests_per_second: self.max_requests_per_second, bytes_per_second: self.max_bandwidth }
    }
}

/// Below this a segment takes minutes.
const LEAST_BANDWIDTH: u64 = 64 << 10;

fn parse_bandwidth(text: &str) -> Result<u64, String> {
    match parse_size(text.strip_suffix("/s").unwrap_or(text))? {
        bytes if bytes >= LEAST_BANDWIDTH => Ok(bytes),
        _ => Err("it must be 64K (a second) at least".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_sizes_a_second() {
        assert_eq!(parse_bandwidth("10M"), Ok(10 << 20));
        assert_eq!(parse_bandwidth("64KiB/s"), Ok(64 << 10));
        assert!(parse_bandwidth("63K").is_err() && parse_bandwidth("10M/min").is_err());
    }
}
