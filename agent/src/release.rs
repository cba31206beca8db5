//! Letting go of the driver for a while, on an operator's word: MIG is not cut anew, no GPU reset and no driver unloaded
//! while a process has it open. The agent goes on; what it does not read meanwhile is told as not read.
//!
//! Flow: [`socket`] takes the word -> [`Release`] keeps it -> the sampler lets go, says so, and takes the driver up again
//! when told, or when the time is over: an agent that was forgotten comes back.
//!
//! Non-goals: outliving a restart. Whoever starts the agent anew has it read the driver.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

pub mod socket;

/// Longest time for which the driver is let go of, in seconds.
pub const SECONDS_MAX: u64 = 24 * 3600;

/// Shared by who takes the word and who reads the driver; clones are one.
#[derive(Debug, Clone, Default)]
pub struct Release(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
    wants: AtomicU64,
}

/// Names one time that it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want(u64);

/// Times are of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// The driver is read, as usual.
    #[default]
    Held,
    /// It is to be let go of, as was asked for last by `by`.
    Wanted { until_ns: i64, by: Want },
    /// It is let go of: nothing is called in it.
    Released { until_ns: i64 },
}

impl Release {
    /// How it stands. What has lasted until `now_ns` is over.
    #[must_use]
    pub fn at(&self, now_ns: i64) -> State {
        self.change(|state| match state {
            State::Wanted { until_ns, .. } | State::Released { until_ns } if until_ns <= now_ns => {
                State::Held
            }
            other => other,
        })
    }

    /// True if the driver is to be let go of and is not yet.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        matches!(self.change(|state| state), State::Wanted { .. })
    }

    /// Asks for it; where that is done already it lasts until then.
    pub fn want(&self, until_ns: i64) -> Want {
        let by = Want(self.0.wants.fetch_add(1, Ordering::Relaxed));
        self.change(|state| match state {
            State::Released { .. } => State::Released { until_ns },
            _ => State::Wanted { until_ns, by },
        });
        by
    }

    /// Asks for it no more, unless it is done, or was asked for again since then.
    pub fn withdraw(&self, want: Want) {
        self.change(|state| match state {
            State::Wanted { by, .. } if by == want => State::Held,
            other => other,
        });
    }

    /// Says that it is done, unless nobody wants it any more.
    pub fn done(&self) {
        self.change(|state| match state {
            State::Wanted { until_ns, .. } => State::Released { until_ns },
            other => other,
        });
    }

    /// The driver is to be read again.
    pub fn resume(&self) {
        self.change(|_| State::Held);
    }

    /// Returns once it is done (true), or nobody wants it any more.
    pub async fn wait(&self) -> bool {
        loop {
            // Registered before the look, so that nothing between the two is missed.
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.change(|state| state) {
                State::Released { .. } => return true,
                State::Held => return false,
                State::Wanted { .. } => changed.await,
            }
        }
    }

    fn change(&self, to: impl FnOnce(State) -> State) -> State {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let new = to(*state);
        if new != *state {
            *state = new;
            self.0.changed.notify_waiters();
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_withdrawn_or_is_over_is_not_done_any_more() {
        let release = Release::default();
        release.want(10);
        assert!(release.is_wanted());
        release.resume();
        release.done();
        assert_eq!(release.at(0), State::Held);

        release.want(10);
        release.done();
        assert_eq!(release.at(9), State::Released { until_ns: 10 });
        release.want(20);
        assert_eq!(release.at(10), State::Released { until_ns: 20 }, "it lasts longer");
        assert_eq!(release.at(20), State::Held, "an agent that was forgotten comes back");
    }

    #[test]
    fn who_gives_up_withdraws_nobody_elses_order() {
        let release = Release::default();
        let first = release.want(10);
        let second = release.want(20);
        release.withdraw(first);
        assert_eq!(release.at(0), State::Wanted { until_ns: 20, by: second });
        release.withdraw(second);
        assert_eq!(release.at(0), State::Held);

        let third = release.want(10);
        release.done();
        release.withdraw(third);
        assert_eq!(release.at(0), State::Released { until_ns: 10 }, "it was done at the last moment");
    }
}
