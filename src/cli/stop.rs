//! SIGTERM and SIGINT: the first asks the server to end well, the second ends it.

use std::io;
use std::process;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether the server was told to stop.
pub struct Stop {
    told: watch::Receiver<bool>,
}

impl Stop {
    /// Listens for signals from now on.
    ///
    /// # Errors
    /// Where no handler can be installed.
    pub fn on_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            let mut next =
                async move || tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" };
            let name = next().await;
            tracing::info!("{name}: stopping; a second signal ends the server at once");
            tell.send_replace(true);
            let name = next().await;
            tracing::warn!("{name} again: ending at once; unflushed writes stay in the journal");
            process::exit(1);
        });
        Ok(Self { told })
    }

    /// One that is told to stop through the sender.
    pub fn by_hand() -> (watch::Sender<bool>, Self) {
        let (tell, told) = watch::channel(false);
        (tell, Self { told })
    }

    /// Whether it was told to stop.
    pub fn is_requested(&self) -> bool {
        *self.told.borrow()
    }

    /// Completes once the server was told to stop.
    pub fn requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut told = self.told.clone();
        async move {
            // An error means that the listening task is gone: then nobody can ask any more, and stopping is right.
            drop(told.wait_for(|t| *t).await);
        }
    }
}
