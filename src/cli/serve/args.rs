//! The flags of `esker serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::attach_args::AttachArgs;
use crate::cli::size::parse_size;
use crate::cli::store_args::PoolArgs;
use crate::volume::OnOutage;

/// Serve volumes over NBD
///
/// Runs in the foreground until SIGTERM or SIGINT; then it finishes requests, writes back, detaches and exits with 0. A
/// second signal ends it at once; what was acknowledged stays in the journal and the next start picks it up.
///
/// Volumes that are named are attached before the server says it is ready. Without names every volume of the pool is
/// offered and attached when the first client opens it.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker serve s3://bucket/pool data\n  \
    esker serve s3://bucket/pool data --unix /run/esker/data.nbd --cache-size 1G\n  \
    esker serve s3://bucket/pool --tcp 0.0.0.0:10809 --tls-certificates /etc/esker/tls\n  \
    esker serve file:///srv/pool vm1 --on-outage fail-after=30s")]
pub struct ServeArgs {
    #[command(flatten)]
    pub pool: PoolArgs,
    /// Volumes to serve; all where none is named
    #[arg(value_name = "VOLUME")]
    pub volumes: Vec<String>,

    /// Listen on a unix socket; the default, in the runtime directory, where --tcp is not given
    #[arg(long, value_name = "PATH", help_heading = "Listening")]
    pub unix: Option<PathBuf>,
    /// Permission bits of the unix socket, in octal
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = parse_mode, help_heading = "Listening")]
    pub unix_mode: u32,
    /// Listen on a TCP address, such as 127.0.0.1:10809
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Listening")]
    pub tcp: Option<String>,
    /// Directory with server-cert.pem and server-key.pem, and ca-cert.pem for --tls-verify-peer
    #[arg(long, value_name = "DIR", help_heading = "Listening")]
    pub tls_certificates: Option<PathBuf>,
    /// Whether clients use TLS: off, on (those that ask for it), require
    #[arg(long, value_enum, default_value = "require", requires = "tls_certificates", help_heading = "Listening")]
    pub tls: TlsArg,
    /// Only clients that show a certificate signed by ca-cert.pem
    #[arg(long, requires = "tls_certificates", help_heading = "Listening")]
    pub tls_verify_peer: bool,
    /// Refuse writes
    #[arg(long, help_heading = "Listening")]
    pub read_only: bool,
    /// Control socket, which `esker status` asks; by default in the runtime directory
    #[arg(long, value_name = "PATH", help_heading = "Listening")]
    pub control: Option<PathBuf>,

    #[command(flatten)]
    pub attach: AttachArgs,
    /// Size of each volume's journal [default: 256M, or 5 % of memory where that is less]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Data")]
    pub journal_size: Option<u64>,
    /// Memory for each volume's read cache
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size, help_heading = "Data")]
    pub cache_size: u64,
    /// A write goes to the store at the latest after this long, flushed or not
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_age, help_heading = "Data")]
    pub max_unflushed_age: Duration,
    /// What requests do while the store does not answer: `wait`, or `fail-after=TIME`
    #[arg(long, value_name = "POLICY", default_value = "wait", value_parser = parse_outage, help_heading = "Data")]
    pub on_outage: OnOutage,

    /// Refuse the volume if its newest epoch is below this one: the bucket was rolled back
    #[arg(long, value_name = "EPOCH", help_heading = "Recovery")]
    pub expect: Option<u32>,
    /// Allow journal, state and pool to lie on a network or userspace block device
    #[arg(long, help_heading = "Recovery")]
    pub allow_stacked: bool,
    /// Stay in the foreground; there is no other mode
    #[arg(long, hide = true)]
    pub foreground: bool,
}

/// When TLS is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsArg {
    /// Never.
    Off,
    /// By clients that ask for it.
    On,
    /// Always.
    Require,
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

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("say it in octal, such as 660".into()),
    }
}

/// The journal's size where none is asked for: 256 MiB, or 5 % of memory where that is less.
pub fn default_journal_size() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = u64::from(info.mem_unit).saturating_mul(info.totalram as u64);
    (memory / 20).min(256 << 20) & !0xfff
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
    fn ages_and_modes_are_bounded() {
        assert_eq!(parse_age("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_age("0s").is_err() && parse_age("2h").is_err() && parse_age("soon").is_err());
        assert_eq!(parse_mode("660"), Ok(0o660));
        assert!(parse_mode("888").is_err() && parse_mode("1777").is_err());
    }

    #[test]
    fn the_default_journal_is_whole_pages_and_bounded() {
        let size = default_journal_size();
        assert!(size > 0 && size <= 256 << 20 && size.is_multiple_of(4096));
    }
}
