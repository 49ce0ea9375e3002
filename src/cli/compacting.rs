//! Compaction on request: by the process that holds a volume, for whoever asks on its control socket.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::AbortHandle;

use super::failure::{Doing, Exit, Failure, Outcome};
use crate::host::{Done, Refusal};
use crate::volume::{Compacted, Volume};

/// Tells somebody how far it is; kept until the work is done, whoever goes away.
pub type Tell = Box<dyn Fn(String) + Send + Sync>;

/// Requests for compaction of one volume: one at a time.
#[derive(Debug, Clone, Default)]
pub struct OnRequest {
    turn: Arc<tokio::sync::Mutex<()>>,
    at_work: Arc<Mutex<Option<AbortHandle>>>,
}

impl OnRequest {
    /// Compacts in a task of its own: a client that goes away does not stop it halfway.
    ///
    /// # Errors
    /// `InUse` where a request before this one is not done; what the engine says.
    pub async fn compact(&self, volume: Arc<Volume>, name: &str, tell: Tell) -> Outcome<Compacted> {
        let what = format!("volume {name}");
        let Ok(turn) = self.turn.clone().try_lock_owned() else {
            return Err(Failure::new(Exit::InUse, what, "it is being compacted already, as somebody has asked"));
        };
        let work = tokio::spawn(async move {
            let outcome = volume.compact(&*tell).await;
            drop(turn);
            outcome
        });
        *self.at_work.lock() = Some(work.abort_handle());
        match work.await {
            Ok(outcome) => outcome.doing(what),
            Err(e) if e.is_cancelled() => Err(Failure::new(Exit::InUse, what, "it was given up meanwhile")),
            Err(e) => Err(Failure::plain(what, e)),
        }
    }

    /// Ends what is under way, so that it does not hold on to a volume that is let go of without being closed.
    pub fn end(&self) {
        if let Some(work) = self.at_work.lock().take() {
            work.abort();
        }
    }
}

/// The answer to whoever asked on a control socket.
pub fn answer(outcome: Outcome<Compacted>) -> Result<Done, Refusal> {
    let refusal = |exit: Exit, why: String| Refusal { why, exit: exit as u8 };
    let done = outcome.map_err(|f| refusal(f.exit(), f.to_string()))?;
    let answer = serde_json::to_value(done).map_err(|e| refusal(Exit::Failure, e.to_string()))?;
    Ok(Done { answer, sent: None })
}

/// The volume that a request is about.
pub fn asked_for(request: &Value) -> &str {
    request["volume"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_carry_figures_or_an_exit_code() {
        let done = Compacted { read: 1, written: 2, segments: 3, extents: 4, before: 5, after: 6, dead: 7 };
        let said = json!({ "read": 1, "written": 2, "segments": 3, "extents": 4, "before": 5, "after": 6, "dead": 7 });
        assert_eq!(answer(Ok(done)).unwrap().answer, said);
        let refused = answer(Err(Failure::new(Exit::InUse, "volume v", "it is busy"))).unwrap_err();
        assert_eq!((refused.exit, refused.why.as_str()), (5, "volume v: it is busy"));
        assert_eq!((asked_for(&json!({ "volume": "v" })), asked_for(&json!({ "volume": 1 }))), ("v", ""));
    }
}
