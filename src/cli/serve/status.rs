//! What a server tells `esker status`.

use std::process;
use std::sync::Arc;
use std::time::Duration;

use nbd_compat::Server;
use serde_json::{Value, json};

use super::exports::Offered;
use crate::env::Env;
use crate::host::{ReclaimReport, StatusSource};
use crate::pool::Pool;
use crate::store::Store;

/// The state of one server.
pub struct ServerStatus {
    pool: Pool,
    env: Env,
    offered: Arc<Offered>,
    server: Server,
    reclaim: ReclaimReport,
    warnings: Vec<String>,
    uris: Vec<String>,
    started: Duration,
    started_wall_ms: u64,
}

impl ServerStatus {
    /// From now on.
    pub fn new(
        pool: Pool,
        env: &Env,
        offered: Arc<Offered>,
        server: Server,
        reclaim: ReclaimReport,
        warnings: Vec<String>,
        uris: Vec<String>,
    ) -> Self {
        let (started, started_wall_ms) = (env.clock.now(), env.clock.wall_ms());
        Self { pool, env: env.clone(), offered, server, reclaim, warnings, uris, started, started_wall_ms }
    }
}

impl StatusSource for ServerStatus {
    fn status(&self) -> Value {
        let up = self.env.clock.now().saturating_sub(self.started);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": process::id(),
            "pool": self.pool.id_hex(),
            "url": self.pool.store().url(),
            "started_wall_ms": self.started_wall_ms,
            "uptime_ms": up.as_secs() * 1000,
            "listen": self.uris,
            "connections": self.server.connections(),
            "reclaim": {
                "io_flusher": self.reclaim.io_flusher.active,
                "memory_locked": self.reclaim.memory_locked.active,
                "oom_exempt": self.reclaim.oom_exempt.active,
            },
            "warnings": self.warnings,
            "store": store_status(self.pool.store()),
            "volumes": self.offered.status(),
        })
    }
}

fn store_status(store: &Store) -> Value {
    let health = store.health();
    let row = |r: crate::store::CountRow| {
        json!({
            "name": format!("{} {}", r.kind.name(), r.cause.name()),
            "count": r.requests,
            "bytes": r.bytes,
            "errors": r.errors,
        })
    };
    json!({
        "outage": health.outage.map(|o| json!({ "since_wall_ms": o.since_wall_ms, "failures": o.failures })),
        "last_error": health.last_error.map(|e| json!({ "at_wall_ms": e.wall_ms, "message": e.message })),
        "requests": store.counts().into_iter().map(row).collect::<Vec<_>>(),
    })
}
