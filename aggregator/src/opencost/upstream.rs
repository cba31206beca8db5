//! An OpenCost that knows what processors, memory, storage and network cost, asked on behalf of our clients.
//!
//! ```text
//! request -> cache (by the request) --no answer yet, or an old one--> fetch (a task: 3 tries, backoff) -> cache
//!                |                                                      ^
//!                '-> answer, its age, what is wrong with it      tend (before 5 minutes are over)
//! ```
//!
//! A request waits for the first answer only, three seconds at most; GPU figures never depend on it. An answer is good for
//! five minutes, is shown with a warning for an hour, and is gone then. Limits: [`ENTRIES_MAX`] questions are kept, the one
//! that was not asked for longest goes; [`FETCHES_MAX`] are on their way at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tonnage_proto::limits::SLOT_NS;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;

use super::figures::{self, Answer};
use super::hardware;
use super::params::Plan;
use super::question::Question;
use crate::api::window::Window;
use crate::metrics::Metrics;

mod client;

pub use client::Address;

/// Questions whose answers are kept.
pub const ENTRIES_MAX: usize = 32;
/// Answers that are fetched at once.
pub const FETCHES_MAX: usize = 4;
/// Tries before a question is left for later.
pub const TRIES_MAX: u32 = 3;
const GOOD_NS: i64 = 300_000_000_000;
/// Age at which an answer is fetched anew; what nobody has asked for in twice its life is not.
const REFRESH_NS: i64 = 240_000_000_000;
const ASKED_NS: i64 = 2 * GOOD_NS;
const OLDEST_NS: i64 = 3_600_000_000_000;
/// After a question whose tries all failed.
const REST_NS: i64 = 30_000_000_000;
const TEND_EVERY: Duration = Duration::from_millis(200);

/// How long waits are, in the machine's time; tests are quicker.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// For one try, from connecting to the last byte.
    timeout: Duration,
    /// Of a request, for a first answer.
    first_wait: Duration,
    /// Between tries: at first, doubling, and at most.
    backoff: Duration,
    backoff_max: Duration,
}

const PACE: Pace = Pace {
    timeout: Duration::from_secs(10),
    first_wait: Duration::from_secs(3),
    backoff: Duration::from_secs(1),
    backoff_max: Duration::from_secs(10),
};

/// See the module. Share it by `Arc`.
#[derive(Debug)]
pub struct Upstream {
    address: Address,
    clock: Clock,
    pace: Pace,
    entries: Mutex<HashMap<Question, Entry>>,
    fetches: Semaphore,
    /// An entry has changed.
    changed: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Entry {
    asked_ns: i64,
    fetching: bool,
    /// When all tries had failed; and why the last one did.
    gave_up_ns: Option<i64>,
    error: Option<String>,
    found: Option<Found>,
}

#[derive(Debug, Clone)]
struct Found {
    at_ns: i64,
    window: Window,
    answer: Arc<Answer>,
}

/// What is known of a question now.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) answer: Option<Arc<Answer>>,
    pub(super) age_seconds: Option<i64>,
    /// Why there is no answer, or a worse one than there should be.
    pub(super) warnings: Vec<String>,
}

impl Upstream {
    #[must_use]
    pub fn new(address: Address, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let (entries, changed) = (Mutex::default(), Notify::new());
        metrics.upstream.is_set();
        Self { address, clock, pace: PACE, entries, fetches: Semaphore::new(FETCHES_MAX), changed, metrics }
    }

    /// What the upstream says to `question`, which means `plan` now.
    pub(super) async fn get(self: &Arc<Self>, question: &Question, plan: &Plan) -> Known {
        // A second timeout beside the fetch's own: whoever asks for GPUs does not wait for thirty seconds.
        let first = tokio::time::timeout(self.pace.first_wait, self.first(question, plan)).await;
        let now_ns = self.clock.monotonic_ns();
        let entries = self.lock();
        let entry = entries.get(question);
        let found = entry.and_then(|entry| entry.found.clone()).filter(|found| fits(found, plan, now_ns));
        let mut error = entry.and_then(|entry| entry.error.clone());
        drop(entries);
        if first.is_err() && error.is_none() {
            error = Some("it has not answered yet; ask again in a moment".to_owned());
        }
        self.known(found, error, plan, now_ns)
    }

    fn known(&self, found: Option<Found>, error: Option<String>, plan: &Plan, now_ns: i64) -> Known {
        let mut warnings = Vec::new();
        let upstream = &self.address;
        let reason = error.map_or_else(String::new, |error| format!(": {error}"));
        let Some(found) = found else {
            let message = "costs of CPU, RAM, storage and network are missing and shown as 0";
            warnings.push(format!("{message}; the upstream {upstream} gave no answer{reason}"));
            return Known { warnings, ..Known::default() };
        };
        let age_seconds = (now_ns - found.at_ns).max(0) / 1_000_000_000;
        if now_ns - found.at_ns > GOOD_NS {
            warnings.push(format!("figures of the upstream {upstream} are {age_seconds} s old{reason}"));
        }
        if found.window != plan.window {
            let shift = (plan.window.1 - found.window.1) / 1_000_000_000;
            warnings.push(format!(
                "figures of the upstream {upstream} are of a window that ends {shift} s earlier"
            ));
        }
        if found.answer.rejected > 0 {
            warnings.push(format!(
                "{} items of the upstream {upstream} were left out; the first was {}",
                found.answer.rejected, found.answer.first
            ));
        }
        Known { answer: Some(found.answer), age_seconds: Some(age_seconds), warnings }
    }

    /// Asks if need be, and waits for the first answer or failure.
    async fn first(self: &Arc<Self>, question: &Question, plan: &Plan) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            if self.look(question, plan) {
                return;
            }
            changed.await;
        }
    }

    /// Is there something to say? Sees to it that there will be.
    fn look(self: &Arc<Self>, question: &Question, plan: &Plan) -> bool {
        let now_ns = self.clock.monotonic_ns();
        let mut entries = self.lock();
        if !entries.contains_key(question) && entries.len() >= ENTRIES_MAX {
            let oldest =
                entries.iter().min_by_key(|(_, entry)| entry.asked_ns).map(|(oldest, _)| oldest.clone());
            oldest.and_then(|oldest| entries.remove(&oldest));
        }
        let entry = entries.entry(question.clone()).or_default();
        entry.asked_ns = now_ns;
        let moved = entry.found.as_ref().is_some_and(|found| found.window != plan.window);
        if entry.due(now_ns, moved) {
            entry.fetching = true;
            tokio::spawn(Arc::clone(self).fetch(question.clone()));
        }
        entry.found.as_ref().is_some_and(|found| fits(found, plan, now_ns)) || entry.error.is_some()
    }

    /// Keeps what is asked for fresh, until `stop`.
    pub async fn tend(self: Arc<Self>, stop: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TEND_EVERY) => {}
                () = stop.wait() => return,
            }
            let now_ns = self.clock.monotonic_ns();
            let mut entries = self.lock();
            entries.retain(|_, entry| entry.fetching || now_ns - entry.asked_ns < OLDEST_NS);
            for (question, entry) in entries.iter_mut() {
                if now_ns - entry.asked_ns < ASKED_NS && entry.due(now_ns, false) {
                    entry.fetching = true;
                    tokio::spawn(Arc::clone(&self).fetch(question.clone()));
                }
            }
        }
    }

    async fn fetch(self: Arc<Self>, question: Question) {
        let Ok(_permit) = self.fetches.acquire().await else { return };
        let mut backoff = self.pace.backoff;
        for left in (0..TRIES_MAX).rev() {
            let (result, passing) = self.ask(&question).await;
            self.metrics.upstream.asked(result.is_ok());
            let now_ns = self.clock.monotonic_ns();
            let last = left == 0 || !passing;
            {
                let mut entries = self.lock();
                // Forgotten meanwhile, since too much else was asked.
                let Some(entry) = entries.get_mut(&question) else { return };
                match result {
                    Ok(found) => {
                        *entry = Entry { asked_ns: entry.asked_ns, found: Some(found), ..Entry::default() }
                    }
                    Err(error) => {
                        tracing::warn!(upstream = %self.address, error, left, "The OpenCost upstream gave no answer.");
                        entry.error = Some(error);
                        entry.fetching = !last;
                        entry.gave_up_ns = last.then_some(now_ns);
                    }
                }
                self.changed.notify_waiters();
                if !entry.fetching {
                    return;
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(self.pace.backoff_max);
        }
    }

    /// One try: what came of it, and whether another could end differently.
    async fn ask(&self, question: &Question) -> (Result<Found, String>, bool) {
        let plan = match question.plan(self.clock.wall_ns()) {
            Ok(plan) => plan,
            Err(error) => return (Err(error.message()), false),
        };
        let path = question.path(plan.window);
        let body = match client::get(&self.address, &path, self.pace.timeout).await {
            Ok(body) => body,
            Err(error) => return (Err(chain(&error)), error.passing()),
        };
        let sets = plan.sets.len();
        // Megabytes of JSON: not on a thread that others' requests wait for.
        let of_assets = matches!(question, Question::Assets(_));
        let read = move || if of_assets { hardware::parse(&body) } else { figures::parse(&body, sets) };
        let answer = tokio::task::spawn_blocking(read).await;
        let answer = answer.unwrap_or_else(|_| Err("its answer could not be read".to_owned()));
        let at_ns = self.clock.monotonic_ns();
        let found = answer.map(|answer| Found { at_ns, window: plan.window, answer: Arc::new(answer) });
        (found, false)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Question, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Is it time to fetch? `moved`: what was found is of a window that has moved on.
    fn due(&self, now_ns: i64, moved: bool) -> bool {
        let rested = self.gave_up_ns.is_none_or(|gave_up_ns| now_ns - gave_up_ns >= REST_NS);
        let old = self.found.as_ref().is_none_or(|found| now_ns - found.at_ns >= REFRESH_NS);
        !self.fetching && rested && (old || moved)
    }
}

/// Can it stand for the plan? A window that moves with time may have moved on by one slot since.
fn fits(found: &Found, plan: &Plan, now_ns: i64) -> bool {
    let near = |a: i64, b: i64| a.abs_diff(b) <= SLOT_NS.unsigned_abs();
    now_ns - found.at_ns < OLDEST_NS
        && found.answer.sets.len() == plan.sets.len()
        && near(found.window.0, plan.window.0)
        && near(found.window.1, plan.window.1)
}

#[cfg(test)]
mod tests;
