//! What a server tells `esker status`.

use std::sync::Arc;

use futures::future::BoxFuture;
use nbd_compat::Server;
use serde_json::{Value, json};

use super::exports::Offered;
use crate::cli::compacting::{answer, asked_for};
use crate::cli::daemon_status::DaemonFacts;
use crate::host::{Done, Refusal, Say, StatusSource};

/// The state of one server.
pub struct ServerStatus {
    facts: DaemonFacts,
    offered: Arc<Offered>,
    server: Server,
    uris: Vec<String>,
}

impl ServerStatus {
    /// Of `server`, which offers `offered` at `uris`.
    pub fn new(facts: DaemonFacts, offered: Arc<Offered>, server: Server, uris: Vec<String>) -> Self {
        Self { facts, offered, server, uris }
    }
}

impl StatusSource for ServerStatus {
    fn status(&self) -> Value {
        let more = json!({ "listen": self.uris, "connections": self.server.connections() });
        self.facts.status(self.offered.status(), more)
    }

    fn operate<'a>(
        &'a self,
        op: &'a str,
        request: &'a Value,
        say: Say,
    ) -> Option<BoxFuture<'a, Result<Done, Refusal>>> {
        (op == "compact").then(|| {
            let tell = Box::new(move |text: String| say.progress(text));
            let work = async { answer(self.offered.compact(asked_for(request), tell).await) };
            Box::pin(work) as BoxFuture<'a, _>
        })
    }
}
