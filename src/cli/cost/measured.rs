//! What a running server asked of its store so far, as a month.

use std::path::Path;

use serde_json::Value;

use super::bill::{Line, MONTH, Month, Verb};

/// What happens once per attach and not all the time.
const ONCE: [&str; 3] = ["recovery", "admin", "probe"];

/// The counters of a server and what they cover.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// The store's URL.
    pub url: String,
    /// Seconds that the counters cover.
    pub seconds: f64,
    pub month: Month,
}

/// Reads a server's status. What came with attaching is taken once, everything else as often as a month goes into the
/// time. `stored`: bytes in the bucket, where the server does not say.
pub fn measured(status: &Value, stored: Option<f64>) -> Option<Measured> {
    let seconds = (status["uptime_ms"].as_f64()? / 1000.0).max(1.0);
    let times = MONTH / seconds;
    let mut lines = Vec::new();
    for row in status["store"]["requests"].as_array()? {
        let (verb, cause) = row["name"].as_str()?.split_once(' ')?;
        // A kind of request that a newer server has is of no known price.
        let Some(verb) = Verb::of(verb) else { continue };
        let times = if ONCE.contains(&cause) { 1.0 } else { times };
        let bytes = row["bytes"].as_f64().unwrap_or(0.0) * times;
        lines.push(Line { verb, cause: cause.to_string(), requests: row["count"].as_f64()? * times, bytes });
    }
    let volumes = status["volumes"].as_array()?;
    let names = volumes.iter().filter_map(|v| v["name"].as_str()).map(str::to_owned).collect();
    let said: Option<Vec<f64>> = volumes.iter().map(|v| v["space"]["stored"].as_f64()).collect();
    let said = said.filter(|all| !all.is_empty()).map(|all| all.iter().sum());
    let url = status["url"].as_str()?.to_string();
    Some(Measured { volumes: names, url, seconds, month: Month { lines, stored: stored.or(said) } })
}

/// Whether a server has the volume or device that people call so: its name, or its device's path, number or link.
pub fn has(status: &Value, target: &str) -> bool {
    let volumes = status["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let node = Path::new(target).canonicalize().unwrap_or_else(|_| target.into());
    volumes.iter().any(|v| {
        let named = v["name"].as_str().is_some_and(|name| target == name);
        let path = v["path"].as_str().map(Path::new);
        let is_device = path.is_some_and(|p| p == node || p.file_name().is_some_and(|f| f == target));
        let links = v["links"].as_array().into_iter().flatten().filter_map(Value::as_str);
        named || is_device || links.map(Path::new).any(|l| l == Path::new("/dev/esker").join(target))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn status() -> Value {
        json!({
            "uptime_ms": 36_000_000u64,
            "url": "s3://bucket/pool",
            "volumes": [{ "name": "data", "path": "/dev/ublkb0", "links": ["/dev/esker/bucket-pool/data"] }],
            "store": { "requests": [
                { "name": "PUT flush", "count": 720, "bytes": 7200, "errors": 0 },
                { "name": "LIST recovery", "count": 2, "bytes": 0, "errors": 0 },
                { "name": "DELETE delete", "count": 10, "objects": 900, "errors": 0 },
                { "name": "COPY future", "count": 1, "bytes": 0, "errors": 0 },
            ] },
        })
    }

    #[test]
    fn ten_hours_become_a_month() {
        let m = measured(&status(), None).unwrap();
        let requests: Vec<_> = m.month.lines.iter().map(|l| (l.cause.as_str(), l.requests)).collect();
        assert_eq!(requests, [("flush", 73.0 * 720.0), ("recovery", 2.0), ("delete", 730.0)]);
        assert_eq!((m.seconds, m.month.stored, m.volumes), (36_000.0, None, vec!["data".to_string()]));
        let mut told = status();
        told["volumes"][0]["space"] = json!({ "stored": 5 });
        assert_eq!(measured(&told, None).unwrap().month.stored, Some(5.0));
        assert_eq!(measured(&told, Some(7.0)).unwrap().month.stored, Some(7.0));
        assert_eq!(measured(&json!({}), None), None);
    }

    #[test]
    fn a_server_is_found_by_volume_and_device() {
        for target in ["data", "/dev/ublkb0", "ublkb0", "/dev/esker/bucket-pool/data", "bucket-pool/data"] {
            assert!(has(&status(), target), "{target}");
        }
        for target in ["dat", "/dev/ublkb1", "ublkb", "pool/data", ""] {
            assert!(!has(&status(), target), "{target}");
        }
    }
}
