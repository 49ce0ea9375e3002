//! Requests of a month, and what they cost.

use serde_json::{Value, json};

use super::super::output::table;
use super::prices::Prices;

/// Seconds of a month, as clouds bill it: 730 hours.
pub const MONTH: f64 = 730.0 * 3600.0;

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Put,
    Get,
    List,
    Delete,
}

impl Verb {
    /// The name that status uses.
    pub fn of(name: &str) -> Option<Verb> {
        [Verb::Put, Verb::Get, Verb::List, Verb::Delete].into_iter().find(|v| v.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Verb::Put => "PUT",
            Verb::Get => "GET",
            Verb::List => "LIST",
            Verb::Delete => "DELETE",
        }
    }

    /// Of 1,000.
    fn price(self, prices: &Prices) -> f64 {
        match self {
            Verb::Put => prices.put,
            Verb::Get => prices.get,
            Verb::List => prices.list,
            Verb::Delete => prices.delete,
        }
    }
}

/// Requests of one kind and cause in a month.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub verb: Verb,
    pub cause: String,
    pub requests: f64,
    /// Of their bodies.
    pub bytes: f64,
}

impl Line {
    /// From rates per second.
    pub fn rate(verb: Verb, cause: &str, requests: f64, bytes: f64) -> Line {
        Line { verb, cause: cause.to_string(), requests: requests * MONTH, bytes: bytes * MONTH }
    }
}

/// What a month asks of a store.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Month {
    pub lines: Vec<Line>,
    /// Bytes in the bucket; `None`: not known.
    pub stored: Option<f64>,
}

/// A month and its prices.
pub struct Bill<'a> {
    pub month: &'a Month,
    pub prices: &'a Prices,
    /// Downloads leave the provider's region, and are billed.
    pub outside: bool,
}

impl Bill<'_> {
    fn cost(&self, line: &Line) -> f64 {
        line.requests / 1000.0 * line.verb.price(self.prices)
    }

    fn storage(&self) -> Option<f64> {
        self.month.stored.map(|bytes| bytes / self.prices.gb_bytes * self.prices.storage)
    }

    fn downloaded(&self) -> f64 {
        self.month.lines.iter().filter(|l| l.verb == Verb::Get).map(|l| l.bytes).sum()
    }

    fn download(&self) -> f64 {
        let free = self.month.stored.unwrap_or(0.0) * self.prices.free_download;
        let billed = if self.outside { (self.downloaded() - free).max(0.0) } else { 0.0 };
        billed / self.prices.gb_bytes * self.prices.download
    }

    /// All of it.
    pub fn total(&self) -> f64 {
        let requests: f64 = self.month.lines.iter().map(|l| self.cost(l)).sum();
        requests + self.storage().unwrap_or(0.0) + self.download()
    }

    pub fn to_json(&self) -> Value {
        let line = |l: &Line| {
            json!({
                "request": l.verb.name(),
                "cause": l.cause,
                "requests_per_month": l.requests.round(),
                "bytes_per_month": l.bytes.round(),
                "usd_per_month": cents(self.cost(l)),
            })
        };
        json!({
            "prices": self.prices,
            "outside_region": self.outside,
            "requests": self.month.lines.iter().map(line).collect::<Vec<_>>(),
            "storage": { "bytes": self.month.stored.map(f64::round), "usd_per_month": self.storage().map(cents) },
            "download": { "bytes_per_month": self.downloaded().round(), "usd_per_month": cents(self.download()) },
            "total_usd_per_month": cents(self.total()),
        })
    }

    pub fn render(&self) -> String {
        let gb = |bytes: f64| format!("{:>12}", grouped(bytes / self.prices.gb_bytes, 1));
        let usd = |money: f64| format!("{:>14}", grouped(money, 2));
        let none = || " ".repeat(12);
        let head = ["WHAT", "REQUESTS/MONTH", "    GB/MONTH", "     USD/MONTH"].map(str::to_owned);
        let mut rows = vec![head];
        for l in &self.month.lines {
            let what = format!("{} {}", l.verb.name(), l.cause);
            let bytes = if l.verb == Verb::Delete { none() } else { gb(l.bytes) };
            rows.push([what, format!("{:>14}", grouped(l.requests, 0)), bytes, usd(self.cost(l))]);
        }
        if let (Some(stored), Some(cost)) = (self.month.stored, self.storage()) {
            rows.push(["stored".into(), String::new(), gb(stored), usd(cost)]);
        }
        if self.outside {
            rows.push(["downloaded".into(), String::new(), gb(self.downloaded()), usd(self.download())]);
        }
        rows.push(["total".into(), String::new(), none(), usd(self.total())]);
        let mut out = format!("{}\n{}\n", self.prices.about, table(&rows).trim_end());
        if !self.outside {
            out.push_str(
                "Downloads are taken to stay in the provider's region, where they are free (else: --outside).\n",
            );
        }
        if self.month.stored.is_none() {
            out.push_str("What is stored is not in it: say how much with --stored.\n");
        }
        out
    }
}

/// To a hundredth of a cent: machines may add these up.
fn cents(usd: f64) -> f64 {
    (usd * 1e4).round() / 1e4
}

/// A number with commas between its thousands.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(w, r)| (w, Some(r)));
    let mut out = String::new();
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    rest.map_or(out.clone(), |rest| format!("{out}.{rest}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn month() -> Month {
        let lines = vec![
            Line { verb: Verb::Put, cause: "flush".into(), requests: 2_000_000.0, bytes: 5e9 },
            Line { verb: Verb::Get, cause: "read".into(), requests: 1_000_000.0, bytes: 400e9 },
            Line { verb: Verb::Delete, cause: "delete".into(), requests: 2000.0, bytes: 0.0 },
        ];
        Month { lines, stored: Some(100e9) }
    }

    #[test]
    fn a_bill_adds_up() {
        let prices = Prices::of("b2").unwrap().with("put=0.005").unwrap();
        let month = month();
        let bill = |outside| Bill { month: &month, prices: &prices, outside };
        // 2,000 x 0.005 + 1,000 x 0.0004 + 100 x 0.006
        assert!((bill(false).total() - 11.0).abs() < 1e-9);
        // and (400 - 3 x 100) x 0.01
        assert!((bill(true).total() - 12.0).abs() < 1e-9);
        let json = bill(true).to_json();
        assert_eq!(json["total_usd_per_month"], 12.0);
        assert_eq!(json["requests"][0]["requests_per_month"], 2_000_000.0);
    }

    #[test]
    fn a_bill_reads_like_one() {
        let prices = Prices::of("r2").unwrap();
        let text = Bill { month: &month(), prices: &prices, outside: true }.render();
        let expected = "\
Cloudflare R2 Standard, all regions: list prices of 2025 in USD, first tier, without free allowances
WHAT           REQUESTS/MONTH      GB/MONTH       USD/MONTH
PUT flush           2,000,000           5.0            9.00
GET read            1,000,000         400.0            0.36
DELETE delete           2,000                          0.00
stored                                100.0            1.50
downloaded                            400.0            0.00
total                                                 10.86
";
        assert_eq!(text, expected);
        let unknown = Month { stored: None, ..month() };
        let text = Bill { month: &unknown, prices: &prices, outside: false }.render();
        assert!(text.contains("--stored") && text.contains("--outside"), "{text}");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0.0, 999.0, 1000.0, 52_560_000.0].map(|n| grouped(n, 0)), ["0", "999", "1,000", "52,560,000"]);
        assert_eq!(grouped(1234.567, 2), "1,234.57");
    }
}
