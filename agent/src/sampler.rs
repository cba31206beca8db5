//! Reads the driver at a fixed pace, on a thread of its own: a call that hangs in the driver stops nothing but new
//! samples. Hands each reading on through a bounded queue; if the next stage is behind, the reading is dropped and
//! its time becomes unobserved.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use tonnage_runtime::clock::{Clock, Reading};
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;

use crate::driver::{Driver, DriverInfo};
use crate::metrics::Metrics;
use crate::model::DeviceReading;

/// Readings that may wait for the next stage.
pub const QUEUE_MAX: usize = 4;
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
}

/// See the module.
pub struct Sampler {
    pub driver: Box<dyn Driver>,
    pub clock: Clock,
    pub period_ns: i64,
    pub metrics: Arc<Metrics>,
    /// Monotonic time of the last sign of life, for `/healthz`.
    pub alive_ns: Arc<AtomicI64>,
    /// Monotonic time at which the next stage last had room for a reading.
    pub taken_ns: Arc<AtomicI64>,
}

impl Sampler {
    /// Samples until `shutdown`, and once more then, so that the time up to the end is covered. Returns when the
    /// receiver is gone, too.
    pub fn run(mut self, sender: &SyncSender<Sampled>, shutdown: &Shutdown) {
        let mut next_ns = self.clock.monotonic_ns();
        let mut introduced = false;
        loop {
            self.clock.sleep_until(next_ns, || shutdown.is_set());
            let last = shutdown.is_set();
            let at = self.clock.read();
            self.alive_ns.store(at.monotonic_ns, Ordering::Relaxed);
            let sampled = self.sample(at, &mut introduced);
            match sender.try_send(sampled) {
                Ok(()) => self.taken_ns.store(self.clock.monotonic_ns(), Ordering::Relaxed),
                Err(TrySendError::Full(_)) => self.metrics.own(|own| own.samples_dropped += 1),
                Err(TrySendError::Disconnected(_)) => return,
            }
            if last {
                return;
            }
            // Behind: skip what was missed rather than sample in a burst.
            let behind = (at.monotonic_ns - next_ns).max(0) / self.period_ns;
            next_ns += (behind + 1) * self.period_ns;
        }
    }

    fn sample(&mut self, at: Reading, introduced: &mut bool) -> Sampled {
        let result = self.driver.read();
        let took_ns = self.clock.monotonic_ns() - at.monotonic_ns;
        match result {
            Ok(devices) => {
                self.metrics.own(|own| (own.samples, own.sample_ns) = (own.samples + 1, took_ns));
                let driver = (!*introduced).then(|| self.driver.describe());
                *introduced = true;
                Sampled::Reading { at, devices, driver }
            }
            Err(error) => {
                self.metrics.own(|own| own.sample_failures += 1);
                *introduced = false;
                Sampled::Failed { at, reason: chain(&error) }
            }
        }
    }
}
