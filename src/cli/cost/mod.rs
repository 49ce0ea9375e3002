//! `esker cost`: what a store will bill, from a server's counters or for a load that somebody has in mind.

mod bill;
mod measured;
mod model;
mod phrase;
mod prices;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::failure::{Doing, Exit, Failure, Outcome};
use super::output::{self, print_json};
use super::size::parse_size;
use crate::host::{Dirs, ask_status, find_sockets};
use bill::Bill;
use measured::{Measured, has, measured};
use model::Load;
use prices::{Prices, provider_of, providers};

/// Counters that cover less than this say little about a month.
const TELLING: f64 = 3600.0;

const EXAMPLES: &str = "EXAMPLES:\n  \
    esker cost\n  \
    esker cost data --stored 300G\n  \
    esker cost --what-if '20 flushes/s, 5 MB/s random, 200 GB'\n  \
    esker cost --what-if '100 reads/s 90% hits, 1 TB' --provider r2\n  \
    esker cost --flushes-per-second 20 --write '5 MB/s random' --stored 200G --prices put=0.004 --json\n\n\
    docs/cost.md has the formulas.";

/// Show what the store will bill for a month
///
/// Without --what-if, the counters of running servers are asked, and stretched to a month of 730 hours; what came with
/// attaching is counted once. With it, a load in words is put into requests by rule of thumb: flushes/s, MB/s random or
/// sequential, reads/s with a share of hits, MB/s reads, GB stored. Prices are list prices; --prices replaces them:
/// storage (a GB for a month), put, list, get, delete (1,000 requests), download (a GB), in US dollars.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CostArgs {
    /// A volume's name, or its device; by default all servers of this user
    #[arg(value_name = "DEVICE|VOLUME", conflicts_with_all = ["what_if", "flushes_per_second", "write", "read"])]
    target: Option<String>,
    /// A load in words, such as "20 flushes/s, 5 MB/s random, 200 GB"
    #[arg(long, value_name = "LOAD", help_heading = "Load")]
    what_if: Option<String>,
    /// Flushes that have something to flush
    #[arg(long, value_name = "N", help_heading = "Load")]
    flushes_per_second: Option<f64>,
    /// What is written: "5 MB/s random" or "20 MB/s sequential"
    #[arg(long, value_name = "RATE", help_heading = "Load")]
    write: Option<String>,
    /// What is read: "100 reads/s 90% hits" or "10 MB/s reads"
    #[arg(long, value_name = "RATE", help_heading = "Load")]
    read: Option<String>,
    /// What is stored; with a load, what of it is live
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    stored: Option<u64>,
    /// Whose prices; by default those that the store's URL speaks of, else s3
    #[arg(long, value_parser = PossibleValuesParser::new(providers()))]
    provider: Option<String>,
    /// Other prices: a JSON file, or such as put=0.005,storage=0.023
    #[arg(long, value_name = "PRICES")]
    prices: Option<String>,
    /// The machine is outside of the provider's region: downloads are billed
    #[arg(long)]
    outside: bool,
    /// Control socket of the server to ask, where it does not lie in the usual directory
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["what_if", "flushes_per_second", "write", "read"])]
    control: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: CostArgs) -> Outcome {
    match args.load()? {
        Some(load) => args.show_load(load),
        None => args.show_measured().await,
    }
}

impl CostArgs {
    /// What the flags say of a load, if anything.
    fn load(&self) -> Outcome<Option<Load>> {
        let flags = [
            ("--what-if", self.what_if.clone()),
            ("--flushes-per-second", self.flushes_per_second.map(|n| format!("{n} flushes/s"))),
            ("--write", self.write.clone()),
            ("--read", self.read.clone()),
        ];
        let mut load: Option<Load> = None;
        for (flag, text) in flags {
            let Some(text) = text else { continue };
            let more = phrase::parse(&text).map_err(|why| Failure::new(Exit::Usage, flag, why))?;
            load = Some(load.map_or(more, |load| load.and(more)));
        }
        if let (Some(load), Some(stored)) = (&mut load, self.stored) {
            load.stored = stored as f64;
        }
        Ok(load)
    }

    fn prices(&self, usual: &str) -> Outcome<Prices> {
        let prices = Prices::of(self.provider.as_deref().unwrap_or(usual))?;
        match &self.prices {
            Some(given) => prices.with(given),
            None => Ok(prices),
        }
    }

    fn show_load(&self, load: Load) -> Outcome {
        let (month, prices) = (load.month(), self.prices("s3")?);
        let bill = Bill { month: &month, prices: &prices, outside: self.outside };
        if self.json {
            let mut object = bill.to_json();
            object["load"] = json!(load);
            return print_json(&object);
        }
        output::bytes(bill.render().as_bytes())?;
        output::line("By rule of thumb (docs/cost.md): once it runs, `esker cost` goes by what was counted.")
    }

    async fn statuses(&self) -> Outcome<Vec<Value>> {
        match &self.control {
            Some(socket) => Ok(vec![ask_status(socket).await.doing("control socket")?]),
            None => all_statuses().await,
        }
    }

    async fn show_measured(&self) -> Outcome {
        let statuses = self.statuses().await?;
        let mut found = Vec::new();
        for status in &statuses {
            if self.target.as_ref().is_none_or(|target| has(status, target)) {
                let unfit =
                    || Failure::plain("cost", "a server's status has no counters: is it another version of esker?");
                found.push(measured(status, self.stored.map(|s| s as f64)).ok_or_else(unfit)?);
            }
        }
        if found.is_empty() {
            let what = self.target.as_deref().unwrap_or("cost");
            let why = "no server of this user runs here that has it; --what-if needs none";
            return Err(Failure::new(Exit::NotFound, what, why));
        }
        let bills: Vec<_> = found.iter().map(|m| Ok((m, self.prices(provider_of(&m.url))?))).collect::<Outcome<_>>()?;
        if self.json {
            return print_json(&bills.iter().map(|(m, prices)| self.to_json(m, prices)).collect());
        }
        for (m, prices) in &bills {
            output::bytes(self.render(m, prices).as_bytes())?;
        }
        Ok(())
    }

    fn to_json(&self, m: &Measured, prices: &Prices) -> Value {
        let mut object = Bill { month: &m.month, prices, outside: self.outside }.to_json();
        object["url"] = json!(m.url);
        object["volumes"] = json!(m.volumes);
        object["covers_seconds"] = json!(m.seconds);
        object
    }

    fn render(&self, m: &Measured, prices: &Prices) -> String {
        let covers = humantime::format_duration(Duration::from_secs(m.seconds as u64));
        let mut out = format!("{}: {}, from the requests of {covers}\n", m.url, m.volumes.join(", "));
        out.push_str(&Bill { month: &m.month, prices, outside: self.outside }.render());
        if m.seconds < TELLING {
            out.push_str("So short a time says little about a month.\n");
        }
        out
    }
}

/// The status of every server of this user that answers.
async fn all_statuses() -> Outcome<Vec<Value>> {
    let dir = Dirs::of_this_user().runtime;
    let mut statuses = Vec::new();
    for socket in find_sockets(&dir).doing(dir.display())? {
        match ask_status(&socket).await {
            Ok(status) => statuses.push(status),
            Err(e) => eprintln!("esker: {}: {e}", socket.display()),
        }
    }
    Ok(statuses)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        cost: CostArgs,
    }

    fn args(words: &[&str]) -> CostArgs {
        Line::try_parse_from(std::iter::once("cost").chain(words.iter().copied())).unwrap().cost
    }

    #[test]
    fn flags_and_words_say_the_same() {
        let words = args(&["--what-if", "20 flushes/s, 5 MB/s random, 8 reads/s, 1024 B"]).load().unwrap();
        let flags = ["--flushes-per-second", "20", "--write", "5 MB/s random", "--read", "8 reads/s", "--stored", "1K"];
        assert_eq!(args(&flags).load().unwrap(), words);
        assert_eq!(args(&["data"]).load().unwrap(), None);
        assert_eq!(args(&["--write", "much"]).load().unwrap_err().exit(), Exit::Usage);
        assert!(Line::try_parse_from(["cost", "data", "--what-if", "1 flush/s"]).is_err());
        assert!(Line::try_parse_from(["cost", "--provider", "nobody"]).is_err());
    }

    #[test]
    fn the_example_of_the_manual() {
        let load = args(&["--what-if", "20 flushes/s, 5 MB/s random, 200 GB"]).load().unwrap().unwrap();
        let (month, prices) = (load.month(), Prices::of("s3").unwrap());
        let text = Bill { month: &month, prices: &prices, outside: false }.render();
        let golden = include_str!("golden.txt");
        assert_eq!(text, golden, "docs/cost.md shows it too");
        assert!(include_str!("../../../docs/cost.md").contains(golden));
    }
}
