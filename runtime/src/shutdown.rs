//! One token that says "stop", handed to everything that runs, and the signals that pull it.
//!
//! Stages stop in the order in which data flows, each within what is left of one deadline; who owns the stages
//! waits for them in that order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Cloneable; all clones are one token. Works for threads ([`Shutdown::is_set`]) and tasks ([`Shutdown::wait`]).
#[derive(Debug, Clone, Default)]
pub struct Shutdown(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    set: AtomicBool,
    notify: Notify,
}

impl Shutdown {
    /// A token that nobody has pulled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says stop. Idempotent.
    pub fn set(&self) {
        self.0.set.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }

    /// True once somebody said stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    /// Returns once somebody said stop.
    pub async fn wait(&self) {
        loop {
            // Registered before the look, so that a stop between the two is not missed.
            let notified = self.0.notify.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.is_set() {
                return;
            }
            notified.await;
        }
    }

    /// Pulls the token at SIGTERM or SIGINT. Call within a tokio runtime.
    ///
    /// # Errors
    /// If the signal handlers cannot be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = self.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "Stopping.");
            token.set();
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_set_before_anyone_waits_is_not_missed() {
        let token = Shutdown::new();
        token.clone().set();
        token.wait().await;
        assert!(token.is_set());
    }

    #[tokio::test]
    async fn every_waiter_is_told() {
        let token = Shutdown::new();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let token = token.clone();
                tokio::spawn(async move { token.wait().await })
            })
            .collect();
        token.set();
        for waiter in waiters {
            waiter.await.unwrap();
        }
    }
}
