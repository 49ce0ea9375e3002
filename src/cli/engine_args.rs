//! The flags of every daemon that holds volumes: where their data goes, what happens in trouble.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::attach_args::AttachArgs;
use super::compact_args::CompactArgs;
use super::failure::{Doing, Outcome};
use super::limit_args::LimitArgs;
use super::size::parse_size;
use crate::env::Env;
use crate::host::{Dirs, HostTree, check_not_stacked, swap_on_stacked, usual_journal_bytes};
use crate::volume::{AttachOptions, OnOutage};

/// How volumes are held, whatever front end serves them.
#[derive(Debug, Args)]
pub struct EngineArgs {
    #[command(flatten)]
    pub attach: AttachArgs,
    #[command(flatten)]
    pub compact: CompactArgs,
    /// Size of each volume's journal [default: 256M, or 5 % of memory where that is less]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Data")]
    pub journal_size: Option<u64>,
    /// Memory for each volume's read cache
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size, help_heading = "Data")]
    pub cache_size: u64,
    /// A write goes to the store at the latest after this long, flushed or not
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_age, help_heading = "Data")]
    pub max_unflushed_age: Duration,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// What requests do while the store does not answer: `wait`, or `fail-after=TIME`
    #[arg(long, value_name = "POLICY", default_value = "wait", value_parser = parse_outage, help_heading = "Data")]
    pub on_outage: OnOutage,

    /// Refuse the volume if its newest epoch is below this one: the bucket was rolled back
    #[arg(long, value_name = "EPOCH", help_heading = "Recovery")]
    pub expect: Option<u32>,
    /// Allow journal, state and pool to lie on a network or userspace block device
    #[arg(long, help_heading = "Recovery")]
    pub allow_stacked: bool,
}

impl EngineArgs {
    /// What the engine is told.
    pub fn options(&self, dirs: &Dirs, read_only: bool, env: &Env) -> Outcome<AttachOptions> {
        let mut options = self.attach.options(dirs, env)?;
        options.journal_bytes = self.journal_size.unwrap_or_else(usual_journal_bytes);
        options.cache_bytes = self.cache_size;
        options.max_unflushed_age = self.max_unflushed_age;
        options.on_outage = self.on_outage;
        options.compact = self.compact.options();
        options.read_only = read_only;
        options.expect_epoch = self.expect;
        Ok(options)
    }

    /// Refuses a journal or state that may lie on a volume; answers what is merely worth a warning.
    pub fn check_backing(&self, dirs: &Dirs) -> Outcome<Vec<String>> {
        self.refuse_stacked("the journal directory", &dirs.journal)?;
        self.refuse_stacked("the state directory", &dirs.state)?;
        let swaps = swap_on_stacked(&HostTree::default());
        let warn = |area| {
            format!(
                "swap area {area} lies on a network or userspace block device: if that is a volume served here, the \
                 machine can hang when memory is short"
            )
        };
        Ok(swaps.into_iter().map(warn).collect())
    }

    /// Refuses `path` if it may lie on a volume of this machine.
    pub fn refuse_stacked(&self, what: &str, path: &Path) -> Outcome {
        if self.allow_stacked {
            return Ok(());
        }
        check_not_stacked(&HostTree::default(), what, path).doing(what)
    }
}

fn parse_outage(text: &str) -> Result<OnOutage, String> {
    if text == "wait" {
        return Ok(OnOutage::Wait);
    }
    let time = text.strip_prefix("fail-after=").ok_or("say `wait` or `fail-after=30s`")?;
    humantime::parse_duration(time).map(OnOutage::FailAfter).map_err(|e| e.to_string())
}

fn parse_age(text: &str) -> Result<Duration, String> {
    let age = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if (Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&age) {
        Ok(age)
    } else {
        Err("it must be from 10ms to 1h".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_policies() {
        assert_eq!(parse_outage("wait"), Ok(OnOutage::Wait));
        assert_eq!(parse_outage("fail-after=30s"), Ok(OnOutage::FailAfter(Duration::from_secs(30))));
        for bad in ["", "fail", "fail-after", "fail-after=", "fail-after=x", "Wait"] {
            assert!(parse_outage(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ages_are_bounded() {
        assert_eq!(parse_age("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_age("0s").is_err() && parse_age("2h").is_err() && parse_age("soon").is_err());
    }
}
