//! The command `s3d`: a real S3 server for tests, with faults on demand.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use esker_testkit::{Delay, Rule, S3d, S3dOptions};

const EXAMPLES: &str = "\
Examples:
  s3d                                        a temporary store with the bucket `esker`, on any free port
  s3d --dir /srv/s3 --listen 127.0.0.1:9000  objects stay in /srv/s3, as plain files
  s3d --delay 20ms                           every request takes 20 ms, all in parallel
  s3d --delay lognormal:20ms,1.5             most take about 20 ms, some much longer
  s3d --fault '{\"kinds\":[\"create\"],\"key\":\"log/*\",\"every\":10,\"action\":\"apply_then_drop\"}'
                                             every tenth create below log/ is applied, but not answered
  s3d --admin 127.0.0.1:9001                 faults and the request log while it runs: GET / there explains

Ready means ready: when the `export` lines are printed, it accepts connections. It runs until it is killed.";

/// A real S3 server for tests: atomic conditional PUTs, exact ranges, ordered listings, and faults on demand.
#[derive(Parser)]
#[command(name = "s3d", version, after_help = EXAMPLES)]
struct Args {
    /// Where objects lie, as files under their own keys [default: a temporary directory, removed at the end]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where it listens; port 0 is any free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A bucket to make unless it exists; may be given again
    #[arg(long, value_name = "NAME", default_value = "esker")]
    bucket: Vec<String>,
    /// The access key that clients must use
    #[arg(long, value_name = "KEY", default_value = "s3d-access-key")]
    access_key: String,
    /// The secret key that clients must sign with
    #[arg(long, value_name = "KEY", default_value = "s3d-secret-key")]
    secret_key: String,
    /// Delays every request: 20ms, uniform:5ms,40ms, or lognormal:MEDIAN,SPREAD
    #[arg(long, visible_alias = "delay-dist", value_name = "DELAY")]
    delay: Option<Delay>,
    /// A fault, as JSON; may be given again
    #[arg(long, value_name = "JSON", value_parser = rule)]
    fault: Vec<Rule>,
    /// Where the random numbers of faults begin
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where the admin port listens
    #[arg(long, value_name = "ADDR:PORT")]
    admin: Option<SocketAddr>,
    /// Threads that serve requests
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn rule(text: &str) -> Result<Rule, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,s3s=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("s3d: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> std::io::Result<()> {
    // Signals are caught before anything is made that they should remove.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut int = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let s3d = S3d::start(S3dOptions {
        dir: args.dir,
        listen: args.listen,
        admin: args.admin,
        buckets: args.bucket,
        access_key: args.access_key,
        secret_key: args.secret_key,
        delay: args.delay,
        seed: args.seed,
        threads: args.threads,
    })?;
    for rule in args.fault {
        s3d.faults().add(rule);
    }
    println!("# s3d: {} at {}, objects in {}", s3d.url(), s3d.endpoint(), s3d.dir().display());
    if let Some(admin) = s3d.admin_address() {
        println!("# admin: http://{admin}/");
    }
    for (name, value) in s3d.env() {
        println!("export {name}={value}");
    }
    runtime.block_on(async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    });
    s3d.stop();
    Ok(())
}
