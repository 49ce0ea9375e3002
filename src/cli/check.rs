//! `esker check`: can this store hold a pool, and how fast would a volume on it be?

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Value, json};

use super::failure::{Doing, Outcome};
use super::output::{self, print_json, table};
use super::store_args::StoreArgs;
use crate::env::Env;
use crate::host::hex16;
use crate::store::{Cause, Patience, Probe, Store, StoreError};

/// Size of a small object: what a flush of one block writes.
const SMALL: usize = 4 << 10;
/// Size of a large object: a full segment.
const LARGE: usize = 8 << 20;
/// Large transfers under way at once.
const PARALLEL: usize = 8;
/// No new request starts after this much of one measurement.
const TIME_LIMIT: Duration = Duration::from_secs(15);
/// How long one request may take.
const PATIENCE: Patience = Patience::For(Duration::from_secs(60));

/// Check that a store can hold a pool, and measure it
///
/// Needs no password and no pool. Writes, reads and deletes some objects below the URL.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  \
    esker check s3://bucket/pool\n  \
    esker check s3://bucket/pool --small 200 --large 32 --json")]
pub struct CheckArgs {
    /// The store: file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
    #[arg(value_name = "URL")]
    url: String,
    #[command(flatten)]
    store: StoreArgs,
    /// How many objects of 4 KiB to measure with
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    small: u32,
    /// How many objects of 8 MiB to measure with
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    large: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What one kind of request took.
#[derive(Debug, Clone, PartialEq)]
struct Measured {
    name: &'static str,
    /// Of each request, ascending.
    times: Vec<Duration>,
    /// Of all together, which overlap where they run in parallel.
    elapsed: Duration,
    object_bytes: usize,
}

impl Measured {
    /// The time that `percent` of the requests did not exceed.
    fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.times.len() * percent).div_ceil(100).max(1) - 1;
        self.times.get(rank).copied().unwrap_or_default()
    }

    /// Bytes per second of all requests together.
    fn rate(&self) -> f64 {
        (self.times.len() * self.object_bytes) as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "count": self.times.len(),
            "object_bytes": self.object_bytes,
            "p50_ms": millis(self.percentile(50)),
            "p95_ms": millis(self.percentile(95)),
            "max_ms": millis(self.percentile(100)),
            "bytes_per_second": self.rate().round(),
        })
    }

    fn row(&self) -> [String; 6] {
        let ms = |p| format!("{:.1} ms", millis(self.percentile(p)));
        let rate = format!("{:.1} MB/s", self.rate() / 1e6);
        [self.name.into(), self.times.len().to_string(), ms(50), ms(95), ms(100), rate]
    }
}

fn millis(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e5).round() / 100.0
}

/// The four measurements.
struct Results {
    small_put: Measured,
    small_get: Measured,
    large_put: Measured,
    large_get: Measured,
}

impl Results {
    fn all(&self) -> [&Measured; 4] {
        [&self.small_put, &self.small_get, &self.large_put, &self.large_get]
    }

    fn conclusion(&self) -> String {
        let ms = |d| format!("{:.1}", millis(d));
        format!(
            "A flush will take about {} ms (one in twenty more than {} ms), and a read of data that is not cached about \
             {} ms; one volume can stream about {:.0} MB/s to the store and {:.0} MB/s from it, before compression.",
            ms(self.small_put.percentile(50)),
            ms(self.small_put.percentile(95)),
            ms(self.small_get.percentile(50)),
            self.large_put.rate() / 1e6,
            self.large_get.rate() / 1e6,
        )
    }
}

pub async fn run(args: CheckArgs, env: Env) -> Outcome {
    let store = args.store.open(&args.url, &env)?;
    let probe = store.probe().await.doing(&args.url)?;
    if !args.json {
        output::line(format_args!("{} can hold a pool", store.url()))?;
        if !probe.deletes {
            output::line("but its objects cannot be deleted: a pool on it never gets smaller")?;
        }
    }
    let bench = Bench { store: &store, env: &env, prefix: format!("check/{}", hex16(&env.random16())) };
    let results = bench.run(args.small, args.large).await;
    let kept = if probe.deletes { bench.clean_up(args.small, args.large).await } else { None };
    let results = results.doing(&args.url)?;
    report(&args, &store, &probe, &results)?;
    match kept {
        Some(why) => output::line(format_args!("objects below {}/ could not be deleted: {why}", bench.prefix)),
        None => Ok(()),
    }
}

fn report(args: &CheckArgs, store: &Store, probe: &Probe, results: &Results) -> Outcome {
    if args.json {
        return print_json(&json!({
            "url": store.url(),
            "can_hold_a_pool": true,
            "deletes": probe.deletes,
            "measured": results.all().map(Measured::to_json),
            "conclusion": results.conclusion(),
        }));
    }
    let heading = ["REQUEST", "COUNT", "P50", "P95", "MAX", "RATE"].map(str::to_owned);
    let rows: Vec<_> = [heading].into_iter().chain(results.all().map(Measured::row)).collect();
    output::bytes(table(&rows).as_bytes())?;
    output::line(results.conclusion())
}

struct Bench<'a> {
    store: &'a Store,
    env: &'a Env,
    prefix: String,
}

impl Bench<'_> {
    fn key(&self, kind: &str, n: u32) -> String {
        format!("{}/{kind}-{n:05}", self.prefix)
    }

    /// Small requests one after another, as flushes come; large ones in parallel, as a stream is written.
    async fn run(&self, small: u32, large: u32) -> Result<Results, StoreError> {
        let small_put = self.puts("4 KiB PUT", "small", SMALL, small, 1).await?;
        let small_get = self.gets("4 KiB GET", "small", SMALL, small_put.times.len() as u32, 1).await?;
        let large_put = self.puts("8 MiB PUT", "large", LARGE, large, PARALLEL).await?;
        let large_get = self.gets("8 MiB GET", "large", LARGE, large_put.times.len() as u32, PARALLEL).await?;
        Ok(Results { small_put, small_get, large_put, large_get })
    }

    async fn puts(
        &self,
        name: &'static str,
        kind: &'static str,
        size: usize,
        count: u32,
        parallel: usize,
    ) -> Result<Measured, StoreError> {
        let mut body = vec![0; size];
        self.env.entropy.fill(&mut body);
        let body = Bytes::from(body);
        self.measure(name, size, count, parallel, |n| {
            let (key, body) = (self.key(kind, n), body.clone());
            async move { self.store.put_new(&key, body, Cause::Probe, PATIENCE).await.map(drop) }
        })
        .await
    }

    async fn gets(
        &self,
        name: &'static str,
        kind: &'static str,
        size: usize,
        count: u32,
        parallel: usize,
    ) -> Result<Measured, StoreError> {
        self.measure(name, size, count, parallel, |n| {
            let key = self.key(kind, n);
            async move { self.store.get_range(&key, 0..size as u64, Cause::Probe, PATIENCE).await.map(drop) }
        })
        .await
    }

    /// Times requests 0, 1, 2... up to `count` or the time limit; they are all finished when this returns.
    async fn measure<F: Future<Output = Result<(), StoreError>>>(
        &self,
        name: &'static str,
        object_bytes: usize,
        count: u32,
        parallel: usize,
        request: impl Fn(u32) -> F,
    ) -> Result<Measured, StoreError> {
        let clock = &self.env.clock;
        let start = clock.now();
        let numbers = (0..count).take_while(|n| *n == 0 || clock.now() - start < TIME_LIMIT);
        let timed = stream::iter(numbers.map(|n| {
            let request = request(n);
            async move {
                let began = clock.now();
                request.await?;
                Ok::<_, StoreError>(clock.now() - began)
            }
        }));
        let mut times: Vec<Duration> = timed.buffered(parallel).try_collect().await?;
        times.sort_unstable();
        Ok(Measured { name, times, elapsed: clock.now() - start, object_bytes })
    }

    /// Deletes what was written, and what may have been; answers why that failed, if it did.
    async fn clean_up(&self, small: u32, large: u32) -> Option<StoreError> {
        let keys = (0..large).map(|n| self.key("large", n)).chain((0..small).map(|n| self.key("small", n)));
        let deletions =
            stream::iter(keys.map(|key| async move { self.store.delete(&key, Cause::Probe, PATIENCE).await }));
        deletions.buffer_unordered(PARALLEL).filter_map(async |r| r.err()).collect::<Vec<_>>().await.pop()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::StoreOptions;

    fn measured(ms: &[u64], elapsed_ms: u64, object_bytes: usize) -> Measured {
        let times = ms.iter().map(|m| Duration::from_millis(*m)).collect();
        Measured { name: "x", times, elapsed: Duration::from_millis(elapsed_ms), object_bytes }
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let m = measured(&(1..=100).collect::<Vec<_>>(), 1000, 1000);
        assert_eq!(m.percentile(50), Duration::from_millis(50));
        assert_eq!(m.percentile(95), Duration::from_millis(95));
        assert_eq!(m.percentile(100), Duration::from_millis(100));
        assert_eq!(measured(&[7], 7, 1).percentile(50), Duration::from_millis(7));
        assert_eq!(measured(&[], 7, 1).percentile(50), Duration::ZERO);
        assert!((m.rate() - 100_000.0).abs() < 1e-6);
    }

    #[test]
    fn the_conclusion_names_flush_and_stream() {
        let results = Results {
            small_put: measured(&[20, 20, 40], 80, SMALL),
            small_get: measured(&[10], 10, SMALL),
            large_put: measured(&[1000], 1000, 100_000_000),
            large_get: measured(&[500], 500, 100_000_000),
        };
        let text = results.conclusion();
        assert!(text.contains("flush will take about 20.0 ms (one in twenty more than 40.0 ms)"), "{text}");
        assert!(text.contains("about 100 MB/s to the store and 200 MB/s from it"), "{text}");
    }

    #[tokio::test]
    async fn a_measured_store_is_left_empty() {
        let env = Env::system(tokio::runtime::Handle::current()).unwrap();
        let store = Store::open("memory://check-test", &StoreOptions::default(), env.clone()).unwrap();
        let bench = Bench { store: &store, env: &env, prefix: "check/x".into() };
        let results = bench.run(3, 2).await.unwrap();
        assert_eq!(results.all().map(|m| m.times.len()), [3, 3, 2, 2]);
        assert_eq!(store.list("", None, 10, Cause::Probe, PATIENCE).await.unwrap().len(), 5);
        assert_eq!(bench.clean_up(3, 2).await, None);
        assert!(store.list("", None, 10, Cause::Probe, PATIENCE).await.unwrap().is_empty());
    }
}
