//! What stores ask for storage, requests and downloads.

use std::fs;

use serde::{Deserialize, Serialize};

use super::super::failure::{Exit, Failure, Outcome};

/// When the table below was put together.
const AS_OF: &str = "2025";
const GB: f64 = 1e9;
const GIB: f64 = 1_073_741_824.0;

/// Prices in US dollars.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prices {
    /// The name for `--provider`.
    pub provider: String,
    /// Whose prices these are, where, and of when.
    pub about: String,
    /// What the store calls a GB, in bytes.
    pub gb_bytes: f64,
    /// A GB for a month.
    pub storage: f64,
    /// 1,000 PUTs.
    pub put: f64,
    /// 1,000 LISTs.
    pub list: f64,
    /// 1,000 GETs.
    pub get: f64,
    /// 1,000 DELETEs.
    pub delete: f64,
    /// A GB that leaves the provider's region.
    pub download: f64,
    /// Downloads that cost nothing, as a multiple of what is stored.
    pub free_download: f64,
}

/// A row of the table: name, about, bytes of a GB, storage, put, list, get, download, free downloads.
type Row = (&'static str, &'static str, f64, [f64; 6]);

/// First tiers, free allowances left out. Deleting is free at all of them.
const TABLE: &[Row] = &[
    ("s3", "Amazon S3 Standard, us-east-1", GIB, [0.023, 0.005, 0.005, 0.0004, 0.09, 0.0]),
    ("r2", "Cloudflare R2 Standard, all regions", GB, [0.015, 0.0045, 0.0045, 0.00036, 0.0, 0.0]),
    ("gcs", "Google Cloud Storage Standard, us-east1", GIB, [0.020, 0.005, 0.005, 0.0004, 0.12, 0.0]),
    ("azure", "Azure Blob Storage, hot, LRS, East US 2", GIB, [0.018, 0.0055, 0.0055, 0.00044, 0.087, 0.0]),
    ("b2", "Backblaze B2, pay as you go, all regions", GB, [0.006, 0.0, 0.004, 0.0004, 0.01, 3.0]),
    ("minio", "a store of one's own, which bills nothing", GB, [0.0; 6]),
];

/// Names for `--provider`.
pub fn providers() -> Vec<&'static str> {
    TABLE.iter().map(|row| row.0).collect()
}

/// The provider that a store's URL speaks of, as far as it does.
pub fn provider_of(url: &str) -> &'static str {
    match url.split_once("://").map_or("", |(scheme, _)| scheme) {
        "gs" => "gcs",
        "az" => "azure",
        "file" | "memory" => "minio",
        _ => "s3",
    }
}

impl Prices {
    /// The list prices of a provider.
    pub fn of(provider: &str) -> Outcome<Prices> {
        let unknown = || {
            let why = format!("no such provider; there are {}, and --prices for others", providers().join(", "));
            Failure::new(Exit::Usage, provider, why)
        };
        let (name, about, gb_bytes, prices) = TABLE.iter().find(|row| row.0 == provider).ok_or_else(unknown)?;
        let [storage, put, list, get, download, free_download] = *prices;
        let about = match *name {
            "minio" => (*about).to_string(),
            _ => format!("{about}: list prices of {AS_OF} in USD, first tier, without free allowances"),
        };
        let (provider, gb_bytes, delete) = ((*name).to_string(), *gb_bytes, 0.0);
        Ok(Prices { provider, about, gb_bytes, storage, put, list, get, delete, download, free_download })
    }

    /// With the prices that `--prices` gives: a JSON file, or `put=0.006,storage=0.02`.
    pub fn with(mut self, given: &str) -> Outcome<Prices> {
        let (fields, what) = if given.contains('=') {
            (parse_pairs(given), "prices".to_string())
        } else {
            let read = fs::read_to_string(given).map_err(|e| e.to_string());
            (read.and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string())), given.to_string())
        };
        let wrong = |why: String| {
            Failure::new(Exit::Usage, &what, format!("{why}; write put=0.005,storage=0.023 or a JSON file of such"))
        };
        let given: Given = fields.map_err(wrong)?;
        let mut changed = Vec::new();
        for (name, value, price) in [
            ("storage", given.storage, &mut self.storage),
            ("put", given.put, &mut self.put),
            ("list", given.list, &mut self.list),
            ("get", given.get, &mut self.get),
            ("delete", given.delete, &mut self.delete),
            ("download", given.download, &mut self.download),
            ("free_download", given.free_download, &mut self.free_download),
            ("gb_bytes", given.gb_bytes, &mut self.gb_bytes),
        ] {
            let Some(value) = value else { continue };
            if !value.is_finite() || value < 0.0 || (name == "gb_bytes" && value < 1.0) {
                return Err(wrong(format!("{name} cannot be {value}")));
            }
            *price = value;
            changed.push(name);
        }
        if changed.is_empty() {
            return Err(wrong("no price in it".into()));
        }
        self.about = format!("{}; as given: {}", self.about, changed.join(", "));
        Ok(self)
    }
}

/// Prices that replace those of the table: per GB and month, per 1,000 requests, per GB.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    storage: Option<f64>,
    put: Option<f64>,
    list: Option<f64>,
    get: Option<f64>,
    delete: Option<f64>,
    download: Option<f64>,
    free_download: Option<f64>,
    gb_bytes: Option<f64>,
}

fn parse_pairs(text: &str) -> Result<Given, String> {
    let mut object = serde_json::Map::new();
    for pair in text.split(',') {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is no name=price"))?;
        let value: f64 = value.trim().parse().map_err(|_| format!("{value:?} is no price"))?;
        object.insert(name.trim().to_string(), serde_json::json!(value));
    }
    serde_json::from_value(object.into()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_provider_has_prices_and_says_of_when() {
        for name in providers() {
            let prices = Prices::of(name).unwrap();
            assert_eq!(prices.provider, name);
            assert!(name == "minio" || (prices.about.contains(AS_OF) && prices.storage > 0.0), "{name}");
        }
        assert_eq!(Prices::of("nobody").unwrap_err().exit(), Exit::Usage);
        assert_eq!(["s3://b/p", "gs://b", "az://c", "file:///srv"].map(provider_of), ["s3", "gcs", "azure", "minio"]);
    }

    #[test]
    fn prices_can_be_given() {
        let s3 = || Prices::of("s3").unwrap();
        let given = s3().with("put=0.006, storage=0.02").unwrap();
        assert_eq!((given.put, given.storage, given.get), (0.006, 0.02, 0.0004));
        assert!(given.about.ends_with("as given: storage, put"), "{}", given.about);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("prices.json");
        fs::write(&file, r#"{"download": 0.05}"#).unwrap();
        assert_eq!(s3().with(file.to_str().unwrap()).unwrap().download, 0.05);
        for bad in ["put=x", "put=-1", "puts=1", "put=inf", "gb_bytes=0", "=", "no-such-file.json"] {
            assert_eq!(s3().with(bad).unwrap_err().exit(), Exit::Usage, "{bad}");
        }
    }
}
