//! The command line: one file per subcommand.

mod attach;
mod attach_args;
mod check;
mod compact;
mod compact_args;
mod compacting;
mod completions;
mod cost;
mod daemon_status;
mod detach;
mod detach_nbd;
mod device;
mod devices;
mod df;
mod doctor;
mod engine;
mod engine_args;
mod failure;
mod format;
mod gc;
mod limit_args;
mod list;
mod man;
mod output;
mod passwd;
mod password;
mod process;
mod running;
mod scrub;
mod serve;
mod size;
mod space;
mod status;
mod stop;
mod store_args;
mod udev;
mod volume;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::env::Env;
use failure::{EXIT_CODES, Failure, Outcome};
use process::Stderr;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use size::{parse_size, show_size};

const EXAMPLES: &str = "EXAMPLES:\n  \
    esker format s3://bucket/pool\n  \
    esker volume create s3://bucket/pool data --size 100G\n  \
    mkfs.ext4 $(esker attach s3://bucket/pool data)\n  \
    esker list\n  \
    esker detach data\n  \
    esker serve s3://bucket/pool data --unix /run/esker/data.nbd\n  \
    esker status\n\nVARIABLES:\n  \
    ESKER_PASSWORD  the pool's password\n  \
    ESKER_LOG       what is logged, such as `debug` or `esker::store=trace`\n  \
    AWS_*           credentials, region and endpoint of S3 stores, as usual";

/// An S3-compatible bucket as a Linux block device.
///
/// A pool is a bucket prefix (or a directory) that holds encrypted volumes. A volume is attached as a block device,
/// /dev/ublkbN, or served over NBD.
#[derive(Debug, Parser)]
#[command(name = "esker", version, max_term_width = 100)]
#[command(after_help = EXIT_CODES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Format(format::FormatArgs),
    Volume(volume::VolumeArgs),
    Attach(attach::AttachCommand),
    Detach(detach::DetachArgs),
    List(list::ListArgs),
    Serve(serve::ServeArgs),
    Status(status::StatusArgs),
    Df(df::DfArgs),
    Compact(compact::CompactCommand),
    Gc(gc::GcArgs),
    Check(check::CheckArgs),
    Scrub(scrub::ScrubArgs),
    Fsck(scrub::FsckArgs),
    Doctor(doctor::DoctorArgs),
    Passwd(passwd::PasswdArgs),
    Cost(cost::CostArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    Udev(udev::UdevArgs),
    Device(device::DeviceArgs),
}

/// Runs the command line of this process and answers its exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let serving = matches!(cli.command, Command::Serve(_) | Command::Attach(_));
    // What goes on in the background logs to a file later on.
    let background = matches!(&cli.command, Command::Attach(args) if !args.foreground);
    start_log(if serving { "info" } else { "warn" }, !background);
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // It is no reason for another exit code that nobody hears it.
            drop(writeln!(Stderr, "esker: {failure}"));
            failure.exit().into()
        }
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Format(args) => with_runtime(async move |env| format::run(args, env).await),
        Command::Volume(args) => with_runtime(async move |env| volume::run(args, env).await),
        Command::Attach(args) => attach::main(args),
        Command::Detach(args) => with_runtime(async move |_| detach::run(args).await),
        Command::List(args) => list::run(&args),
        Command::Serve(args) => serve::main(args),
        Command::Status(args) => with_runtime(async move |_| status::run(args).await),
        Command::Df(args) => with_runtime(async move |env| df::run(args, env).await),
        Command::Compact(args) => with_runtime(async move |env| compact::run(args, env).await),
        Command::Gc(args) => with_runtime(async move |env| gc::run(args, env).await),
        Command::Check(args) => with_runtime(async move |env| check::run(args, env).await),
        Command::Scrub(args) => with_runtime(async move |env| scrub::run_scrub(args, env).await),
        Command::Fsck(args) => with_runtime(async move |env| scrub::run_fsck(args, env).await),
        Command::Doctor(args) => with_runtime(async move |_| doctor::run(args).await),
        Command::Passwd(args) => with_runtime(async move |env| passwd::run(args, env).await),
        Command::Cost(args) => with_runtime(async move |_| cost::run(args).await),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Udev(args) => udev::run(&args),
        Command::Device(args) => device::run(&args),
    }
}

/// Starts threads, then runs `command` with the real environment.
fn with_runtime<F: Future<Output = Outcome>>(command: impl FnOnce(Env) -> F) -> Outcome {
    let failed = |e: io::Error| Failure::plain("cannot start", e);
    // Files of a `file://` pool are read on blocking threads: more than a few only fight for the cores.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().max_blocking_threads(32).build().map_err(failed)?;
    let env = Env::system(runtime.handle().clone()).map_err(failed)?;
    let outcome = runtime.block_on(command(env));
    // Blocking calls that nobody waits for any more must not hold the process back.
    runtime.shutdown_background();
    outcome
}

/// Logs to stderr; under systemd the journal adds the time itself.
fn start_log(default: &str, colour: bool) {
    let filter = EnvFilter::try_from_env("ESKER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Stderr).with_target(false);
    let log = log.log_internal_errors(false).with_ansi(colour && io::stderr().is_terminal());
    // A second call (in tests) keeps the first.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        drop(log.without_time().try_init());
    } else {
        drop(log.with_timer(SystemTime).try_init());
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_shows_examples() {
        fn look(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                if sub.has_subcommands() {
                    look(sub, &path);
                    continue;
                }
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("EXAMPLES"), "{path}");
                let name = path.trim_start();
                assert!(help.lines().any(|l| l.contains(name)), "{path}: no example runs it");
            }
        }
        look(&Cli::command(), "esker");
    }
}
