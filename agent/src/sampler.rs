//! Reads the driver at a fixed pace, and notices when it does not answer. Hands each reading on through a bounded queue;
//! if the next stage is behind, the reading is dropped and its time becomes unobserved.
//!
//! Two threads: `reader` alone calls into the driver, this one waits for it. A call that hangs in the driver cannot be
//! ended from within a process, so after a bound its cycle is abandoned: from then on each moment is handed on as one
//! that could not be read, so that windows close and gaps are told while it lasts. What the call brings when it returns
//! is dropped, since nobody knows of when it is, and sampling goes on. Never is a second call made beside one that hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use tonnage_runtime::clock::{Clock, Reading};
use tonnage_runtime::shutdown::Shutdown;

use crate::driver::DriverInfo;
use crate::metrics::Metrics;
use crate::model::DeviceReading;
use crate::release::{self, Release};

mod reader;

pub use reader::Reader;
use reader::{Question, Waited};

/// Readings that may wait for the next stage.
pub const QUEUE_MAX: usize = 4;
/// A call that has not returned for so many periods, and at least so long, is given up on.
const ABANDONED_AFTER_PERIODS: i64 = 3;
const ABANDONED_AFTER_NS_MIN: i64 = 5_000_000_000;

/// What the sampler hands on.
#[derive(Debug)]
pub enum Sampled {
    /// All devices at one moment.
    Reading {
        at: Reading,
        devices: Vec<DeviceReading>,
        /// What the driver is, with the first reading and the first after a failure.
        driver: Option<DriverInfo>,
    },
    /// The driver could not be read at this moment; why, in plain words.
    Failed { at: Reading, reason: String },
    /// It was not read at this moment, since it was asked to be let go of.
    Released { at: Reading },
}

/// See the module.
pub struct Sampler {
    pub reader: Reader,
    pub release: Release,
    pub clock: Clock,
    pub period_ns: i64,
    pub metrics: Arc<Metrics>,
    /// Monotonic time at which the last call into the driver began, for `/healthz`.
    pub alive_ns: Arc<AtomicI64>,
    /// Monotonic time at which the next stage last had room for a reading.
    pub taken_ns: Arc<AtomicI64>,
    /// How long a stop waits for a last reading.
    pub last_wait: Duration,
}

/// Between two cycles.
#[derive(Debug, Default)]
struct State {
    /// Monotonic time at which a call began that was given up on and has not returned.
    hung_since_ns: Option<i64>,
    /// The next stage knows what the driver is.
    introduced: bool,
}

impl Sampler {
    /// Samples until `shutdown`, and once more then, so that the time up to the end is covered. Returns when the
    /// receiver or the reader is gone, too. A driver that hangs is left behind as it is: nothing more is called in it.
    pub fn run(mut self, sender: &SyncSender<Sampled>, shutdown: &Shutdown) {
        let mut next_ns = self.clock.monotonic_ns();
        let mut state = State::default();
        loop {
            let hangs = state.hung_since_ns.is_some();
            self.clock.sleep_until(next_ns, || shutdown.is_set() || (!hangs && self.release.is_wanted()));
            let last = shutdown.is_set();
            let at = self.clock.read();
            let Some(sampled) = self.cycle(at, &mut state, shutdown) else {
                tracing::error!("The thread that reads the driver has ended.");
                return;
            };
            match sender.try_send(sampled) {
                Ok(()) => self.taken_ns.store(self.clock.monotonic_ns(), Ordering::Relaxed),
                Err(TrySendError::Full(_)) => {
                    // It may have said what the driver is.
                    state.introduced = false;
                    self.metrics.own(|own| own.samples_dropped += 1);
                }
                Err(TrySendError::Disconnected(_)) => break,
            }
            if last {
                break;
            }
            // Behind: skip what was missed rather than sample in a burst. Early, on an operator's word: the next one stands.
            if at.monotonic_ns >= next_ns {
                let behind = (at.monotonic_ns - next_ns) / self.period_ns;
                next_ns += (behind + 1) * self.period_ns;
            }
        }
        if state.hung_since_ns.is_none() {
            self.reader.end();
        }
    }

    /// One reading, or that there is none. `None`: there is nobody to read.
    fn cycle(&mut self, at: Reading, state: &mut State, shutdown: &Shutdown) -> Option<Sampled> {
        if let Some(since_ns) = state.hung_since_ns {
            match self.reader.look() {
                Waited::InVain => return Some(self.hangs(at, since_ns)),
                Waited::Gone => return None,
                Waited::Answered(_) => {
                    let seconds = (at.monotonic_ns - since_ns) / 1_000_000_000;
                    tracing::warn!(seconds, "The driver has answered at last; sampling goes on.");
                    state.hung_since_ns = None;
                    self.metrics.own(|own| own.driver_hung_ns = 0);
                }
            }
        }
        self.alive_ns.store(at.monotonic_ns, Ordering::Relaxed);
        let question = match self.release.at(at.monotonic_ns) {
            release::State::Released { .. } => return Some(Sampled::Released { at }),
            release::State::Wanted { .. } => Question::LetGo { at },
            release::State::Held => Question::Read { at, introduce: !state.introduced },
        };
        self.metrics.own(|own| own.driver_released = false);
        let patience_ns = (ABANDONED_AFTER_PERIODS * self.period_ns).max(ABANDONED_AFTER_NS_MIN);
        let until_ns = at.monotonic_ns.saturating_add(patience_ns);
        self.reader.ask(question);
        match self.reader.wait(&self.clock, until_ns, shutdown, self.last_wait) {
            Waited::Answered(sampled) => {
                let took_ns = self.clock.monotonic_ns() - at.monotonic_ns;
                state.introduced = matches!(sampled, Sampled::Reading { .. });
                self.metrics.own(|own| match sampled {
                    Sampled::Reading { .. } => (own.samples, own.sample_ns) = (own.samples + 1, took_ns),
                    Sampled::Failed { .. } => own.sample_failures += 1,
                    Sampled::Released { .. } => own.driver_released = true,
                });
                if matches!(sampled, Sampled::Released { .. }) {
                    self.release.done();
                }
                Some(sampled)
            }
            Waited::InVain => {
                self.metrics.own(|own| own.samples_abandoned += 1);
                *state = State { hung_since_ns: Some(at.monotonic_ns), introduced: false };
                Some(self.hangs(self.clock.read(), at.monotonic_ns))
            }
            Waited::Gone => None,
        }
    }

    fn hangs(&self, at: Reading, since_ns: i64) -> Sampled {
        let hung_ns = at.monotonic_ns.saturating_sub(since_ns);
        self.metrics
            .own(|own| (own.driver_hung_ns, own.sample_failures) = (hung_ns, own.sample_failures + 1));
        // The same text as long as it lasts: it is news once.
        Sampled::Failed { at, reason: "a call into the driver hangs".to_owned() }
    }
}

#[cfg(test)]
mod tests;
