//! What every daemon of ours tells `esker status` of itself.

use std::process;
use std::time::Duration;

use serde_json::{Value, json};

use crate::env::Env;
use crate::host::ReclaimReport;
use crate::pool::Pool;
use crate::store::{CountRow, Kind, Store};

/// A running daemon, whatever front end it has.
pub struct DaemonFacts {
    pool: Pool,
    env: Env,
    reclaim: ReclaimReport,
    warnings: Vec<String>,
    started: Duration,
    started_wall_ms: u64,
}

impl DaemonFacts {
    /// From now on.
    pub fn new(pool: Pool, env: &Env, reclaim: ReclaimReport, warnings: Vec<String>) -> Self {
        let (started, started_wall_ms) = (env.clock.now(), env.clock.wall_ms());
        Self { pool, env: env.clone(), reclaim, warnings, started, started_wall_ms }
    }

    /// The daemon's state, with its volumes' and what the front end has to add.
    pub fn status(&self, volumes: Vec<Value>, more: Value) -> Value {
        let up = self.env.clock.now().saturating_sub(self.started);
        let mut status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": process::id(),
            "pool": self.pool.id_hex(),
            "url": self.pool.store().url(),
            "started_wall_ms": self.started_wall_ms,
            "uptime_ms": up.as_secs() * 1000,
            "reclaim": {
                "io_flusher": self.reclaim.io_flusher.active,
                "memory_locked": self.reclaim.memory_locked.active,
                "oom_exempt": self.reclaim.oom_exempt.active,
            },
            "warnings": self.warnings,
            "store": store_status(self.pool.store()),
            "volumes": volumes,
        });
        if let (Some(fields), Value::Object(more)) = (status.as_object_mut(), more) {
            fields.extend(more);
        }
        status
    }
}

fn store_status(store: &Store) -> Value {
    let health = store.health();
    let row = |r: CountRow| {
        let name = format!("{} {}", r.kind.name(), r.cause.name());
        match r.kind {
            Kind::Delete => json!({ "name": name, "count": r.requests, "objects": r.objects, "errors": r.errors }),
            _ => json!({ "name": name, "count": r.requests, "bytes": r.bytes, "errors": r.errors }),
        }
    };
    let limit = store.throttle().map(|t| {
        json!({
            "requests_per_second": t.limits.requests_per_second,
            "bandwidth_bytes": t.limits.bytes_per_second,
            "waiting": t.waiting,
            "held_back": t.held,
            "waited_ms": t.waited.as_millis() as u64,
        })
    });
    json!({
        "limit": limit,
        "outage": health.outage.map(|o| json!({ "since_wall_ms": o.since_wall_ms, "failures": o.failures })),
        "last_error": health.last_error.map(|e| json!({ "at_wall_ms": e.wall_ms, "message": e.message })),
        "requests": store.counts().into_iter().map(row).collect::<Vec<_>>(),
    })
}
