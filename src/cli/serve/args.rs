//! The flags of `esker serve`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::engine_args::EngineArgs;
use crate::cli::store_args::PoolArgs;

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
    pub engine: EngineArgs,
    /// Stay in the foreground; there is no other mode
    #[arg(long, hide = true)]
    pub foreground: bool,
}

impl ServeArgs {
    /// Of a server of `volumes` on a unix socket that is its user's alone.
    pub fn on_socket(
        pool: PoolArgs,
        volumes: Vec<String>,
        socket: PathBuf,
        read_only: bool,
        engine: EngineArgs,
    ) -> Self {
        Self {
            pool,
            volumes,
            unix: Some(socket),
            unix_mode: 0o600,
            tcp: None,
            tls_certificates: None,
            tls: TlsArg::Off,
            tls_verify_peer: false,
            read_only,
            control: None,
            engine,
            foreground: true,
        }
    }
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

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("say it in octal, such as 660".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("660"), Ok(0o660));
        assert!(parse_mode("888").is_err() && parse_mode("1777").is_err());
    }
}
