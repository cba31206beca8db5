//! What somebody is to know of budgets and of the ledger: found by rules, told through channels until it was told
//! (docs/alerts.md).
//!
//! ```text
//! ledger -> view -> judge (pure) -> the commit thread: triggered, resolved -> deliveries -> send
//! ```
//!
//! Constraints: of several aggregators over one database one looks after alerts, by a lease. What is to be told is stored in the
//! transaction in which it is found, and is told at least once: whoever is told twice knows it by its number. Nobody waits for it.
//! Limits: a few tries at once, each ten seconds long (`tries.rs`).

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;

use crate::commit::Submission;
use crate::metrics::{Metrics, Operation};
use crate::model::{AlertAct, AlertActed, Delivery, Sent};
use crate::store::{Connection, Readers, StoreError, alerts};

mod email;
pub mod judge;
mod message;
pub mod rules;
mod send;
mod tries;
pub mod view;

use judge::pace::Wanted;
use judge::{View, judge};
use rules::{Rules, RulesError};
use tries::{Ended, Tries};

/// How often it is looked who is to be told.
const BEAT: Duration = Duration::from_secs(2);
/// How often the rules are asked.
const JUDGE_NS: i64 = 15_000_000_000;
/// How long what was committed last says that it is this process's to tell: less than the lease, by the time that a try takes.
const OURS_NS: i64 = 70_000_000_000;
/// Deliveries that are looked at for who may be told now; of many channels each has its turn.
const DUE_MAX: usize = 100;
/// Bytes of the alerts file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// An alerts file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("alerts file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("alerts file {path}: it has more than {FILE_BYTES_MAX} bytes")]
    TooLarge { path: PathBuf },
    #[error("alerts file {path}")]
    Wrong { path: PathBuf, source: RulesError },
}

/// Reads an alerts file.
///
/// # Errors
/// If it cannot be read, or is not what it should be.
pub fn load(path: &PathBuf) -> Result<Rules, LoadError> {
    use std::io::Read as _;
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|source| LoadError::Read { path: path.clone(), source })?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(LoadError::TooLarge { path: path.clone() });
    }
    Rules::parse(&text).map_err(|source| LoadError::Wrong { path: path.clone(), source })
}

/// Reads the ledger as the rules see it, with what they ask for.
pub type Look = Arc<dyn Fn(&Connection, &Wanted, i64) -> Result<View, StoreError> + Send + Sync>;

/// Looks after alerts until `stop`.
pub struct Watcher {
    pub path: PathBuf,
    pub rules: Rules,
    /// In hexadecimal.
    pub ledger_id: Arc<str>,
    pub look: Look,
    /// The ledger's.
    pub clock: Clock,
    pub readers: Readers,
    /// Holds no place in it, so that the commit thread ends when streams have.
    pub queue: mpsc::WeakSender<Submission>,
    pub metrics: Arc<Metrics>,
    pub stop: Shutdown,
}

/// The queue is gone: the process ends.
struct Gone;

impl Watcher {
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            _ = self.watch() => {}
            () = stop.wait() => {}
        }
    }

    async fn watch(&mut self) -> Gone {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut judged_ns, mut ours_until_ns, mut said) = (None::<i64>, i64::MIN, None);
        let mut tries = Tries::default();
        loop {
            beat.tick().await;
            let now_ns = self.clock.monotonic_ns();
            if judged_ns.is_none_or(|judged_ns| now_ns - judged_ns >= JUDGE_NS) {
                judged_ns = Some(now_ns);
                self.reload(&mut said);
                match self.judge().await {
                    Ok(Some(true)) => ours_until_ns = now_ns.saturating_add(OURS_NS),
                    Ok(Some(false)) => ours_until_ns = i64::MIN,
                    // As it was; again soon.
                    Ok(None) => {}
                    Err(gone) => return gone,
                }
            }
            if let Err(gone) = self.deliver(&mut tries, now_ns < ours_until_ns).await {
                return gone;
            }
        }
    }

    /// Takes a changed file over; a wrong one is told once, and the last good one stays.
    fn reload(&mut self, said: &mut Option<String>) {
        match load(&self.path) {
            Ok(rules) => (self.rules, *said) = (rules, None),
            Err(error) => {
                let text = chain(&error);
                if said.as_ref() != Some(&text) {
                    tracing::error!(error = text, "Kept the last good alerts file.");
                    *said = Some(text);
                }
            }
        }
        self.metrics.alerts.file_good(said.is_none());
    }

    /// Whether it is this process's to tell; `None` if nothing could be found out.
    async fn judge(&self) -> Result<Option<bool>, Gone> {
        let (look, now_ns) = (Arc::clone(&self.look), self.clock.wall_ns());
        let wanted = Wanted::by(&self.rules.rules);
        let Some(view) = self.read(move |db| look(db, &wanted, now_ns)).await else { return Ok(None) };
        let findings = judge(&self.rules.rules, &view);
        let found: HashSet<String> = findings.iter().map(|finding| finding.key.clone()).collect();
        let ours = match self.act(AlertAct::Judged(findings)).await? {
            None => return Ok(None),
            Some(acted) => acted != AlertActed::NotOurs,
        };
        if let Some((open, waiting)) = self.read(|db| Ok((alerts::open(db)?, alerts::waiting(db)?))).await {
            let left_out = open.iter().fold(found, |mut left, alert| {
                left.remove(&alert.finding.key);
                left
            });
            self.metrics.alerts.show(ours.then_some(&open[..]), (waiting, left_out.len()));
        }
        Ok(Some(ours))
    }

    async fn deliver(&self, tries: &mut Tries, is_ours: bool) -> Result<(), Gone> {
        let now_ns = self.clock.wall_ns();
        if is_ours && let Some(due) = self.read(move |db| alerts::due(db, now_ns, DUE_MAX)).await {
            tries.begin(due, &self.rules.channels, &self.ledger_id);
        }
        let mut results = Vec::new();
        for Ended { delivery, channel, sent } in tries.ended().await {
            self.note(&delivery, channel.as_deref(), &sent);
            results.push((delivery.id, sent));
        }
        if !results.is_empty() {
            self.act(AlertAct::Sent(results)).await?;
        }
        Ok(())
    }

    fn note(&self, delivery: &Delivery, channel: Option<&str>, sent: &Sent) {
        let Delivery { alert, attempts, event, .. } = delivery;
        let (event, rule) = (event.name(), &alert.finding.rule);
        let result = match sent {
            Sent::Told => "told",
            Sent::Failed(error) | Sent::Later(error, _) if delivery.is_given_up(self.clock.wall_ns()) => {
                tracing::error!(channel, rule, event, error, "An alert could not be told, and is given up.");
                "given_up"
            }
            Sent::Failed(error) | Sent::Later(error, _) => {
                if *attempts == 0 {
                    tracing::warn!(
                        channel,
                        rule,
                        event,
                        error,
                        "An alert could not be told; it is tried again."
                    );
                }
                "failed"
            }
            Sent::Refused(error) => {
                tracing::error!(channel, rule, event, error, "An alert was refused, and is not told there.");
                "refused"
            }
        };
        self.metrics.alerts.sent(channel.unwrap_or_default(), result);
    }

    /// `None` if the store fails.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        let readers = self.readers.clone();
        match tokio::task::spawn_blocking(move || readers.with(query)).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "Alerts could not be looked after; trying again.");
                self.metrics.store_failed(Operation::Alert);
                None
            }
            Err(error) => {
                tracing::error!(%error, "Looking after alerts ended without an end.");
                None
            }
        }
    }

    /// `None` if it was not committed.
    async fn act(&self, act: AlertAct) -> Result<Option<AlertActed>, Gone> {
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.upgrade().ok_or(Gone)?;
        queue.send(Submission::Alerts { act, answer }).await.map_err(|_| Gone)?;
        drop(queue);
        Ok(answered.await.ok().and_then(Result::ok))
    }
}
